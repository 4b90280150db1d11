"""Sampled frames of a video: probe, choose a decoder, read, and check that what was read is what the file holds."""

from __future__ import annotations

import os

from vidfeat.errors import explain
from vidfeat.video.decode.decoders import DECODER_NAMES, DECODERS, PYAV, choose_decoder
from vidfeat.video.decode.failures import failure, translate
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe, probe
from vidfeat.video.sampling import SamplingPolicy

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

    Readers are opened in the calling process and closed before returning; each decodes with one thread, but for HEVC's
    wavefronts, which are decoded a second time by two. What another decoder read is decoded by PyAV too, which alone
    says which frames are damaged.

    Args:
        seed: for random policies; see `vidfeat.video.sampling.video_seed`.
        decoder: "auto" and "pyav" read every file with PyAV; "decord" reads with decord those that `choose_decoder`
            trusts it with, the others with PyAV; "torchcodec" reads with torchcodec alone.
        timeout_seconds: looked at between frames; a call that hangs inside a decoder is the worker pool's to kill.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
        ValueError: an unknown decoder.
        VidfeatError: a decoder that does not work here.
    """
    if decoder not in DECODER_NAMES:
        raise ValueError(explain("Unknown decoder.", expected=" | ".join(DECODER_NAMES), got=decoder))
    deadline = Deadline.after(str(path), timeout_seconds)
    facts = probe(path)
    chosen = DECODERS[choose_decoder(facts, preferred=decoder).decoder]
    try:
        deadline.check()
        refuse_broken(facts)
        frames = chosen.read(facts, policy, seed, deadline=deadline)
        if frames is None:
            return PYAV.read(facts, policy, seed, deadline=deadline)
        if chosen is not PYAV:
            PYAV.refuse_damage(facts, frames.indices, deadline=deadline)
        return frames
    except Exception as error:
        raise translate(error, path=facts.path, ending=facts.completeness) from error


def decode_all(path: str | os.PathLike[str], *, decoder: str = "pyav", timeout_seconds: float | None = None) -> Frames:
    """Every frame of the video at `path`: for cross-checks and tests; a long video fills the memory.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
    """
    return decode(path, policy=_EVERY_FRAME, decoder=decoder, timeout_seconds=timeout_seconds)


def refuse_broken(facts: Probe) -> None:
    """Nothing, or DecodeError when the probe shows that the file's end is missing (truncated) or that it is damaged.

    A decoder would skip what is gone and hand on the rest as if it were all.
    """
    if facts.completeness.is_certain or (facts.completeness.cut and facts.n_corrupt_packets):
        found = f"{facts.n_packets}/{facts.n_frames_declared or '?'} frames left"
        raise failure("truncated", facts.path, f"{facts.completeness.cut} ({found})")
    if facts.damage:
        raise failure("invalid_data", facts.path, facts.damage)
