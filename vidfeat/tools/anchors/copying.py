"""Some videos of one store as a store of their own: every tap, every view, bit by bit."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vidfeat.errors import StoreError, StoreNotFoundError, explain
from vidfeat.store import StoreReader, StoreWriter, Unit, VideoRow
from vidfeat.store.commits import QuantizedRows, TapRows
from vidfeat.store.quantize import Quantized


def copy_videos(source: StoreReader, video_indices: Sequence[int], out: str | os.PathLike[str]) -> None:
    """Fills the store at `out` with some videos of `source`; run again after an interruption it carries on.

    The fingerprint, the pack, the classes and the facts about each video are those of `source`.

    Raises:
        StoreError: `out` holds other videos, or something else altogether.
    """
    facts = source.videos()
    videos = [facts[index] for index in video_indices]
    _require_same_videos(out, [video.id for video in videos])
    spec = replace(
        StoreWriter.attach(source.path).plan.spec,
        taps=tuple(source.taps.values()),
        n_views=source.n_views,
        classes=source.classes,
    )
    writer = StoreWriter.open_or_create(out, spec, videos, frame_bounds=[video.n_frames for video in videos])
    if writer.is_finished:
        return
    for name, content in source.pack_files():
        writer.write_pack_file(name, content)
    for unit in writer.pending_units():
        _commit(writer, unit, source, np.asarray(video_indices, np.int64), videos)
    writer.finalize()


def _require_same_videos(out: str | os.PathLike[str], ids: list[str]) -> None:
    try:
        held = [video.id for video in StoreWriter.attach(out).plan.videos]
    except StoreNotFoundError:
        return
    if held != ids:
        other = next((video for video in held if video not in set(ids)), "the same in another order")
        raise StoreError(
            explain(
                "there is another selection already",
                where=out,
                expected=f"the {len(ids)} videos chosen now, or nothing",
                got=f"{len(held)} videos, among them {other}",
                fix="choose another --out, or remove that store; the same command resumes only its own",
            )
        )


def _commit(
    writer: StoreWriter, unit: Unit, source: StoreReader, video_indices: np.ndarray, videos: Sequence[VideoRow]
) -> None:
    chosen = np.asarray(unit.video_indices, np.int64)
    items = np.repeat(video_indices[chosen], unit.n_views)
    views = np.tile(np.arange(unit.view_start, unit.view_stop), len(chosen))
    arrays = {tap: _rows(source, tap, items, views) for tap in unit.taps}
    writer.commit(unit, arrays, [videos[index] for index in unit.video_indices])


def _rows(source: StoreReader, tap: str, items: np.ndarray, views: np.ndarray) -> TapRows:
    rows = source.stored_rows(tap, items, view=views)
    if rows.scales is None:
        return rows.values
    position = list(source.taps).index(tap)
    cosines = source.index_column("int8_min_cosine")[items, views, position]
    errors = source.index_column("int8_max_error")[items, views, position]
    measured = tuple((float(cosine), float(error)) for cosine, error in zip(cosines, errors, strict=True))
    return QuantizedRows(Quantized(rows.values, rows.scales), measured)
