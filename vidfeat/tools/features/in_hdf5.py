"""Features in an HDF5 file: one dataset per video in whatever groups, or one dataset of all videos with their names.

    /walk/clip1 [F E]                       the video "walk/clip1" of the class "walk": a row per frame
    /clip1/features [F E], /clip1/...       the video "clip1"; what else lies in its group is left out
    /features [N E] or [N F E], /ids [N]    N videos by name, their classes in /labels [N] where that is there

Soft and external links are followed. A dataset is one video, under its own name, however many links lead to it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vidfeat.tools.features.found import FEATURE_NAMES, FLOATS, Found, FoundVideo, chosen, counted, failed, unusable

_ID_COLUMNS = ("ids", "id", "names", "name", "video_ids", "video_id", "videos", "keys", "paths", "files", "filenames")
_LABEL_COLUMNS = ("labels", "label", "classes", "class")


@dataclass
class _Walk:
    """Every dataset of a file by its own name, each once; broken links; further names of what is there already."""

    datasets: dict[str, h5py.Dataset] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    aliases: list[str] = field(default_factory=list)
    links: int = 0
    _seen: set[Any] = field(default_factory=set)

    def run(self, root: h5py.Group) -> _Walk:
        self._seen.add(root)
        waiting = list(self._visit(root, ""))
        while waiting:  # what has a name of its own first, so that a link never takes it away
            name, parent, link = waiting.pop(0)
            self.links += 1
            try:
                node = parent[link]
            except (KeyError, OSError) as error:
                self.broken[name] = f"the link leads nowhere: {_target(parent, link)} ({error.args[0]})"
                continue
            waiting += self._take(node, name)
        return self

    def _visit(self, group: h5py.Group, prefix: str) -> Iterator[tuple[str, h5py.Group, str]]:
        for name in group:
            if isinstance(group.get(name, getlink=True), h5py.HardLink):
                yield from self._take(group[name], prefix + name)
            else:
                yield prefix + name, group, name

    def _take(self, node: Any, name: str) -> Iterator[tuple[str, h5py.Group, str]]:
        if node in self._seen:
            self.aliases.append(name)
            return
        self._seen.add(node)
        if isinstance(node, h5py.Group):
            yield from self._visit(node, f"{name}/")
        elif isinstance(node, h5py.Dataset):
            self.datasets[name] = node


def _target(parent: h5py.Group, name: str) -> str:
    link = parent.get(name, getlink=True)
    return f"{link.filename}:{link.path}" if isinstance(link, h5py.ExternalLink) else str(link.path)


def find_in_hdf5(h5: h5py.File, path: Path, *, key: str | None) -> Found:
    """The videos of an open file, which must stay open while they are read.

    Args:
        key: the last name of the datasets that hold features, where groups hold several.
    """
    walk = _Walk().run(h5)
    notes = counted("link to what is there under its own name", walk.aliases)
    if walk.links:
        notes.append(f"{walk.links} links, {len(walk.broken)} of them broken")
    table = _table(h5)
    if table is not None:
        videos, layout = table, "hdf5, all videos in one dataset"
    else:
        videos, layout = _per_video(walk, key=key, notes=notes), "hdf5, one dataset per video"
    others = sorted({node.file.filename for node in walk.datasets.values()} - {h5.filename})
    files = {path.name: str(path), **{os.path.relpath(other, path.parent): other for other in others}}
    return Found.of(layout, videos, files, notes)


def _per_video(walk: _Walk, *, key: str | None, notes: list[str]) -> list[FoundVideo]:
    by_group: dict[str, dict[str, h5py.Dataset]] = defaultdict(dict)
    for name, dataset in walk.datasets.items():
        group, _, last = name.rpartition("/")
        by_group[group][last] = dataset
    picked: dict[str, h5py.Dataset] = {}
    left_out: list[str] = []
    for group, members in by_group.items():
        own = _picked(group, members, key)
        picked |= {f"{group}/{last}".lstrip("/"): members[last] for last in own}
        left_out += [f"/{group}/{last}".replace("//", "/") for last in members if last not in own]
    notes += counted("dataset left out (no features, by its name or its kind)", left_out)
    names = list(picked) or list(walk.broken)
    lasts = {name.rpartition("/")[2] for name in names}
    # `v0/features` is the video v0; so is `v0/f`, where every dataset is called f.
    named = {key, *FEATURE_NAMES}
    if len(names) > 1 and len(lasts) == 1:
        named |= lasts
    videos = [_video(_id(name, named), name, dataset) for name, dataset in picked.items()]
    for name, detail in walk.broken.items():
        video_id = _id(name, named & lasts)  # a broken link stands for features, or for a group that had them
        videos.append(failed(video_id, video_id.rpartition("/")[0], "unreadable", detail))
    return videos


def _picked(group: str, members: Mapping[str, h5py.Dataset], key: str | None) -> list[str]:
    """The datasets of a group that are a video each: the one with the features' name, else all that may be features."""
    if key is not None:
        return [key] if key in members else []
    named = chosen(list(members), None) if len(members) > 1 and group else None
    if named is not None and named in FEATURE_NAMES:
        return [named]
    return [last for last, node in members.items() if node.dtype.name in FLOATS and node.ndim]


