"""What a message advises exists: every `fix:` in the sources names commands, options and keys that are there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.__main__ import main as benchmarks
from prompttune.cli.commands import cli as prompttune
from prompttune.config.runs import FREE_TABLES
from prompttune.config.train_config import sections, valid_keys
from vidfeat.cli.commands import main as vidfeat

ROOT = Path(__file__).resolve().parents[2]
GROUPS = {"prompttune": prompttune, "vidfeat": vidfeat, "benchmarks": benchmarks}


def advice() -> Iterator[tuple[str, str]]:
    """(file:line, text) of every `fix=` argument; what a message fills in is left as `<>`."""
    for package in GROUPS:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                for keyword in node.keywords if isinstance(node, ast.Call) else ():
                    if keyword.arg == "fix":
                        for text in texts(keyword.value):
                            yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "<>" for part in value.values)
    elif isinstance(value, ast.IfExp):
        yield from (*texts(value.body), *texts(value.orelse))
    elif isinstance(value, ast.BinOp):
        yield "".join((*texts(value.left), *texts(value.right)))


def commands(group: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    yield words, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*words, name))


def test_advice_is_found() -> None:
    assert len(list(advice())) > 150


def test_options_in_advice_exist() -> None:
    known = {
        option
        for group in GROUPS.values()
        for _, command in commands(group)
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--shm-size"}  # the latter is of docker
    wrong = [
        f"{place}: {option}"
        for place, text in advice()
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)
        if option not in known
    ]
    assert wrong == []


def test_commands_in_advice_exist() -> None:
    wrong = []
    for place, text in advice():
        for name, word in re.findall(r"\b(prompttune|vidfeat) ([a-z]+)\b", text):
            is_command = word in getattr(GROUPS[name], "commands", {})
            if not is_command and f"`{name} {word}" in text.replace("'", "`"):
                wrong.append(f"{place}: {name} {word}")
    assert wrong == []


def test_settings_in_advice_exist() -> None:
    known = {*valid_keys(), *sections(valid_keys())}
    keys = [(place, key) for place, text in advice() for key in re.findall(r"--set '?([\w.]+)=", text)]
    assert len(keys) >= 5
    assert [f"{place}: {key}" for place, key in keys if key not in known and not key.startswith(FREE_TABLES)] == []
    # Keys named without `--set`: a dotted word whose table is one of ours.
    words = [(p, w) for p, text in advice() for w in re.findall(r"(?<![\w/.-])([a-z_]+\.[a-z_]+)(?![\w.(/])", text)]
    ours = [(place, word) for place, word in words if word.partition(".")[0] in known]
    assert len(ours) >= 10
    assert [f"{place}: {word}" for place, word in ours if word not in known and not word.startswith(FREE_TABLES)] == []
