"""A video file as PyAV opens it: its container and stream, and its pictures turned upright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from vidfeat.video.decode.failures import failure

# Formats that are lists of other files or addresses: a video named by a manifest must not make a decoder open something
# else.
_PLAYLISTS = ("hls", "dash", "concat", "sdp", "imf")


@contextmanager
def open_video(path: str) -> Iterator[tuple[Any, Any]]:
    """The opened (container, video stream) of a file, decoded by one thread.

    The stream is FFmpeg's choice where there are several, which is also decord's and torchcodec's.

    Raises:
        DecodeError: unreadable, no_video_stream, codec_unsupported.
    """
    import av

    if not os.path.isfile(path):
        raise failure("unreadable", path, "it is a folder" if os.path.isdir(path) else "there is no such file")
    if not os.access(path, os.R_OK):
        raise failure("unreadable", path, "no permission to read it")
    with av.open(path, options={"protocol_whitelist": "file"}) as container:
        if any(name in _PLAYLISTS for name in container.format.name.split(",")):
            raise failure("codec_unsupported", path, f"a playlist ({container.format.name}), not a video")
        stream = container.streams.best("video")
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = [other.type for other in container.streams]
            if any(other.type == "video" for other in container.streams) and stream is None:
                raise failure("codec_unsupported", path, "no decoder for its video stream")
            raise failure("no_video_stream", path, f"streams: {', '.join(kinds) or 'none'}")
        if stream.codec_context is None:
            raise failure("codec_unsupported", path, "no decoder for its video stream")
        stream.codec_context.thread_count = 1
        yield container, stream


@dataclass(frozen=True)
class Orientation:
    """How a stored picture is turned upright: mirrored left to right first, then `quarter_turns` counterclockwise."""

    quarter_turns: int
    mirrored: bool

    @property
    def is_upright(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.quarter_turns or self.mirrored)

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """The upright picture [H W 3]."""
        if self.mirrored:
            picture = picture[:, ::-1]
        return np.rot90(picture, self.quarter_turns)


def orientation(frame: Any, path: str) -> Orientation:
    """How this frame is to be turned, by its display matrix.

    Raises:
        DecodeError: codec_unsupported, for a matrix that is not made of quarter turns and a mirror.

    Source: ISO/IEC 14496-12, section 8.3.2.2; libavutil/display.h: (x, y) goes to (a x + c y, b x + d y), y pointing
        down.
    """
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return Orientation(0, mirrored=False)
    a, b, _, c, d = np.frombuffer(bytes(side_data), dtype=np.int32)[:5].astype(np.float64) / 65536
    mirrored = a * d - b * c < 0
    if mirrored:
        a, b = -a, -b  # undo the mirror that comes first
    turns = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 1, (-1, 0, 0, -1): 2, (0, 1, -1, 0): 3}
    key = tuple(round(float(value)) for value in (a, b, c, d))
    if key not in turns or not np.allclose(key, (a, b, c, d), atol=1e-3):
        raise failure("codec_unsupported", path, f"a display matrix that is not made of quarter turns: {[a, b, c, d]}")
    return Orientation(turns[key], bool(mirrored))


def upright(frame: Any, path: str) -> np.ndarray:
    """The picture [H W 3] uint8 of a decoded frame, turned for display.

    Raises:
        DecodeError: codec_unsupported, as `orientation`.
    """
    return np.ascontiguousarray(orientation(frame, path).apply(frame.to_ndarray(format="rgb24")))
