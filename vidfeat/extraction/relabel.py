"""Other labels, splits or groups for the videos of a store, without touching a row: written into the store's log."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vidfeat.errors import ManifestError, explain
from vidfeat.store import StoreWriter
from vidfeat.store.location import files_at
from vidfeat.store.unit_plan import Plan, PlannedVideo
from vidfeat.video.manifest import file_rows, with_class_names
from vidfeat.video.source.classes import class_ids, note_like_spelled
from vidfeat.video.source.lists import csv_rows, header_of
from vidfeat.video.source.rows import Problems, Row, nearest, split_name, unknown_split
from vidfeat.video.source.text import by_its_bytes, read_text

_FIX_CLASSES = "A class list that has all classes of the store; --labels LIST renames classes."
_FIX_SPLITS = "A split that the store has, and one of train, val, test: --split OLD=NEW."


@dataclass(frozen=True)
class Relabelled:
    """What a relabelling changed; `classes` are the store's now, `notes` what a person should know of the list."""

    n_videos: int
    n_changed: int
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def relabel(
    store: str | os.PathLike[str],
    labels: str | os.PathLike[str] | None = None,
    *,
    classes: str | os.PathLike[str] | None = None,
    splits: Mapping[str, str] | None = None,
) -> Relabelled:
    """Gives videos of a store the labels, splits and groups of a list; what the list does not say stays.

    A class that no video has any more is dropped; where all its videos got one new name, that takes its place. Other
    new classes come last.

    Args:
        labels: a CSV `path[,label][,split][,group]`, or any list that `load_manifest` reads; paths are the store's ids.
        classes: all classes, in their order, as `load_manifest` takes them; also what integer labels mean.
        splits: new split by old one, for all videos, after the list.

    Raises:
        ManifestError: videos that the store does not have, unknown labels or splits: every problem at once.
        StoreNotFoundError: no store there.
    """
    problems = Problems()
    ids = class_ids(classes, problems)
    writer = StoreWriter.attach(store)
    where = Path(labels) if labels is not None else Path(os.fspath(store))
    wanted = _wanted(writer.plan, labels, ids, splits or {}, problems)
    names = _classes(writer.plan, wanted, ids, problems)
    note_like_spelled(names, problems)
    problems.raise_any(where, fix="" if labels is not None else _FIX_CLASSES if classes is not None else _FIX_SPLITS)
    changed = {i: (v.label, v.split, v.group) for i, v in wanted.items() if v != writer.plan.videos[i]}
    if changed or names != writer.plan.classes:
        files = files_at(store)
        finished = writer.is_finished
        with files.lock():
            writer = StoreWriter.open(store)
            writer.change("relabel", changed, classes=names, why=_why(labels, classes, splits))
        if finished:
            writer.finalize()
    return Relabelled(len(wanted), len(changed), names, tuple(problems.notes))


def _wanted(
    plan: Plan,
    labels: str | os.PathLike[str] | None,
    ids: Mapping[int, str] | None,
    splits: Mapping[str, str],
    problems: Problems,
) -> dict[int, PlannedVideo]:
    """Every video of the store as it is to be, by index."""
    planned, live = plan.videos, plan.live_videos
    wanted = {index: planned[index] for index in live.values()}
    rows, given = _rows(labels, ids, problems) if labels is not None else ([], set())
    told: dict[int, Row] = {}
    for row in rows:
        key = PurePosixPath(os.path.normpath(row.path.replace("\\", "/"))).as_posix()
        if key not in live and by_its_bytes(key) in live:
            key = by_its_bytes(key)
        index = live.get(key)
        if index is None:
            problems.add("video that the store does not have", [f"{row.where}: {nearest(key, list(live)[:1000])}"])
        elif index in told:
            problems.add("video listed twice", [f"{row.where}: {key}"])
        elif "label" in given and not row.label:
            problems.add("line without a label", [row.where])
        else:
            told[index] = row
            wanted[index] = wanted[index]._replace(**{name: getattr(row, name) for name in given})
    for old, new in splits.items():
        known = split_name(new)
        if known is None:
            problems.add("split that is none of train, val, test", [unknown_split(new)])
        if not any(video.split == old for video in wanted.values()):
            there = sorted({video.split or "(none)" for video in wanted.values()})
            problems.add("split that no video has", [f"{old!r}; the store has {', '.join(there)}"])
        wanted = {i: v._replace(split=known or "") if v.split == old else v for i, v in wanted.items()}
    return wanted


def _rows(
    labels: str | os.PathLike[str], ids: Mapping[int, str] | None, problems: Problems
) -> tuple[list[Row], set[str]]:
    """The list's rows, and which of label, split and group it gives."""
    source = Path(labels)
    if not source.is_file():
        raise ManifestError(explain("The list does not exist.", where=source, fix="Check the path."))
    text = read_text(source, problems)
    header = header_of(text)
    if "path" in header:
        rows, given = csv_rows(text, problems, required=("path",)), {"label", "split", "group"} & set(header)
    else:
        rows = file_rows(source, source.parent, problems, known=set((ids or {}).values()))
        given = {"label", "split"} if any(row.split for row in rows) else {"label"}
    if not given:
        problems.add("it gives neither labels nor splits nor groups (expected path[,label][,split][,group])", [])
    return with_class_names(rows, dict(ids) if ids else None, problems) if "label" in given else rows, given


def _classes(
    plan: Plan, wanted: Mapping[int, PlannedVideo], ids: Mapping[int, str] | None, problems: Problems
) -> tuple[str, ...]:
    """The store's classes after the change, in their order."""
    after = list(dict.fromkeys(video.label for video in wanted.values()))
    if ids is not None:
        outside = [name for name in after if name not in set(ids.values())]
        if outside:
            problems.add("class of the store that is not in the class list", outside)
        return tuple(ids.values())
    if not plan.classes:  # any label goes
        return ()
    planned = plan.videos
    became: dict[str, set[str]] = {}
    for index, video in wanted.items():
        became.setdefault(planned[index].label, set()).add(video.label)
    names: list[str] = []
    for name in plan.classes:
        new = became.get(name, {name})
        if name in after or name not in became:  # a class without videos was listed on purpose
            names.append(name)
        elif len(new) == 1 and not new & {*plan.classes, *names}:
            names += new
    return tuple(dict.fromkeys((*names, *after)))


def _why(labels: object, classes: object, splits: Mapping[str, str] | None) -> str:
    said: Sequence[str] = [
        f"{Path(str(path)).name} (sha256 {hashlib.sha256(Path(str(path)).read_bytes()).hexdigest()})"
        for path in (labels, classes)
        if path is not None
    ]
    return "; ".join([*said, *(f"split {old} is {new}" for old, new in (splits or {}).items())])
