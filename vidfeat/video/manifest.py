"""A source of labelled videos -> VideoItems: a folder of class folders, a CSV with a header, a `path label` list.

Whatever is wrong with a source is reported in one error, all of it; nothing is skipped or guessed.
"""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vidfeat.errors import ManifestError, explain

_EXTENSIONS = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
VIDEO_EXTENSIONS = frozenset(f".{name}" for name in _EXTENSIONS.split())
SPLIT_NAMES = frozenset(("train", "val", "valid", "validation", "test", "eval"))
CSV_COLUMNS = ("path", "label", "split", "group")
_SHOWN = 10
_FIX = (
    "Correct the folder, or leave it as it is and name its videos in a CSV with the header path,label (--root FOLDER "
    "says where the paths start); nothing is skipped or guessed."
)


@dataclass(frozen=True)
class VideoItem:
    """One labelled video.

    Attributes:
        id: its key in a store: the path relative to the source's root, with forward slashes.
        path: absolute path of the file.
        label: class name, one of the manifest's classes.
        split: "train", "test", ...; empty when the source does not say.
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

    `classes` may hold names no video carries (a class file lists them); every label is in it.
    """

    items: tuple[VideoItem, ...]
    classes: tuple[str, ...]
    root: Path


@dataclass(frozen=True)
class _Row:
    """One line of a source before it is checked: `where` says where it stands."""

    where: str
    path: str
    label: str
    split: str = ""
    group: str = ""


def load_manifest(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | Sequence[str] | None = None,
    must_exist: bool = True,
) -> Manifest:
    """The videos, labels and class names of `source`.

    A folder: every folder in it is a class, every video below that an item; when all its folders are called train, val,
    test, ... they are splits, and the class folders lie one level down. Hidden files are left out, files beside the
    class folders too unless they are videos.
    A file with a header `path,label[,split][,group]`: a CSV. Any other file that does not end in .csv: a list of
    `path label [split]` lines, separated by commas or blanks, quoted where a field holds the separator. UTF-8, with or
    without a byte order mark, any line ends.

    Integer labels are looked up in `classes`. Class order is that of `classes`; without it, sorted folder names, or
    first appearance.

    Args:
        root: where the paths start; default: the folder itself, or the folder the file lies in.
        classes: a CSV `id,name`, or the names themselves (ids 0, 1, ...).
        must_exist: False leaves it to the extraction to record missing files as failures.

    Raises:
        ManifestError: with every problem of the source: missing or duplicate videos, unknown labels, bad lines, ...
    """
    source = Path(source)
    class_ids = _class_ids(classes)
    if not source.exists():
        raise ManifestError(explain("The source does not exist.", where=source, fix="Check the path."))
    problems = _Problems()
    if source.is_dir():
        base = Path(root) if root is not None else source
        rows, class_names = _folder_rows(source, base, problems)
    else:
        base = Path(root) if root is not None else source.parent
        rows, class_names = _file_rows(source, problems), None
    base = base.absolute()
    rows = _with_class_names(rows, class_ids, problems)
    items = _checked_items(rows, base, problems, must_exist=must_exist)
    if not rows and not problems:
        problems.add("there is not a single video in it", [])
    problems.raise_any(source)
    if class_ids is not None:
        names = tuple(class_ids.values())
    else:
        names = tuple(class_names or dict.fromkeys(item.label for item in items))
    return Manifest(items=tuple(items), classes=names, root=base)


