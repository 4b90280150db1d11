"""The index of a finished store: per-video facts as small Zarr arrays, derived from the commit records alone.

Text columns are UTF-8 bytes plus offsets (entry i is `text_utf8[text_offsets[i]:text_offsets[i + 1]]`), because Zarr v3
core has no string type that every library reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vidfeat.errors import StoreError, explain
from vidfeat.store.commits import CommitRecord
from vidfeat.store.shards import decode_small_array, encode_small_array
from vidfeat.store.spec import FAILED, OK, VideoRow, same_key
from vidfeat.store.unit_plan import Plan, PlannedVideo

TEXT_COLUMNS = ("id", "label", "split", "group", "reason", "detail", "decoder")
# name -> (dtype, axes); N videos, V views, T taps, P stored frames of all videos, U bytes of text.
COLUMNS: dict[str, tuple[str, str]] = {
    "row_start": ("int64", "NVT"),
    "crc32c": ("uint32", "NVT"),
    "ok": ("uint8", "N"),
    "n_frames": ("int32", "N"),
    "n_source_frames": ("int64", "N"),
    "fps": ("float64", "N"),
    "content_sha256": ("uint8", "N32"),
    "pts_offsets": ("int64", "N+1"),
    "pts_seconds": ("float64", "P"),
    "int8_min_cosine": ("float32", "NVT"),
    "int8_max_error": ("float32", "NVT"),
    **{f"{name}_offsets": ("int64", "N+1") for name in TEXT_COLUMNS},
    **{f"{name}_utf8": ("uint8", "U") for name in TEXT_COLUMNS},
}


# Written where a video of the store has them: stores from before they were kept have none.
SOURCE_COLUMNS: dict[str, tuple[str, str]] = {"n_source_bytes": ("int64", "N"), "source_mtime_ns": ("int64", "N")}


@dataclass
class _Slot:
    """What the commits say about one video so far."""

    facts: VideoRow | None = None
    failure: VideoRow | None = None


def build_index(plan: Plan, records: Iterable[CommitRecord]) -> dict[str, np.ndarray]:
    """Every column of the index, from a complete set of commit records in unit order.

    A later record of the same (video, view, tap) replaces an earlier one, unless it is a failure; of a refreshed video
    only what was committed since counts. A video is ok when every view of every tap has rows. Labels, splits and groups
    are those of the plan, and pruned videos are left out.

    Raises:
        StoreError: a video's source file changed between two passes.
    """
    taps = plan.taps
    positions = {name: position for position, name in enumerate(taps)}
    slots = [_Slot() for _ in plan.videos]
    shape = (len(slots), plan.n_views, len(taps))
    columns: dict[str, np.ndarray] = {
        "row_start": np.full(shape, -1, np.int64),
        "crc32c": np.zeros(shape, np.uint32),
        "int8_min_cosine": np.full(shape, np.nan, np.float32),
        "int8_max_error": np.full(shape, np.nan, np.float32),
    }
    valid_from = plan.valid_from()
    for record in records:
        for video in record.videos:
            if record.unit < valid_from.get(video.index, 0):
                continue
            slot = slots[video.index]
            if not video.facts.ok:
                slot.failure = video.facts
                continue
            _require_same_source(slot.facts, video.facts)
            slot.facts = video.facts
            for name, shard in record.shards.items():
                first = shard * taps[name].shard_rows + video.row_start
                for offset, view in enumerate(range(record.view_start, record.view_stop)):
                    place = video.index, view, positions[name]
                    columns["row_start"][place] = first + offset * video.facts.n_frames
                    columns["crc32c"][place] = video.crc32c[name][offset]
                    if name in video.int8_error:
                        columns["int8_min_cosine"][place], columns["int8_max_error"][place] = video.int8_error[name][
                            offset
                        ]
    complete: np.ndarray = np.all(columns["row_start"] >= 0, axis=(1, 2))
    columns["row_start"][~complete] = -1
    live, planned, seen = plan.live, plan.videos, plan.seen
    rows = [_as_now(_final_row(slots[i], bool(complete[i])), planned[i], seen.get(i)) for i in live]
    if len(live) < len(slots):
        columns = {name: values[live] for name, values in columns.items()}
    return {**columns, **_facts_columns(rows)}


def _require_same_source(before: VideoRow | None, now: VideoRow) -> None:
    if before is None:
        return
    names = ("content_sha256", "n_frames", "pts_seconds", "decoder")
    differing = [name for name in names if getattr(before, name) != getattr(now, name)]
    if differing:
        raise StoreError(
            explain(
                f"video {now.id!r} is not the same in two passes over it",
                where=", ".join(differing),
                expected=getattr(before, differing[0]),
                got=getattr(now, differing[0]),
                fix="the source file or the decoder changed; extract into a new store",
            )
        )


def _final_row(slot: _Slot, complete: bool) -> VideoRow:
    if complete and slot.facts is not None:
        return slot.facts
    assert slot.failure is not None, "a video of a complete set of commits has rows everywhere or a failure"
    return slot.failure


def _as_now(row: VideoRow, planned: PlannedVideo, seen: tuple[int, int] | None) -> VideoRow:
    """The facts with the labels of today, and the time at which the file was last seen unchanged."""
    if not same_key(row, planned):
        row = replace(row, label=planned.label, split=planned.split, group=planned.group)
    if seen is not None and seen[0] == row.n_source_bytes:
        row = replace(row, source_mtime_ns=seen[1])
    return row


def _facts_columns(rows: Sequence[VideoRow]) -> dict[str, np.ndarray]:
    pts = [np.asarray(row.pts_seconds, np.float64) for row in rows]
    columns: dict[str, np.ndarray] = {
        "ok": np.array([row.ok for row in rows], np.uint8),
        "n_frames": np.array([row.n_frames for row in rows], np.int32),
        "n_source_frames": np.array([row.n_source_frames for row in rows], np.int64),
        "fps": np.array([row.fps for row in rows], np.float64),
        "content_sha256": np.frombuffer(
            b"".join(bytes.fromhex(row.content_sha256 or "00" * 32) for row in rows), np.uint8
        ).reshape(len(rows), 32),
        "pts_offsets": _offsets([len(part) for part in pts]),
        "pts_seconds": np.concatenate(pts) if pts else np.empty(0, np.float64),
    }
    if any(row.source_mtime_ns for row in rows):
        columns |= {name: np.array([getattr(row, name) for row in rows], np.int64) for name in SOURCE_COLUMNS}
    for name in TEXT_COLUMNS:
        encoded = [getattr(row, name).encode("utf-8", "surrogatepass") for row in rows]
        columns[f"{name}_offsets"] = _offsets([len(part) for part in encoded])
        columns[f"{name}_utf8"] = np.frombuffer(b"".join(encoded), np.uint8)
    return columns


def _offsets(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)


# Readers that join arrays by the names of their axes (xarray) take no array without; U is one length per column.
_AXIS_NAMES = {
    "N": ("video",),
    "N+1": ("video_bound",),
    "N32": ("video", "digest_byte"),
    "NVT": ("video", "view", "tap"),
    "P": ("stored_frame",),
}


def index_files(columns: Mapping[str, np.ndarray], *, axis_names: bool = True) -> dict[str, bytes]:
    """Every file below `index/` but the group's own zarr.json, by path.

    axis_names: off for what stores had before their index named its axes.
    """
    files = {}
    for name in [*COLUMNS, *(name for name in SOURCE_COLUMNS if name in columns)]:
        values = columns[name]
        axes = _AXIS_NAMES.get((COLUMNS | SOURCE_COLUMNS)[name][1], (f"{name}_byte",))
        metadata, chunk = encode_small_array(values, axes if axis_names else None)
        files[f"index/{name}/zarr.json"] = metadata
        if chunk is not None:
            files[chunk_path(name, values.ndim)] = chunk
    return files


def chunk_path(name: str, n_axes: int) -> str:
    """The only chunk file of an index array."""
    return f"index/{name}/c" + ".0" * n_axes


@dataclass(frozen=True)
class Index:
    """The columns of a finished store's index, read on demand."""

    columns: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def text(self, name: str) -> list[str]:
        """One text column, as a list of N strings."""
        content, offsets = self[f"{name}_utf8"].tobytes(), self[f"{name}_offsets"].tolist()
        return [content[start:stop].decode("utf-8", "surrogatepass") for start, stop in pairwise(offsets)]

    def rows(self) -> list[VideoRow]:
        """The facts of every video, in store order."""
        texts = {name: self.text(name) for name in TEXT_COLUMNS}
        pts, offsets = self["pts_seconds"], self["pts_offsets"]
        nothing = np.zeros(len(self["ok"]), np.int64)
        source = {name: self.columns.get(name, nothing).tolist() for name in SOURCE_COLUMNS}
        return [
            VideoRow(
                status=OK if self["ok"][i] else FAILED,
                n_frames=int(self["n_frames"][i]),
                n_source_frames=int(self["n_source_frames"][i]),
                fps=float(self["fps"][i]),
                pts_seconds=tuple(pts[offsets[i] : offsets[i + 1]].tolist()),
                content_sha256=_hex(self["content_sha256"][i]),
                **{name: values[i] for name, values in (texts | source).items()},
            )
            for i in range(len(self["ok"]))
        ]


