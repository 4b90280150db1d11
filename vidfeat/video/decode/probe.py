"""What a video file holds: one pass over its packets, decoding no more than the first frame."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidfeat.video.decode import transport
from vidfeat.video.decode.container import Completeness, completeness
from vidfeat.video.decode.failures import failure, is_about_bytes, translate
from vidfeat.video.decode.log_lines import LogLines, listening
from vidfeat.video.decode.payload import Payloads
from vidfeat.video.decode.video_file import open_video, orientation
from vidfeat.video.decode.wavefront import has_wavefronts


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
        first_pts_seconds: presentation time of the first packet in the file, cut away or not; negative in stream-copied
            trims.
        duration_seconds: from the first shown frame to the end of the last.
        rotation: degrees counterclockwise by which the picture is to be turned for display: 0, 90, -90, 180.
        has_display_matrix: the picture is to be turned or mirrored.
        is_variable_rate: presentation times are not evenly spaced (by more than one tick of the clock).
        has_open_gop: frames shown before a key frame are stored after it: whoever starts decoding there loses them; or
            H.264 lets them be, by a key frame that is no IDR picture.
        n_corrupt_packets: packets the demuxer flags, such as the one the end of the file cuts in two.
        starts_with_key_frame: the first packet can be decoded by itself.
        whole_from: presentation time of the first key frame, in ticks, where frames shown before it may lean on such as
            are not in the file: the first packet is no key frame, or one of an open group. None elsewhere.
        has_wavefronts: HEVC whose pictures can be decoded in two ways, see `wavefront`.
        n_video_streams: more than one: decoders differ in which they take.
        completeness: what the container says about the end of the file.
        damage: what in the container or in the packets' bytes shows that the file is damaged; "" where nothing does.
        pts_ticks: presentation times of the packets to be shown, sorted, [n_packets] int64, in units of `tick_seconds`;
            empty when they are not known: a packet has none, or an AVI holds reordered frames, for which it has no
                place.
        key_ticks: those of the key frames among them, sorted, int64.
        tick_seconds: the stream's clock.
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
    has_open_gop: bool
    n_corrupt_packets: int
    starts_with_key_frame: bool
    whole_from: int | None
    has_wavefronts: bool
    n_video_streams: int
    completeness: Completeness
    damage: str
    pts_ticks: np.ndarray = field(repr=False)
    key_ticks: np.ndarray = field(repr=False)
    tick_seconds: float = field(repr=False)

    @property
    def has_pts(self) -> bool:
        """Whether the presentation time of every packet is known."""
        return len(self.pts_ticks) == self.n_packets

    @property
    def pts_seconds(self) -> np.ndarray:
        """Presentation times [n_packets] float64 of the packets to be shown, sorted; empty when they are not known."""
        return self.pts_ticks * self.tick_seconds

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
        DecodeError: unreadable, empty, no_video_stream, no_frames, codec_unsupported, truncated, invalid_data, machine.
    """
    path = os.path.abspath(path)
    ending = None
    try:
        if os.path.getsize(path) == 0 and not os.path.isdir(path):
            raise failure("empty", path, "the file has no bytes")
        ending = completeness(path)
        return _probe(path, ending)
    except Exception as error:
        raise translate(error, path=path, ending=ending) from error


@dataclass
class _Packets:
    """What one pass over the packets finds; `shown` and `keys` are presentation times, None where a packet has none."""

    shown: list[int | None] = field(default_factory=list)
    keys: list[int | None] = field(default_factory=list)
    earliest: int | None = None
    n_discarded: int = 0
    n_corrupt: int = 0
    starts_with_key_frame: bool = False
    whole_from: int | None = None
    has_open_gop: bool = False
    damage: str = ""


def _probe(path: str, ending: Completeness) -> Probe:
    with open_video(path) as file, listening() as lines:
        container, stream = file.container, file.stream
        packets, frame = _scan(container, stream, lines)
        if not packets.shown:
            raise failure("no_frames", path, "its video stream holds no packet")
        context, tick = stream.codec_context, float(stream.time_base)
        pts, keys = _times(packets, reliable=not (ending.kind == "riff" and context.has_b_frames))
        variable = _is_variable(pts)
        fps = _mean_rate(stream, pts, variable=variable)
        return Probe(
            path=path,
            container=container.format.name,
            codec=context.codec.canonical_name,
            width=frame.width if frame else context.width,
            height=frame.height if frame else context.height,
            pixel_format=frame.format.name if frame else str(context.pix_fmt),
            n_frames_declared=_declared(stream, packets, ending),
            n_packets=len(packets.shown),
            n_discarded=packets.n_discarded,
            fps=fps,
            first_pts_seconds=(packets.earliest or 0) * tick,
            duration_seconds=_duration(pts, tick, fps, len(packets.shown)),
            rotation=int(frame.rotation) if frame else 0,
            has_display_matrix=frame is not None and not orientation(frame, path).is_upright,
            is_variable_rate=variable,
            has_open_gop=packets.has_open_gop,
            n_corrupt_packets=packets.n_corrupt,
            starts_with_key_frame=packets.starts_with_key_frame,
            whole_from=packets.whole_from,
            has_wavefronts=context.codec.canonical_name == "hevc" and has_wavefronts(context.extradata),
            n_video_streams=len(container.streams.video),
            completeness=ending,
            damage=ending.damage or packets.damage or _damage(path, stream, packets, ending),
            pts_ticks=pts,
            key_ticks=keys,
            tick_seconds=tick,
        )


