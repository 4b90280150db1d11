"""A folder of class folders, or of split folders with class folders in them -> rows."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems, Row, nearly_split, some, split_name, unknown_split

_FEATURES = (".npy", ".h5", ".hdf5")


@dataclass(frozen=True)
class _ClassFolder:
    """A folder with its videos and its other files."""

    path: Path
    split: str
    videos: list[Path]
    others: list[Path]


def folder_rows(source: Path, base: Path, problems: Problems) -> tuple[list[Row], list[str]]:
    """The videos below the class folders of `source`, paths relative to `base`; and the class names, sorted.

    What is no video (by its extension) and folders without any are left out, and noted: a licence, thumbnails, an empty
    folder. Hidden files are left out without a word. A video beside the class folders has no label: a problem.
    """
    top = _visible(source)
    folders = [entry for entry in top if entry.is_dir()]
    class_folders, loose = _class_folders(folders, problems)
    loose += [entry for entry in top if not entry.is_dir()]
    stray = [_below(entry, source) for entry in loose if entry.suffix.lower() in VIDEO_EXTENSIONS]
    if stray:
        problems.add("video outside any class folder (move it into one)", stray)
    others = [entry for entry in loose if entry.suffix.lower() not in VIDEO_EXTENSIONS]
    others += [path for folder in class_folders for path in folder.others]
    filled = [folder for folder in class_folders if folder.videos]
    _note_left_out(others, [folder.path for folder in class_folders if not folder.videos], source, problems)
    if not filled and not stray:
        problems.add("it holds no class folder with a video in it (expected: <class>/<video>)", [])
        features = [_below(path, source) for path in others if path.suffix.lower() in _FEATURES]
        if features:
            problems.add("features made elsewhere, which become a store by vidfeat import", features)
    rows = []
    for folder in filled:
        for path in folder.videos:
            name = Path(os.path.relpath(path, base)).as_posix()
            rows.append(Row(where=name, path=name, label=folder.path.name, split=folder.split))
    return rows, sorted({folder.path.name for folder in filled})


def _class_folders(folders: list[Path], problems: Problems) -> tuple[list[_ClassFolder], list[Path]]:
    """The class folders, and the files beside them in split folders.

    They are those at the top, or one level down where all at the top that hold videos are called like splits.
    """
    at_top = [_ClassFolder(folder, "", *_files_below(folder)) for folder in folders]
    filled = [one for one in at_top if one.videos]
    splits = [one.path for one in filled if split_name(one.path.name)]
    if splits and len(splits) == len(filled):
        found = [one for one in at_top if not one.videos]
        loose = []
        for split in splits:
            inside = _visible(split)
            loose += [entry for entry in inside if not entry.is_dir()]
            name = split_name(split.name) or ""
            found += [_ClassFolder(entry, name, *_files_below(entry)) for entry in inside if entry.is_dir()]
        return found, loose
    if filled and all(nearly_split(one.path.name) and one.path not in {v.parent for v in one.videos} for one in filled):
        wrong = [unknown_split(one.path.name) for one in filled if one.path not in splits]
        problems.add("folder of folders that is called nearly like a split", wrong)
        return at_top, []
    looks_split = [
        one.path.name for one in filled if one.path in splits and one.path not in {v.parent for v in one.videos}
    ]
    if looks_split:
        problems.add(
            "folder that is called like a split and holds folders, beside folders that are none (which level is the "
            "classes?)",
            looks_split,
        )
    return at_top, []


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
