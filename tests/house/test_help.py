"""The help of every command fits a terminal of 80 columns, examples included."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from prompttune.cli.commands import cli as prompttune
from vidfeat.cli.commands import main as vidfeat


def commands(of: click.Command, *words: str) -> Iterator[tuple[str, ...]]:
    """The words of every command and group."""
    yield words
    if isinstance(of, click.Group):
        context = click.Context(of)
        for name in of.list_commands(context):
            found = of.get_command(context, name)
            assert found is not None
            yield from commands(found, *words, name)


@pytest.mark.parametrize("main", [vidfeat, prompttune], ids=["vidfeat", "prompttune"])
def test_help_fits_eighty_columns(main: click.Command) -> None:
    for words in commands(main):
        done = CliRunner().invoke(main, [*words, "--help"])
        assert done.exit_code == 0, words
        assert [line for line in done.output.splitlines() if len(line) > 80] == [], words
