"""A commit: the bytes of one unit's shards, and the record that alone makes them part of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from vidfeat.errors import StoreCorruptError, StoreError, explain
from vidfeat.store.files import Content
from vidfeat.store.quantize import Quantized, cosine_and_error, quantize
from vidfeat.store.records import seal, unseal
from vidfeat.store.shards import crc32c, scales_layout, tap_layout
from vidfeat.store.spec import FORMAT_VERSION, StoreSpec, VideoRow, same_key
from vidfeat.store.unit_plan import PlannedTap, PlannedVideo, Unit
from vidfeat.store.values import storage_problem


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of an int8 tap that were quantised before, to be kept as they are.

    Attributes:
        quantized: int8 values and their scales.
        errors: for each (video, view), (smallest cosine, largest absolute error) as measured back then.
    """

    quantized: Quantized
    errors: tuple[tuple[float, float], ...]


# The rows of a tap: one float array, one per (video, view) in order, or int8 rows with their scales.
TapRows = np.ndarray | Sequence[np.ndarray] | QuantizedRows


@dataclass(frozen=True)
class FileRecord:
    """Size and sha256 of one file."""

    n_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: Content) -> FileRecord:
        return cls(len(content), hashlib.sha256(content).hexdigest())

    def to_json(self) -> dict[str, Any]:
        return {"n_bytes": self.n_bytes, "sha256": self.sha256}


@dataclass(frozen=True)
class CommittedVideo:
    """One video of a commit.

    Attributes:
        index: position of the video in the store.
        row_start: its first row, counted from the unit's first row; -1 when it failed.
        crc32c: for each tap, the crc32c of its rows in each view of the unit.
        int8_error: for each int8 tap and view, (smallest cosine, largest absolute error) of the quantisation.
    """

    index: int
    facts: VideoRow
    row_start: int
    crc32c: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    int8_error: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class CommitRecord:
    """What one commit put into the store: its unit, its files, and the videos in it, failures included."""

    unit: int
    view_start: int
    view_stop: int
    shards: Mapping[str, int]
    files: Mapping[str, FileRecord]
    videos: tuple[CommittedVideo, ...]
    fingerprint_sha256: str

    @property
    def n_failed(self) -> int:
        return sum(not video.facts.ok for video in self.videos)

    def to_bytes(self) -> bytes:
        """The sealed JSON of the commit file; equal records are equal bytes."""
        return seal(
            {
                "format": "vidfeat-commit",
                "format_version": FORMAT_VERSION,
                "unit": self.unit,
                "view_start": self.view_start,
                "view_stop": self.view_stop,
                "shards": dict(self.shards),
                "files": {path: file.to_json() for path, file in self.files.items()},
                "fingerprint_sha256": self.fingerprint_sha256,
                "videos": [
                    {
                        "index": video.index,
                        "row_start": video.row_start,
                        "crc32c": {tap: list(values) for tap, values in video.crc32c.items()},
                        "int8_error": {tap: [list(pair) for pair in pairs] for tap, pairs in video.int8_error.items()},
                        "facts": video.facts.to_json(),
                    }
                    for video in self.videos
                ],
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes, *, path: str) -> CommitRecord:
        """The record in a commit file. Raises: StoreCorruptError."""
        document = unseal(content, path=path)
        return cls(
            unit=document["unit"],
            view_start=document["view_start"],
            view_stop=document["view_stop"],
            shards=document["shards"],
            files={name: FileRecord(**file) for name, file in document["files"].items()},
            videos=tuple(
                CommittedVideo(
                    video["index"],
                    VideoRow.from_json(video["facts"]),
                    video["row_start"],
                    {tap: tuple(values) for tap, values in video["crc32c"].items()},
                    {tap: tuple((low, high) for low, high in pairs) for tap, pairs in video["int8_error"].items()},
                )
                for video in document["videos"]
            ),
            fingerprint_sha256=document["fingerprint_sha256"],
        )


def encode_commit(
    unit: Unit,
    *,
    spec: StoreSpec,
    taps: Mapping[str, PlannedTap],
    planned: Sequence[PlannedVideo],
    arrays: Mapping[str, TapRows],
    videos: Sequence[VideoRow],
) -> tuple[dict[str, Content], CommitRecord]:
    """The files of a unit, in memory, and the record that will vouch for them once `files` is filled in.

    Raises:
        StoreError: the arrays or facts are not those of this unit, or hold values that cannot be stored (all problems
            named).
    """
    _require_facts(unit, spec, planned, videos)
    stops = np.cumsum([video.n_frames for video in videos if video.ok for _ in range(unit.n_views)], dtype=np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), stops])
    items = list(pairwise(starts.tolist()))
    rows = _require_rows(unit, taps, arrays, int(starts[-1]))
    _require_storable(unit, taps, rows, items, [video.id for video in videos if video.ok])
    encoded = {name: _encode_tap(taps[name], spec, shard, rows[name], items) for name, shard in unit.shards.items()}
    contents = {path: content for one in encoded.values() for path, content in one.contents.items()}
    committed, n_ok = [], 0
    for index, video in zip(unit.video_indices, videos, strict=True):
        if not video.ok:
            committed.append(CommittedVideo(index, video, -1))
            continue
        own = slice(n_ok * unit.n_views, (n_ok + 1) * unit.n_views)
        checksums = {name: one.checksums[own] for name, one in encoded.items()}
        errors = {name: one.errors[own] for name, one in encoded.items() if one.errors}
        committed.append(CommittedVideo(index, video, items[own.start][0], checksums, errors))
        n_ok += 1
    record = CommitRecord(
        unit=unit.index,
        view_start=unit.view_start,
        view_stop=unit.view_stop,
        shards=dict(unit.shards),
        files={},
        videos=tuple(committed),
        fingerprint_sha256=spec.fingerprint.sha256,
    )
    return contents, record


