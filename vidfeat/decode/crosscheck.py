"""Do two decoders see the same frames?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vidfeat.decode.decoders import available_decoders
from vidfeat.decode.probe import probe
from vidfeat.decode.read import decode
from vidfeat.errors import DecodeError
from vidfeat.sampling import SamplingPolicy


@dataclass(frozen=True)
class Comparison:
    """Two decoders on one file.

    Attributes:
        path: the file.
        decoders: names of the two; the second is "" where only PyAV works here.
        chosen: what `decode` would use, and why.
        n_frames: frames compared.
        max_abs_difference: largest difference of a pixel's channel, 0 to 255.
        mean_abs_difference: over all pixels and channels.
        max_pts_difference_seconds: largest difference of a frame's presentation time.
        error: what the one that failed said; empty when both read the file.
    """

    path: str
    decoders: tuple[str, str]
    chosen: str
    n_frames: int = 0
    max_abs_difference: float = 0.0
    mean_abs_difference: float = 0.0
    max_pts_difference_seconds: float = 0.0
    error: str = ""

    @property
    def agrees(self) -> bool:
        """Both read the file and show the same frames: within rounding of the colour conversion, at the same times."""
        return not self.error and self.mean_abs_difference <= 1.0 and self.max_pts_difference_seconds <= 1e-3


def crosscheck(
    paths: Iterable[str | os.PathLike[str]], *, n: int = 20, decoders: tuple[str, str] | None = None, n_frames: int = 16
) -> list[Comparison]:
    """One Comparison for each of the first `n` paths: `n_frames` frames of each, evenly spaced, by two decoders.

    Args:
        decoders: default: PyAV against the first other decoder that works here.
    """
    pair = decoders or _default_pair()
    policy = SamplingPolicy("uniform", n_frames=n_frames)
    return [_compare(os.path.abspath(path), pair, policy) for path, _ in zip(paths, range(n), strict=False)]


def _default_pair() -> tuple[str, str]:
    others = [status.name for status in available_decoders() if status.works and status.name != "pyav"]
    return "pyav", others[0] if others else ""


def _compare(path: str, pair: tuple[str, str], policy: SamplingPolicy) -> Comparison:
    from vidfeat.decode.decoders import choose_decoder

    try:
        choice = choose_decoder(probe(path))
    except DecodeError as error:
        return Comparison(path, pair, "none", error=str(error))
    chosen = f"{choice.decoder}: {choice.why}"
    if not pair[1]:
        return Comparison(path, pair, chosen, error="only PyAV works here: nothing to compare it with")
    try:
        one, other = (decode(path, policy=policy, decoder=name) for name in pair)
    except DecodeError as error:
        return Comparison(path, pair, chosen, error=str(error))
    if one.pixels.shape != other.pixels.shape:
        return Comparison(path, pair, chosen, error=f"{list(one.pixels.shape)} and {list(other.pixels.shape)} pixels")
    difference = np.abs(one.pixels.astype(np.int16) - other.pixels)
    return Comparison(
        path,
        pair,
        chosen,
        n_frames=len(one.indices),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        max_pts_difference_seconds=float(np.abs(one.pts_seconds - other.pts_seconds).max()),
    )