def _hex(digest: np.ndarray) -> str:
    return digest.tobytes().hex() if digest.any() else ""


def read_index(
    read_many: Callable[[Sequence[str]], Mapping[str, bytes]], *, n_videos: int, n_views: int, n_taps: int
) -> Index:
    """The index of a store, through a function that reads the files that exist; every array's checksum is tested.

    Raises:
        StoreCorruptError: a damaged or missing array.
    """
    sizes = {"N": (n_videos,), "N32": (n_videos, 32), "N+1": (n_videos + 1,), "NVT": (n_videos, n_views, n_taps)}
    n_axes = {"P": 1, "U": 1} | {axes: len(shape) for axes, shape in sizes.items()}
    every = COLUMNS | SOURCE_COLUMNS
    contents = read_many([chunk_path(name, n_axes[axes]) for name, (_, axes) in every.items()])
    columns: dict[str, np.ndarray] = {}
    for name, (dtype, axes) in every.items():
        if name in SOURCE_COLUMNS and chunk_path(name, 1) not in contents:
            continue
        if axes == "P":
            shape: tuple[int, ...] = (int(columns["pts_offsets"][-1]),)
        elif axes == "U":
            shape = (int(columns[name.replace("_utf8", "_offsets")][-1]),)
        else:
            shape = sizes[axes]
        path = chunk_path(name, len(shape))
        # An empty array has no chunk; a missing chunk of any other fails its length.
        content = contents.get(path, b"") if math.prod(shape) else bytes(4)
        columns[name] = decode_small_array(content, dtype=dtype, shape=shape, path=path)
    return Index(columns)