@dataclass(frozen=True)
class _EncodedTap:
    """One tap of a unit: its files, and for each (video, view) the crc32c and the error of the quantisation."""

    contents: dict[str, Content]
    checksums: tuple[int, ...]
    errors: tuple[tuple[float, float], ...]


def _encode_tap(
    tap: PlannedTap, spec: StoreSpec, shard: int, rows: np.ndarray | QuantizedRows, items: list[tuple[int, int]]
) -> _EncodedTap:
    layout = tap_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows, compressor=spec.compressor)
    contents: dict[str, Content] = {}
    errors: tuple[tuple[float, float], ...] = ()
    if tap.spec.dtype != "int8":
        assert isinstance(rows, np.ndarray)
        stored = rows
    else:
        kept = rows if isinstance(rows, QuantizedRows) else _quantize(rows, items)
        stored, errors = kept.quantized.values, kept.errors
        scales = scales_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows)
        contents[scales.shard_path(shard)], _ = scales.encode(kept.quantized.scales)
    contents[layout.shard_path(shard)], checksums = layout.encode(stored)
    if spec.n_frames is None:  # an inner chunk is one frame, and a checksum is wanted of every (video, view)
        stored = stored.astype(tap.spec.dtype, copy=False)
        checksums = [crc32c(stored[start:stop]) for start, stop in items]
    return _EncodedTap(contents, tuple(checksums), errors)


def _quantize(rows: np.ndarray, items: list[tuple[int, int]]) -> QuantizedRows:
    whole = quantize(rows)
    parts = [(rows[a:b], Quantized(whole.values[a:b], whole.scales[a:b])) for a, b in items]
    return QuantizedRows(whole, tuple(cosine_and_error(exact, part) for exact, part in parts))


