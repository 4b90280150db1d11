"""What anchors must have nothing in common with: the task's stores, and its plain lists of videos."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from vidfeat.class_lines import delimiter_of, path_and_rest
from vidfeat.errors import VidfeatError, explain
from vidfeat.id_matching import file_below, spelled
from vidfeat.store import POOLED, StoreReader, open_store
from vidfeat.text_files import NoText, text_and_encoding
from vidfeat.video.manifest import VIDEO_EXTENSIONS

# "<11 characters of the YouTube id>_<first second>_<last second>": Kinetics' names of clips.
_KINETICS_CLIP = re.compile(r"(?P<source>[\w-]{11})_\d{6}_\d{6}")


class AnchorError(VidfeatError, ValueError):
    """Stores, lists or options from which no vetted anchors can be had; the message names every problem."""


@dataclass(frozen=True)
class TaskList:
    """A plain list of videos: what each line names, and the content hashes of those that are files under a root.

    Attributes:
        path: the list.
        entries: ids or paths, in order.
        hashes: sha256 of the files by entry; empty without a root.
        encoding: that the list was read in.
    """

    path: str
    entries: tuple[str, ...]
    hashes: dict[str, str]
    encoding: str


@dataclass(frozen=True)
class Task:
    """Everything anchors are vetted against."""

    stores: tuple[StoreReader, ...]
    lists: tuple[TaskList, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names of all stores, each once."""
        return tuple(dict.fromkeys(name for store in self.stores for name in store.classes))


def open_task(against: Sequence[str | os.PathLike[str]], *, root: Path | None = None) -> Task:
    """The stores (directories and URLs) and the lists (files) named by `against`.

    root: the folder of the lists' videos; with it their files are hashed, too.

    Raises:
        AnchorError: nothing to vet against, an empty or unreadable list, or listed files that are not under `root`.
        StoreError: a store that cannot be read.
    """
    if not against:
        raise AnchorError(
            explain("nothing to vet against", expected="every store and list of the task", fix="--against TASK.zarr")
        )
    lists = [os.fspath(one) for one in against if os.path.isfile(one)]
    stores = [os.fspath(one) for one in against if not os.path.isfile(one)]
    return Task(tuple(open_store(one) for one in stores), tuple(read_list(Path(one), root=root) for one in lists))


def read_list(path: Path, *, root: Path | None = None) -> TaskList:
    """A list of videos: a CSV with a column `path` or `id`, or lines that begin with a path or an id.

    A path ends with its extension and may hold blanks; anything else ends at the first comma or blank, so
    `path label [split]` and `id, label` lists can be read as they are. A first line without `path` or `id` is an entry.

    Raises:
        AnchorError: no text, no entry, or files that are not under `root`.
    """
    try:
        text, encoding = text_and_encoding(path)
    except (NoText, OSError) as error:
        raise AnchorError(explain("this list cannot be read", where=path, got=error)) from error
    lines = [line.strip(" ") for line in text.split("\n") if line.strip()]
    delimiter = delimiter_of(next(iter(lines), ""))
    header = [cell.strip().lower() for cell in next(csv.reader(lines[:1], delimiter=delimiter), [])]
    column = next((name for name in ("path", "id") if name in header), None)
    if column is not None:
        entries = _column(path, list(csv.reader(lines[1:], delimiter=delimiter)), header.index(column), len(header))
    else:
        entries = [_entry(line.strip()) for line in lines]
    entries = [entry.replace("\\", "/") for entry in entries if entry]
    if not entries:
        raise AnchorError(
            explain(
                "this list names no video",
                where=path,
                expected="a path or an id at the start of every line",
                fix="give the list that the task uses",
            )
        )
    return TaskList(str(path), tuple(entries), {} if root is None else _file_hashes(path, entries, root), encoding)


