"""Features in .npy and .npz files: of a folder, or in tars.

Three layouts, which the names alone tell apart:

    CLASS/NAME.npy                                       a folder of class folders, or of train/, val/, test/ of these
    NAME_clip.npy, NAME_fps.npy, NAME_timestamps_ms.npy  video_features (v-iashin/video_features, save_numpy)
    KEY.npy (or .npz), KEY.json, KEY.txt (or .cap)       clip-video-encode (iejMac/clip-video-encode): files, or tars

Sources: video_features, models/_base/base_framewise_extractor.py and utils/utils.py (make_path); clip-video-encode,
clip_video_encode/writer.py and dataset/create_shards.py.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from vidfeat.tools.features.found import Found, FoundVideo, chosen, counted, failed, unusable
from vidfeat.tools.features.in_tars import SPLITS, TARS, entries_of, split_folders
from vidfeat.tools.features.npy import Entry, NotAnArray, array, header, npz_headers

_TIMES, _RATE, _CLIP = "_timestamps_ms", "_fps", "_clip"
_ARRAYS = ("npy", "npz")
_TEXTS = ("json", "txt", "cap", "cls")
Place = tuple[str, str]  # folder, and name without its ending


@dataclass
class _Files:
    """The files of one video: feature arrays by what kind of features they are, times, frame rate."""

    features: dict[str, Place] = field(default_factory=dict)
    times: Place | None = None
    rate: Place | None = None


def find_in_files(source: Path, *, key: str | None) -> Found:
    """The features in a folder's files, in the tars of a folder, or in one tar.

    Args:
        key: which array holds the features: a name in a .npz file, or video_features' kind (`clip`).
    """
    is_folder = source.is_dir()
    paths = sorted(path for path in source.rglob("*") if path.is_file()) if is_folder else [source]
    root = source if is_folder else source.parent
    tars = [path for path in paths if path.name.endswith(TARS)]
    if not tars:
        entries = [Entry(p.relative_to(root).as_posix(), p.stat().st_size, partial(_open, p)) for p in paths]
        return _found(entries, {entry.name: str(root / entry.name) for entry in entries}, key=key)
    entries, notes = entries_of(tars)
    beside = [path.relative_to(root).as_posix() for path in paths if path not in tars and path.name != SPLITS]
    notes += counted("file beside the tars left out", beside)
    files = {path.relative_to(root).as_posix(): str(path) for path in tars}
    return _found(entries, files, key=key, split_of=split_folders(tars), notes=notes)


def _open(path: Path) -> IO[bytes]:
    return open(path, "rb")


def _found(
    entries: Sequence[Entry],
    files: Mapping[str, str],
    *,
    key: str | None,
    split_of: Mapping[str, str] | None = None,
    notes: Iterable[str] = (),
) -> Found:
    by_place: dict[Place, dict[str, Entry]] = defaultdict(dict)
    others: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        if entry.ending in (*_ARRAYS, *_TEXTS) and entry.stem and not entry.stem.startswith("."):
            by_place[entry.folder, entry.stem][entry.ending] = entry
        else:
            others[entry.ending].append(entry.name)
    groups = _grouped({place for place, own in by_place.items() if own.keys() & set(_ARRAYS)})
    videos = []
    for (folder, stem), own in groups.items():
        video = _video(f"{folder}/{stem}".lstrip("/"), folder, own, by_place, key=key)
        source = next((entry.source for entry in by_place[folder, stem].values()), "")
        videos.append(replace(video, split=(split_of or {}).get(source, "")))
    used = {place for own in groups.values() for place in (*own.features.values(), own.times, own.rate)}
    texts = [f"{folder}/{stem}".lstrip("/") for folder, stem in by_place if (folder, stem) not in used | groups.keys()]
    both = [entry["npz"].name for entry in by_place.values() if set(_ARRAYS) <= entry.keys()]
    told = [*notes, *_left_out(others), *counted("text without features left out", texts)]
    told += counted("NAME.npz left out beside NAME.npy", both)
    return Found.of(_layout(groups, by_place), videos, files, told)


def _layout(groups: Mapping[Place, _Files], by_place: Mapping[Place, Mapping[str, Entry]]) -> str:
    if any(own.times or own.rate for own in groups.values()):
        return "video_features"
    return "clip-video-encode" if any(own.keys() & set(_TEXTS) for own in by_place.values()) else "npy files"


def _left_out(others: Mapping[str, Sequence[str]]) -> list[str]:
    why = dict.fromkeys(("pkl", "pickle", "pt", "pth"), " (pickles are never loaded)")
    return [
        note
        for ending, names in sorted(others.items())
        for note in counted(f"{f'.{ending} file' if ending else 'file'} left out{why.get(ending, '')}", names)
    ]


def _grouped(arrays: Collection[Place]) -> dict[Place, _Files]:
    """The arrays by the video they belong to; only video_features writes several for one."""
    bases = {(folder, stem.removesuffix(_TIMES)) for folder, stem in arrays if stem.endswith(_TIMES)}
    bases |= {
        (folder, stem.removesuffix(_RATE))
        for folder, stem in arrays
        if stem.endswith(_RATE) and (folder, stem.removesuffix(_RATE) + _CLIP) in arrays
    }
    meta = {(folder, base + kind) for folder, base in bases for kind in (_TIMES, _RATE)}
    plain = sorted(set(arrays) - meta)
    all_clip = bool(plain) and all(stem.endswith(_CLIP) for _, stem in plain)
    groups: dict[Place, _Files] = defaultdict(_Files)
    for folder, stem in plain:
        ends = [place for place, sign in enumerate(stem) if sign == "_"]
        owner = next((stem[:end] for end in reversed(ends) if (folder, stem[:end]) in bases), None)
        if owner is None and all_clip:
            owner = stem.removesuffix(_CLIP)
        base = stem if owner is None else owner
        groups[folder, base].features[stem[len(base) :].lstrip("_")] = (folder, stem)
    for folder, base in bases:
        own = groups[folder, base]
        own.times = (folder, base + _TIMES) if (folder, base + _TIMES) in arrays else None
        own.rate = (folder, base + _RATE) if (folder, base + _RATE) in arrays else None
    return dict(groups)


def _video(
    video_id: str, folder: str, files: _Files, by_place: Mapping[Place, Mapping[str, Entry]], *, key: str | None
) -> FoundVideo:
    kinds = list(files.features)
    kind = kinds[0] if kinds == [""] else chosen(kinds, key) if len(kinds) > 1 else next(iter(kinds), None)
    if kind is None:
        got = f"several kinds of features ({', '.join(kinds)}): --key NAME" if kinds else "times without features"
        return failed(video_id, folder, "unreadable", got)
    place = files.features[kind]
    own = by_place[place]
    entry = own.get("npy") or own["npz"]
    try:
        name, shape, dtype = _header(entry, key)
    except NotAnArray as problem:
        return failed(video_id, folder, problem.reason, f"{entry.name}: {problem}")
    if (why := unusable(shape, dtype)) is not None:
        return failed(video_id, folder, why[0], f"{entry.name} {why[1]}")
    meta = [by_place[p]["npy"] if p and "npy" in by_place[p] else None for p in (files.times, files.rate)]
    return FoundVideo(
        video_id,
        folder,
        read=partial(array, entry, name),
        shape=shape,
        dtype=dtype.name,
        times=partial(_times, *meta),
        texts=partial(_texts, own),
    )


def _header(entry: Entry, key: str | None) -> tuple[str | None, tuple[int, ...], np.dtype]:
    """Which array of a .npz file (None for a .npy file), its shape and its dtype."""
    if entry.ending == "npy":
        with entry.open() as file:
            return (None, *header(file, entry.size))
    headers = npz_headers(entry)
    name = chosen(list(headers), key)
    if name is None:
        raise NotAnArray("unreadable", f"which array? It has {', '.join(headers) or 'none'} (--key NAME)")
    return (name, *headers[name])


def _times(times: Entry | None, rate: Entry | None) -> tuple[tuple[float, ...], float]:
    """Seconds of each frame, and frames per second; empty and 0 where they are not there or cannot be read."""
    try:
        milliseconds = () if times is None else np.atleast_1d(array(times))
        fps = 0.0 if rate is None else float(array(rate).reshape(-1)[0])
    except (OSError, ValueError, IndexError):
        return (), 0.0
    return tuple(float(one) / 1000 for one in milliseconds), fps if np.isfinite(fps) else 0.0


def _texts(own: Mapping[str, Entry]) -> Mapping[str, Any]:
    """What lies beside KEY.npy: the fields of KEY.json, KEY.txt or KEY.cap as `caption`, KEY.cls as `cls`."""
    found: dict[str, Any] = {}
    if "json" in own:
        with suppress(ValueError):  # a damaged one has no fields, which is said where one is asked for
            document = json.loads(own["json"].read().decode("utf-8", "replace"))
            found |= document if isinstance(document, dict) else {}
    for ending, name in (("txt", "caption"), ("cap", "caption"), ("cls", "cls")):
        if ending in own:
            found[name] = own[ending].read().decode("utf-8", "replace").strip()
    return found
