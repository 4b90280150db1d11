"""Class files -> names by id: a CSV `id,name`, lines `ID NAME` or `NAME`, JSON (names by id, ids by name, a list)."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vidfeat.class_lines import json_names, no_plain_name, numbered_names, spelling
from vidfeat.errors import ManifestError, explain
from vidfeat.video.source.rows import Problems
from vidfeat.video.source.text import one_line, read_text


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
        alike.setdefault(spelling(name), []).append(name)
    twice = [" and ".join(map(ascii_where_alike(names), names)) for names in alike.values() if len(names) > 1]
    if twice:
        problems.note("classes whose names differ in spelling alone (case, Unicode form, blanks) are kept apart", twice)


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
    if not {"id", "name"} <= set(header):
        return _line_pairs(path, [line.strip() for line in text.lines if line.strip()], problems)
    if wrong := next((f"line {number}: {cells}" for number, cells in rows if len(cells) != len(header)), None):
        raise _no_class_file(path, wrong)
    number_at, name_at = header.index("id"), header.index("name")
    return [(f"line {number}", cells[number_at].strip(), cells[name_at]) for number, cells in rows[1:]]


def _line_pairs(path: Path, lines: Sequence[str], problems: Problems) -> list[tuple[str, str, str]]:
    """Of a file without a header: `ID NAME` or `NAME ID`, else a name a line."""
    numbered = numbered_names(lines)
    if numbered is not None:
        return [(f"class {number}", number, name) for number, name in numbered]
    if columns := no_plain_name(lines) or next((line for line in lines if "," in line), None):
        raise _no_class_file(path, columns)
    names = lines[1:] if lines and lines[0].lower() == "name" else lines
    if names:
        problems.note("class names without ids, numbered from 0 as they stand", [f"0 is {names[0]!r}"])
    return [(f"name {place}", str(place), name) for place, name in enumerate(names)]


def _no_class_file(path: Path, wrong: str) -> ManifestError:
    return ManifestError(
        explain(
            "The class file is not a CSV `id,name`.",
            where=path,
            expected="header id,name and as many fields a line (quote a name that holds a comma); or lines `ID NAME`, "
            "or names without a comma, semicolon or tab",
            got=wrong,
        )
    )


def _json_pairs(path: Path, content: str) -> list[tuple[str, str, str]]:
    expected = 'a list of names, {"name": id, ...} as Something-Something\'s labels.json, or {"id": "name", ...}'
    try:
        document = json.loads(content)
    except ValueError as error:
        raise ManifestError(explain("The class file is no JSON.", where=path, expected=expected, got=error)) from error
    pairs = json_names(document)
    if pairs is None:
        raise ManifestError(
            explain("The class file's JSON holds no classes.", where=path, expected=expected, got=content[:60])
        )
    return [(f"name {name!r}", number, name) for number, name in pairs]
