"""What every layout of other programs' features is read into: videos with their features not yet read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vidfeat.video.source.rows import some, split_name

FLOATS = ("float16", "float32", "float64")
# What programs call the array that holds the features, where several arrays belong to one video.
FEATURE_NAMES = (
    *("features", "feature", "feats", "feat", "clip_features", "image_features", "frame_features"),
    *("clip_embeddings", "image_embeddings", "embeddings", "embedding", "emb", "clip", "pooled"),
)


@dataclass(frozen=True)
class FoundVideo:
    """One video's features where another program left them.

    Attributes:
        id: its key in the store.
        folder: of the class, where folders (or groups of an HDF5 file) are classes; "" for none.
        read: gives the array, `shape` of `dtype`; may raise OSError or ValueError.
        shape: [F, ...], a row per frame, or [E] for a video that is one vector; () for a failed one.
        reason, detail: why it cannot be used, in the words of a store's failed videos; "" where it can.
        times: gives the frames' times in seconds and the video's frame rate, both empty or 0 where unknown.
        texts: what is written about the video (a caption, fields of its JSON), which may hold its class.
    """

    id: str
    folder: str
    read: Callable[[], np.ndarray] = field(repr=False)
    shape: tuple[int, ...] = ()
    dtype: str = ""
    reason: str = ""
    detail: str = ""
    split: str = ""
    group: str = ""
    label: str = ""
    times: Callable[[], tuple[tuple[float, ...], float]] = field(default=lambda: ((), 0.0), repr=False)
    texts: Callable[[], Mapping[str, Any]] = field(default=dict, repr=False)

    @property
    def ok(self) -> bool:
        return not self.reason

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Of one frame."""
        return self.shape[1:] if len(self.shape) > 1 else self.shape

    @property
    def n_frames(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1


@dataclass(frozen=True)
class Found:
    """Every video of one source.

    Attributes:
        layout: what wrote it, in words.
        files: absolute path of every file whose bytes decide the numbers, by the name it has in the fingerprint.
        notes: what was left out, or read in a way that a person should know of.
    """

    layout: str
    videos: tuple[FoundVideo, ...]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, layout: str, videos: Iterable[FoundVideo], files: Mapping[str, str], notes: Iterable[str]) -> Found:
        """The same, its videos given splits and classes by their folders."""
        return cls(layout, tuple(with_splits_and_classes(videos)), files, tuple(notes))


def unusable(shape: tuple[int, ...] | None, dtype: np.dtype) -> tuple[str, str] | None:
    """Why an array is no video's features: a reason of a store's failed videos, and words behind its name; or None."""
    if dtype.name not in FLOATS or not shape or 0 in shape[1:]:
        return "invalid_data", f"is {dtype} {list(shape or ())}, not floats [F E]"
    return ("no_frames", f"is empty: {list(shape)}") if shape[0] == 0 else None


def failed(video_id: str, folder: str, reason: str, detail: str) -> FoundVideo:
    """A video whose features cannot be used."""
    return FoundVideo(video_id, folder, read=_nothing, reason=reason, detail=detail)


def _nothing() -> np.ndarray:
    raise ValueError("a failed video has no features")


def with_splits_and_classes(videos: Iterable[FoundVideo]) -> list[FoundVideo]:
    """The videos, sorted by id, with what their folders say: `train/walk` is the split train and the class walk.

    Folders that all videos share are no class: `out/clip/ViT-B_32` of video_features.
    """
    videos = sorted(videos, key=lambda video: video.id)
    parts = [tuple(filter(None, video.folder.split("/"))) for video in videos]
    has_splits = bool(parts) and all(own and split_name(own[0]) for own in parts)
    splits = [split_name(own[0]) or "" if has_splits else "" for own in parts]
    parts = [own[1:] if has_splits else own for own in parts]
    n_shared = _n_shared(parts)
    return [
        replace(video, label=video.label or "/".join(own[n_shared:]), split=video.split or split)
        for video, own, split in zip(videos, parts, splits, strict=True)
    ]


def _n_shared(parts: Sequence[tuple[str, ...]]) -> int:
    """How many folders all videos have in common, from the outermost; none of a single video's."""
    if len(parts) < 2:
        return 0
    levels = zip(*parts, strict=False)
    return next((depth for depth, names in enumerate(levels) if len(set(names)) > 1), min(map(len, parts)))


def chosen(names: Sequence[str], key: str | None) -> str | None:
    """Which of several arrays of one video are its features: the one called `key`, else by name; None for none."""
    if key is not None:
        return key if key in names else None
    if len(names) == 1:
        return names[0]
    return next((name for name in FEATURE_NAMES if name in names), None)


def counted(kind: str, cases: Sequence[str]) -> list[str]:
    """One note, or none."""
    return [f"{len(cases)} x {kind}: {some(cases)}"] if cases else []
