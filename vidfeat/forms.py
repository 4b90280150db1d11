"""A table for a person, or the same rows for a program: `--json` and `--csv` of every command that prints a table."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click


def forms(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command `--json` and `--csv`, which reach it as `form`: "json", "csv" or None."""
    for name, what in (("csv", "Print comma-separated values instead."), ("json", "Print JSON instead.")):
        command = click.option(f"--{name}", "form", flag_value=name, help=what)(command)
    return command


def print_rows(rows: Sequence[Mapping[str, Any]], form: str, *, columns: Sequence[str] = ()) -> None:
    """The rows on the standard output, alone: a list of objects, or a head line and one line each.

    `columns`: of CSV, for where there may be no row.
    """
    if form == "json":
        click.echo(json.dumps(list(rows), indent=2, ensure_ascii=False, default=str))
        return
    names = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
    writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict) else value
