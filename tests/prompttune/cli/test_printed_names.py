"""Names of videos, classes and methods in prompttune's tables: text, never markup."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

import pytest

from prompttune.api.classify import Classified
from prompttune.base.console import plain_console
from prompttune.cli.tables import classified_table, write_classified


@pytest.mark.parametrize("name", ["[x]", "[/x]", "[red]", "[/]", ":cat:", "[link=http://a]b"])
def test_a_classified_video_is_named_as_it_is(name: str) -> None:
    console = plain_console()
    console.file = io.StringIO()

    console.print(classified_table([Classified(f"{name}.mp4", (name, "run"), (0.75, 0.25))]), f"from {name}")

    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert [*f"{name}.mp4 {name} 75.0 %".split()] in lines
    assert f"from {name}" in console.file.getvalue()


def test_the_csv_holds_the_bytes_of_a_name_that_is_not_utf_8(tmp_path: Path) -> None:
    write_classified(tmp_path / "c.csv", [Classified(os.fsdecode(b"caf\xe9.mp4"), ("süß",), (1.0,))])
    assert b"caf\xe9.mp4,1,s\xc3\xbc\xc3\x9f,1.000000" in (tmp_path / "c.csv").read_bytes()


def test_long_names_are_folded_and_not_cut() -> None:
    console = plain_console()
    console.file, console.width = io.StringIO(), 80
    video, name = "a_folder_with_a_long_name/" * 5 + "clip.mp4", "a-class-whose-name-is-one-long-word-" * 2

    console.print(classified_table([Classified(video, (name, "run"), (0.75, 0.25))]))

    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    columns = [re.split(r" {2,}", line.strip()) for line in lines if "_" in line or "/" in line]
    assert "".join(cells[0] for cells in columns) == video
    assert "75.0 %" in console.file.getvalue()
    assert "…" not in console.file.getvalue()
