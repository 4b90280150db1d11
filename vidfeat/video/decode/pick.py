"""Chosen frames of a video, by PyAV: straight to them where the packets allow it, else through the whole file.

Both ways give the same pictures. Every frame that is decoded on the way is checked: what the decoder had to patch up is
an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vidfeat.video.decode.failures import failure
from vidfeat.video.decode.frames import Deadline
from vidfeat.video.decode.log_lines import LogLines, listening
from vidfeat.video.decode.probe import Probe
from vidfeat.video.decode.video_file import VideoFile, open_video

# Codecs whose packets are frames and whose key frames can be decoded from; on all of them both ways were seen to give
# the same pictures.
_DIRECT_CODECS = ("h264", "hevc", "vp9")
# Codecs that mark frames no other frame refers to: these need not be decoded. dav1d (AV1) drops others too.
_SKIPPING_CODECS = ("h264", "hevc")
_DIRECT_CONTAINERS = ("mov", "mp4", "matroska", "webm")
# Opening a new position costs about as much as decoding a few frames.
_WORTH_SEEKING = 8


@dataclass(eq=False)
class Picked:
    """Frames by their position in presentation order.

    Attributes:
        pictures: [H W 3] uint8 by index.
        pts_seconds: presentation time by index.
        n_frames: frames of the whole file.
        n_decoded: frames decoded on the way: the work that was done.
        first_pts_seconds: presentation time of the file's first frame.
    """

    pictures: dict[int, np.ndarray] = field(default_factory=dict)
    pts_seconds: dict[int, float] = field(default_factory=dict)
    n_frames: int = 0
    n_decoded: int = 0
    first_pts_seconds: float = 0.0

    def add(self, index: int, frame: Any, seconds: float, *, file: VideoFile) -> None:
        """Keeps a frame.

        Raises:
            DecodeError: codec_unsupported, for a frame of another size than the first.
        """
        picture = file.picture(frame)
        shape = next(iter(self.pictures.values())).shape if self.pictures else picture.shape
        if picture.shape != shape:
            change = f"{shape[1]}x{shape[0]} to {picture.shape[1]}x{picture.shape[0]}"
            raise failure("codec_unsupported", file.path, f"its frames change size from {change} at frame {index}")
        self.pictures[index], self.pts_seconds[index] = picture, seconds


def is_direct(facts: Probe) -> bool:
    """Whether single frames can be reached by their presentation times without decoding all that come before."""
    return bool(
        facts.codec in _DIRECT_CODECS
        and set(facts.container.split(",")) & set(_DIRECT_CONTAINERS)
        and facts.starts_with_key_frame
        and not facts.has_open_gop
        and not facts.has_edit_list
        and not facts.completeness.cut
        and not facts.damage
        and facts.n_frames_declared in (None, facts.n_packets)
        and len(facts.pts_ticks) == facts.n_packets
        and (np.diff(facts.pts_ticks) > 0).all()
    )


def pick_directly(
    facts: Probe, wanted: set[int], *, deadline: Deadline, keep: bool = True, by_rows: bool = False
) -> Picked | None:
    """The frames at the positions `wanted`, seeking to the key frame before each; None where one is not at its time.

    Without `keep` they are decoded and dropped. `by_rows`: see `open_video`.

    Raises:
        DecodeError: as `open_video`; invalid_data for a frame the decoder had to patch up; timeout.
    """
    index_at = {int(facts.pts_ticks[index]): index for index in sorted(wanted)}
    remaining = sorted(index_at)
    picked = Picked(n_frames=facts.n_packets, first_pts_seconds=facts.first_pts_seconds)
    with open_video(facts.path, by_rows=by_rows) as file, listening(aloud=not by_rows) as lines:
        watch = _Watch(facts.path, lines)
        packets, position = None, 0
        while remaining:
            key = int(facts.key_ticks[np.searchsorted(facts.key_ticks, remaining[0], side="right") - 1])
            ahead = int(np.searchsorted(facts.pts_ticks, key)) - position
            if packets is None or ahead > _WORTH_SEEKING:
                if ahead > _WORTH_SEEKING:
                    file.seek(key)
                packets = file.container.demux(file.stream)
            frames = _until(packets, file.context, remaining[0], index_at, skip=facts.codec in _SKIPPING_CODECS)
            for frame in frames:
                deadline.check()
                picked.n_decoded += 1
                watch.refuse_damage(frame)
                position = int(np.searchsorted(facts.pts_ticks, frame.pts if frame.pts is not None else -1)) + 1
                if frame.pts in index_at:
                    index = index_at.pop(frame.pts)
                    if keep:
                        picked.add(index, frame, float(facts.pts_seconds[index]), file=file)
            if remaining[0] in index_at:
                return None
            remaining = sorted(index_at)
    return picked


def _until(packets: Iterator[Any], context: Any, target: int, index_at: dict[int, int], *, skip: bool) -> Iterator[Any]:
    """Decoded frames from the packets' present position up to the one shown at `target`, or to the end of the file.

    With `skip`, frames that no other frame refers to and that are not wanted are left undecoded.
    """
    for packet in packets:
        if skip:
            context.skip_frame = "DEFAULT" if packet.pts is None or packet.pts in index_at else "NONREF"
        found = False
        for frame in context.decode(packet):
            found |= frame.pts == target
            yield frame
        if found:
            return


def pick_through(
    path: str, wanted: set[int], *, facts: Probe | None = None, deadline: Deadline, by_rows: bool = False
) -> Picked:
    """The frames at the positions `wanted`, decoding the file from its start to its end.

    Frames before the first key frame that lean on what was never in the file are passed over. Where packets carry no
    presentation times to rely on (AVI with reordered frames), frame k is shown at k / fps; a
    single frame without one follows its predecessor. `by_rows`: see `open_video`.

    Raises:
        DecodeError: as `open_video`; invalid_data for a frame the decoder had to patch up; timeout.
    """
    picked = Picked()
    step = 1.0 / facts.fps if facts is not None and facts.fps else 0.04
    nominal = facts is not None and not facts.has_pts
    last = -step
    with open_video(path, by_rows=by_rows) as file, listening(aloud=not by_rows) as lines:
        watch = _Watch(path, lines)
        whole_from = None if facts is None else facts.whole_from
        for frame in _frames(file):
            deadline.check()
            if whole_from is not None:
                watch.forget()
                if not frame.key_frame if nominal or frame.pts is None else frame.pts < whole_from:
                    continue
                whole_from = None
            watch.refuse_damage(frame)
            known = frame.pts is not None and not nominal
            last = float(frame.pts * frame.time_base) if known else last + step
            if picked.n_decoded == 0:
                picked.first_pts_seconds = last
            if picked.n_decoded in wanted:
                picked.add(picked.n_decoded, frame, last, file=file)
            picked.n_decoded += 1
        watch.refuse_damage(None)
    picked.n_frames = picked.n_decoded
    return picked


def _frames(file: VideoFile) -> Iterator[Any]:
    for packet in file.container.demux(file.stream):
        yield from file.context.decode(packet)


class _Watch:
    """Refuses what the decoder had to patch up: FFmpeg says so on the frame, or in its log alone.

    decord and torchcodec hand such pictures on.
    """

    def __init__(self, path: str, lines: LogLines) -> None:
        self._path, self._lines = path, lines

    def forget(self) -> None:
        """What was said so far is no damage."""
        self._lines.evidence()

    def refuse_damage(self, frame: Any | None) -> None:
        """Nothing, or DecodeError for this frame and all that was decoded since the one before; None: at the end."""
        at = "" if frame is None or frame.pts is None else f" at {float(frame.pts * frame.time_base):.2f} s"
        if frame is not None and frame.is_corrupt:
            raise failure("invalid_data", self._path, f"the frame{at} is damaged")
        said = self._lines.evidence()
        if said:
            raise failure("invalid_data", self._path, f"a frame near the one{at} is damaged ({said})")
