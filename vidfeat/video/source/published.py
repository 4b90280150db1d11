"""Lists as two data sets publish them, which name no file: Kinetics' CSV and Something-Something V2's JSON -> rows."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems, Row, split_name, unknown_split
from vidfeat.video.source.text import Text

KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end", "split")
SSV2_FIELDS = ("id", "template")


def kinetics_rows(text: Text, base: Path, problems: Problems) -> list[Row]:
    """The rows of Kinetics' `label,youtube_id,time_start,time_end,split`; a clip's file is `ID_%06d_%06d.mp4`.

    Source: the lists of Kinetics-400, 600 and 700 by their authors; the file names are those of their crawlers.
    """
    rows = text.csv_rows()
    header = [cell.strip().lower() for cell in rows[0][1]]
    missing = [column for column in KINETICS_COLUMNS[:4] if column not in header]
    if missing:
        problems.add("problem with a Kinetics header", [f"column {column!r} is missing" for column in missing])
        return []
    found = []
    for number, cells in rows[1:]:
        values = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
        try:
            start, end = (int(float(values[name])) for name in ("time_start", "time_end"))
        except (KeyError, ValueError):
            problems.add("line without a start and an end in seconds", [f"line {number}: {cells}"])
            continue
        split = split_name(values.get("split", ""))
        if split is None:
            problems.add("split that is none of train, val, test", [f"line {number}: {unknown_split(values['split'])}"])
        name = f"{values['youtube_id']}_{start:06d}_{end:06d}"
        found.append(Row(f"line {number}", name, values["label"], split or ""))
    return _with_files(found, base, ".mp4", problems)


def is_ssv2(text: Text) -> bool:
    """Whether the text is a JSON list of objects, as Something-Something's lists are."""
    return text.content.lstrip().startswith("[")


def ssv2_rows(text: Text, source: Path, base: Path, problems: Problems) -> list[Row]:
    """The rows of Something-Something V2's `[{"id": ..., "template": ...}, ...]`; a clip's file is `ID.webm`.

    The class is the template without its brackets, as labels.json spells it; the split is in the list's own name
    (something-something-v2-train.json).
    """
    try:
        document = json.loads(text.content)
    except ValueError as error:
        problems.add("it is no JSON", [str(error)])
        return []
    split = next((name for word in re.split(r"[^a-z]+", source.stem.lower()) if (name := split_name(word))), "")
    found = []
    for place, entry in enumerate(document, 1):
        template = _field(entry, "template")
        if not _field(entry, "id") or not template:
            expected = 'entry without an "id" and a "template" (the test list of Something-Something has no labels)'
            problems.add(expected, [f"entry {place}: {str(entry)[:60]}"])
            continue
        label = template.replace("[", "").replace("]", "")
        found.append(Row(f"entry {place}", str(entry["id"]), label, split))
    return _with_files(found, base, ".webm", problems)


def _field(entry: Any, name: str) -> str:
    value = entry.get(name) if isinstance(entry, dict) else None
    return str(value) if isinstance(value, (str, int)) else ""


def _with_files(rows: Iterable[Row], base: Path, extension: str, problems: Problems) -> list[Row]:
    """The rows, their names made paths: of the file below `base` that has the name, in whatever folder.

    A clip that is not there gets the path it would have beside most of the others: `<split>/<label>/`, `<label>/`, ...
    """
    rows = list(rows)
    files = _videos_by_stem(base)
    usual = Counter(place for row in rows for path in files.get(row.path, ())[:1] for place in _places_of(row, path))
    place = usual.most_common(1)[0][0] if usual else ""
    found = []
    for row in rows:
        paths = files.get(row.path, [])
        if len(paths) > 1:
            problems.add("clip that is there more than once", [f"{row.where}: {', '.join(paths)}"])
        path = paths[0] if paths else place.format(split=row.split, label=row.label) + row.path + extension
        found.append(Row(row.where, path, row.label, row.split))
    return found


def _places_of(row: Row, path: str) -> list[str]:
    """Which pattern the folder of a file that is there follows; none for any other."""
    folder = path.rpartition("/")[0]
    places = ("", "{split}/", "{label}/", "{split}/{label}/")
    return [place for place in places if place.format(split=row.split, label=row.label).rstrip("/") == folder][:1]


def _videos_by_stem(base: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for parent, folders, files in os.walk(base, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in VIDEO_EXTENSIONS:
                found.setdefault(path.stem, []).append(path.relative_to(base).as_posix())
    return found
