"""The field's own lists: `path label` lines and class files `id,name`, in all the dialects they come in.

A list has two columns (`path label`) or three (`folder n_frames label`), separated by commas or blanks, quoted or not,
with any line end, with or without a byte order mark; blank lines do not count. Labels are ids of a class file or class
names.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from prompttune.errors import SplitError, explain, some
from prompttune.splits.file import Videos, letters, listed

Item = TypeVar("Item")


@dataclass(frozen=True)
class VideoList:
    """The lines of a list, before their labels mean anything.

    Attributes:
        path: of the list.
        lines: (video path, label) in the list's order.
    """

    path: Path
    lines: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ClassFile:
    """A class file: name by id, in the order of the ids."""

    path: Path
    names: Mapping[int, str]

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self.names.values())


def file_sha256(path: Path) -> str:
    """Hash of a list's or class file's bytes, for the record of what a split was made from."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _text_lines(path: Path, what: str) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SplitError(explain(f"the {what} is not UTF-8 text", where=path, got=error)) from None
    except OSError as error:
        raise SplitError(explain(f"the {what} cannot be read", where=path, got=error.strerror or error)) from None
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_class_file(path: str | Path) -> ClassFile:
    """The classes of a CSV with the columns `id,name` (`name` alone: ids 0, 1, ...), or of a file of one name per line.

    Raises:
        SplitError: with everything that is wrong: ids that are no whole numbers, ids or names given twice, no class.
    """
    path = Path(path)
    lines = _text_lines(path, "class file")
    header = [cell.strip().lower() for cell in next(csv.reader(lines[:1]), [])]
    problems: list[str] = []
    pairs: list[tuple[str, str]] = []
    if "name" in header:
        for place, cells in enumerate(csv.reader(lines[1:], skipinitialspace=True), 2):
            if len(cells) != len(header):
                problems.append(f"row {place}: {len(cells)} fields instead of {len(header)}: {some(cells)}")
                continue
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            pairs.append((row.get("id", str(len(pairs))), row["name"]))
    else:
        pairs = [(str(place), line) for place, line in enumerate(lines)]
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
    if problems or not names:
        raise SplitError(explain("this is no class file", where=path, got=listed(problems or ["not a single class"])))
    return ClassFile(path, dict(sorted(names.items())))


def read_video_list(path: str | Path) -> VideoList:
    """The lines of a list.

    Raises:
        SplitError: no line, or lines that are not `path label` or `folder n_frames label`.
    """
    path = Path(path)
    lines = _text_lines(path, "list")
    if not lines:
        raise SplitError(explain("the list is empty", where=path))
    cells = _cells(lines)
    three = all(len(row) >= 3 and row[-1].isdecimal() and row[-2].isdecimal() for row in cells)
    found: list[tuple[str, str]] = []
    wrong = []
    for line, row in zip(lines, cells, strict=True):
        front = row[: -2 if three else -1]
        video = " ".join(front).strip()  # a path may hold blanks; one with commas is quoted
        if not video or not row[-1] or (len(front) > 1 and "," in line):
            wrong.append(line)
        else:
            found.append((video, row[-1]))
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


def _cells(lines: Sequence[str]) -> list[list[str]]:
    by_comma = [[cell.strip() for cell in row] for row in csv.reader(lines, skipinitialspace=True)]
    if len(by_comma) == len(lines) and {len(row) for row in by_comma} <= {2, 3}:
        return by_comma
    return [next(csv.reader([line.replace("\t", " ")], delimiter=" ", skipinitialspace=True)) for line in lines]


def videos_by_class(listing: VideoList, classes: ClassFile, others: Sequence[ClassFile] = ()) -> Videos:
    """The list's videos under the names of their classes, in the class file's order.

    Args:
        others: further class files of the same import: a list that fits one of them better is refused.

    Raises:
        SplitError: labels outside the class file, videos listed twice, or a list that belongs to another class file.
    """
    problems = []
    known = set(classes.classes)
    by_id = all(label.isdecimal() for _, label in listing.lines)
    names = {label: classes.names.get(int(label)) if by_id else label for _, label in listing.lines}
    outside = sorted({label for label, name in names.items() if name not in known}, key=lambda x: (len(x), x))
    if outside:
        span = f"{min(classes.names)} to {max(classes.names)}" if by_id else some(classes.classes)
        problems.append(f"labels outside the class file {classes.path} ({span}): {some(outside)}")
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
    if not all(label.isdecimal() for _, label in listing.lines):
        return None
    own = _named_share(listing, classes)
    rivals = [(share, other) for other in others if (share := _named_share(listing, other)) >= 0.5]
    best = max(rivals, key=lambda rival: rival[0], default=None)
    return best[1] if best is not None and best[0] > 2 * own else None


def _named_share(listing: VideoList, classes: ClassFile) -> float:
    """Share of the videos (of a sample) whose path holds the name of the class that their label is in this file."""
    words = {number: letters(name) for number, name in classes.names.items()}
    sample = evenly(listing.lines)
    return sum(words.get(int(label), "\0") in letters(video) for video, label in sample) / len(sample)


def evenly(items: Sequence[Item], n: int = 1000) -> Sequence[Item]:
    """At most about n of the items, evenly spaced: enough to tell a swapped list from a sound one."""
    return items[:: max(1, len(items) // n)]
