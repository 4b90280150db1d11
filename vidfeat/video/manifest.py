"""A source of labelled videos -> VideoItems: a folder, a CSV, a `path label` list, a data set's own list.

Whatever is wrong with a source is reported in one error, all of it; nothing is guessed, and what is left out is said.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from vidfeat.errors import ManifestError, explain
from vidfeat.id_matching import file_below
from vidfeat.text_files import EIGHT_BIT
from vidfeat.video.source.classes import class_ids, note_like_spelled
from vidfeat.video.source.folder import folder_rows
from vidfeat.video.source.lists import csv_rows, has_header, header_of, list_rows
from vidfeat.video.source.published import is_ssv2, kinetics_rows, ssv2_rows
from vidfeat.video.source.rows import MISSING, VIDEO_EXTENSIONS, Problems, Row, nearest
from vidfeat.video.source.text import by_its_bytes, read_text

__all__ = ["VIDEO_EXTENSIONS", "Manifest", "VideoItem", "load_classes", "load_manifest"]


@dataclass(frozen=True)
class VideoItem:
    """One labelled video.

    Attributes:
        id: its key in a store: the path relative to the source's root, with forward slashes.
        path: absolute path of the file.
        label: class name, one of the manifest's classes.
        split: "train", "val", "test", or empty when the source does not say.
        group: what must not be torn apart by a split (a subject, a long video); empty when the source does not say.
    """

    id: str
    path: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class Manifest:
    """The videos of one source in its order, and the class names in theirs.

    Attributes:
        classes: every label, and names no video carries where a class file lists them.
        notes: what was left out or read in a way that a person should know of.
    """

    items: tuple[VideoItem, ...]
    classes: tuple[str, ...]
    root: Path
    notes: tuple[str, ...] = ()


def load_manifest(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    must_exist: bool = True,
    strict: bool = False,
) -> Manifest:
    """The videos, labels and class names of `source`.

    A folder: every folder in it is a class, every video below that an item; when all its folders are called train, val,
    test, ... (in any case), they are splits, and the class folders lie one level down. Files that are no videos and
    folders without any are left out, and noted.
    A file with a header `path,label[,split][,group]`: a CSV. Kinetics' own CSV and Something-Something's own JSON. Any
    other file that does not end in .csv: a list of `path label [split]` lines, separated by commas or blanks, quoted
    where a field holds the separator. UTF-8, UTF-16, or (noted) Latin-1; any line ends.

    Splits are train, val or test, or words that mean these (training, valid, validation, testing, ...) in any case.
    Integer labels are looked up in `classes`. Class order is that of `classes`; without it, sorted folder names, or
    first appearance.

    Args:
        root: where the paths start; default: the folder itself, or the folder the file lies in.
        classes: a CSV `id,name`, a JSON file of names and ids, or the names themselves (ids 0, 1, ...).
        must_exist: False leaves it to the extraction to record missing files as failures.
        strict: what would be noted is an error.

    Raises:
        ManifestError: with every problem of the source: missing or duplicate videos, unknown labels, bad lines, ...
    """
    source = Path(source)
    problems = Problems(strict=strict)
    ids = class_ids(classes, problems)
    if not source.exists():
        raise ManifestError(explain("The source does not exist.", where=source, fix="Check the path."))
    base = Path(root) if root is not None else source if source.is_dir() else source.parent
    class_names: list[str] | None = None
    if source.is_dir():
        rows, class_names = folder_rows(source, base, problems)
    else:
        rows = file_rows(source, base, problems, known=set((ids or {}).values()))
    base = base.absolute()
    rows = with_class_names(rows, ids, problems)
    items = _checked_items(rows, base, problems, must_exist=must_exist)
    if not rows and not problems:
        problems.add("there is not a single video in it", [])
    names = tuple(ids.values()) if ids is not None else tuple(class_names or dict.fromkeys(i.label for i in items))
    note_like_spelled(names, problems)
    problems.raise_any(source)
    return Manifest(items=tuple(items), classes=names, root=base, notes=tuple(problems.notes))


def load_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a class file, in its order.

    Raises:
        ManifestError: with every problem of the file.
    """
    return tuple((class_ids(path, Problems()) or {}).values())


