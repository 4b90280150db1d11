"""A video file as PyAV opens it: its container and stream, and its pictures turned upright."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from vidfeat.video.decode.failures import failure

# Formats that are lists of other files or addresses: a video named by a manifest must not make a decoder open something
# else.
_PLAYLISTS = ("hls", "dash", "concat", "sdp", "imf")
_LIBVPX = "libvpx-vp9"


@dataclass(frozen=True, eq=False)
class VideoFile:
    """An open file: PyAV's container, its video stream, what decodes it, and the one converter of all its frames."""

    path: str
    container: Any
    stream: Any
    context: Any
    converter: Any

    def seek(self, pts: int) -> None:
        """To the key frame at or before `pts`, in the stream's ticks; what the decoder holds is forgotten."""
        self.container.seek(pts, stream=self.stream)
        self.context.flush_buffers()

    def picture(self, frame: Any) -> np.ndarray:
        """The picture [H W 3] uint8 of a decoded frame, turned for display; nothing of the frame is kept alive.

        Raises:
            DecodeError: codec_unsupported, as `orientation`.
        """
        # frame.to_ndarray(format=...) would make a context for every frame, with a thread for every core.
        stored = self.converter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        turned = orientation(frame, self.path).apply(stored)
        return np.array(turned, order="C")  # a copy: the array of a frame holds on to it


@cache
def _any_metadata() -> dict[str, Any]:
    """What has PyAV read a file whose title or author is not UTF-8, which says nothing about its pictures.

    PyAV 19 has no such argument: it reads metadata when it is asked for.
    """
    import av

    return {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}


def _decoder(stream: Any) -> Any:
    """The stream's own decoder, or libvpx for VP9 of 8 bits.

    The pictures are the same. FFmpeg's own decoder shows whatever it makes of damaged bytes; libvpx refuses a frame
    whose arithmetic coder does not end where its bytes do. PyAV's libvpx is built for 8 bits.
    """
    import av

    own = stream.codec_context
    plain = ("yuv420p", "yuv422p", "yuv440p", "yuv444p", "gbrp")
    if own.name != "vp9" or own.pix_fmt not in plain or _LIBVPX not in av.codecs_available:
        return own
    strict: Any = av.CodecContext.create(_LIBVPX, "r")
    strict.extradata = own.extradata
    return strict


@contextmanager
def open_video(path: str, *, by_rows: bool = False) -> Iterator[VideoFile]:
    """The opened video file, decoded and converted by this thread alone.

    The stream is FFmpeg's choice where there are several, which is also decord's and torchcodec's.

    Args:
        by_rows: HEVC's wavefronts are decoded each from where the picture's header says that it begins, which FFmpeg
            does with threads alone: two of them.

    Raises:
        DecodeError: unreadable, no_video_stream, codec_unsupported.
        OSError, av.FFmpegError: what the system or FFmpeg says; see `failures.translate`.
    """
    import av
    from av.video.reformatter import VideoReformatter

    if not stat.S_ISREG(os.stat(path).st_mode):
        raise failure("unreadable", path, "it is a folder" if os.path.isdir(path) else "it is no regular file")
    if not os.access(path, os.R_OK):
        raise failure("unreadable", path, "no permission to read it")
    with av.open(path, options={"protocol_whitelist": "file"}, **_any_metadata()) as container:
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
        context = _decoder(stream)
        context.thread_count = 2 if by_rows else 1
        if by_rows:
            context.thread_type = "SLICE"
        # HEVC's checksums of whole pictures, where an encoder wrote them: a mismatch is a log line.
        context.options = {"err_detect": "crccheck"}
        yield VideoFile(path, container, stream, context, VideoReformatter())


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
    from av.sidedata import sidedata

    # frame.side_data is such a container too, but one that PyAV up to 19.0.0 also ties to the frame: a circle, which
    # keeps the picture in memory until Python's collector comes by.
    containers: Any = sidedata  # its type stub leaves the argument out
    side_data = containers.SideDataContainer(frame).get("DISPLAYMATRIX")
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
