"""decord: random access to files it can be trusted with; checked against the packets' own times."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from vidfeat.errors import DecodeError
from vidfeat.video.decode.decoder import Decoder, Pictures
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.decode.probe import Probe
from vidfeat.video.sampling import SamplingPolicy

# Codecs on which decord was found to return PyAV's own pixels for every frame of every undamaged test file.
_CODECS = ("h264", "hevc", "vp9", "mpeg4")
_CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi")
_FRAMES_PER_CALL = 16  # between two looks at the clock


def _is_utf8(path: str) -> bool:
    """Whether a path can be handed to decord, which encodes it itself; other bytes are surrogates in Python."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


class Decord(Decoder):
    """See `Decoder`."""

    name, use, is_alone = "decord", "when preferred, for the files it can be trusted with", False

    def doubts(self, facts: Probe) -> list[str]:
        """Each is a case in which decord 0.6.0 was seen to return other frames, pixels or counts than the file holds,
        or is near one.
        """
        holds = {
            "its name is not UTF-8": not _is_utf8(facts.path),
            f"codec {facts.codec} is not among {', '.join(_CODECS)}": facts.codec not in _CODECS,
            f"container {facts.container}": not set(facts.container.split(",")) & set(_CONTAINERS),
            f"pixel format {facts.pixel_format} is not 8-bit 4:2:0": facts.pixel_format not in ("yuv420p", "yuvj420p"),
            f"odd size {facts.width}x{facts.height}": bool(facts.width % 2 or facts.height % 2),
            f"first PTS {facts.first_pts_seconds:g} s < 0": facts.first_pts_seconds < 0,
            f"an edit list cuts {facts.n_discarded} frames": facts.has_edit_list,
            "the picture is rotated or mirrored": facts.has_display_matrix,
            "variable frame rate": facts.is_variable_rate,
            "open groups of pictures": facts.has_open_gop,
            "presentation times are not known": not facts.has_pts,
            "the first packet is no key frame": not facts.starts_with_key_frame,
            f"{facts.n_video_streams} video streams": facts.n_video_streams > 1,
            "the file is cut short or damaged": bool(facts.completeness.cut or facts.damage),
            f"{facts.n_packets} packets for {facts.n_frames_declared} frames declared": (
                facts.n_frames_declared not in (None, facts.n_packets)
            ),
        }
        return [doubt for doubt, is_so in holds.items() if is_so]

    def read_pictures(self, path: str, indices: list[int], *, deadline: Deadline) -> Pictures:
        """See `Decoder`; each frame is decoded once, and nothing is turned upright."""
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        reader = decord.VideoReader(path, ctx=decord.cpu(0), num_threads=1)
        unique = sorted(set(indices))
        if unique and unique[-1] >= len(reader):
            return Pictures.none(len(reader))
        parts = []
        for start in range(0, len(unique), _FRAMES_PER_CALL):
            deadline.check()
            parts.append(reader.get_batch(unique[start : start + _FRAMES_PER_CALL]).asnumpy())
        rows = np.searchsorted(unique, indices)
        times = np.array([float(reader.get_frame_timestamp(index)[0]) for index in unique], dtype=np.float64)
        return Pictures(np.concatenate(parts)[rows], times[rows], len(reader))

    def read(self, facts: Probe, policy: SamplingPolicy, seed: int, *, deadline: Deadline) -> Frames | None:
        """See `Decoder`; None also where decord fails. The times are the packets', which decord rounds to float32."""
        import decord

        try:
            frames = super().read(facts, policy, seed, deadline=deadline)
        except (decord.DECORDError, DecodeError) as error:
            if getattr(error, "reason", "") == "timeout":
                raise
            return None
        if frames is None or frames.pixels.shape[1:3] != (facts.height, facts.width):
            return None
        times = facts.pts_seconds[frames.indices]
        half_a_frame = 0.5 / facts.fps if facts.fps else 0.0
        if np.abs((frames.pts_seconds - frames.pts_seconds[0]) - (times - times[0])).max() > half_a_frame:
            return None
        return replace(frames, pts_seconds=times)