def load_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The class names in a CSV `id,name`, in its order.

    Raises:
        ManifestError: with every problem of the file.
    """
    return tuple((_class_ids(path) or {}).values())


class _Problems:
    """Problems found so far, by kind, in order of appearance."""

    def __init__(self) -> None:
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, cases: Iterable[str]) -> None:
        self._by_kind.setdefault(kind, []).extend(cases)

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def raise_any(self, source: Path) -> None:
        if not self._by_kind:
            return
        lines = []
        for kind, cases in self._by_kind.items():
            shown = [f"\n    {case}" for case in cases[:_SHOWN]]
            more = f"\n    ... and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else ""
            lines.append(f"{len(cases)} x {kind}:" + "".join(shown) + more if cases else kind)
        raise ManifestError(
            explain(
                f"This source cannot be used as it is ({len(lines)} kind{'s' if len(lines) > 1 else ''} of problem).",
                where=source,
                got="".join(f"\n  - {line}" for line in lines),
                fix=_FIX if source.is_dir() else "Correct the source; nothing is skipped or guessed.",
            )
        )


# --- the three sources ---


def _folder_rows(source: Path, base: Path, problems: _Problems) -> tuple[list[_Row], list[str]]:
    top = _visible(source)
    folders = [entry for entry in top if entry.is_dir()]
    stray = [entry.name for entry in top if entry.is_file() and entry.suffix.lower() in VIDEO_EXTENSIONS]
    if stray:
        problems.add("video outside any class folder (move it into one)", stray)
    if not folders:
        problems.add("it holds no class folder (expected: <class>/<video>)", [])
    by_split = bool(folders) and all(folder.name.lower() in SPLIT_NAMES for folder in folders)
    class_folders = (
        [(split.name, entry) for split in folders for entry in _visible(split) if entry.is_dir()]
        if by_split
        else [("", entry) for entry in folders]
    )
    rows: list[_Row] = []
    for split, folder in class_folders:
        videos, others = _files_below(folder)
        if not videos:
            problems.add("class folder without a video", [folder.relative_to(source).as_posix()])
        if others:
            problems.add(
                "file in a class folder without a known video extension (rename or remove it)",
                [path.relative_to(source).as_posix() for path in others],
            )
        for path in videos:
            name = Path(os.path.relpath(path, base)).as_posix()
            rows.append(_Row(where=name, path=name, label=folder.name, split=split))
    return rows, sorted({folder.name for _, folder in class_folders})


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _files_below(folder: Path) -> tuple[list[Path], list[Path]]:
    videos: list[Path] = []
    others: list[Path] = []
    for parent, names, files in os.walk(folder, followlinks=True):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                path = Path(parent, name)
                (videos if path.suffix.lower() in VIDEO_EXTENSIONS else others).append(path)
    return videos, others


def _file_rows(source: Path, problems: _Problems) -> list[_Row]:
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ManifestError(
            explain("The source is not UTF-8 text.", where=source, got=str(error), fix="Save it as UTF-8.")
        ) from error
    except OSError as error:
        raise ManifestError(explain("The source cannot be read.", where=source, got=str(error))) from error
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    header = [cell.strip().lower() for cell in next(csv.reader([first]), [])]
    if source.suffix.lower() == ".csv" or ("path" in header and "label" in header):
        return _csv_rows(lines, problems)
    return [row for number, line in enumerate(lines, 1) if line.strip() and (row := _list_row(line, number, problems))]


def _csv_rows(lines: list[str], problems: _Problems) -> list[_Row]:
    reader = csv.reader(lines, skipinitialspace=True)
    header = [cell.strip().lower() for cell in next((cells for cells in reader if any(cells)), [])]
    wrong = [column for column in header if column not in CSV_COLUMNS]
    missing = [column for column in ("path", "label") if column not in header]
    if wrong or missing or len(set(header)) != len(header):
        notes = [_nearest(column, [c for c in CSV_COLUMNS if c not in header] or CSV_COLUMNS) for column in wrong]
        notes += [f"column {column!r} is missing" for column in missing]
        notes += [f"column {column!r} appears twice" for column in sorted({c for c in header if header.count(c) > 1})]
        notes.append("expected path,label[,split][,group]; a list without a header must not end in .csv")
        problems.add("problem with the header", notes)
        return []
    rows = []
    for cells in reader:
        where = f"line {reader.line_num}"
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            problems.add(
                f"line without exactly {len(header)} fields (quote a field that holds a comma)", [f"{where}: {cells}"]
            )
            continue
        values = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        rows.append(_Row(where=where, **values))
    return rows


_BLANK_LINE = re.compile(rf"(?P<path>\S.*?\.(?:{_EXTENSIONS.replace(' ', '|')}))\s+(?P<rest>\S.*)", re.IGNORECASE)


def _list_row(line: str, number: int, problems: _Problems) -> _Row | None:
    where = f"line {number}"
    cells = _list_cells(line.strip())
    if len(cells) not in (2, 3) or not all(cells[:2]):
        problems.add(
            "line that is not `path label [split]` (quote fields that hold the separator)", [f"{where}: {line.strip()}"]
        )
        return None
    if len(cells) == 3 and cells[2].lower() not in SPLIT_NAMES:
        problems.add(
            f"third field that is not a split ({', '.join(sorted(SPLIT_NAMES))}); quote a label that holds blanks, "
            "and note that `folder n_frames label` lists name frame folders, not videos",
            [f"{where}: {line.strip()}"],
        )
        return None
    return _Row(where=where, path=cells[0], label=cells[1], split=cells[2] if len(cells) == 3 else "")


def _list_cells(line: str) -> list[str]:
    if "," in line:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))]
    if '"' not in line and (match := _BLANK_LINE.fullmatch(line)):
        return [match["path"], *match["rest"].split()]  # a path may hold blanks: it ends with its extension
    squeezed = re.sub(r"\s+", " ", line) if '"' not in line else line.replace("\t", " ")
    return next(csv.reader([squeezed], delimiter=" ", skipinitialspace=True))


# --- checks ---


def _class_ids(classes: str | os.PathLike[str] | Sequence[str] | None) -> dict[int, str] | None:
    """Class names by id, in the order of the class file."""
    if classes is None:
        return None
    if not isinstance(classes, (str, os.PathLike)):
        pairs = [(f"name {i}", str(i), name) for i, name in enumerate(classes)]
        where: object = "classes"
    else:
        where = Path(classes)
        pairs = _class_lines(Path(classes))
    problems = _Problems()
    names: dict[int, str] = {}
    for place, number, name in pairs:
        if not number.isdecimal():
            problems.add("class id that is not a whole number", [f"{place}: {number!r}"])
        elif int(number) in names:
            problems.add("class id given twice", [f"{place}: {number}"])
        elif name in names.values():
            problems.add("class name given twice", [f"{place}: {name!r}"])
        elif not name:
            problems.add("class without a name", [place])
        else:
            names[int(number)] = name
    if not pairs:
        problems.add("it holds no class", [])
    problems.raise_any(Path(str(where)))
    return names


def _class_lines(path: Path) -> list[tuple[str, str, str]]:
    if not path.is_file():
        raise ManifestError(explain("The class file does not exist.", where=path, expected="a CSV `id,name`"))
    rows = [
        cells
        for cells in csv.reader(path.read_text(encoding="utf-8-sig").splitlines(), skipinitialspace=True)
        if any(cells)
    ]
    header = [cell.strip().lower() for cell in rows[0]] if rows else []
    if header != ["id", "name"] or any(len(cells) != 2 for cells in rows):
        wrong = header if header != ["id", "name"] else next(cells for cells in rows if len(cells) != 2)
        raise ManifestError(
            explain(
                "The class file is not a CSV `id,name`.",
                where=path,
                expected="header id,name and two fields a line",
                got=wrong,
            )
        )
    return [(f"row {i}", cells[0].strip(), cells[1].strip()) for i, cells in enumerate(rows[1:], 1)]


def _with_class_names(rows: list[_Row], class_ids: dict[int, str] | None, problems: _Problems) -> list[_Row]:
    if class_ids is None:
        if rows and all(row.label.isdecimal() for row in rows):
            problems.add("the labels are integers: give a class file `id,name` (--classes)", [])
        return rows
    known = set(class_ids.values())
    by_id = all(row.label.isdecimal() for row in rows) and not all(row.label in known for row in rows)
    hints: dict[str, str] = {}  # by label: finding the nearest name takes long, and a list may hold 100,000 lines
    named = []
    for row in rows:
        name = class_ids.get(int(row.label)) if by_id else row.label if row.label in known else None
        if name is None:
            if row.label not in hints:
                ids = f"{row.label}: the ids are {min(class_ids)} to {max(class_ids)}"
                hints[row.label] = ids if by_id else _nearest(row.label, list(known))
            problems.add("label that is not in the class list", [f"{row.where}: {hints[row.label]}"])
        else:
            named.append(_Row(row.where, row.path, name, row.split, row.group))
    return named


def _checked_items(rows: list[_Row], base: Path, problems: _Problems, *, must_exist: bool) -> list[VideoItem]:
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
            if must_exist and not os.path.isfile(path):
                what = "a folder" if os.path.isdir(path) else path
                problems.add("missing file", [f"{row.where}: {name} ({what})"])
            items[name] = VideoItem(id=name, path=path, label=row.label, split=row.split, group=row.group)
    return list(items.values())


def _nearest(word: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"{word!r}: did you mean {match[0]!r}?" if match else f"{word!r} is not known"
