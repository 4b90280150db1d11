"""Which frames of a video are read: pure functions of (number of frames, fps, policy, seed).

Indices count frames in presentation order, the first shown frame being 0. All formulas are integer arithmetic where
they can be, so that the same policy gives the same frames on every machine.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vidfeat.errors import explain

SAMPLING_KINDS = ("uniform", "segments-middle", "segments-first", "segments-random", "fps", "every-nth", "dense")
_FIXED_LENGTH = ("uniform", "segments-middle", "segments-first", "segments-random", "dense")


@dataclass(frozen=True)
class SamplingPolicy:
    """Which frames to take; serialised into a store's fingerprint.

    Attributes:
        kind: one of SAMPLING_KINDS:
            `uniform`          n_frames from the first to the last frame, evenly spaced, both ends included;
            `segments-middle`  the middle frame of each of n_frames equal segments (TSN's test sampling);
            `segments-first`   the first frame of each segment;
            `segments-random`  one frame drawn from each segment, by the seed (TSN's training sampling);
            `fps`              the frame on screen at 0, 1/rate, 2/rate, ... seconds: the count depends on the video;
            `every-nth`        frames 0, stride, 2 stride, ...: the count depends on the video;
            `dense`            n_clips windows of n_frames frames, stride apart inside a window, windows evenly spread.
        n_frames: frames per video (per window for `dense`); None for `fps` and `every-nth`.
        rate: frames per second to take, for `fps` alone.
        stride: distance between frames, for `every-nth` and `dense`.
        n_clips: windows per video, for `dense` alone.

    Raises:
        ValueError: a field is missing, not positive, or has no meaning for this kind; all such problems at once.
    """

    kind: str = "uniform"
    n_frames: int | None = None
    rate: float | None = None
    stride: int | None = None
    n_clips: int | None = None

    def __post_init__(self) -> None:
        problems = self._problems()
        if problems:
            raise ValueError(explain("This sampling policy does not make sense.", where=self, got="; ".join(problems)))

    def _problems(self) -> list[str]:
        if self.kind not in SAMPLING_KINDS:
            return [f"kind {self.kind!r} is not one of {', '.join(SAMPLING_KINDS)}"]
        needs = {
            "n_frames": self.kind in _FIXED_LENGTH,
            "rate": self.kind == "fps",
            "stride": self.kind in ("every-nth", "dense"),
            "n_clips": self.kind == "dense",
        }
        problems = []
        for name, needed in needs.items():
            value = getattr(self, name)
            if needed and value is None:
                problems.append(f"{name} is needed for kind {self.kind!r}")
            elif not needed and value is not None:
                problems.append(f"{name}={value} has no meaning for kind {self.kind!r}")
            elif value is not None and not _is_positive(value, whole=name != "rate"):
                problems.append(f"{name}={value!r} must be a positive {'number' if name == 'rate' else 'integer'}")
        return problems

    @property
    def n_sampled(self) -> int | None:
        """Frames taken from every video, or None where the count depends on the video."""
        if self.kind not in _FIXED_LENGTH or self.n_frames is None:
            return None
        return self.n_frames * (self.n_clips or 1)

    @property
    def is_random(self) -> bool:
        """Whether the seed matters."""
        return self.kind == "segments-random"

    def to_json(self) -> dict[str, Any]:
        """The fields that have a meaning for this kind, as plain JSON values."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SamplingPolicy:
        """The policy `to_json` wrote.

        Raises:
            ValueError: an unknown key, or values that make no policy.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ValueError(explain("Unknown sampling keys.", expected=[f.name for f in fields(cls)], got=unknown))
        return cls(**values)


def sample_indices(policy: SamplingPolicy, *, n_source_frames: int, fps: float = 0.0, seed: int = 0) -> np.ndarray:
    """Indices [F] int64 of the frames to read, each in the half-open range [0, n_source_frames).

    Non-decreasing; for `dense`, non-decreasing inside each window (windows of a short video overlap, so the next one
    may start earlier). A video with fewer frames than the policy asks for repeats frames, exactly as the formula gives
    it:

        uniform          floor(i (n - 1) / (F - 1)); the middle frame floor((n - 1) / 2) when F = 1
        segments-middle  floor((2 i + 1) n / (2 F))
        segments-first   floor(i n / F)
        segments-random  uniform over [floor(i n / F), floor((i + 1) n / F)), the first of it where that range is empty
        fps              floor(k fps / rate) for every k with k / rate < n / fps
        every-nth        k stride
        dense            window j starts at floor(j max(0, n - W) / (n_clips - 1)), one window in the middle, where
                         W = (n_frames - 1) stride + 1 is its length;
                         positions past the end repeat the last frame

    `fps` uses the video's mean frame rate; for variable frame rate files the stored PTS tell what was really read.

    Args:
        fps: mean frame rate of the video in frames per second; only `fps` needs it.
        seed: only `segments-random` uses it; `video_seed` makes one per video.

    Raises:
        ValueError: the video has no frames, or `fps` sampling without a known frame rate.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016; `segments-middle` is `_get_test_clips` of mmaction2's
    SampleFrames for a clip length of 1. For `segments-random`, mmaction2 sorts F draws over the whole video when it is
    shorter than 2 F frames; here a frame never leaves its segment.
    """
    if n_source_frames < 1:
        raise ValueError(
            explain("Nothing can be sampled from a video without frames.", got=f"n_source_frames={n_source_frames}")
        )
    if policy.kind == "fps" and not (math.isfinite(fps) and fps > 0):
        raise ValueError(
            explain(
                "Sampling by fps needs the video's frame rate.",
                expected="fps > 0",
                got=fps,
                fix="Sample by every-nth or uniform.",
            )
        )
    n = n_source_frames
    if policy.kind == "every-nth":
        return np.arange(0, n, policy.stride, dtype=np.int64)
    if policy.kind == "fps":
        return _at_rate(n, fps, float(policy.rate or 0.0))
    if policy.kind == "dense":
        return _dense(n, int(policy.n_frames or 0), int(policy.stride or 0), int(policy.n_clips or 0))
    return _one_per_segment(policy.kind, n, int(policy.n_frames or 0), seed)


def video_seed(seed: int, video_id: str) -> int:
    """A seed in [0, 2**63) that depends on the run's seed and the video's id alone: not on order, worker or machine."""
    digest = hashlib.sha256(f"{seed}\0{video_id}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def unit_draws(seed: int, count: int) -> np.ndarray:
    """Draws [count] float64, uniform over [0, 1), the same in every release of NumPy.

    NumPy promises that of its bit generators, not of `Generator`'s methods (NEP 19): the 53 high bits of PCG64's words.
    """
    return (np.random.PCG64(seed).random_raw(count) >> np.uint64(11)) * 2.0**-53


def _one_per_segment(kind: str, n: int, count: int, seed: int) -> np.ndarray:
    i = np.arange(count, dtype=np.int64)
    if kind == "uniform":
        return i * (n - 1) // (count - 1) if count > 1 else np.array([(n - 1) // 2], dtype=np.int64)
    if kind == "segments-middle":
        return (2 * i + 1) * n // (2 * count)
    first = i * n // count
    if kind == "segments-first":
        return first
    lengths = np.maximum((i + 1) * n // count - first, 1)
    return first + np.floor(unit_draws(seed, count) * lengths).astype(np.int64)


def _at_rate(n: int, fps: float, rate: float) -> np.ndarray:
    # The small term keeps k * fps / rate from falling just under an integer it equals.
    count = max(1, math.ceil(n * rate / fps - 1e-6))
    indices = np.floor(np.arange(count, dtype=np.float64) * fps / rate + 1e-6).astype(np.int64)
    return np.minimum(indices, n - 1)


def _dense(n: int, n_frames: int, stride: int, n_clips: int) -> np.ndarray:
    room = max(0, n - ((n_frames - 1) * stride + 1))
    starts = (
        np.arange(n_clips, dtype=np.int64) * room // (n_clips - 1)
        if n_clips > 1
        else np.array([room // 2], dtype=np.int64)
    )
    indices = starts[:, None] + np.arange(n_frames, dtype=np.int64) * stride
    return np.minimum(indices, n - 1).reshape(-1)


def _is_positive(value: object, *, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return False
    return bool(value > 0 and math.isfinite(value))  # type: ignore[operator, arg-type]
