"""Labels, splits and groups for found features: out of a list, out of what is written beside them, or their folders."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vidfeat.errors import ManifestError, explain
from vidfeat.id_matching import match_ids
from vidfeat.tools.features.found import FoundVideo, failed
from vidfeat.tools.names import normal, plain
from vidfeat.video.manifest import file_rows, with_class_names
from vidfeat.video.source.classes import class_ids, note_like_spelled
from vidfeat.video.source.rows import Problems, Row

_CLASS_FIELDS = ("label", "class", "class_name", "category", "caption", "cls")


def labelled(
    videos: Sequence[FoundVideo],
    *,
    lists: Sequence[Path] = (),
    classes: Path | None = None,
    label_from: str | None = None,
    strict: bool = False,
) -> tuple[list[FoundVideo], tuple[str, ...], list[str]]:
    """The videos with their labels, the classes in their order, and what a person should know.

    Args:
        lists: sources as `vidfeat extract` reads them (CSV, `path label` lists, Kinetics' CSV, ...). The store then
            holds the videos that they name, by the names they give; one without features is a failed video, features
            that no list names are left out, and both are said.
        classes: as for `vidfeat extract`: order, and what integers mean.
        label_from: what beside the features is the class: `caption`, a field of the JSON, an attribute in HDF5.
        strict: what would be said is an error.

    Raises:
        ManifestError: lists that cannot be read or name features ambiguously; a field that a video does not have.
    """
    problems = Problems(strict=strict)
    ids = class_ids(classes, problems)
    named = list(videos)
    if lists:
        named = _listed(videos, lists, ids, problems)
    elif label_from is not None:
        named = _written(videos, label_from, problems)
    if not lists and ids is not None:
        named = _named_by_id(named, ids, problems)
    unlabelled = [video.id for video in named if not video.label]
    if len(unlabelled) == len(named):
        problems.note(f"no classes: --labels LIST gives them{_beside(named)}, and later `vidfeat relabel`", [])
        names: tuple[str, ...] = ()  # a store whose videos have labels of no class cannot list classes
    else:
        if unlabelled:
            problems.add("features without a class (--labels LIST, or a folder for each class)", unlabelled)
        labels = {video.label for video in named}
        names = (
            tuple(ids.values()) if ids else tuple(dict.fromkeys(v.label for v in named) if lists else sorted(labels))
        )
    note_like_spelled(names, problems)
    problems.raise_any(lists[0] if lists else Path("features"))
    return named, names, problems.notes


def _listed(
    videos: Sequence[FoundVideo], lists: Sequence[Path], ids: Mapping[int, str] | None, problems: Problems
) -> list[FoundVideo]:
    rows: list[Row] = []
    for path in lists:
        if not path.is_file():
            raise ManifestError(explain("The list does not exist.", where=path, fix="check the path"))
        rows += file_rows(path, path.parent, problems, known=set((ids or {}).values()))
    rows = with_class_names(rows, dict(ids) if ids else None, problems)
    matches = match_ids((normal(row.path) for row in rows), _below_their_folder([video.id for video in videos]))
    found, lost, used = [], [], set()
    seen: dict[str, Row] = {}
    for row in rows:
        name = normal(row.path)
        if name in seen:
            note = "" if seen[name].label == row.label else f", with two labels: {seen[name].label!r} and {row.label!r}"
            problems.add("video listed twice", [f"{row.where}: {name}{note}"])
            continue
        seen[name] = row
        if name in matches.rows:
            own = videos[matches.rows[name]]
            used.add(own.id)
            found.append(_told(own, name, row))
        elif name in matches.ambiguous:
            several = ", ".join(matches.ambiguous[name][:3])
            problems.add("name that several features have", [f"{row.where}: {name}: {several}"])
        else:
            lost.append(name)
            found.append(_told(failed(name, "", "unreadable", "no features: it is in the list alone"), name, row))
    if not used:
        problems.add("the list names not one of the features", [plain(video.id) for video in videos[:3]])
    unnamed = [video.id for video in videos if video.id not in used]
    for kind, cases in (
        ("listed without features (failed videos of the store)", lost),
        ("features that no list names, left out", unnamed),
    ):
        if cases:
            problems.note(f"{len(cases)} x {kind}", cases)
    return found


def _below_their_folder(ids: Sequence[str]) -> list[str]:
    """The ids without the folders that all of them lie in, which tell no video from another (`clip/ViT-B_32/`)."""
    shared = os.path.commonpath([key.rpartition("/")[0] for key in ids])
    return [key[len(shared) :].lstrip("/") for key in ids]


def _told(video: FoundVideo, name: str, row: Row) -> FoundVideo:
    return replace(video, id=name, label=row.label, split=row.split, group=row.group)


def _written(videos: Sequence[FoundVideo], label_from: str, problems: Problems) -> list[FoundVideo]:
    found = []
    for video in videos:
        texts = video.texts() if video.ok else {label_from: ""}
        if label_from not in texts:
            has = ", ".join(map(str, texts)) or "nothing"
            problems.add(f"features without {label_from!r} beside them", [f"{video.id} has {has}"])
        found.append(replace(video, label=str(texts.get(label_from, "")).strip()))
    lacking = [video.id for video in found if not video.ok and not video.label]
    if lacking:
        problems.note(f"{len(lacking)} x failed video whose class is not known, left out", lacking)
    return [video for video in found if video.id not in set(lacking)]


def _named_by_id(videos: Sequence[FoundVideo], ids: Mapping[int, str], problems: Problems) -> list[FoundVideo]:
    rows = [Row(video.id, video.id, video.label) for video in videos if video.label]
    names = {row.path: row.label for row in with_class_names(rows, dict(ids), problems)}
    return [replace(video, label=names.get(video.id, video.label)) for video in videos]


def _beside(videos: Sequence[FoundVideo]) -> str:
    """What lies beside the first features and may be a class."""
    first = next((video for video in videos if video.ok), None)
    texts: Mapping[str, Any] = first.texts() if first is not None else {}
    fields = [name for name in _CLASS_FIELDS if re.search(r"\w", str(texts.get(name, "")))]
    return f", or --label-from {'|'.join(fields)}" if fields else ""
