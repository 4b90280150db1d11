"""Sampled frames of a video: probe, choose a decoder, read, and check that what was read is what the file holds."""

from __future__ import annotations

import os

import numpy as np

from vidfeat.errors import explain
from vidfeat.video.decode import pick
from vidfeat.video.decode.decoders import DECODERS, choose_decoder, decoder_version
from vidfeat.video.decode.failures import failure, translate
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe, probe
from vidfeat.video.sampling import SamplingPolicy, sample_indices

_EVERY_FRAME = SamplingPolicy("every-nth", stride=1)


def decode(
    path: str | os.PathLike[str],
    *,
    policy: SamplingPolicy,
    seed: int = 0,
    decoder: str = "auto",
    timeout_seconds: float | None = None,
) -> Frames:
    """The frames of the video at `path` that `policy` samples.

    Readers are opened in the calling process and closed before returning; each decodes with one thread.

    Args:
        seed: for random policies; see `vidfeat.video.sampling.video_seed`.
        decoder: "auto" and "pyav" read every file with PyAV; "decord" reads with decord those that `choose_decoder`
            trusts it with, the others with PyAV; "torchcodec" reads with torchcodec alone.
        timeout_seconds: looked at between frames; a call that hangs inside a decoder is the worker pool's to kill.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
        ValueError: an unknown decoder.
    """
    if decoder not in DECODERS:
        raise ValueError(explain("Unknown decoder.", expected=" | ".join(DECODERS), got=decoder))
    deadline = Deadline.after(str(path), timeout_seconds)
    facts = probe(path)
    try:
        deadline.check()
        refuse_broken(facts)
        if decoder == "torchcodec":
            from vidfeat.video.decode import with_torchcodec

            return with_torchcodec.read(facts, policy, seed, deadline=deadline)
        if choose_decoder(facts, preferred=decoder).decoder == "decord":
            from vidfeat.video.decode import with_decord

            frames = with_decord.read(facts, policy, seed, deadline=deadline)
            if frames is not None:
                return frames
        return _read_with_pyav(facts, policy, seed, deadline)
    except Exception as error:
        raise translate(error, path=facts.path, ending=facts.completeness) from error


def decode_all(path: str | os.PathLike[str], *, decoder: str = "pyav", timeout_seconds: float | None = None) -> Frames:
    """Every frame of the video at `path`: for cross-checks and tests; a long video fills the memory.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
    """
    return decode(path, policy=_EVERY_FRAME, decoder=decoder, timeout_seconds=timeout_seconds)


def refuse_broken(facts: Probe) -> None:
    """Nothing, or DecodeError when the container alone shows that its end is missing (truncated) or that it is damaged.

    A decoder would skip what is gone and hand on the rest as if it were all.
    """
    if facts.completeness.is_certain or (facts.completeness.cut and facts.n_corrupt_packets):
        found = f"{facts.n_packets}/{facts.n_frames_declared or '?'} frames left"
        raise failure("truncated", facts.path, f"{facts.completeness.cut} ({found})")
    if facts.completeness.damage:
        raise failure("invalid_data", facts.path, facts.completeness.damage)


def _read_with_pyav(facts: Probe, policy: SamplingPolicy, seed: int, deadline: Deadline) -> Frames:
    """Frames straight from their places where the packets allow it, else through the whole file."""
    n_frames = facts.n_packets
    indices = sample_indices(policy, n_source_frames=n_frames, fps=facts.fps, seed=seed)
    if pick.is_direct(facts):
        picked = pick.pick_directly(facts, set(indices.tolist()), deadline=deadline)
        if picked is not None:
            return _frames(facts, indices, picked)
    for _ in range(2):
        picked = pick.pick_through(facts.path, set(indices.tolist()), facts=facts, deadline=deadline)
        _check_complete(facts, picked)
        if picked.n_frames == n_frames:
            return _frames(facts, indices, picked)
        # Hidden frames (VP8), two frames in one packet (MPEG-4 in AVI), frames without their key frame: an honest
        # count, known only now.
        n_frames = picked.n_frames
        indices = sample_indices(policy, n_source_frames=n_frames, fps=facts.fps, seed=seed)
    raise failure("invalid_data", facts.path, "decoding it twice gave two different numbers of frames")


def _frames(facts: Probe, indices: np.ndarray, picked: pick.Picked) -> Frames:
    order = indices.tolist()
    return Frames(
        pixels=np.stack([picked.pictures[index] for index in order]),
        indices=indices,
        pts_seconds=np.array([picked.pts_seconds[index] for index in order], dtype=np.float64),
        n_source_frames=picked.n_frames,
        fps=facts.fps,
        decoder=decoder_version("pyav"),
    )


def _check_complete(facts: Probe, picked: pick.Picked) -> None:
    """Nothing, or DecodeError when the file should have given more frames."""
    if picked.n_frames == 0:
        raise failure("no_frames", facts.path, f"not one of its {facts.n_packets} packets gives a frame")
    expected = facts.n_frames_expected
    # Frames before the first one that decodes lean on a key frame that was cut away: absent from the video, not from
    # the file.
    if facts.has_pts:
        expected -= int(np.searchsorted(facts.pts_seconds, picked.first_pts_seconds - facts.tick_seconds / 2))
    # MPEG-4 part 2 in AVI packs two frames into one packet and leaves a placeholder: a frame or two less is no loss.
    slack = 2 if facts.completeness.kind == "riff" else 0
    if facts.n_frames_declared is not None and expected - picked.n_frames > slack:
        detail = f"{picked.n_frames}/{facts.n_frames_expected} frames"
        cut = facts.completeness.cut
        raise failure("truncated", facts.path, f"{detail}; {cut}" if cut else detail)
