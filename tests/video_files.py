"""Test videos, written with PyAV: every frame carries its number, so that a test can tell which frame it was given.

A picture has two halves. The top half shows the frame's number in eight vertical stripes, most significant bit left,
white for 1. The bottom half is dark grey. A picture that is upside down, mirrored or turned therefore reads as another
number, or as none.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

N_BITS = 8
DARK = 40


@dataclass(frozen=True)
class VideoSpec:
    """How a test video is written.

    Attributes:
        n_frames: at most 256, so that every number fits into the stripes.
        pts: presentation time of each frame in ticks of 1/`clock` seconds; empty: evenly spaced at `fps`.
        rotation: degrees counterclockwise by which a player turns the picture.
        matrix: the display matrix itself, 9 integers, instead of `rotation`.
        stored: what is done to a picture before it is stored; with `rotation` or `matrix`, what the player undoes.
        codec_options: for the encoder, such as {"x264-params": "open-gop=1"}.
        container_options: for the muxer, such as {"movflags": "faststart"}.
    """

    n_frames: int = 30
    width: int = 96
    height: int = 64
    fps: Fraction = Fraction(25)
    codec: str = "libx264"
    pixel_format: str = "yuv420p"
    gop: int = 12
    b_frames: int = 2
    pts: tuple[int, ...] = ()
    clock: int = 1000
    rotation: int = 0
    matrix: tuple[int, ...] = ()
    stored: Callable[[np.ndarray], np.ndarray] = lambda picture: picture
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


def frame_picture(number: int, *, width: int, height: int) -> np.ndarray:
    """The picture [H W 3] uint8 that shows `number`, 0 to 255."""
    picture = np.full((height, width, 3), DARK, dtype=np.uint8)
    bits = [(number >> (N_BITS - 1 - bit)) & 1 for bit in range(N_BITS)]
    columns = np.arange(width) * N_BITS // width
    picture[: height // 2] = (np.asarray(bits, dtype=np.uint8) * 255)[columns][None, :, None]
    return picture


def read_number(picture: np.ndarray) -> int:
    """The number a decoded picture [H W 3] shows; -1 where there is no picture of ours."""
    height, width = picture.shape[:2]
    grey = picture.astype(np.float64).mean(axis=2)
    if abs(grey[height * 5 // 8 : height * 7 // 8].mean() - DARK) > 25:
        return -1
    middles = [(2 * bit + 1) * width // (2 * N_BITS) for bit in range(N_BITS)]
    band = grey[height // 8 : height * 3 // 8]
    levels = [band[:, middle - 1 : middle + 2].mean() for middle in middles]
    if any(70 < level < 185 for level in levels):
        return -1
    return sum(1 << (N_BITS - 1 - bit) for bit, level in enumerate(levels) if level > 128)


def read_numbers(pixels: np.ndarray) -> list[int]:
    """The numbers shown by pictures [F H W 3]."""
    return [read_number(picture) for picture in pixels]


def write_video(path: Path, spec: VideoSpec | None = None, **changes: object) -> Path:
    """The path of a video that shows frames 0, 1, ..., n_frames - 1; `changes` are fields of VideoSpec."""
    spec = replace(spec or VideoSpec(), **changes)  # type: ignore[arg-type]
    with av.open(str(path), "w", options=spec.container_options) as container:
        stream = container.add_stream(spec.codec, rate=spec.fps, options=spec.codec_options)
        blank = spec.stored(frame_picture(0, width=spec.width, height=spec.height))
        stream.width, stream.height, stream.pix_fmt = blank.shape[1], blank.shape[0], spec.pixel_format
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size = spec.gop
        stream.codec_context.max_b_frames = spec.b_frames
        if spec.pts:
            stream.codec_context.time_base = Fraction(1, spec.clock)
        if spec.rotation:
            stream.set_display_rotation(spec.rotation)
        if spec.matrix:
            stream.set_display_matrix(spec.matrix)
        for number in range(spec.n_frames):
            picture = spec.stored(frame_picture(number, width=spec.width, height=spec.height))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            if spec.pts:
                frame.pts, frame.time_base = spec.pts[number], Fraction(1, spec.clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def trim_copy(source: Path, target: Path, *, start_seconds: float) -> Path:
    """The path of a copy of `source` from `start_seconds` on, as `ffmpeg -ss START -i SOURCE -c copy` makes it.

    The packets from the key frame before the start keep their place at negative times, and an edit list tells players
    to hide them.
    """
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        assert stream.time_base is not None
        start = round(start_seconds / stream.time_base)
        reader.seek(start, stream=stream)
        for packet in reader.demux(stream):
            if packet.dts is None or packet.pts is None:
                continue
            packet.pts -= start
            packet.dts -= start
            packet.stream = copy
            writer.mux(packet)
    return target


def cut_end(source: Path, target: Path, *, keep: float) -> Path:
    """The path of the first `keep` (a share) of the bytes of `source`."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def flip_bits(source: Path, target: Path, *, n_bits: int, seed: int, span: tuple[float, float] = (0.4, 0.6)) -> Path:
    """The path of a copy of `source` with `n_bits` bits flipped in the half-open `span` of its bytes (shares)."""
    data = bytearray(source.read_bytes())
    generator = np.random.default_rng(seed)
    low, high = (int(len(data) * share) for share in span)
    for position in generator.integers(low, high, n_bits):
        data[position] ^= 1 << int(generator.integers(8))
    target.write_bytes(bytes(data))
    return target


def write_audio(path: Path, *, seconds: float = 0.5) -> Path:
    """The path of a file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, int(16000 * seconds)), dtype=np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def mux_streams(target: Path, sources: Sequence[Path]) -> Path:
    """The path of one file that holds the video stream of every source, packets unchanged."""
    with av.open(str(target), "w") as writer:
        readers = [av.open(str(source)) for source in sources]
        copies = [writer.add_stream_from_template(reader.streams.video[0]) for reader in readers]
        for reader, copy in zip(readers, copies, strict=True):
            for packet in reader.demux(reader.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    writer.mux(packet)
            reader.close()
    return target


def class_folders(root: Path, video: Path, classes: Sequence[str], *, per_class: int = 2) -> Path:
    """The path of a folder of class folders, each with copies of `video`."""
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(per_class):
            shutil.copy(video, root / name / f"{index}{video.suffix}")
    return root
