"""What decoding hands on: frames, and where in the video they come from."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from vidfeat.errors import DecodeError, explain


@dataclass(frozen=True, eq=False)
class Frames:
    """Sampled frames of one video.

    Attributes:
        pixels: [F H W 3] uint8, RGB, upright (rotation applied); H and W as stored, whatever the shape of a pixel.
        indices: [F] int64, in presentation order, in the half-open range [0, n_source_frames).
        pts_seconds: [F] float64, the presentation time of each frame as the file gives it: the first need not be 0.
        n_source_frames: frames of the whole video.
        fps: mean frame rate in frames per second.
        decoder: which decoder read it, with its version: "decord 0.6.0".

    Raises:
        ValueError: the axes do not fit together.
    """

    pixels: np.ndarray
    indices: np.ndarray
    pts_seconds: np.ndarray
    n_source_frames: int
    fps: float
    decoder: str

    def __post_init__(self) -> None:
        problems = []
        count = len(self.indices)
        if (
            self.pixels.dtype != np.uint8
            or self.pixels.ndim != 4
            or self.pixels.shape[0] != count
            or self.pixels.shape[3] != 3
        ):
            problems.append(f"pixels {list(self.pixels.shape)} {self.pixels.dtype} for [{count} H W 3] uint8")
        if self.indices.dtype != np.int64 or self.indices.ndim != 1:
            problems.append(f"indices {list(self.indices.shape)} {self.indices.dtype} for [F] int64")
        elif count and not (self.indices.min() >= 0 and self.indices.max() < self.n_source_frames):
            problems.append(f"indices {self.indices.min()}..{self.indices.max()} outside [0, {self.n_source_frames})")
        if self.pts_seconds.dtype != np.float64 or self.pts_seconds.shape != (count,):
            problems.append(
                f"pts_seconds {list(self.pts_seconds.shape)} {self.pts_seconds.dtype} for [{count}] float64"
            )
        elif not np.isfinite(self.pts_seconds).all():
            problems.append("pts_seconds that are not finite")
        if problems:
            raise ValueError(explain("These frames do not fit together.", got="; ".join(problems)))


@dataclass(frozen=True)
class Deadline:
    """A point in time by which a video must be decoded; `check` is called between frames.

    A decoder that hangs inside one C call cannot be interrupted from its own process: whoever runs workers kills the
        worker.
    """

    path: str
    seconds: float | None
    start: float

    @classmethod
    def after(cls, path: str, seconds: float | None) -> Deadline:
        """A deadline `seconds` from now, or none."""
        return cls(path, seconds, time.monotonic())

    def check(self) -> None:
        """Nothing, or DecodeError("timeout") once the time is over."""
        if self.seconds is not None and time.monotonic() - self.start > self.seconds:
            raise DecodeError(
                explain(
                    "Decoding took too long.",
                    where=self.path,
                    expected=f"at most {self.seconds:g} s",
                    fix="Raise the limit, or re-encode the video with more key frames.",
                ),
                reason="timeout",
            )
