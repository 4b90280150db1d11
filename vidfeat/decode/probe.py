"""What a video file holds: one pass over its packets, decoding no more than the first frame."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from vidfeat.decode.container import Completeness, completeness
from vidfeat.decode.failures import failure, translate
from vidfeat.errors import DecodeError


@dataclass(frozen=True, eq=False)
class Probe:
    """The facts a decoder is chosen by.

    Attributes:
        path: absolute path of the file.
        container: FFmpeg's name of the format, such as "mov,mp4,m4a,3gp,3g2,mj2".
        codec: FFmpeg's name of the codec, such as "h264".
        width, height: as stored, before rotation.
        pixel_format: such as "yuv420p"; more than 8 bits show in it.
        n_frames_declared: frames to be shown by the container's own index, or None where it has none.
        n_packets: packets found that are to be shown: frames, for nearly every codec.
        n_discarded: packets an edit list cuts away: decoded, never shown.
        fps: mean frame rate.
        first_pts_seconds: presentation time of the first packet in the file, cut away or not; negative in stream-copied trims.
        duration_seconds: from the first shown frame to the end of the last.
        rotation: degrees counterclockwise by which the picture is to be turned for display: 0, 90, -90, 180.
        has_display_matrix: the picture is to be turned or mirrored.
        is_variable_rate: presentation times are not evenly spaced (by more than one tick of the clock).
        n_corrupt_packets: packets the demuxer flags, such as the one the end of the file cuts in two.
        pts_seconds: presentation times of the packets to be shown, sorted, [n_packets] float64; empty when a packet has none.
        completeness: what the container says about the end of the file.
    """

    path: str
    container: str
    codec: str
    width: int
    height: int
    pixel_format: str
    n_frames_declared: int | None
    n_packets: int
    n_discarded: int
    fps: float
    first_pts_seconds: float
    duration_seconds: float
    rotation: int
    has_display_matrix: bool
    is_variable_rate: bool
    n_corrupt_packets: int
    starts_with_key_frame: bool
    completeness: Completeness
    pts_seconds: np.ndarray = field(repr=False)

    @property
    def has_edit_list(self) -> bool:
        """Whether packets are cut away at the start or the end."""
        return self.n_discarded > 0

    @property
    def n_frames_expected(self) -> int:
        """Frames the file should show: by its index where it has one, by its packets otherwise."""
        return self.n_packets if self.n_frames_declared is None else max(self.n_frames_declared, self.n_packets)


def probe(path: str | os.PathLike[str]) -> Probe:
    """The facts about the video at `path`.

    Reads the file once (about the time of copying it) and decodes its first frame.

    Raises:
        DecodeError: unreadable, empty, no_video_stream, no_frames, codec_unsupported, truncated, invalid_data.
    """
    path = os.path.abspath(path)
    ending = _ending(path)
    try:
        return _probe(path, ending)
    except DecodeError:
        raise
    except Exception as error:
        raise translate(error, path=path, ending=ending) from error


def _ending(path: str) -> Completeness:
    try:
        if os.path.getsize(path) == 0:
            raise failure("empty", path, "the file has no bytes")
        return completeness(path)
    except OSError as error:
        raise failure("unreadable", path, str(error)) from error


@dataclass
class _Packets:
    """What one pass over the packets finds."""

    shown: list[int | None] = field(default_factory=list)
    earliest: int | None = None
    n_discarded: int = 0
    n_corrupt: int = 0
    starts_with_key_frame: bool = False
    n_ticks_last: int = 0


def _probe(path: str, ending: Completeness) -> Probe:
    from vidfeat.decode.pyav import open_video, orientation

    with open_video(path) as (container, stream):
        packets, frame = _scan(container, stream)
        if not packets.shown:
            if ending.is_cut:
                raise failure("truncated", path, f"not one packet of its video stream is left: {ending}")
            raise failure("no_frames", path, "its video stream holds no packet")
        context = stream.codec_context
        seconds = float(stream.time_base)
        known = [pts for pts in packets.shown if pts is not None]
        complete = len(known) == len(packets.shown)
        pts = np.sort(np.asarray(known if complete else [], dtype=np.int64))
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        if not fps and len(pts) > 1 and pts[-1] > pts[0]:
            fps = (len(pts) - 1) / (float(pts[-1] - pts[0]) * seconds)
        length = float(pts[-1] - pts[0]) * seconds + 1 / fps if len(pts) and fps else len(packets.shown) / (fps or 1.0)
        return Probe(
            path=path,
            container=container.format.name,
            codec=context.codec.canonical_name,
            width=frame.width if frame else context.width,
            height=frame.height if frame else context.height,
            pixel_format=frame.format.name if frame else str(context.pix_fmt),
            n_frames_declared=_declared(container, stream, packets, ending),
            n_packets=len(packets.shown),
            n_discarded=packets.n_discarded,
            fps=fps,
            first_pts_seconds=(packets.earliest or 0) * seconds,
            duration_seconds=length,
            rotation=int(frame.rotation) if frame else 0,
            has_display_matrix=frame is not None and not orientation(frame, path).is_upright,
            is_variable_rate=_is_variable(pts),
            n_corrupt_packets=packets.n_corrupt,
            starts_with_key_frame=packets.starts_with_key_frame,
            completeness=ending,
            pts_seconds=pts * seconds,
        )


def _scan(container, stream):  # type: ignore[no-untyped-def]
    """The packets of the stream, and its first frame (None when the first packets give none)."""
    import av

    packets, frame, first = _Packets(), None, True
    for packet in container.demux(stream):
        if frame is None:
            try:
                frame = next(iter(packet.decode()), None)
            except av.FFmpegError:
                pass  # decoding proper will say what is wrong, and where
        if packet.size == 0:
            continue
        if first:
            packets.starts_with_key_frame, first = packet.is_keyframe, False
        if packet.pts is not None:
            packets.earliest = packet.pts if packets.earliest is None else min(packets.earliest, packet.pts)
        packets.n_corrupt += packet.is_corrupt
        if packet.is_discard:
            packets.n_discarded += 1
        else:
            packets.shown.append(packet.pts)
    return packets, frame


def _declared(container, stream, packets: _Packets, ending: Completeness) -> int | None:  # type: ignore[no-untyped-def]
    """Frames to be shown according to the container's index; None where it has none that can be relied on."""
    if ending.kind == "mp4":
        # Edit lists may drop whole packets from FFmpeg's view; its index entries are what the demuxer is going to hand out.
        return len(stream.index_entries) - packets.n_discarded if len(stream.index_entries) else None
    if ending.kind == "riff":
        return int(stream.frames) or None
    return None


def _is_variable(pts: np.ndarray) -> bool:
    # Matroska's clock ticks in milliseconds: 33, 33, 34 is an even rate.
    if len(pts) < 3:
        return False
    steps = np.diff(pts)
    return bool(steps.max() - steps.min() > 1)
