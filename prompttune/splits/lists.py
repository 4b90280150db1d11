"""The field's own lists of labelled videos, in all the dialects they come in.

A list has two columns (`path label`) or three (`folder n_frames label`), separated by commas or blanks, quoted or not,
with any line end, with or without a byte order mark; blank lines do not count. Labels are ids of a class file or class
names. Kinetics' official CSV and Something-Something's JSON are lists, too.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prompttune.errors import SplitError, explain, some
from prompttune.splits.class_files import ClassFile, lines_of, one_class_two_spellings, read_text
from prompttune.splits.file import Videos, letters, listed
from vidfeat.class_lines import VIDEO_EXTENSION_NAMES, delimiter_of, path_and_rest, split_name

Item = TypeVar("Item")
KINETICS_COLUMNS = ("label", "youtube_id", "time_start", "time_end")
_VIDEO_FILE = re.compile(rf"\.(?:{VIDEO_EXTENSION_NAMES.replace(' ', '|')})$", re.IGNORECASE)


@dataclass(frozen=True)
class VideoList:
    """The lines of a list, before their labels mean anything.

    Attributes:
        path: of the list.
        lines: (video path, label) in the list's order.
    """

    path: Path
    lines: tuple[tuple[str, str], ...]


def file_sha256(path: Path) -> str:
    """Hash of a list's or class file's bytes, for the record of what a split was made from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_video_list(path: str | Path) -> VideoList:
    """The lines of a list.

    Raises:
        SplitError: no line, or lines that are not `path label` or `folder n_frames label`.
    """
    path = Path(path)
    text = read_text(path, "list")
    if text.lstrip().startswith("["):
        return VideoList(path, _something_something(path, text))
    lines = lines_of(text)
    if not lines:
        raise SplitError(explain("the list is empty", where=path))
    if set(KINETICS_COLUMNS) <= set(header_of(lines[0])):
        return VideoList(path, tuple((row["path"], row["label"]) for row in kinetics_rows(lines, path)))
    cells = _cells(lines)
    three = sum(len(row) >= 3 and row[-1].isdecimal() and row[-2].isdecimal() for row in cells) > len(cells) / 2
    found: list[tuple[str, str]] = []
    wrong = []
    for line, row in zip(lines, cells, strict=True):
        front, label = _parted(row, three=three)
        video = " ".join(front).strip()  # a path may hold blanks; one with commas is quoted, or ends like a video
        if not video or not label or (len(front) > 1 and "," in line):
            wrong.append(line)
        else:
            found.append((video, label))
    if wrong:
        raise SplitError(
            explain(
                f"{len(wrong)} lines are not `path label` or `folder n_frames label`",
                where=path,
                got=listed(wrong[:5]),
                fix="for a CSV with a header (path,label,split): prompttune splits make",
            )
        )
    return VideoList(path, tuple(found))


def _parted(row: Sequence[str], *, three: bool) -> tuple[Sequence[str], str]:
    """A line's path and label: `clip.mp4 running fast` has a label of two words, `clip.mp4 163 0` a frame count.

    Args:
        three: the list's lines are `folder n_frames label`.
    """
    ends = [place for place, cell in enumerate(row[:-1], 1) if _VIDEO_FILE.search(cell)]
    if not ends:
        ok = not three or (len(row) >= 3 and row[-2].isdecimal())
        return row[: -2 if three else -1] if ok else (), row[-1]
    rest = row[ends[-1] :]
    counted = len(rest) == 2 and rest[0].isdecimal() and rest[1].isdecimal()
    return row[: ends[-1]], rest[1] if counted else " ".join(rest)


def header_of(line: str) -> list[str]:
    """The columns that a CSV's first line names, in lower case."""
    return [cell.strip().lower() for cell in next(csv.reader([line], delimiter=delimiter_of(line)), [])]


def kinetics_rows(lines: Sequence[str], path: Path) -> list[dict[str, str]]:
    """Kinetics' official CSV: path (the file `ID_%06d_%06d.mp4` its crawlers write), label and split of each line.

    Raises:
        SplitError: lines that do not fit the header.
    """
    rows, wrong = [], []
    for row in csv.DictReader(lines, delimiter=delimiter_of(lines[0])):
        values = {str(key).strip().lower(): value for key, value in row.items()}
        label, key, start, end = (str(values.get(name) or "").strip() for name in KINETICS_COLUMNS)
        if not label or not key or not start.isdecimal() or not end.isdecimal():
            wrong.append(str(list(row.values())))
            continue
        side = str(values.get("split") or "").strip()
        split = split_name(side) or side  # another word is told by who reads splits
        rows.append({"path": f"{key}_{int(start):06d}_{int(end):06d}.mp4", "label": label, "split": split})
    if wrong or not rows:
        expected = ",".join(KINETICS_COLUMNS)
        raise SplitError(explain("lines that do not fit", where=path, expected=expected, got=listed(wrong[:5])))
    return rows