def _id(name: str, named: Collection[str | None]) -> str:
    """The dataset's own path; where its last part is one of `named`, which say nothing, the group's."""
    group, _, last = name.rpartition("/")
    return group if group and last in named else name


def _video(video_id: str, name: str, dataset: h5py.Dataset) -> FoundVideo:
    folder = video_id.rpartition("/")[0]
    shape, where = dataset.shape, f"/{name}"
    if (why := unusable(shape, dataset.dtype)) is not None:
        return failed(video_id, folder, why[0], f"{where} {why[1]}")
    missing = _missing_parts(dataset)
    if missing:
        return failed(video_id, folder, "unreadable", f"{where} {missing}")
    return FoundVideo(
        video_id,
        folder,
        read=partial(dataset.__getitem__, ()),
        shape=shape,
        dtype=dataset.dtype.name,
        texts=partial(_texts, dataset),
    )


def _missing_parts(dataset: h5py.Dataset) -> str:
    """Why HDF5 would give fill values in place of numbers, without a word; "" where it would not."""
    folder = os.path.dirname(dataset.file.filename)
    if dataset.is_virtual:
        sources = {source.file_name for source in dataset.virtual_sources()} - {"."}
        gone = sorted(name for name in sources if not os.path.exists(os.path.join(folder, name)))
        return f"is virtual, and its parts are not there: {', '.join(gone)}" if gone else ""
    written = dataset.external or dataset.id.get_storage_size()
    return "" if written else "was never written"


def _texts(dataset: h5py.Dataset) -> Mapping[str, Any]:
    """Attributes of the dataset and its group, and scalars beside it."""
    parent = dataset.parent
    beside = {
        name: parent[name][()]
        for name in parent
        if isinstance(parent.get(name, getlink=True), h5py.HardLink)
        and isinstance(parent[name], h5py.Dataset)
        and parent[name].shape == ()
    }
    found = {**beside, **parent.attrs, **dataset.attrs}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in found.items()
    }


def _table(h5: h5py.File) -> list[FoundVideo] | None:
    """The videos of a file with one dataset of features and one of names at the top; None for any other file."""
    members = {name: h5[name] for name in h5 if isinstance(h5.get(name), h5py.Dataset)}
    features = [name for name, node in members.items() if node.dtype.name in FLOATS and node.ndim in (2, 3)]
    columns = [name for name in _ID_COLUMNS if name in members and _is_text(members[name])]
    if len(features) != 1 or not columns or any(isinstance(h5.get(name), h5py.Group) for name in h5):
        return None
    dataset = members[features[0]]
    ids = _strings(members[columns[0]])
    if len(ids) != len(dataset):
        return None
    named = [name for name in _LABEL_COLUMNS if name in members and members[name].shape == (len(ids),)]
    labels: Sequence[str] = _column(members[named[0]]) if named else [""] * len(ids)
    return [
        FoundVideo(
            video_id,
            video_id.rpartition("/")[0],
            read=partial(dataset.__getitem__, row),
            shape=dataset.shape[1:],
            dtype=dataset.dtype.name,
            label=labels[row],
        )
        for row, video_id in enumerate(ids)
    ]


def _is_text(dataset: h5py.Dataset) -> bool:
    return dataset.ndim == 1 and h5py.check_string_dtype(dataset.dtype) is not None


def _strings(dataset: h5py.Dataset) -> list[str]:
    return list(dataset.asstr(errors="surrogateescape")[:])


def _column(dataset: h5py.Dataset) -> list[str]:
    return _strings(dataset) if _is_text(dataset) else [str(value) for value in np.asarray(dataset[:]).tolist()]
