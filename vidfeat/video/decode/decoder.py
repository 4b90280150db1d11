"""What a decoder must offer. One file `with_NAME.py` is one decoder; `decoders.py` lists them all."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vidfeat.video.decode.failures import failure
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe
from vidfeat.video.sampling import SamplingPolicy, sample_indices


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures [F H W 3] uint8, their times [F] in seconds, and the number of frames of the whole video."""

    pixels: np.ndarray
    pts_seconds: np.ndarray
    n_frames: int

    @classmethod
    def none(cls, n_frames: int) -> Pictures:
        """For a video of `n_frames` frames that does not have all that were asked for."""
        return cls(np.empty((0, 0, 0, 3), dtype=np.uint8), np.empty(0), n_frames)


class Decoder(Protocol):
    """One decoder.

    Attributes:
        name: as `decode(decoder=name)` and stores spell it; of the package too, as a rule.
        use: when this decoder is taken, in a few words for `vidfeat doctor`.
        is_alone: PyAV never steps in for a file that this one is not to be trusted with.
    """

    name: str
    use: str
    is_alone: bool = True

    def version(self) -> str:
        """Name and version as stores record them: "decord 0.6.0"; an exception where it cannot be imported."""
        return f"{self.name} {importlib.import_module(self.name).__version__}"

    def doubts(self, facts: Probe) -> list[str]:
        """Why this decoder cannot be trusted with a file; empty when it can."""
        return []

    def read_pictures(self, path: str, indices: list[int], *, deadline: Deadline) -> Pictures:
        """The frames at `indices` as the decoder gives them, unchecked; `Pictures.none` if one is past the end.

        Raises:
            Exception: whatever the decoder finds wrong.
        """
        ...

    def read(self, facts: Probe, policy: SamplingPolicy, seed: int, *, deadline: Deadline) -> Frames | None:
        """The sampled frames, checked against the packets; None to leave the file to PyAV.

        Raises:
            DecodeError: the file is bad.
        """
        indices = sample_indices(policy, n_source_frames=facts.n_packets, fps=facts.fps, seed=seed)
        pictures = self.read_pictures(facts.path, indices.tolist(), deadline=deadline)
        deadline.check()
        if pictures.n_frames != facts.n_frames_expected:
            got = f"{pictures.n_frames} frames by {self.name}, {facts.n_frames_expected} by the packets"
            raise failure("invalid_data", facts.path, got)
        times, n_frames = pictures.pts_seconds, pictures.n_frames
        return Frames(np.ascontiguousarray(pictures.pixels), indices, times, n_frames, facts.fps, self.version())