def _something_something(path: Path, text: str) -> tuple[tuple[str, str], ...]:
    """Something-Something's JSON: `[{"id", "template"}, ...]`; its labels.json has the templates without brackets."""
    try:
        content = json.loads(text)
        return tuple((str(one["id"]), one["template"].replace("[", "").replace("]", "")) for one in content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        expected = '[{"id": "78687", "template": "Holding [something]"}, ...], as Something-Something V2 has it'
        raise SplitError(
            explain("this JSON is no list of labelled videos", where=path, expected=expected, got=repr(error))
        ) from None


def _cells(lines: Sequence[str]) -> list[list[str]]:
    parted = [path_and_rest(line) for line in lines]
    by_comma = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    if not any(parted) and len(by_comma) == len(lines) and {len(row) for row in by_comma} <= {2, 3}:
        return by_comma
    return [
        _blank_cells(line) if found is None else [found[0], *_blank_cells(found[1])]
        for line, found in zip(lines, parted, strict=True)
    ]


def _blank_cells(line: str) -> list[str]:
    return next(csv.reader([line.replace("\t", " ")], delimiter=" ", skipinitialspace=True))


def labels_are_ids(labels: Sequence[str]) -> bool:
    """Whether a list's labels are ids of a class file: most are numbers, so that one bad line is one bad line."""
    return sum(label.isdecimal() for label in labels) > len(labels) / 2


def videos_by_class(listing: VideoList, classes: ClassFile, others: Sequence[ClassFile] = ()) -> Videos:
    """The list's videos under the names of their classes, in the class file's order.

    Args:
        others: further class files of the same import: a list that fits one of them better is refused.

    Raises:
        SplitError: labels outside the class file, videos listed twice, or a list that belongs to another class file.
    """
    problems = []
    known = set(classes.classes)
    by_id = labels_are_ids([label for _, label in listing.lines])
    names = {label: classes.names.get(_number(label)) if by_id else label for _, label in listing.lines}
    outside = sorted({label for label, name in names.items() if name not in known}, key=lambda x: (len(x), x))
    if outside:
        span = f"{min(classes.names)} to {max(classes.names)}" if by_id else some(classes.classes)
        problems.append(f"labels outside the class file {classes.path} ({span}): {some(outside)}")
        problems += one_class_two_spellings((*classes.classes, *(() if by_id else outside)))
    counts: dict[str, int] = {}
    for video, _ in listing.lines:
        counts[video] = counts.get(video, 0) + 1
    twice = [video for video, count in counts.items() if count > 1]
    if twice:
        problems.append(f"{len(twice)} videos listed twice: {some(twice, 3)}")
    better = better_fit(listing, classes, others)
    if better is not None:
        problems.append(f"paired with {classes.path}, but the videos' names fit {better.path}: the wrong class file?")
    if problems:
        raise SplitError(explain("the list does not fit its class file", where=listing.path, got=listed(problems)))
    found: dict[str, list[str]] = {name: [] for name in classes.classes}
    for video, label in listing.lines:
        found[str(names[label])].append(video)
    return {name: tuple(videos) for name, videos in found.items() if videos}


def better_fit(listing: VideoList, classes: ClassFile, others: Sequence[ClassFile]) -> ClassFile | None:
    """The one of the `others` whose names the videos' own names hold far more often than those of `classes`, or None.

    UCF-101's and HMDB-51's file names hold their class (`v_Typing_g10_c04.avi`); where names say nothing, neither does
    this.
    """
    if not labels_are_ids([label for _, label in listing.lines]):
        return None
    own = _named_share(listing, classes)
    rivals = [(share, other) for other in others if (share := _named_share(listing, other)) >= 0.5]
    best = max(rivals, key=lambda rival: rival[0], default=None)
    return best[1] if best is not None and best[0] > 2 * own else None


def _named_share(listing: VideoList, classes: ClassFile) -> float:
    """Share of the videos (of a sample) whose path holds the name of the class that their label is in this file."""
    words = {number: letters(name) for number, name in classes.names.items()}
    sample = evenly(listing.lines)
    return sum(words.get(_number(label), "\0") in letters(video) for video, label in sample) / len(sample)


def _number(label: str) -> int:
    return int(label) if label.isdecimal() else -1  # no class has that id


def evenly(items: Sequence[Item], n: int = 1000) -> Sequence[Item]:
    """At most about n of the items, evenly spaced: enough to tell a swapped list from a sound one."""
    return items[:: max(1, len(items) // n)]
