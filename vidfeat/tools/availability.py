"""An official list beside a store: what of it is there, per class, and the intersection as a list.

Kinetics and its like vanish from the web, so a copy rarely has all videos of a list. What counts is a video whose
features are in the store; one that failed is listed, and not available.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vidfeat.class_lines import spelling
from vidfeat.errors import ManifestError, explain
from vidfeat.id_matching import match_ids
from vidfeat.store import open_store
from vidfeat.tools.names import normal
from vidfeat.video.manifest import file_rows, with_class_names
from vidfeat.video.source.classes import class_ids
from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems, Row, split_name
from vidfeat.video.source.text import read_text

# HMDB-51's splits: NAME_test_split1.txt of each class, `video.avi 1`; 1 trains, 2 tests, 0 is left out of the split.
_HMDB_SPLITS = {"0": "", "1": "train", "2": "test"}


@dataclass(frozen=True)
class Listed:
    """One video of a list.

    Attributes:
        path, label, split: as listed.
        id: of the store's video; "" where there is none.
        state: "available", "failed" (in the store, without features) or "missing".
        stored_label: the store's own; "" where there is none.
    """

    path: str
    label: str
    split: str
    id: str = ""
    state: str = "missing"
    stored_label: str = ""


@dataclass(frozen=True)
class Availability:
    """What of a list a store holds.

    Attributes:
        videos: every listed one, in the list's order.
        n_unlisted: videos of the store that the list does not name.
        notes: what a person should know of the list.
    """

    videos: tuple[Listed, ...]
    n_unlisted: int
    notes: tuple[str, ...] = ()

    def count(self, state: str) -> int:
        """How many listed videos are in that state."""
        return sum(video.state == state for video in self.videos)

    def per_class(self) -> list[dict[str, str | int]]:
        """One row per class, the least available first: class, listed, available, failed, missing."""
        counts: dict[str, Counter[str]] = {}
        for video in self.videos:
            counts.setdefault(video.label, Counter())[video.state] += 1
        rows: list[dict[str, str | int]] = []
        for name, own in counts.items():
            states = {state: own[state] for state in ("available", "failed", "missing")}
            rows.append({"class": name, "listed": own.total(), **states})
        return sorted(rows, key=lambda row: (int(row["available"]) / int(row["listed"]), str(row["class"])))

    def as_csv(self, state: str = "available") -> str:
        """A list `path,label,split` of the videos in that state; an available one's path is the store's id."""
        text = io.StringIO(newline="")
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["path", "label", "split"])
        rows.writerows([v.id or v.path, v.label, v.split] for v in self.videos if v.state == state)
        return text.getvalue()


def compare(
    source: str | os.PathLike[str], store: str | os.PathLike[str], *, classes: str | os.PathLike[str] | None = None
) -> Availability:
    """What of the list `source` the store holds.

    Args:
        source: any list that `vidfeat extract` reads (Kinetics' CSV, Something-Something's JSON, CSV, `path label`), a
            list of paths alone (UCF-101's testlist01.txt: the folder is the class), or HMDB-51's folder of
            `NAME_test_split1.txt`, or one of these.
        classes: what integer labels mean.

    Raises:
        ManifestError: a list that cannot be read, or paths that could mean several videos of the store.
        StoreError: a store that cannot be used.
    """
    problems = Problems()
    rows = _rows(Path(source), classes, problems)
    reader = open_store(store)
    stored_videos = reader.videos()
    matches = match_ids((normal(row.path) for row in rows), [video.id for video in stored_videos])
    videos, seen = [], set()
    for row in rows:
        one = Listed(normal(row.path), row.label, row.split)
        if one.path in matches.ambiguous:
            several = ", ".join(matches.ambiguous[one.path][:3])
            problems.add("path that several videos of the store may be", [f"{row.where}: {row.path}: {several}"])
        if one.path in matches.rows:
            stored = stored_videos[matches.rows[one.path]]
            kind = "available" if stored.ok else "failed"
            one = replace(one, id=stored.id, state=kind, stored_label=stored.label, label=one.label or stored.label)
            seen.add(stored.id)
        videos.append(one)
    twice = [path for path, count in Counter(video.path for video in videos).items() if count > 1]
    if twice:
        problems.add("video listed twice", twice)
    differ = [f"{v.id} is {v.label!r}, the store says {v.stored_label!r}" for v in videos if _differ(v)]
    if differ:
        problems.note(f"{len(differ)} videos with another class than the store's", differ)
    problems.raise_any(Path(source))
    return Availability(tuple(videos), len(stored_videos) - len(seen), tuple(problems.notes))


def _differ(video: Listed) -> bool:
    own, stored = ("".join(filter(str.isalnum, spelling(name))) for name in (video.label, video.stored_label))
    return bool(own and stored and own != stored)


def _rows(source: Path, classes: str | os.PathLike[str] | None, problems: Problems) -> list[Row]:
    if source.is_dir():
        files = sorted(source.glob("*_test_split*.txt"))
        numbers = {path.stem.rpartition("_test_split")[2] for path in files}
        if len(numbers) != 1:
            got = f"splits {', '.join(sorted(numbers))}" if numbers else "no NAME_test_split1.txt"
            raise ManifestError(
                explain("which list?", where=source, got=got, fix="a folder with the files of one split, or one file")
            )
        return [row for path in files for row in _hmdb_rows(path, problems)]
    if not source.is_file():
        raise ManifestError(explain("The list does not exist.", where=source, fix="Check the path."))
    if "_test_split" in source.stem:
        return _hmdb_rows(source, problems)
    lines = [
        (number, line.strip()) for number, line in enumerate(read_text(source, Problems()).lines, 1) if line.strip()
    ]
    if lines and all(_is_path_alone(line) for _, line in lines):
        return [Row(f"line {number}", line, _folder(line), _split_of(source)) for number, line in lines]
    ids = class_ids(classes, problems)
    rows = file_rows(source, source.parent, problems, known=set((ids or {}).values()))
    if ids is None and rows and all(row.label.isdecimal() for row in rows):
        # UCF-101's trainlist01.txt: the folder says what the number means.
        rows = [replace(row, label=_folder(row.path) or row.label) for row in rows]
    else:
        rows = with_class_names(rows, ids, problems)
    return [row if row.split else replace(row, split=_split_of(source)) for row in rows]


def _hmdb_rows(path: Path, problems: Problems) -> list[Row]:
    label, rows = path.stem.rpartition("_test_split")[0], []
    for number, line in enumerate(read_text(path, problems).lines, 1):
        name, _, side = line.strip().rpartition(" ")
        if not line.strip():
            continue
        if not name or side not in _HMDB_SPLITS:
            problems.add("line that is not `video.avi 0|1|2`", [f"{path.name}, line {number}: {line.strip()}"])
        elif _HMDB_SPLITS[side]:
            rows.append(Row(f"{path.name}, line {number}", f"{label}/{name.strip()}", label, _HMDB_SPLITS[side]))
    return rows


def _is_path_alone(line: str) -> bool:
    return os.path.splitext(line)[1].lower() in VIDEO_EXTENSIONS and "," not in line and '"' not in line


def _folder(path: str) -> str:
    parts: Sequence[str] = normal(path).split("/")
    return parts[-2] if len(parts) > 1 else ""


def _split_of(source: Path) -> str:
    """The split in the list's own name: `testlist01.txt`, `kinetics400_val.csv`; "" for none."""
    words = "".join(sign if sign.isalpha() else " " for sign in source.stem.lower()).split()
    return next((split for word in words if (split := split_name(word.removesuffix("list")))), "")
