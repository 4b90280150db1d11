"""The documentation: the tutorial runs, the reference is fresh, commands name options that exist, links lead on."""

from __future__ import annotations

import json
import pydoc
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from benchmarks import reference
from benchmarks.world.clip_weights import CONFIG_PATH, WEIGHTS_PATH
from prompttune import __version__
from prompttune.cli.commands import cli as prompttune_cli
from prompttune.config.runs import parse_overrides
from prompttune.evaluation.results import Result
from vidfeat.cli import main as vidfeat_cli

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GUIDES = [page for page in PAGES if page.parent.name == "how-to" or page.name in ("tutorial.md", "anchors.md")]
SHARED = next((p for parent in ROOT.parents if (p := parent / "shared" / "clips" / "actions").is_dir()), None)
CLIS: dict[str, click.Group] = {"vidfeat": vidfeat_cli, "prompttune": prompttune_cli}
BLOCK = re.compile(r"(?P<skip><!-- not run[^>]*-->\n)?```(?P<language>sh|python)\n(?P<code>.*?)```", re.DOTALL)


def shell_commands(code: str) -> Iterator[list[str]]:
    """The words of each command of a shell block; comments and line ends undone."""
    for line in code.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def anchor_of(head: str) -> str:
    """What a Markdown heading is linked by."""
    return re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-")


def test_the_reference_is_fresh() -> None:
    assert reference.render() == reference.PAGE.read_text(), "python -m benchmarks.reference"


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_python_names_on_a_page_are_there(page: Path) -> None:
    """Every dotted name of the packages leads to a module, or to something in one."""
    for name in re.findall(r"\b(?:prompttune|vidfeat|benchmarks)(?:\.[A-Za-z_]\w*)+", page.read_text()):
        assert pydoc.locate(name) is not None, name


def test_files_that_the_architecture_names_are_there() -> None:
    text = (DOCS / "architecture.md").read_text()
    named = re.findall(r"`((?:vidfeat|prompttune|benchmarks|tests)/[\w/.]*)`", text)
    assert len(named) > 15
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_reference_names_every_command_and_key() -> None:
    text = reference.PAGE.read_text()
    for name, group in CLIS.items():
        for path, _ in reference.commands(group, name):
            assert re.search(rf"^#+ {path}$", text, re.MULTILINE)
    assert "| `optim.lr` | float | `0.002` |" in text
    assert "--split TEXT" in text


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_commands_in_guides_name_commands_and_options_that_exist(page: Path) -> None:
    wrong = []
    for block in BLOCK.finditer(page.read_text()):
        if block["language"] != "sh":
            continue
        for words in shell_commands(block["code"]):
            if words[0] not in CLIS:
                continue
            command: click.Command = CLIS[words[0]]
            rest = words[1:]
            while isinstance(command, click.Group):
                assert rest, words
                found = command.get_command(click.Context(command), rest.pop(0))
                assert found is not None, words
                command = found
            known = {option for parameter in command.params for option in parameter.opts}
            wrong += [f"{' '.join(words[:3])}: {w}" for w in rest if w.startswith("-") and w.split("=")[0] not in known]
            overrides = [value for flag, value in pairwise(rest) if flag == "--set"]
            parse_overrides(overrides)
    assert wrong == []


def test_citation_and_package_are_of_one_version() -> None:
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    packaged = re.search(r'^version = "(\S+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert cited is not None
    assert packaged is not None
    assert cited[1] == packaged[1] == __version__


def test_the_limits_state_the_rounding_that_was_measured() -> None:
    tests = json.loads((ROOT / "benchmarks" / "results" / "fp16_rounding.json").read_text())["tests"].values()
    changed, of_all = (sum(one[key] for one in tests) for key in ("predictions_changed", "n_videos"))
    largest = max(one["largest_logit_change"] for one in tests)
    text = " ".join((DOCS / "limits.md").read_text().split())
    assert (
        f"changed {changed} of {of_all:,} zero-shot predictions; the largest change of a logit was {largest:.4f}"
        in text
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path:
            continue
        file = page if not path else page.parent / path
        titles = file.read_text() if file.is_file() else ""
        heads = {anchor_of(head) for head in re.findall(r"^#+ (.*)$", titles, re.MULTILINE)}
        if not file.exists() or (anchor and anchor not in heads):
            broken.append(target)
    assert broken == []


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.skipif(SHARED is None, reason="../shared/clips is not here")
def test_the_tutorial_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert SHARED is not None
    for name in ("clapping", "meet_and_split", "sitting", "walking"):
        for number in range(4):
            (tmp_path / "videos" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(SHARED / name / f"{number:02d}.mp4", tmp_path / "videos" / name)
    monkeypatch.chdir(tmp_path)
    model = ["--model-config", str(CONFIG_PATH), "--weights", str(WEIGHTS_PATH)]
    names: dict[str, object] = {}
    done = []
    for block in BLOCK.finditer((DOCS / "tutorial.md").read_text()):
        if block["skip"]:
            continue
        if block["language"] == "python":
            exec(compile(block["code"], "tutorial.md", "exec"), names)
            continue
        for words in shell_commands(block["code"]):
            arguments = [word for part in words[1:] for word in (model if part == "$MODEL" else [part])]
            found = CliRunner().invoke(CLIS[words[0]], arguments)
            assert found.exit_code == 0, (words, found.output, found.exception)
            done.append(words[1])
    assert done == ["plan", "extract", "info", "splits", "splits", "eval", "train", "classify"]
    table = names["table"]
    assert set(table.index) == {"coop", "zero-shot"}  # type: ignore[attr-defined]
    assert table.loc["coop", ("new", "count")] == 3  # type: ignore[attr-defined]
    result = Result.read("runs/coop")
    assert [run.n_train for run in result.runs] == [4, 4, 4]
    assert result.prompts["meet_and_split"] == "[16] meet and split."
    assert "harmonic_mean" in capsys.readouterr().out
