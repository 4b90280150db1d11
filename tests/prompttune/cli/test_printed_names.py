"""Names of videos, classes and methods in prompttune's tables: text, never markup."""

from __future__ import annotations

import io

import pytest

from prompttune.api.classify import Classified
from prompttune.base.console import plain_console
from prompttune.cli.tables import classified_table


@pytest.mark.parametrize("name", ["[x]", "[/x]", "[red]", "[/]", ":cat:", "[link=http://a]b"])
def test_a_classified_video_is_named_as_it_is(name: str) -> None:
    console = plain_console()
    console.file = io.StringIO()

    console.print(classified_table([Classified(f"{name}.mp4", (name, "run"), (0.75, 0.25))]), f"from {name}")

    lines = [line.split() for line in console.file.getvalue().splitlines()]
    assert [*f"{name}.mp4 {name} 75.0 %".split()] in lines
    assert f"from {name}" in console.file.getvalue()
