"""Do two decoders see the same frames?"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vidfeat.errors import DecodeError, explain
from vidfeat.video.decode.decoders import DECODERS, available_decoders, choose_decoder
from vidfeat.video.decode.frames import Deadline
from vidfeat.video.decode.probe import probe
from vidfeat.video.decode.read import decode
from vidfeat.video.manifest import load_manifest
from vidfeat.video.sampling import SamplingPolicy


@dataclass(frozen=True)
class Comparison:
    """Two decoders on one file.

    Attributes:
        path: the file.
        decoders: names of the two; the second is "" where only PyAV works here.
        chosen: what `decode(decoder=<the second>)` would use, and why.
        n_frames: frames compared.
        max_abs_difference: largest difference of a pixel's channel, 0 to 255.
        mean_abs_difference: over all pixels and channels.
        max_pts_difference_seconds: largest difference of a frame's presentation time, counted from the first frame
            compared: decord counts from 0 where the file starts later.
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
    paths: Iterable[str | os.PathLike[str]],
    *,
    n: int = 20,
    decoders: tuple[str, str] | None = None,
    n_frames: int = 16,
) -> list[Comparison]:
    """One Comparison for each of the first `n` paths: `n_frames` frames of each, evenly spaced, by two decoders.

    The second decoder is asked for the frames as it is, without the checks that `decode` puts around it: what it gets
        wrong is to be seen.

    Args:
        decoders: default: PyAV against the first other decoder that works here. The first is "pyav".

    Raises:
        ValueError: a pair that does not start with "pyav", or one that does not work here.
    """
    others = [status.name for status in available_decoders() if status.works and status.name != "pyav"]
    pair = decoders or ("pyav", others[0] if others else "")
    if pair[0] != "pyav" or pair[1] not in (*others, ""):
        expected = f"pyav and one of {others}"
        raise ValueError(explain("These decoders cannot be compared.", expected=expected, got=pair))
    return [_compare(os.path.abspath(path), pair, n_frames) for path, _ in zip(paths, range(n), strict=False)]


def crosscheck_source(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    strict: bool = False,
    limit: int | None = None,
    n_videos: int = 20,
    seed: int = 0,
) -> list[Comparison]:
    """`crosscheck` of `n_videos` videos drawn at random from a source's (from its first `limit` ones)."""
    items = load_manifest(source, root=root, classes=classes, strict=strict).items[:limit]
    drawn = random.Random(seed).sample(range(len(items)), min(n_videos, len(items)))
    return crosscheck([items[index].path for index in sorted(drawn)], n=n_videos)


def _compare(path: str, pair: tuple[str, str], n_frames: int) -> Comparison:
    try:
        facts = probe(path)
        reference = decode(path, policy=SamplingPolicy("uniform", n_frames=n_frames), decoder=pair[0])
    except DecodeError as error:
        return Comparison(path, pair, "none", error=str(error))
    choice = choose_decoder(facts, preferred=pair[1])
    used = f"{choice.decoder}: {choice.why}"
    if not pair[1]:
        return Comparison(path, pair, used, error="only PyAV works here: nothing to compare it with")
    try:
        deadline = Deadline.after(path, None)
        other = DECODERS[pair[1]].read_pictures(path, reference.indices.tolist(), deadline=deadline)
    except Exception as error:  # whatever a decoder raises is what it has to say about this file
        return Comparison(path, pair, used, error=f"{pair[1]}: {type(error).__name__}: {error}")
    if other.n_frames != reference.n_source_frames or other.pixels.shape != reference.pixels.shape:
        seen = f"{other.n_frames} frames {list(other.pixels.shape[1:])}"
        expected = f"{reference.n_source_frames} frames {list(reference.pixels.shape[1:])}"
        return Comparison(path, pair, used, error=f"{pair[1]} sees {seen}, PyAV {expected}")
    difference = np.abs(reference.pixels.astype(np.int16) - other.pixels)
    late = _from_first(reference.pts_seconds) - _from_first(other.pts_seconds)
    return Comparison(
        path,
        pair,
        used,
        n_frames=len(reference.indices),
        max_abs_difference=float(difference.max()),
        mean_abs_difference=float(difference.mean()),
        max_pts_difference_seconds=float(np.abs(late).max()),
    )


def _from_first(seconds: np.ndarray) -> np.ndarray:
    return seconds - seconds[0]