def _scan(container: Any, stream: Any, lines: LogLines) -> tuple[_Packets, Any]:
    """The packets of the stream, and its first frame (None when the first packets give none)."""
    import av

    packets, frame, key, amid = _Packets(), None, None, False
    payloads = Payloads(stream.codec_context.codec.canonical_name, stream.codec_context.extradata)
    for packet in container.demux(stream):
        if frame is None:
            try:
                frame = next(iter(packet.decode()), None)
            except av.FFmpegError as error:
                if not is_about_bytes(error):
                    raise
                # Decoding proper will say what is wrong, and where.
        said = lines.evidence(of=("mpegts", "avi"))
        if packet.size == 0:
            continue
        pts = packet.pts
        is_open = packet.is_keyframe and payloads.is_open_key(packet)
        if not packets.shown and not packets.n_discarded:
            packets.starts_with_key_frame = packet.is_keyframe
            amid = is_open or not packet.is_keyframe
        elif is_open and payloads.codec == "h264":
            packets.has_open_gop = True
        if not packets.damage and (said or payloads.is_zeroed(packet)):
            packets.damage = said or f"packet {len(packets.shown) + packets.n_discarded} holds a block of zeros"
        if amid and packet.is_keyframe:
            amid, packets.whole_from = False, pts
        if pts is not None:
            packets.earliest = pts if packets.earliest is None else min(packets.earliest, pts)
            packets.has_open_gop |= key is not None and pts < key
            key = pts if packet.is_keyframe else key
        packets.n_corrupt += packet.is_corrupt
        if packet.is_discard:
            packets.n_discarded += 1
            continue
        packets.shown.append(pts)
        if packet.is_keyframe:
            packets.keys.append(pts)
    return packets, frame


def _damage(path: str, stream: Any, packets: _Packets, ending: Completeness) -> str:
    """What the packets as a whole show."""
    if ending.kind == "transport":
        with open(path, "rb") as file:
            return transport.damage(file, stream.id)
    if packets.n_corrupt and ending.kind != "riff":
        return f"{packets.n_corrupt} packets are not whole"
    if ending.kind == "riff":
        listed = sum(entry.size > 0 for entry in stream.index_entries)
        found = len(packets.shown) + packets.n_discarded
        if found < listed:
            return f"{found} of the {listed} packets that its index lists can be found"
    return ""


def _times(packets: _Packets, *, reliable: bool) -> tuple[np.ndarray, np.ndarray]:
    """Sorted presentation times of the packets and of the key frames, int64 ticks; both empty unless all are known."""
    if not reliable or None in packets.shown:
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.sort(np.array(packets.shown, dtype=np.int64)), np.sort(np.array(packets.keys, dtype=np.int64))


def _mean_rate(stream: Any, pts: np.ndarray, *, variable: bool) -> float:
    """Frames per second: the container's figure, or the presentation times' where it has none or the rate varies."""
    declared = float(stream.average_rate or stream.guessed_rate or 0)
    span = float((pts[-1] - pts[0]) * stream.time_base) if len(pts) > 1 else 0.0
    return (len(pts) - 1) / span if span > 0 and (variable or not declared) else declared


def _duration(pts: np.ndarray, tick: float, fps: float, n_packets: int) -> float:
    frame_seconds = 1.0 / fps if fps else 0.0
    return float(pts[-1] - pts[0]) * tick + frame_seconds if len(pts) else n_packets * frame_seconds


def _declared(stream: Any, packets: _Packets, ending: Completeness) -> int | None:
    """Frames to be shown according to the container's index; None where it has none that can be relied on."""
    if ending.kind == "mp4":
        # Edit lists may drop whole packets from FFmpeg's view; its index entries are what the demuxer is going to hand
        # out.
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
