"""A folder of class folders, or of split folders with class folders in them -> rows."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems, Row, some, split_name


@dataclass(frozen=True)
class _ClassFolder:
    """A folder with its videos and its other files."""

    path: Path
    split: str
    videos: list[Path]
    others: list[Path]


def folder_rows(source: Path, base: Path, problems: Problems) -> tuple[list[Row], list[str]]:
    """The videos below the class folders of `source`, paths relative to `base`; and the class names, sorted.

    What is no video (by its extension) and folders without any are left out, and noted: a licence, a readme, thumbnails,
    an empty folder. Hidden files are left out without a word. A video beside the class folders has no label: a problem.
    """
    top = _visible(source)
    folders = [entry for entry in top if entry.is_dir()]
    loose = [entry for entry in top if not entry.is_dir()]
    stray = [entry.name for entry in loose if entry.suffix.lower() in VIDEO_EXTENSIONS]
    if stray:
        problems.add("video outside any class folder (move it into one)", stray)
    class_folders = _class_folders(folders, problems, source)
    others = [entry for entry in loose if entry.suffix.lower() not in VIDEO_EXTENSIONS]
    others += [path for folder in class_folders for path in folder.others]
    empty = [folder.path for folder in class_folders if not folder.videos]
    filled = [folder for folder in class_folders if folder.videos]
    _note_left_out(others, empty, source, problems)
    if not filled and not stray:
        problems.add("it holds no class folder with a video in it (expected: <class>/<video>)", [])
    rows = []
    for folder in filled:
        for path in folder.videos:
            name = Path(os.path.relpath(path, base)).as_posix()
            rows.append(Row(where=name, path=name, label=folder.path.name, split=folder.split))
    return rows, sorted({folder.path.name for folder in filled})


def _class_folders(folders: list[Path], problems: Problems, source: Path) -> list[_ClassFolder]:
    """The class folders: those at the top, or one level down where all at the top that hold videos are splits."""
    at_top = [_ClassFolder(folder, "", *_files_below(folder)) for folder in folders]
    filled = [one for one in at_top if one.videos]
    splits = [one for one in filled if split_name(one.path.name)]
    if splits and len(splits) == len(filled):
        found = [one for one in at_top if not one.videos]
        for split in splits:
            name = split_name(split.path.name) or ""
            inside = [entry for entry in _visible(split.path) if entry.is_dir()]
            found += [_ClassFolder(folder, name, *_files_below(folder)) for folder in inside]
            loose = [path for path in _visible(split.path) if path.is_file()]
            stray = [path for path in loose if path.suffix.lower() in VIDEO_EXTENSIONS]
            if stray:
                problems.add("video outside any class folder (move it into one)", [_below(p, source) for p in stray])
            found.append(_ClassFolder(split.path, name, [], [path for path in loose if path not in stray]))
        return [one for one in found if one.videos or one.others or one.path not in {s.path for s in splits}]
    looks_split = [one for one in splits if not any(path.parent == one.path for path in one.videos)]
    if looks_split:
        problems.add(
            "folder that is called like a split and holds folders, beside folders that are none (which level is the "
            "classes?)",
            [one.path.name for one in looks_split],
        )
    return at_top


def _note_left_out(others: list[Path], empty: list[Path], source: Path, problems: Problems) -> None:
    if others:
        kinds = Counter(path.suffix.lower() or "no extension" for path in others)
        shown = some([f"{kind} {count}" for kind, count in kinds.most_common()])
        names = [_below(path, source) for path in others]
        problems.note(f"left out {len(others)} x file that is no video by its extension ({shown})", names)
    if empty:
        problems.note(f"left out {len(empty)} x folder without a video", [_below(path, source) for path in empty])


def _below(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix()


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
