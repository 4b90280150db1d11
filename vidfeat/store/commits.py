"""A commit: the bytes of one unit's shards, and the record that alone makes them part of the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidfeat.errors import StoreCorruptError, StoreError, explain
from vidfeat.store.plan import PlannedTap, PlannedVideo, Unit
from vidfeat.store.quantize import cosine_and_error, quantize
from vidfeat.store.records import seal, unseal
from vidfeat.store.shards import crc32c, scales_layout, tap_layout
from vidfeat.store.spec import FORMAT_VERSION, StoreSpec, VideoRow, same_key, storage_problem

# The rows of a tap: one array, or one per (video, view) in order.
TapRows = np.ndarray | Sequence[np.ndarray]


@dataclass(frozen=True)
class FileRecord:
    """Size and sha256 of one file."""

    n_bytes: int
    sha256: str

    @classmethod
    def of(cls, content: bytes | bytearray) -> FileRecord:
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
) -> tuple[dict[str, bytearray], CommitRecord]:
    """The files of a unit, in memory, and the record that will vouch for them.

    Raises:
        StoreError: the arrays or facts are not those of this unit, or hold values that cannot be stored (all problems
            named).
    """
    _require_facts(unit, spec, planned, videos)
    lengths = np.array([video.n_frames for video in videos for _ in range(unit.n_views)], np.int64)
    stops = np.cumsum(lengths)
    starts = stops - lengths
    rows = _require_rows(unit, taps, arrays, int(stops[-1]) if len(stops) else 0)
    contents: dict[str, bytearray] = {}
    checksums: dict[str, list[int]] = {}
    errors: dict[str, list[tuple[float, float]]] = {}
    problems: list[str] = []
    for name, shard in unit.shards.items():
        tap, values = taps[name], rows[name]
        for item, (start, stop) in enumerate(zip(starts, stops, strict=True)):
            problem = storage_problem(values[start:stop], tap.spec.dtype)
            if problem:
                video = videos[item // unit.n_views]
                problems.append(f"{name} of {video.id!r}, view {unit.view_start + item % unit.n_views}: {problem}")
        if problems:
            continue
        layout = tap_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows, compressor=spec.compressor)
        if tap.spec.dtype == "int8":
            quantized = quantize(values)
            scales = scales_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows)
            contents[scales.shard_path(shard)] = scales.encode(quantized.scales)
            errors[name] = [
                cosine_and_error(values[a:b], type(quantized)(quantized.values[a:b], quantized.scales[a:b]))
                for a, b in zip(starts, stops, strict=True)
            ]
            values = quantized.values
        stored = values.astype(tap.spec.dtype, copy=False)
        contents[layout.shard_path(shard)] = layout.encode(stored)
        checksums[name] = [crc32c(stored[a:b]) for a, b in zip(starts, stops, strict=True)]
    if problems:
        raise _unusable(unit, problems)
    record = CommitRecord(
        unit=unit.index,
        view_start=unit.view_start,
        view_stop=unit.view_stop,
        shards=dict(unit.shards),
        files={path: FileRecord.of(content) for path, content in contents.items()},
        videos=tuple(
            _committed(unit, position, video, starts, checksums, errors) for position, video in enumerate(videos)
        ),
        fingerprint_sha256=spec.fingerprint.sha256,
    )
    return contents, record


def _committed(
    unit: Unit,
    position: int,
    video: VideoRow,
    starts: np.ndarray,
    checksums: Mapping[str, list[int]],
    errors: Mapping[str, list[tuple[float, float]]],
) -> CommittedVideo:
    index = unit.video_indices[position]
    if not video.ok:
        return CommittedVideo(index, video, -1)
    items = slice(position * unit.n_views, (position + 1) * unit.n_views)
    return CommittedVideo(
        index,
        video,
        int(starts[items.start]),
        {name: tuple(values[items]) for name, values in checksums.items()},
        {name: tuple(pairs[items]) for name, pairs in errors.items()},
    )


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
) -> dict[str, np.ndarray]:
    problems, rows = [], {}
    if set(arrays) != set(unit.taps):
        problems.append(f"taps {sorted(arrays)} for a unit of {sorted(unit.taps)}")
    for name in sorted(set(arrays) & set(unit.taps)):
        shape = taps[name].spec.row_shape
        given = arrays[name]
        if isinstance(given, np.ndarray):
            rows[name] = given
        else:
            rows[name] = np.concatenate(given) if len(given) else np.empty((0, *shape), np.float32)
        if rows[name].shape != (n_rows, *shape):
            problems.append(f"{name} has the shape {rows[name].shape}, its videos need {(n_rows, *shape)}")
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
