"""A large data set to learn hard prompts on: what other worlds' `other` sets show, and a world's target never names.

For world N `worldN/sources.zarr` holds the pooled features of the other worlds' `other` videos, bit by bit, in one
store: up to 24 classes of each, 82 to 86 in all for worlds 0 to 4, where the target has 40. Left out are the classes of
world N's own target, by name; single things and actions of them may be there, as Kinetics shows much of UCF-101's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vidfeat.store import POOLED, StoreReader, StoreWriter, VideoRow, open_store

SOURCES = "sources"


def make_sources(worlds: Sequence[int], *, data: Path) -> list[Path]:
    """The store of every world; what is finished stays.

    Args:
        worlds: at least two.
        data: holds `worldN/target.zarr` and `worldN/other.zarr`.

    Raises:
        vidfeat.errors.VidfeatError: a store that is missing, unfinished or of another backbone.
    """
    made = []
    for world in worlds:
        others = [open_store(data / f"world{other}" / "other.zarr") for other in worlds if other != world]
        avoided = set(open_store(data / f"world{world}" / "target.zarr").classes)
        made.append(data / f"world{world}" / f"{SOURCES}.zarr")
        join_stores(others, made[-1], names=[f"world{other}" for other in worlds if other != world], avoided=avoided)
    return made


def join_stores(stores: Sequence[StoreReader], out: Path, *, names: Sequence[str], avoided: set[str]) -> None:
    """Pooled features of the good videos of several stores in one; run again after a kill it goes on.

    Args:
        stores: of one backbone and one number of frames.
        out: the store to fill.
        names: one per store; ids are `NAME/id`.
        avoided: classes whose videos are left out.
    """
    chosen = [(store, int(row)) for store in stores for row in _rows(store, avoided)]
    prefix = {id(store): name for store, name in zip(stores, names, strict=True)}
    facts = {id(store): store.videos() for store in stores}
    videos: list[VideoRow] = []
    for store, row in chosen:
        video = facts[id(store)][row]
        videos.append(replace(video, id=f"{prefix[id(store)]}/{video.id}"))
    classes = tuple(dict.fromkeys(name for store in stores for name in store.classes if name not in avoided))
    spec = replace(
        StoreWriter.attach(stores[0].path).plan.spec, taps=(stores[0].taps[POOLED],), n_views=1, classes=classes
    )
    writer = StoreWriter.open_or_create(out, spec, videos, frame_bounds=[video.n_frames for video in videos])
    if writer.is_finished:
        return
    for name, content in stores[0].pack_files():
        writer.write_pack_file(name, content)
    for unit in writer.pending_units():
        rows = [chosen[index] for index in unit.video_indices]
        values = np.concatenate([store.rows(POOLED, [row]).values for store, row in rows])
        writer.commit(unit, {POOLED: values}, [videos[index] for index in unit.video_indices])
    writer.finalize()


def _rows(store: StoreReader, avoided: set[str]) -> np.ndarray:
    return np.flatnonzero(store.ok & ~np.isin(store.labels, sorted(avoided)))
