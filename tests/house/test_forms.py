"""Every command that prints a table prints the same for programs: `--json` and `--csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import video_files as vf
from click.testing import CliRunner
from small_store import SmallStore

from prompttune.cli.commands import cli as prompttune
from vidfeat.cli.commands import main as vidfeat

# What these print is no table of rows: what was written, in a line or two, or (anchors) a report that is JSON itself.
NO_TABLE = {
    *(f"vidfeat {name}" for name in ("extract", "relabel", "export", "import", "anchors select", "anchors check")),
    *(f"prompttune prompts {name}" for name in ("import", "export")),
    *(f"prompttune splits {name}" for name in ("make", "import", "export")),
    "prompttune report",  # has formats of its own
}


def commands(group: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(group, "commands", {})
    if not inner:
        yield words, group
    for name, command in inner.items():
        yield from commands(command, f"{words} {name}")


def test_every_command_that_prints_a_table_has_forms() -> None:
    known = dict([*commands(vidfeat, "vidfeat"), *commands(prompttune, "prompttune")])
    options = {name: {option for p in command.params for option in p.opts} for name, command in known.items()}
    lacking = {name for name, given in options.items() if not {"--json", "--csv"} <= given}
    assert lacking - NO_TABLE == set()
    assert NO_TABLE & known.keys() - lacking == set()


@pytest.mark.parametrize(
    "words",
    [
        ["info", "STORE"],
        ["failures", "STORE"],
        ["failures", "STORE", "--reason", "timeout"],
        ["verify", "STORE"],
        ["doctor"],
        ["crosscheck", "VIDEOS", "--n", "1"],
    ],
    ids=" ".join,
)
def test_both_forms_hold_the_same_rows(tmp_path: Path, words: list[str]) -> None:
    store = tmp_path / "X.zarr"
    SmallStore().extract(store)
    vf.class_folders(tmp_path / "videos", vf.write_video(tmp_path / "a.mp4", n_frames=8), ["run"], per_class=1)
    places = {"STORE": str(store), "VIDEOS": str(tmp_path / "videos")}
    given = [places.get(word, word) for word in words]
    as_json, as_csv = (CliRunner().invoke(vidfeat, [*given, form]) for form in ("--json", "--csv"))
    rows = json.loads(as_json.stdout)
    lines = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert as_json.exit_code == as_csv.exit_code == 0
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
    assert as_csv.stdout.splitlines()  # a head line even where there is no row
