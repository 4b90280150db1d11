"""The command line: what it prints, where it writes, and how it says what is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny_store import Recipe, write_tiny_store

import prompttune.cli.commands as command_line
from prompttune.errors import PrompttuneNote
from prompttune.evaluation.results import Result as RunFolderResult

SHORT = ("--shots", "4", "--set", "optim.epochs=2", "--set", "optim.batch_size=8")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command_line.cli, [str(argument) for argument in arguments])


def failure(*arguments: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a command that must fail the way `main` lets it fail: exit code 2, no traceback."""
    monkeypatch.setattr(sys, "argv", ["prompttune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "Traceback" not in message
    return message


def test_train_without_a_config_file_prints_table_folder_and_next_command(tmp_path: Path, target: str) -> None:
    out = tmp_path / "run"
    done = run("train", "--method", "coop", "--store", target, "--seeds", "1,2", "--out", out, *SHORT)
    assert done.exit_code == 0, done.output
    for words in ("base", "new", "HM", "±", f"{out}/result.json", "prompttune eval --store"):
        assert words in done.output
    result = RunFolderResult.read(out)
    assert [r.seed for r in result.runs] == [1, 2]
    again = run("train", "--method", "coop", "--store", target, "--seeds", "1,2", "--out", out, *SHORT)
    assert again.exit_code == 0
    assert "HM" in again.output


def test_half_precision_that_a_cpu_is_slow_in_is_noted(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidfeat.backbone.device.half_precision_price", lambda dtype: (9.0, 50.0))
    half = ("--store", target, "--set", "precision=bf16", "--device", "cpu")
    prompts = tmp_path / "run" / "seed1" / "prompt.safetensors"
    trained = ("--method", "coop", *SHORT)
    for command in (
        ("plan", *half, *trained),
        ("train", *half, *trained, "--seeds", "1", "--out", tmp_path / "run"),
        ("eval", "--prompts", prompts, *half),
    ):
        with pytest.warns(PrompttuneNote, match=r"bf16 take 9 times .* precision fp32 is faster here"):
            done = run(*command)
        assert done.exit_code == 0, done.output


def test_train_from_a_file_with_axes(tmp_path: Path, target: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'method = "coop"\nstore = "{target}"\nseeds = [1, 2]\n[optim]\nepochs = 2\n[protocol]\nshots = 4\n'
    )
    out = tmp_path / "run"
    done = run("train", config, "--set", "optim.lr=0.002,0.01", "--out", out)
    assert done.exit_code == 0, done.output
    result = RunFolderResult.read(out)
    assert result.axes == {"optim.lr": [0.002, 0.01]}
    assert len(result.cells) == 2
    assert all(r.runs_together == 4 for r in result.runs)
    assert re.search(r"^ +lr +base", done.output, re.M)
    assert re.search(r"^ +0.01 ", done.output, re.M)


def test_runs_at_once_changes_nothing_but_how_many_go_together(tmp_path: Path, target: str) -> None:
    for name, more in (("all", ()), ("two", ("--set", "runs_at_once=2"))):
        arguments = ("train", "--method", "coop", "--store", target, "--seeds", "1,2,3", "--out", tmp_path / name)
        assert run(*arguments, *SHORT, *more).exit_code == 0
    one, other = RunFolderResult.read(tmp_path / "all"), RunFolderResult.read(tmp_path / "two")
    assert [r.runs_together for r in other.runs] == [2, 2, 1]
    assert [r.metrics for r in one.runs] == [r.metrics for r in other.runs]


def test_eval_of_zero_shot_and_of_prompts(tmp_path: Path, target: str, hard_prompt: str) -> None:
    done = run("eval", "--store", target, "--out", tmp_path / "zero")
    assert done.exit_code == 0, done.output
    assert RunFolderResult.read(tmp_path / "zero").runs[0].tests["test"].n_classes == 8
    both = run("eval", "--store", target, "--base-to-new", "--prompts", hard_prompt)
    assert both.exit_code == 0, both.output
    assert "new" in both.output


def test_eval_of_a_store_without_splits_takes_every_video(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "plain.zarr", Recipe(with_splits=False, failed=(1,)))
    done = run("eval", "--store", path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    result = RunFolderResult.read(tmp_path / "out")
    assert result.runs[0].tests["test"].n_videos == 87
    assert result.store.failed_videos == ["run/001.mp4"]


def test_methods_lists_all_and_describes_one() -> None:
    from prompttune.config.methods import METHODS

    listed = run("methods")
    assert all(name in listed.output for name in METHODS)
    one = run("methods", "ga2-text")
    assert "2511.22125" in one.output
    assert 'method = "ga2-text"' in one.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("train", "--method", "cop", "--store", "STORE"), ["unknown method 'cop'", "did you mean 'coop'?"]),
        (("train", "--store", "STORE"), ["no method given"]),
        (("train", "missing.toml"), ["no such configuration file", "missing.toml"]),
        (("train", "--method", "coop", "--store", "nowhere.zarr"), ["nowhere.zarr"]),
        (("train", "--method", "coop", "--store", "STORE", "--set", "optim.lrr=1"), ["did you mean 'optim.lr'?"]),
        (("train", "--method", "coop", "--store", "STORE", "--shots", "99"), ["99 per class", "run: 6"]),
        (("train", "--method", "ga2-text", "--store", "STORE"), ["coupling.hard_prompts names no prompt file"]),
        (("train", "--method", "ga2-plus", "--store", "STORE"), ["--set anchors.store=IRRELEVANT.zarr"]),
        (
            ("eval", "--store", "FOREIGN", "--prompts", "PROMPT"),
            ["another backbone", "expected: pack", "got:      pack"],
        ),
        (("eval", "--store", "STORE", "--prompts", "missing.safetensors"), ["no prompttune prompt here"]),
        (("methods", "cop"), ["did you mean 'coop'?"]),
    ],
)
def test_errors_are_one_clear_message(
    arguments: tuple[str, ...],
    told: list[str],
    stores: Path,
    hard_prompt: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"STORE": stores / "target.zarr", "FOREIGN": stores / "foreign.zarr", "PROMPT": hard_prompt}
    message = failure(*(places.get(word, word) for word in arguments), capsys=capsys, monkeypatch=monkeypatch)
    for words in told:
        assert words in message


def test_a_class_name_of_eighty_tokens_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    long_name = "x" * 62
    path = write_tiny_store(tmp_path / "long.zarr", Recipe(classes=("run", "jump", long_name, "swim"), n_train=2))
    monkeypatch.chdir(tmp_path)
    arguments = ("train", "--method", "coop", "--store", path, "--shots", "2")
    message = failure(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert repr(long_name) in message
    assert "tokens" in message


def test_help_loads_no_torch() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from prompttune.cli.commands import cli;"
        "[CliRunner().invoke(cli, [*words, '--help']) for words in ([], ['train'], ['eval'], ['methods'])];"
        "print([m for m in ('torch', 'zarr', 'pydantic', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