def _require_storable(
    unit: Unit,
    taps: Mapping[str, PlannedTap],
    rows: Mapping[str, np.ndarray | QuantizedRows],
    items: list[tuple[int, int]],
    ids: list[str],
) -> None:
    problems = []
    for name, values in rows.items():
        if isinstance(values, QuantizedRows):
            problem = storage_problem(values.quantized.scales, "float32")
            problems += [f"scales of {name}: {problem}"] if problem else []
            continue
        if storage_problem(values, taps[name].spec.dtype) is None:
            continue
        for item, (start, stop) in enumerate(items):
            problem = storage_problem(values[start:stop], taps[name].spec.dtype)
            if problem:
                view = unit.view_start + item % unit.n_views
                problems.append(f"{name} of {ids[item // unit.n_views]!r}, view {view}: {problem}")
    if problems:
        raise _unusable(unit, problems)


def _require_facts(unit: Unit, spec: StoreSpec, planned: Sequence[PlannedVideo], videos: Sequence[VideoRow]) -> None:
    problems = []
    if len(videos) != len(planned):
        problems.append(f"{len(videos)} videos for the {len(planned)} of the unit")
    for video, plan in zip(videos, planned, strict=False):
        if not same_key(video, plan):
            problems.append(f"{(video.id, video.label, video.split, video.group)} where the plan has {tuple(plan)}")
        if video.ok and spec.n_frames is not None and video.n_frames != spec.n_frames:
            problems.append(f"{video.id!r} has {video.n_frames} frames in a store of {spec.n_frames} per video")
    n_rows = sum(video.n_frames for video in videos) * unit.n_views
    if n_rows > unit.n_rows:
        problems.append(
            f"{n_rows} rows for a shard of {unit.n_rows}: the frame bounds given to the plan were too small"
        )
    if problems:
        raise _unusable(unit, problems)


def _require_rows(
    unit: Unit, taps: Mapping[str, PlannedTap], arrays: Mapping[str, TapRows], n_rows: int
) -> dict[str, np.ndarray | QuantizedRows]:
    problems: list[str] = []
    rows: dict[str, np.ndarray | QuantizedRows] = {}
    if set(arrays) != set(unit.taps):
        problems.append(f"taps {sorted(arrays)} for a unit of {sorted(unit.taps)}")
    for name in sorted(set(arrays) & set(unit.taps)):
        tap, given = taps[name].spec, arrays[name]
        if isinstance(given, QuantizedRows):
            if tap.dtype != "int8":
                problems.append(f"{name} is given as int8, the tap is {tap.dtype}")
            rows[name], shape = given, given.quantized.values.shape
        else:
            if not isinstance(given, np.ndarray):
                given = np.concatenate(given) if len(given) else np.empty((0, *tap.row_shape), np.float32)
            rows[name], shape = given, given.shape
        if shape != (n_rows, *tap.row_shape):
            problems.append(f"{name} has the shape {shape}, its videos need {(n_rows, *tap.row_shape)}")
    if problems:
        raise _unusable(unit, problems)
    return rows


def _unusable(unit: Unit, problems: Sequence[str]) -> StoreError:
    shown = "; ".join(problems[:20]) + (f"; and {len(problems) - 20} more" if len(problems) > 20 else "")
    return StoreError(
        explain(
            "this unit cannot be committed",
            where=f"unit {unit.index}",
            got=shown,
            fix="record a video that cannot be used as VideoRow.failed(...) and leave out its rows",
        )
    )


def require_commit_of(record: CommitRecord, unit: Unit, *, fingerprint_sha256: str, path: str) -> None:
    """Returns when the record is of that unit of that store.

    Raises:
        StoreCorruptError: it is intact, but of another plan.
    """
    expected = (unit.index, dict(unit.shards), unit.video_indices, fingerprint_sha256)
    got = (record.unit, dict(record.shards), tuple(v.index for v in record.videos), record.fingerprint_sha256)
    if expected != got:
        raise StoreCorruptError(
            explain(
                "a commit record belongs to another plan",
                where=path,
                expected=f"unit {unit.index}, {len(unit.video_indices)} videos, fingerprint {fingerprint_sha256[:12]}",
                got=f"unit {record.unit}, {len(record.videos)} videos, fingerprint {record.fingerprint_sha256[:12]}",
                fix="do not copy files between stores; discard this unit and extract it again",
            )
        )
