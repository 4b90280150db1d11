"""The command line: `vidfeat --help`."""

from vidfeat.cli.commands import main

__all__ = ["main"]
