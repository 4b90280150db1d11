"""What is said before training: a wrong device, a folder that cannot be written, an error before the first step."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from training import train_runs

import prompttune.cli.commands as command_line
import prompttune.training.fit as fitting
from prompttune.base.machine import training_device
from prompttune.config.train_config import resolve
from prompttune.errors import ConfigError

SHORT = {"protocol": {"shots": 4}, "optim": {"epochs": 1, "batch_size": 8}}


def told(*arguments: object, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The one message of a command that ends with exit code 2."""
    monkeypatch.setattr(sys, "argv", ["prompttune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    return message


@pytest.mark.parametrize("command", ["train", "plan", "eval", "classify"])
@pytest.mark.parametrize(("device", "words"), [("gpu", "gpu"), ("cuda:7", "is not available"), ("cdua", "cdua")])
def test_a_device_that_is_not_here_is_one_message_and_claims_nothing(
    command: str,
    device: str,
    words: str,
    tmp_path: Path,
    target: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    named = [target] if command == "classify" else ["--store", target]
    given = ["--method", "coop", *named] if command in ("train", "plan") else named
    message = told(command, *given, "--device", device, capsys=capsys, monkeypatch=monkeypatch)
    assert words in message
    assert "auto" in message  # what to write instead
    assert not list(tmp_path.iterdir())


def test_auto_is_a_gpu_where_there_is_one_and_is_not_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve({"method": "coop", "store": "x"}).device == "auto"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert training_device("auto") == torch.device("cpu")
    assert training_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training_device("auto") == torch.device("cuda")
    assert training_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(ConfigError, match="cuda:0, cuda:1"):
        training_device("cuda:2")


def test_the_result_says_where_it_was_trained(tmp_path: Path, target: str) -> None:
    done = train_runs(tmp_path / "run", SHORT, method="zero-shot", store=target)
    assert done.result.config["device"] in ("cpu", "cuda")


@pytest.mark.parametrize("kind", [RuntimeError, KeyboardInterrupt])
def test_an_error_before_the_first_step_leaves_no_claim(
    kind: type[BaseException], tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise kind("before the first step")

    monkeypatch.setattr(fitting.Trainer, "step", broken)
    with pytest.raises(kind):
        train_runs(tmp_path / "run", SHORT, method="coop", store=target, seeds=[1])
    assert not (tmp_path / "run").exists()


def test_overwrite_keeps_what_is_there_until_the_new_run_can_start(tmp_path: Path, target: str) -> None:
    out = tmp_path / "run"
    done = train_runs(out, SHORT, method="zero-shot", store=target)
    kept = (out / "result.json").read_bytes()
    with pytest.raises(ConfigError, match="is not available"):
        train_runs(out, SHORT | {"device": "cuda:99"}, method="coop", store=target, seeds=[1], overwrite=True)
    assert (out / "result.json").read_bytes() == kept
    assert done.folder == out


@pytest.fixture(scope="module")
def places(target: str, hard_prompt: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands below are given; FILE is a file where a folder should be."""
    folder = tmp_path_factory.mktemp("places")
    (folder / "file").write_text("in the way")
    (folder / "list.txt").write_text("run/000.mp4 0\n")
    (folder / "classes.txt").write_text("run\njump\n")
    train_runs(folder / "runs" / "run", SHORT, method="zero-shot", store=target)
    named = {"TARGET": target, "PROMPT": hard_prompt}
    files = {"FILE": "file", "LIST": "list.txt", "CLASSES": "classes.txt", "RUNS": "runs", "HERE": "."}
    return named | {word: str(folder / name) for word, name in files.items()}


def in_words(places: dict[str, str], words: str) -> list[str]:
    """A command's words, those in capitals replaced by the places they name."""
    return [re.sub("^[A-Z]+", lambda found: places.get(found[0], found[0]), word) for word in words.split()]


@pytest.mark.parametrize(
    "words",
    [
        "train --method coop --store TARGET --shots 2 --out FILE",
        "train --method coop --store TARGET --shots 2 --out FILE/run",
        "eval --store TARGET --out FILE",
        "eval --store TARGET --out FILE/run",
        "classify TARGET --out FILE/found.csv",
        "report RUNS --out FILE/page.html",
        "report RUNS --format md --out FILE/table.md",
        "splits make TARGET FILE/split.json",
        "splits import FILE/split.json --test test LIST CLASSES",
        "prompts export PROMPT FILE/ctx.safetensors",
    ],
)
def test_a_folder_that_cannot_be_written_is_one_message_before_work_is_done(
    words: str, places: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("this is work that would have been for nothing")

    for work in (
        "prompttune.training.fit.open_sources",
        "prompttune.api.apply_prompts.predict",
        "prompttune.api.classify.classify",
        "prompttune.report.command.render_report",
    ):
        monkeypatch.setattr(work, worked)
    message = told(*in_words(places, words), capsys=capsys, monkeypatch=monkeypatch)
    assert re.search(r"where: +\S*/file\b", message)
    assert re.search(r"got: +Not a directory\n  fix: ", message)
    assert "Errno" not in message


def test_folders_that_are_not_there_are_made(
    places: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (
        "eval --store TARGET --out NEW/run/result.json",
        "classify TARGET --out NEW/found.csv",
        "report RUNS --format md --out NEW/table.md",
        "splits make TARGET NEW/split.json",
        "prompts export PROMPT NEW/ctx.safetensors",
    ):
        name = words.rpartition("/")[2]
        given = in_words(places | {"NEW": str(tmp_path / name / "new")}, words.replace("/result.json", ""))
        command_line.cli(given, standalone_mode=False)
        assert [path.name for path in (tmp_path / name).rglob(name)] == [name]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("prompts show RUNS", r"is a file\n  where: .*runs\n  got: +a folder\n  fix: .*safetensors"),
        ("prompts list PROMPT", r"no folder .*\n.*\n  got: +a file\n  fix: +prompttune prompts show .*safetensors"),
        ("train --method coop", r"store: not given; --store"),
        ("splits make HERE/no.zarr HERE/x.json", r"where: .*no.zarr\n  got: +No such file"),
    ],
)
def test_what_is_not_there_or_of_another_kind_is_a_message(
    words: str,
    expected: str,
    places: dict[str, str],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert re.search(expected, told(*in_words(places, words), capsys=capsys, monkeypatch=monkeypatch))


@pytest.mark.parametrize(
    ("refused", "advice", "then"),
    [
        ("splits make TARGET NEW --shots 16", "--shots up-to-16", "splits make TARGET NEW --shots up-to-16"),
        ("splits make TARGET SPLIT --base-to-new", "--overwrite", "splits make TARGET SPLIT --base-to-new --overwrite"),
        ("prompts list PROMPT", "prompttune prompts show PROMPT", "prompts show PROMPT"),
        ("methods copo", "did you mean 'coop'?", "methods coop"),
    ],
)
def test_advice_leads_to_a_command_that_ends_well(
    refused: str,
    advice: str,
    then: str,
    places: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = places | {"NEW": str(tmp_path / "new.json"), "SPLIT": str(tmp_path / "split.json")}
    command_line.cli(in_words(own, "splits make TARGET SPLIT"), standalone_mode=False)
    message = told(*in_words(own, refused), capsys=capsys, monkeypatch=monkeypatch)
    fix = message.partition("fix:")[2]
    assert " ".join(in_words(own, advice)) in fix
    command_line.cli(in_words(own, then), standalone_mode=False)


@pytest.mark.parametrize(
    "refused",
    [
        "--method ivlp --store VISUAL --shots 2 --set visual.depth=99 --set context.prompt_depth=99",
        "--method maple --store VISUAL --shots 2 --set visual.depth=99 --set context.prompt_depth=99",
        "--method tcp --store TARGET --shots 2 --set context.class_tokens_block=99 --set context.prompt_depth=99",
        "--method coop --store TARGET --shots 999",
        "--method ga2-text --store TARGET --shots 2 --set context.n_ctx=3 --set coupling.hard_prompts=['PROMPT']",
    ],
)
def test_options_that_a_message_advises_train(
    refused: str,
    places: dict[str, str],
    visual_target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that is wrong is told at once: the same command with what the first message prints ends well."""
    named = refused.replace("PROMPT", places["PROMPT"]).replace("'", '"')
    given = ["train", *in_words(places | {"VISUAL": visual_target}, named), "--out", str(tmp_path / "run")]
    given += ["--seeds", "1", "--set", "optim.epochs=1", "--set", "optim.batch_size=8"]
    fix = told(*given, capsys=capsys, monkeypatch=monkeypatch).partition("fix:")[2]
    options = [word for found in re.findall(r"(--set|--shots) ([^\s,;]+)", fix) for word in found]
    command_line.cli([*given, *options], standalone_mode=False)
    assert (tmp_path / "run" / "result.json").exists()
