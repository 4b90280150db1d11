"""torchcodec: exact random access through the system's FFmpeg; when asked for by name and after a self-test."""

from __future__ import annotations

import numpy as np

from vidfeat.video.decode.failures import failure
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe
from vidfeat.video.decode.with_decord import Pictures
from vidfeat.video.sampling import SamplingPolicy, sample_indices


def read_pictures(path: str, indices: list[int]) -> Pictures:
    """The frames at `indices`, upright.

    Raises:
        Exception: whatever torchcodec finds wrong, at import or while decoding.
    """
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    n_frames = len(decoder)
    if indices and max(indices) >= n_frames:
        return Pictures(np.empty((0, 0, 0, 3), dtype=np.uint8), np.empty(0), n_frames)
    batch = decoder.get_frames_at(indices)
    return Pictures(batch.data.numpy(), batch.pts_seconds.double().numpy(), n_frames)


def read(facts: Probe, policy: SamplingPolicy, seed: int, *, deadline: Deadline) -> Frames:
    """The sampled frames.

    Raises:
        DecodeError: codec_unsupported where torchcodec does not work here; invalid_data where it disagrees with the
            packets.
    """
    from vidfeat.video.decode.decoders import available_decoders

    status = next(status for status in available_decoders() if status.name == "torchcodec")
    if not status.works:
        raise failure("codec_unsupported", facts.path, f"torchcodec does not work here: {status.detail}")
    indices = sample_indices(policy, n_source_frames=facts.n_packets, fps=facts.fps, seed=seed)
    pictures = read_pictures(facts.path, indices.tolist())
    deadline.check()
    if pictures.n_frames != facts.n_frames_expected:
        got = f"{pictures.n_frames} frames by torchcodec, {facts.n_frames_expected} by the packets"
        raise failure("invalid_data", facts.path, got)
    return Frames(
        pixels=np.ascontiguousarray(pictures.pixels),
        indices=indices,
        pts_seconds=pictures.pts_seconds,
        n_source_frames=pictures.n_frames,
        fps=facts.fps,
        decoder=status.version,
    )
