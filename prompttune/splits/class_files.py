"""Class files in the dialects of the field: CSV `id,name`, names line by line, JSON; and names in a command line."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompttune.errors import SplitError, explain, note, some
from prompttune.splits.file import listed
from vidfeat.class_lines import delimiter_of, json_names, no_plain_name, numbered_names, spelling
from vidfeat.text_files import EIGHT_BIT, READ_AS_EIGHT_BIT, NoText, text_and_encoding

_NAMES_A_FILE = re.compile(r"\.(?:txt|csv|tsv|json|lst|list|names|labels)$", re.IGNORECASE)


@dataclass(frozen=True)
class ClassFile:
    """A class file: name by id, in the order of the ids."""

    path: Path
    names: Mapping[int, str]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.names.values())


def read_text(path: Path, what: str) -> str:
    """The text of a file as `vidfeat extract` reads it: UTF-8, UTF-16, UTF-32, else Windows-1252, which is noted.

    Raises:
        SplitError: no such file, or no text.
    """
    try:
        text, encoding = text_and_encoding(path)
    except OSError as error:
        raise SplitError(explain(f"the {what} cannot be read", where=path, got=error.strerror or error)) from None
    except NoText as error:
        raise SplitError(explain(f"the {what} is no text", where=path, got=error)) from None
    if encoding == EIGHT_BIT:
        note(f"{path} {READ_AS_EIGHT_BIT}")
    return text


def lines_of(text: str) -> list[str]:
    """The lines that are not blank, without blanks at their ends."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def read_class_file(path: str | Path) -> ClassFile:
    """The classes of a file.

    A CSV with the columns `id,name` (`name` alone: ids 0, 1, ...); one name per line; lines `ID NAME`, as UCF-101's
    classInd.txt, or `NAME ID`; a JSON list of names; or a JSON object `{name: id}`, as Something-Something V2's
    labels.json, or `{id: name}`.

    Raises:
        SplitError: with everything that is wrong: ids that are no whole numbers, ids or names given twice, names that
            differ in case, Unicode form or blanks alone, a name broken over two lines, no class.
    """
    path = Path(path)
    text = read_text(path, "class file")
    problems: list[str] = []
    pairs = _json_pairs(path, text) if text.lstrip()[:1] in ("[", "{") else _line_pairs(path, text, problems)
    names: dict[int, str] = {}
    for number, name in pairs:
        if not number.isdecimal():
            problems.append(f"the class id {number!r} is no whole number")
        elif int(number) in names:
            problems.append(f"the class id {number} is given twice")
        elif not name or name in names.values():
            problems.append(f"the class name {name!r} is {'given twice' if name else 'empty'}")
        else:
            names[int(number)] = name
    problems += one_class_two_spellings(names.values())
    if problems or not names:
        raise SplitError(explain("this is no class file", where=path, got=listed(problems or ["not a single class"])))
    return ClassFile(path, dict(sorted(names.items())))


def _json_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise SplitError(explain("the class file begins like JSON and is none", where=path, got=error)) from None
    pairs = json_names(content)
    if pairs is None:
        got = some(content.items() if isinstance(content, dict) else content, 2)
        expected = '["name", ...], {"name": id} or {"id": "name"}'
        raise SplitError(explain("this is no class file", where=path, expected=expected, got=got))
    return [(number, name.strip()) for number, name in pairs]


def _line_pairs(path: Path, text: str, problems: list[str]) -> list[tuple[str, str]]:
    lines = lines_of(text)
    delimiter = delimiter_of(next(iter(lines), ""))
    header = [cell.strip().lower() for cell in next(csv.reader(lines[:1], delimiter=delimiter), [])]
    if "name" not in header:
        return numbered_names(lines) or _plain_names(path, lines)
    pairs: list[tuple[str, str]] = []
    reader = csv.reader(lines[1:], delimiter=delimiter, skipinitialspace=True)
    read = 0
    for place, cells in enumerate(reader, 2):
        broken, read = reader.line_num > read + 1, reader.line_num
        if broken:
            problems.append(f"row {place}: a quoted name is broken over two lines: {some(cells)}")
        elif len(cells) != len(header):
            problems.append(f"row {place}: {len(cells)} fields instead of {len(header)}: {some(cells)}")
        else:
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            pairs.append((row.get("id", str(len(pairs))), row["name"]))
    return pairs


def _plain_names(path: Path, lines: Sequence[str]) -> list[tuple[str, str]]:
    if columns := no_plain_name(lines):
        expected = "a header id,name; or lines `ID NAME`; or names alone, without a semicolon or tab"
        raise SplitError(explain("this is no class file", where=path, expected=expected, got=columns))
    return [(str(place), line) for place, line in enumerate(lines)]


def one_class_two_spellings(names: Iterable[str]) -> list[str]:
    """A line for names that differ in case, Unicode form or blanks alone: `Run` and `run` are hardly two classes."""
    spelled: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        spelled.setdefault(spelling(name), []).append(name)
    found = [" and ".join(map(repr, same)) for same in spelled.values() if len(same) > 1]
    return [f"names that differ in case, Unicode form or blanks alone: {some(found)}"] if found else []


def named_classes(text: str) -> tuple[str, ...]:
    """Class names out of a command line: a file of them, a JSON list, or names separated by commas.

    Raises:
        SplitError: no name; a file that is not there; JSON that is no list of names.
    """
    text = text.strip()
    if text.startswith("["):
        return _json_names(text)
    if Path(text).is_file():
        return read_class_file(text).classes
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise SplitError(explain("not a single class name was given", got=repr(text), fix="--classes run,jump"))
    if len(names) == 1 and (_NAMES_A_FILE.search(text) or "/" in text or Path(text).is_dir()):
        fix = f"the right path; a class of that name: --classes '[{json.dumps(text)}]'"
        raise SplitError(explain("there is no such file of class names", where=text, fix=fix))
    return names


def _json_names(text: str) -> tuple[str, ...]:
    try:
        content: Any = json.loads(text)
    except ValueError as error:
        content = error
    if not isinstance(content, Sequence) or not content or not all(isinstance(name, str) for name in content):
        expected = '["brush hair", "run"]'
        raise SplitError(explain("this is no JSON list of class names", expected=expected, got=content or "no name"))
    return tuple(name.strip() for name in content)
