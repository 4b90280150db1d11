"""Class files -> names by id: a CSV `id,name`, lines `ID NAME` or `NAME`, JSON (names by id, ids by name, a list)."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vidfeat.errors import ManifestError, explain
from vidfeat.video.source.rows import Problems
from vidfeat.video.source.text import one_line, read_text

_NUMBERED = re.compile(r"(\d+)\s+(\S.*)")


def class_ids(classes: str | os.PathLike[str] | Sequence[str] | None, problems: Problems) -> dict[int, str] | None:
    """Class names by id, in the order of the class file; None for None. A name over two lines becomes one, noted.

    Raises:
        ManifestError: with every problem of the file.
    """
    if classes is None:
        return None
    own = Problems()
    if not isinstance(classes, (str, os.PathLike)):
        pairs = [(f"name {i}", str(i), name) for i, name in enumerate(classes)]
        where: object = "classes"
    else:
        where = Path(classes)
        pairs = _pairs(Path(classes), problems)
    names: dict[int, str] = {}
    broken = [one_line(name) for _, _, name in pairs if "\n" in name.strip()]
    if broken:
        problems.note("class name broken over two lines, read as one", broken)
    taken: set[str] = set()
    for place, number, given in pairs:
        name = one_line(given) if "\n" in given else given.strip()
        if not number.isdecimal():
            own.add("class id that is not a whole number", [f"{place}: {number!r}"])
        elif int(number) in names:
            own.add("class id given twice", [f"{place}: {number}"])
        elif name in taken:
            own.add("class name given twice", [f"{place}: {name!r}"])
        elif not name:
            own.add("class without a name", [place])
        else:
            names[int(number)] = name
            taken.add(name)
    if not pairs:
        own.add("it holds no class", [])
    own.raise_any(Path(str(where)))
    return names


def note_like_spelled(classes: Iterable[str], problems: Problems) -> None:
    """Notes classes whose names differ in case, Unicode form, blanks or underscores alone: probably one class each."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(_spelling(name), []).append(name)
    twice = [" and ".join(map(ascii_where_alike(names), names)) for names in alike.values() if len(names) > 1]
    if twice:
        problems.note("classes whose names differ in spelling alone (case, Unicode form, blanks) are kept apart", twice)


def _spelling(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def ascii_where_alike(names: Sequence[str]) -> Any:
    """How names are shown beside each other: with escapes where they would look the same."""
    same = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return ascii if same else repr


def _pairs(path: Path, problems: Problems) -> list[tuple[str, str, str]]:
    """(where, id, name) of every class."""
    if not path.is_file():
        raise ManifestError(explain("The class file does not exist.", where=path, expected="a CSV `id,name`"))
    text = read_text(path, problems)
    if path.suffix.lower() == ".json":
        return _json_pairs(path, text.content)
    rows = text.csv_rows()
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    if header == ["id", "name"]:
        rows = rows[1:]
    elif not any(len(cells) > 1 for _, cells in rows):
        return _line_pairs([(number, cells[0].strip()) for number, cells in rows], problems)
    wrong = next((f"line {number}: {cells}" for number, cells in rows if len(cells) != 2), None)
    if wrong is None and header != ["id", "name"] and not all(cells[0].strip().isdecimal() for _, cells in rows):
        wrong = f"the header {','.join(header)}"
    if wrong is not None:
        raise ManifestError(
            explain(
                "The class file is not a CSV `id,name`.",
                where=path,
                expected="header id,name and two fields a line (quote a name that holds a comma); or lines without a "
                "comma, `ID NAME` or `NAME`",
                got=wrong,
            )
        )
    return [(f"line {number}", cells[0].strip(), cells[1]) for number, cells in rows]


def _line_pairs(lines: Sequence[tuple[int, str]], problems: Problems) -> list[tuple[str, str, str]]:
    """Of lines without a comma: `ID NAME` where each begins with a number, as UCF-101's classInd.txt; else names."""
    numbered = [_NUMBERED.fullmatch(line) for _, line in lines]
    if lines and all(numbered):
        return [
            (f"line {number}", found[1], found[2]) for (number, _), found in zip(lines, numbered, strict=True) if found
        ]
    lines = lines[1:] if lines and lines[0][1].lower() == "name" else lines
    if lines:
        problems.note("class names without ids, numbered from 0 as they stand", [f"0 is {lines[0][1]!r}"])
    return [(f"line {number}", str(place), line) for place, (number, line) in enumerate(lines)]


def _json_pairs(path: Path, content: str) -> list[tuple[str, str, str]]:
    expected = 'a list of names, {"name": id, ...} as Something-Something\'s labels.json, or {"id": "name", ...}'
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ManifestError(explain("The class file is no JSON.", where=path, expected=expected, got=error)) from error
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return [(f"name {place}", str(place), name) for place, name in enumerate(document)]
    if isinstance(document, dict):
        pairs = [(str(key), str(value)) for key, value in document.items() if isinstance(value, (str, int))]
        if len(pairs) == len(document) and all(value.isdecimal() for _, value in pairs):
            ordered = sorted(pairs, key=lambda pair: int(pair[1]))
            return [(f"name {name!r}", number, name) for name, number in ordered]
        if len(pairs) == len(document) and all(key.isdecimal() for key, _ in pairs):
            return [(f"id {number}", number, name) for number, name in pairs]
    raise ManifestError(
        explain("The class file's JSON holds no classes.", where=path, expected=expected, got=content[:60])
    )
