"""A CSV with a header, or a list of `path label [split]` lines -> rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from vidfeat.class_lines import delimiter_of, path_and_rest
from vidfeat.video.source.rows import (
    VIDEO_EXTENSIONS,
    Problems,
    Row,
    nearest,
    split_name,
    unknown_split,
)
from vidfeat.video.source.text import Text, one_line

CSV_COLUMNS = ("path", "label", "split", "group")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_NOT_A_SPLIT = "split that is none of train, val, test"


def has_header(text: Text) -> bool:
    """Whether the first line names the columns path and label."""
    header = header_of(text)
    return "path" in header and "label" in header


def header_of(text: Text) -> list[str]:
    """The cells of the first line that is not blank, in lower case."""
    return [cell.strip().lower() for cell in next(csv.reader([text.first], delimiter=delimiter_of(text.first)), [])]


def csv_rows(text: Text, problems: Problems, *, required: Sequence[str] = ("path", "label")) -> list[Row]:
    """The rows of a CSV with a header `path,label[,split][,group]`, columns in any order."""
    rows = text.csv_rows()
    header = [cell.strip().lower() for cell in rows[0][1]] if rows else []
    wrong = [column for column in header if column not in CSV_COLUMNS]
    missing = [column for column in required if column not in header]
    if wrong or missing or len(set(header)) != len(header):
        notes = [nearest(column, [c for c in CSV_COLUMNS if c not in header] or CSV_COLUMNS) for column in wrong]
        notes += [f"column {column!r} is missing" for column in missing]
        notes += [f"column {column!r} appears twice" for column in sorted({c for c in header if header.count(c) > 1})]
        notes.append("expected path,label[,split][,group]; a list without a header must not end in .csv")
        problems.add("problem with the header", notes)
        return []
    found = []
    for number, cells in rows[1:]:
        where = f"line {number}"
        if len(cells) != len(header):
            kind = f"line without exactly {len(header)} fields (quote a field that holds a comma)"
            problems.add(kind, [f"{where}: {cells}"])
            continue
        values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        if "\n" in values.get("label", ""):
            values["label"] = one_line(values["label"])
            problems.note("label broken over two lines, read as one", [f"{where}: {values['label']}"])
        split = split_name(values.get("split", ""))
        if split is None:
            problems.add(_NOT_A_SPLIT, [f"{where}: {unknown_split(values['split'])}"])
        found.append(Row(where, values["path"], values.get("label", ""), split or "", values.get("group", "")))
    return found


@dataclass(frozen=True)
class _Line:
    """One line of a list: its path, and the words after it; `quoted`: these are fields that someone marked as such."""

    where: str
    path: str
    words: tuple[str, ...]
    quoted: bool = False


def list_rows(text: Text, problems: Problems, *, known: Collection[str] = ()) -> list[Row]:
    """The rows of a list of `path label [split]` lines, separated by commas or blanks.

    `clip.avi 163 0` (frame count, then label) is read, too. A label of several words needs no quotes where the line
    does not end in a split, where it is one of the `known` classes or is written elsewhere in the list beyond doubt.
    """
    lines = [_without_frame_count(_split_up(line, number)) for number, line in enumerate(text.lines, 1) if line.strip()]
    has_splits = all(len(line.words) > 1 and split_name(line.words[-1]) for line in lines)
    labels = {*known, *(line.words[0] for line in lines if line.words and (line.quoted or len(line.words) == 1))}
    return [row for line in lines if (row := _row(line, problems, known=labels, has_splits=has_splits))]


def _split_up(text: str, number: int) -> _Line:
    where, line = f"line {number}", text.strip()
    bare = _QUOTED.sub("", line)
    parted = path_and_rest(line)
    if parted is not None:
        path, rest = parted
        return _Line(where, path, tuple(_blank_cells(rest)), quoted='"' in rest)
    if "," in bare:
        cells = [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
        return _Line(where, cells[0], tuple(cells[1:]), quoted=True)
    cells = _blank_cells(line) or [""]
    return _Line(where, cells[0], tuple(cells[1:]), quoted='"' in line[len(cells[0]) + 2 :])


def _blank_cells(text: str) -> list[str]:
    squeezed = re.sub(r"\s+", " ", text) if '"' not in text else text.replace("\t", " ")
    return [cell for cell in next(csv.reader([squeezed], delimiter=" ", skipinitialspace=True)) if cell]


def _row(line: _Line, problems: Problems, *, known: Collection[str], has_splits: bool) -> Row | None:
    shown = f"{line.where}: {' '.join((line.path, *line.words))}"
    words = line.words
    if not words or not line.path or not words[0]:
        problems.add("line that is not `path label [split]` (quote fields that hold the separator)", [shown])
        return None
    split = split_name(words[-1]) if len(words) > 1 else ""
    whole, front = " ".join(words), " ".join(words[:-1])
    if line.quoted:
        if len(words) > 2 or split is None:
            problems.add("line that is not `path label [split]` (quote fields that hold the separator)", [shown])
            return None
        return Row(line.where, line.path, words[0], split or "")
    if split and whole in known and front in known:
        problems.add("label, or label and split? (quote the label)", [shown])
        return None
    sure = has_splits or front in known or front.isdecimal()
    if split and whole not in known and not sure:
        problems.add("label of several words, or label and split? (quote the label)", [shown])
        return None
    if split and whole not in known:
        return Row(line.where, line.path, front, split)
    if all(word.isdecimal() for word in words) and len(words) > 1:
        problems.add("line of several numbers (`folder n_frames label` lists name frame folders, not videos)", [shown])
        return None
    return Row(line.where, line.path, whole)


def _without_frame_count(line: _Line) -> _Line:
    """The line without the number of frames between path and label: `clip.avi 163 0`, `clip.avi,163,0`.

    The path is a video's, by its extension: `folder 163 0` is a folder of frames.
    """
    words = line.words
    is_video = any(line.path.lower().endswith(extension) for extension in VIDEO_EXTENSIONS)
    has_count = is_video and len(words) > 1 and words[0].isdecimal() and words[1].isdecimal()
    return replace(line, words=words[1:]) if has_count else line
