"""The command line: `prompttune --help`."""

from prompttune.cli.commands import main

__all__ = ["main"]
