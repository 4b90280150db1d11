"""decord: random access to files it can be trusted with; checked against the packets' own times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe
from vidfeat.video.sampling import SamplingPolicy, sample_indices

_FRAMES_PER_CALL = 16  # between two looks at the clock


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures [F H W 3] uint8, their times [F] in seconds, and the number of frames of the whole video."""

    pixels: np.ndarray
    pts_seconds: np.ndarray
    n_frames: int


def read_pictures(path: str, indices: list[int], *, deadline: Deadline | None = None) -> Pictures:
    """The frames at `indices`, each decoded once.

    Raises:
        decord.DECORDError: whatever decord finds wrong.
    """
    import decord

    decord.logging.set_level(decord.logging.QUIET)
    reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
    unique = sorted(set(indices))
    if unique and unique[-1] >= len(reader):
        return Pictures(np.empty((0, 0, 0, 3), dtype=np.uint8), np.empty(0), len(reader))
    parts = []
    for start in range(0, len(unique), _FRAMES_PER_CALL):
        if deadline is not None:
            deadline.check()
        parts.append(reader.get_batch(unique[start : start + _FRAMES_PER_CALL]).asnumpy())
    rows = np.searchsorted(unique, indices)
    times = np.array([float(reader.get_frame_timestamp(index)[0]) for index in unique], dtype=np.float64)
    return Pictures(np.concatenate(parts)[rows], times[rows], len(reader))


def read(facts: Probe, policy: SamplingPolicy, seed: int, *, deadline: Deadline) -> Frames | None:
    """The sampled frames, or None where decord fails on the file or disagrees with its packets.

    The times handed on are the packets', which decord rounds to float32.
    """
    import decord

    from vidfeat.video.decode.decoders import decoder_version

    indices = sample_indices(policy, n_source_frames=facts.n_packets, fps=facts.fps, seed=seed)
    try:
        pictures = read_pictures(facts.path, indices.tolist(), deadline=deadline)
    except decord.DECORDError:
        return None
    shape = (len(indices), facts.height, facts.width, 3)
    if (
        pictures.n_frames != facts.n_packets
        or pictures.pixels.shape != shape
        or len(facts.pts_seconds) != facts.n_packets
    ):
        return None
    times = facts.pts_seconds[indices]
    half_a_frame = 0.5 / facts.fps if facts.fps else 0.0
    if np.abs((pictures.pts_seconds - pictures.pts_seconds[0]) - (times - times[0])).max() > half_a_frame:
        return None
    return Frames(
        pixels=pictures.pixels,
        indices=indices,
        pts_seconds=times,
        n_source_frames=facts.n_packets,
        fps=facts.fps,
        decoder=decoder_version("decord"),
    )