def file_rows(source: Path, base: Path, problems: Problems, *, known: set[str]) -> list[Row]:
    """The rows of a list of any kind; `known` are the class names, `base` where the paths start."""
    text = read_text(source, problems)
    if "youtube_id" in header_of(text):
        rows = kinetics_rows(text, base, problems)
    elif is_ssv2(text):
        rows = ssv2_rows(text, source, base, problems)
    elif source.suffix.lower() == ".csv" or has_header(text):
        rows = csv_rows(text, problems)
    else:
        rows = list_rows(text, problems, known=known)
    return [_as_on_disk(row, base) for row in rows] if text.encoding == EIGHT_BIT else rows


def _as_on_disk(row: Row, base: Path) -> Row:
    """The row of a list in an 8-bit encoding, whose file may be named by the same bytes instead of the same letters."""
    name = by_its_bytes(row.path)
    return replace(row, path=name) if not (base / row.path).exists() and (base / name).exists() else row


# --- checks ---


def with_class_names(rows: list[Row], class_ids: dict[int, str] | None, problems: Problems) -> list[Row]:
    """The rows with names for integer labels. Most labels decide what a list holds; the others are problems."""
    numbers = [row for row in rows if row.label.isdecimal()]
    mostly_numbers = 2 * len(numbers) > len(rows)
    if class_ids is None:
        if mostly_numbers:
            words = [f"{row.where}: {row.label!r}" for row in rows if not row.label.isdecimal()]
            problems.add("the labels are integers: give a class file `id,name` (--classes)", [])
            if words:
                problems.add("label that is no integer in a list of integer labels", words)
        return rows
    known = set(class_ids.values())
    by_id = mostly_numbers and not all(row.label in known for row in numbers)
    hints: dict[str, str] = {}  # by label: finding the nearest name takes long, and a list may hold 100,000 lines
    named = []
    for row in rows:
        is_id = by_id and row.label.isdecimal()
        name = class_ids.get(int(row.label)) if is_id else row.label if row.label in known else None
        if name is None:
            if row.label not in hints:
                ids = f"{row.label}: the ids are {min(class_ids)} to {max(class_ids)}"
                hints[row.label] = ids if is_id else nearest(row.label, list(known))
            problems.add("label that is not in the class list", [f"{row.where}: {hints[row.label]}"])
        else:
            named.append(replace(row, label=name))
    return named


def _checked_items(rows: list[Row], base: Path, problems: Problems, *, must_exist: bool) -> list[VideoItem]:
    items: dict[str, VideoItem] = {}
    for row in rows:
        if not row.path or not row.label:
            problems.add("line without a path or a label", [row.where])
            continue
        path = os.path.normpath(
            base / row.path.replace("\\", "/") if os.sep == "/" and "\\" in row.path else base / row.path
        )
        name = PurePosixPath(Path(os.path.relpath(path, base))).as_posix()
        if name.startswith("../"):
            problems.add("path outside the root (give a root above it)", [f"{row.where}: {row.path}"])
        elif name in items:
            other = items[name]
            note = "" if other.label == row.label else f", with two labels: {other.label!r} and {row.label!r}"
            problems.add("video listed twice", [f"{row.where}: {name}{note}"])
        else:
            path = file_below(base, name)
            if must_exist and not os.path.isfile(path):
                what = "a folder" if os.path.isdir(path) else path
                problems.add(MISSING, [f"{row.where}: {name} ({what})"])
            items[name] = VideoItem(id=name, path=path, label=row.label, split=row.split, group=row.group)
    return list(items.values())
