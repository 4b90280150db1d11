"""Lines for a person: on a terminal broken between words to its width, in a pipe or file whole."""

from __future__ import annotations

import os
import re
import sys
import textwrap

import click

# To be copied and run: a line break inside would make two commands of it.
_COMMAND = re.compile(r"\b(?:vidfeat|prompttune|pip|python|iconv) [a-z-]")
_NAMED = re.compile(r"`[^`]*`")  # a command that is spoken of
# What the lines below stand under: `  fix:      `, `note:    `, `  - `, `  memory   ` of a plan.
_LABEL = re.compile(r"\s*(?:(?:error|warning|[a-z]+(?: as)?):\s+|- |(?<=  )[a-z]+ {2,})?")


def say(text: object, *, err: bool = False) -> None:
    """Prints lines; on a terminal those that are too wide are broken between words and indented under their label.

    Lines with a command in them, or a word that is wider than the terminal, stay whole.
    """
    stream = sys.stderr if err else sys.stdout
    if stream.isatty():
        text = wrapped(str(text), width=_columns(stream.fileno()))
    click.echo(text, err=err)


def _columns(descriptor: int) -> int:
    """Of the terminal; 80 where it does not tell (a serial line, some editors)."""
    try:
        return int(os.environ.get("COLUMNS") or 0) or os.get_terminal_size(descriptor).columns or 80
    except (OSError, ValueError):
        return 80


def wrapped(text: str, *, width: int) -> str:
    """The text with no line wider than `width` characters, where words and commands allow it."""
    lines: list[str] = []
    for line in text.split("\n"):
        label = _LABEL.match(line)
        indent = " " * (label.end() if label is not None else 0)
        words = max(map(len, line.split()), default=0)
        if len(line) <= width or len(indent) + words > width or _COMMAND.search(_NAMED.sub("", line)):
            lines.append(line)
        else:
            lines += textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    return "\n".join(lines)