def _column(path: Path, rows: Sequence[list[str]], index: int, n_columns: int) -> list[str]:
    bad = [f"line {number}: {','.join(row)}" for number, row in enumerate(rows, 2) if len(row) != n_columns]
    if bad:
        raise AnchorError(
            explain(
                f"{len(bad)} lines of this list do not have the columns of its header",
                where=path,
                expected=f"{n_columns} fields, quoted where they hold a comma",
                got="; ".join(bad[:5]),
                fix="correct the list; no line is left out",
            )
        )
    return [row[index].strip() for row in rows]


def _entry(line: str) -> str:
    if line.startswith('"'):
        return next(csv.reader([line], delimiter="," if '",' in line else " "))[0].strip()
    if parted := path_and_rest(f"{line} -"):  # as if something stood behind a path that is alone
        path, rest = parted
        return line.partition(",")[0].strip() if rest == "-" and _is_video(line.partition(",")[0]) else path
    head = line.partition(",")[0].strip()
    return head if _is_video(head) else re.split(r"[,\s]", line, maxsplit=1)[0]


def _is_video(name: str) -> bool:
    return PurePosixPath(name.strip()).suffix.lower() in VIDEO_EXTENSIONS


def _file_hashes(path: Path, entries: Sequence[str], root: Path) -> dict[str, str]:
    files = {entry: file_below(root, entry) for entry in entries}
    missing = [entry for entry, file in files.items() if not os.path.isfile(file)]
    if missing:
        shown = ", ".join(missing[:5])
        raise AnchorError(
            explain(
                f"{len(missing)} of {len(entries)} listed videos are not under the root",
                where=f"{path}, root {root}",
                got=shown + (", ..." if len(missing) > 5 else ""),
                fix="give the folder that the list's paths start from, or leave --root out: names alone are compared",
            )
        )
    hashes = {}
    for entry, file in files.items():
        with open(file, "rb") as handle:
            hashes[entry] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashes


def file_name(video_id: str) -> str:
    """The name by which one clip is known in every list: the file's, without folders and extension."""
    path = PurePosixPath(spelled(video_id))
    return path.stem if path.suffix.lower() in VIDEO_EXTENSIONS else path.name


def source_name(video_id: str) -> str | None:
    """The source video that a clip was cut from, where its name says so (Kinetics: `<YouTube id>_<start>_<end>`)."""
    match = _KINETICS_CLIP.fullmatch(file_name(video_id))
    return match["source"] if match else None


def content_hashes(reader: StoreReader) -> list[bytes | None]:
    """The content hash of every video of a store, None where it is not known."""
    column: np.ndarray = reader.index_column("content_sha256")
    return [row.tobytes() if row.any() else None for row in column]


def require_comparable(pool: StoreReader, task: Task, *, allow_missing_hashes: bool) -> None:
    """Returns when the features of all stores can be compared and, unless allowed, all content hashes are known.

    Raises:
        AnchorError: naming every problem of every store: no or another pack, no pooled tap, videos without a hash.
    """
    problems = [] if pool.pack_hash else [f"{pool.path} has no backbone pack, so nothing says what model made it"]
    for store in task.stores:
        if store.pack_hash != pool.pack_hash:
            problems.append(f"{store.path} has pack {store.pack_hash or '(none)'}, {pool.path} has {pool.pack_hash}")
    for store in (pool, *task.stores):
        tap = store.taps.get(POOLED)
        if tap is None or len(tap.row_shape) != 1:
            add = f"vidfeat extract SOURCE --out {store.path} --taps pooled"
            problems.append(f"{store.path} has no tap 'pooled' [E] ({', '.join(store.taps)}); add it: {add}")
        n_unknown = sum(hash_ is None for hash_, ok in zip(content_hashes(store), store.ok, strict=True) if ok)
        if n_unknown and not allow_missing_hashes:
            problems.append(f"{store.path} lacks the content hashes of {n_unknown} videos (an imported store?)")
    if problems:
        raise AnchorError(
            explain(
                "these stores cannot be vetted against each other",
                expected="pooled features of one and the same backbone pack, and the content hash of every video",
                got="".join(f"\n  - {problem}" for problem in problems),
                fix="extract pool and task with the same model; --allow-missing-hashes goes by features and names",
            )
        )
