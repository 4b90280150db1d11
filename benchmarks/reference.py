"""Writes docs/reference.md: every command of both CLIs with its help, and every key of the configuration.

`python -m benchmarks.reference` rewrites the page; `--check` only says whether it is out of date (so does a test).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from prompttune.config.train_config import TrainConfig, section_of
from prompttune.splits.file import SplitFile, TestPart, TrainPart

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference.md"
WIDTH = 110
HEAD = """# Reference: commands and configuration

Written by `python -m benchmarks.reference` from the code itself; do not edit. `--help` of every command says the same.
"""


def commands(command: click.Command, name: str, parent: click.Context | None = None) -> Iterator[tuple[str, str]]:
    """Name and help text of a command and of all commands below it."""
    settings: dict[str, Any] = {**command.context_settings, "terminal_width": WIDTH, "max_content_width": WIDTH}
    context = click.Context(command, info_name=name, parent=parent, **settings)
    yield context.command_path, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            assert found is not None
            yield from commands(found, below, context)


def config_rows(model: Any = TrainConfig, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Dotted key, type and default of every key; of a method's own defaults `prompttune methods NAME` tells."""
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            yield from config_rows(section, f"{prefix}{name}.")
            continue
        default = field.get_default(call_default_factory=True)
        shown = "(must be given)" if field.is_required() else f"`{_toml(default)}`"
        yield f"{prefix}{name}", _type_name(field.annotation), shown


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}" = {_toml(item)}' for key, item in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def _type_name(annotation: Any) -> str:
    """The annotation in words: the values of a Literal, `int`, `list of str`, ..."""
    arguments = [part for part in getattr(annotation, "__args__", ()) if part is not type(None)]
    kind = getattr(annotation, "__origin__", None)
    if hasattr(annotation, "__metadata__"):
        return _type_name(kind)
    if str(annotation).startswith("typing.Literal"):
        return " ".join(f"`{value}`" for value in annotation.__args__)
    if kind is tuple:
        return f"list of {_type_name(arguments[0])}" if Ellipsis in arguments else f"{len(arguments)} numbers"
    if kind is dict:
        return f"table of {_type_name(arguments[-1])}"
    if arguments:
        optional = " or none" if type(None) in annotation.__args__ else ""
        return " or ".join(dict.fromkeys(_type_name(part) for part in arguments)) + optional
    return getattr(annotation, "__name__", str(annotation))


def render() -> str:
    """The whole page."""
    from prompttune.cli.commands import cli
    from vidfeat.cli import main

    parts = [HEAD]
    for command, name in ((main, "vidfeat"), (cli, "prompttune")):
        for path, text in commands(command, name):
            parts.append(f"\n{'#' * (2 if path == name else 3)} {path}\n\n```\n{text.rstrip()}\n```\n")
    parts.append(
        "\n## Configuration\n\nKeys of a TOML file for `prompttune train`, of `--set KEY=VALUE`, and of Python calls"
    )
    parts.append(' (`optim__lr`). `"none"` stands for no value. Defaults are those of no method in particular.\n\n')
    parts.append("| key | value | default |\n| :-- | :-- | :-- |\n")
    parts += [f"| `{key}` | {kind} | {default} |\n" for key, kind, default in config_rows()]
    parts.append(f"\n## Split file, version {SplitFile.model_fields['version'].default}\n\n{_split_file()}")
    return "".join(parts)


def _split_file() -> str:
    lines = [inspect.getdoc(sys.modules[SplitFile.__module__]) or "", "", "| key | meaning |", "| :-- | :-- |"]
    for prefix, model in (("", SplitFile), ("train.", TrainPart), ("tests.NAME.", TestPart)):
        fields = [(name, field.description) for name, field in model.model_fields.items() if field.description]
        lines += [f"| `{prefix}{name}` | {description} |" for name, description in fields]
    lines.append("| `sha256` | over classes, draws and tests; a file that was changed by hand is refused |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the page, or with `--check` compares it; the exit code."""
    text = render()
    if arguments == ["--check"]:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print(
            "docs/reference.md is up to date" if fresh else "docs/reference.md is stale: python -m benchmarks.reference"
        )
        return 0 if fresh else 1
    PAGE.write_text(text, encoding="utf-8")
    print(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
