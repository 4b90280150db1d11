"""Sampled frames of a video: probe, choose a decoder, read, and check that what was read is what the file holds."""

from __future__ import annotations

import os

import numpy as np

from vidfeat.decode import pyav
from vidfeat.decode.decoders import choose_decoder, decoder_version
from vidfeat.decode.failures import failure, translate
from vidfeat.decode.frames import Deadline, Frames
from vidfeat.decode.probe import Probe, probe
from vidfeat.errors import DecodeError, explain
from vidfeat.sampling import SamplingPolicy, sample_indices

DECODERS = ("auto", "pyav", "decord", "torchcodec")
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
        seed: for random policies; see `vidfeat.sampling.video_seed`.
        decoder: "auto" takes decord where `choose_decoder` trusts it and it agrees with the probe, PyAV otherwise; a name takes that one alone.
        timeout_seconds: checked between frames; a call that hangs inside a decoder is the worker pool's to kill.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
        ValueError: an unknown decoder.
    """
    if decoder not in DECODERS:
        raise ValueError(explain("Unknown decoder.", expected=" | ".join(DECODERS), got=decoder))
    deadline = Deadline.after(str(path), timeout_seconds)
    facts = probe(path)
    deadline.check()
    try:
        name = choose_decoder(facts).decoder if decoder == "auto" else decoder
        if name == "decord":
            from vidfeat.decode import with_decord

            frames = with_decord.read(facts, policy, seed, deadline=deadline)
            if frames is not None:
                return frames
            if decoder == "decord":
                raise failure(
                    "invalid_data", facts.path, "decord does not agree with the file's packets about its frames"
                )
        if name == "torchcodec":
            from vidfeat.decode import with_torchcodec

            return with_torchcodec.read(facts, policy, seed, deadline=deadline)
        return _read_through(facts, policy, seed, deadline)
    except DecodeError:
        raise
    except Exception as error:
        raise translate(error, path=facts.path, ending=facts.completeness) from error


def decode_all(path: str | os.PathLike[str], *, decoder: str = "pyav", timeout_seconds: float | None = None) -> Frames:
    """Every frame of the video at `path`: for cross-checks and tests; a long video fills the memory.

    Raises:
        DecodeError: with one of FAILURE_REASONS.
    """
    return decode(path, policy=_EVERY_FRAME, decoder=decoder, timeout_seconds=timeout_seconds)


def _read_through(facts: Probe, policy: SamplingPolicy, seed: int, deadline: Deadline) -> Frames:
    """Frames by PyAV. Packets tell how many frames to expect; where decoding gives another honest count, it samples again with that."""
    n_frames = facts.n_packets
    for _ in range(2):
        indices = sample_indices(policy, n_source_frames=n_frames, fps=facts.fps, seed=seed)
        picked = pyav.pick(facts.path, set(indices.tolist()), fps=facts.fps or 1.0, deadline=deadline)
        _check_complete(facts, picked)
        if picked.n_decoded == n_frames:
            return Frames(
                pixels=np.stack([picked.pictures[index] for index in indices.tolist()]),
                indices=indices,
                pts_seconds=np.array([picked.pts_seconds[index] for index in indices.tolist()], dtype=np.float64),
                n_source_frames=n_frames,
                fps=facts.fps,
                decoder=decoder_version("pyav"),
            )
        n_frames = picked.n_decoded
    raise failure("invalid_data", facts.path, "decoding it twice gave two different numbers of frames")


def _check_complete(facts: Probe, picked: pyav.Picked) -> None:
    """Nothing, or DecodeError when the file should have given more frames."""
    if picked.n_decoded == 0:
        raise failure(
            "truncated" if facts.completeness.is_cut else "no_frames", facts.path, "not one frame could be decoded"
        )
    expected = facts.n_frames_expected
    # Frames before the first one that decodes lean on a key frame that was cut away: absent from the video, not from the file.
    if len(facts.pts_seconds):
        expected -= int(np.searchsorted(facts.pts_seconds, picked.first_pts_seconds - 1e-6))
    shortfall = expected - picked.n_decoded
    cut = facts.completeness.kind == "mp4" and facts.completeness.n_missing_bytes > 0
    # MPEG-4 part 2 in AVI packs two frames into one packet and leaves a placeholder: a frame or two less is no loss.
    slack = 2 if facts.completeness.kind == "riff" else 0
    counted = facts.n_frames_declared is not None or facts.completeness.is_cut
    if cut or facts.n_corrupt_packets or (counted and shortfall > slack):
        detail = f"{picked.n_decoded}/{facts.n_frames_expected} frames"
        raise failure(
            "truncated", facts.path, f"{detail}: {facts.completeness}" if facts.completeness.is_cut else detail
        )
