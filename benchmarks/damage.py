"""Damaged videos: what share of them `vidfeat` lists as failures, and what share it hands on right, or wrong.

Every clip is made by PyAV in the run: codecs x containers. Each is damaged in several ways at several places, and 8
frames of it are asked for, as `vidfeat extract` asks. Outcomes:

listed      refused with a reason
right       every picture equals that of the undamaged clip
fewer       every picture is one of the undamaged clip's, in order, but frames are missing, so that others were sampled
wrong       a picture that the undamaged clip does not show
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from prompttune.base.tensor_files import write_bytes
from prompttune.report.markdown import markdown_table
from vidfeat.errors import DecodeError
from vidfeat.video.decode import decode, decode_all
from vidfeat.video.decode.frames import Frames
from vidfeat.video.sampling import SamplingPolicy

RESULT = Path(__file__).parent / "results" / "damage.json"
COMMAND = "python -m benchmarks damage"
OUTCOMES = ("listed", "right", "fewer", "wrong")
N_FRAMES, FPS, GROUP = 60, 25, 12
BLOCK = 4096  # bytes: of a page, and of a sector of today's disks
EIGHT = SamplingPolicy("uniform", n_frames=8)
_X265 = "log-level=none:pools=1"


@dataclass(frozen=True)
class Codec:
    """How a clip is encoded, and the endings of the containers it is put in."""

    name: str
    encoder: str
    endings: tuple[str, ...]
    options: dict[str, str] = field(default_factory=dict)


CODECS = (
    Codec("H.264", "libx264", ("mp4", "fragmented.mp4", "mkv", "flv", "avi", "ts")),
    Codec("H.264, open groups", "libx264", ("mp4", "ts"), {"x264-params": "open-gop=1"}),
    Codec("MPEG-4", "mpeg4", ("mp4", "mkv", "avi", "ts")),
    Codec("MPEG-2", "mpeg2video", ("mpg", "ts")),
    Codec("HEVC", "libx265", ("mp4", "mkv", "ts"), {"x265-params": f"open-gop=0:{_X265}"}),
    Codec("HEVC, open groups", "libx265", ("mp4", "ts"), {"x265-params": _X265}),
    Codec("HEVC, checksums", "libx265", ("mp4", "ts"), {"x265-params": f"hash=1:{_X265}"}),
    Codec("VP9", "libvpx-vp9", ("webm", "mp4", "mkv")),
    Codec("VP8", "libvpx", ("webm", "mkv")),
    Codec("AV1", "libsvtav1", ("mp4", "mkv"), {"preset": "11", "svtav1-params": "lp=1"}),  # else no two runs are alike
)


@dataclass(frozen=True)
class Grid:
    """What is tried: each codec's containers x kinds x places (shares of the file) x draws where chance is involved."""

    codecs: Sequence[Codec] = CODECS
    kinds: Sequence[str] = ("zeroed", "overwritten", "one bit", "eight bits", "cut", "dropped")
    places: Sequence[float] = (0.01, 0.05, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
    n_draws: int = 2
    size: tuple[int, int] = (320, 240)  # width and height
    decoders: Sequence[str] = ("auto", "decord")


@dataclass
class Found:
    """What became of the damaged copies.

    Attributes:
        outcomes: by (codec, ending, kind, decoder).
        off_by: by codec, of each copy that PyAV delivers wrong after one flipped bit: how far its worst picture is off,
            the mean over its pixels, of 255.
    """

    outcomes: dict[tuple[str, str, str, str], Counter] = field(default_factory=dict)
    off_by: dict[str, list[float]] = field(default_factory=dict)


def measure(grid: Grid, folder: Path, *, say: Callable[[str], None] = print) -> Found:
    """What becomes of every damaged copy; clips are written into `folder`.

    Raises:
        AssertionError: an undamaged clip is listed, or not decoded alike by the decoders.
    """
    pictures = _pictures(*grid.size)
    found = Found()
    for codec in grid.codecs:
        for ending in codec.endings:
            clip = folder / f"{codec.name.replace(', ', '-').replace(' ', '-')}.{ending}"
            write_clip(clip, codec, pictures)
            whole = decode_all(clip)
            assert len(whole.indices) == N_FRAMES, f"{clip}: {len(whole.indices)} frames"
            sampled = {name: decode(clip, policy=EIGHT, decoder=name) for name in grid.decoders}
            assert all(np.array_equal(s.pixels, whole.pixels[s.indices]) for s in sampled.values()), str(clip)
            for kind, damaged in _damaged(clip, grid):
                for name in grid.decoders:
                    was = outcome(damaged, whole, decoder=name)
                    found.outcomes.setdefault((codec.name, ending, kind, name), Counter())[was] += 1
                    if (was, kind, name) == ("wrong", "one bit", "auto"):
                        found.off_by.setdefault(codec.name, []).append(off_by(damaged, whole))
            ours = (counts for key, counts in found.outcomes.items() if key[:2] == (codec.name, ending))
            total: Counter = sum(ours, Counter())
            say(f"{clip.name}: " + ", ".join(f"{total[name]} {name}" for name in OUTCOMES))
    return found


def off_by(path: Path, whole: Frames) -> float:
    """How far the worst picture of a copy is from that of the whole clip: the mean over its pixels, of 255."""
    got = decode(path, policy=EIGHT)
    return float(np.abs(got.pixels.astype(float) - whole.pixels[got.indices]).mean(axis=(1, 2, 3)).max())


def outcome(path: Path, whole: Frames, *, decoder: str) -> str:
    """One of OUTCOMES, for the damaged copy `path` of a clip whose frames are `whole`."""
    try:
        got = decode(path, policy=EIGHT, decoder=decoder)
    except DecodeError as error:
        if error.reason == "machine":
            raise
        return "listed"
    if got.pixels.shape[1:] != whole.pixels.shape[1:]:
        return "wrong"
    if got.n_source_frames == len(whole.indices) and np.array_equal(got.pixels, whole.pixels[got.indices]):
        return "right"
    shown = 0
    for picture in got.pixels:
        while shown < len(whole.indices) and not np.array_equal(picture, whole.pixels[shown]):
            shown += 1
    return "fewer" if shown < len(whole.indices) else "wrong"


def write_clip(path: Path, codec: Codec, pictures: Sequence[np.ndarray]) -> None:
    """Encodes the pictures; an MP4 has its index at its start, so that damage strikes pictures at every place."""
    import av

    with av.open(str(path), "w", options=_muxer_options(path)) as container:
        stream: Any = container.add_stream(codec.encoder, rate=FPS, options=codec.options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 800_000
        stream.codec_context.thread_count = 1
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = GROUP, 2
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def _muxer_options(path: Path) -> dict[str, str]:
    if path.suffix != ".mp4":
        return {}
    return {"movflags": "frag_keyframe+empty_moov" if "fragmented" in path.name else "faststart"}


def _pictures(width: int, height: int) -> list[np.ndarray]:
    """[H W 3] uint8 each: a texture that moves, and a square of changing colour; no two are alike."""
    generator = np.random.default_rng(0)
    texture = generator.integers(0, 255, (height // 4 + 40, width // 4 + 60, 3), dtype=np.uint8)
    texture = texture.repeat(4, axis=0).repeat(4, axis=1)
    pictures = []
    for number in range(N_FRAMES):
        down, right = number, 3 * number // 2
        picture = texture[down : down + height, right : right + width].copy()
        left = 5 * number % (width - 40)
        picture[20:60, left : left + 40] = generator.integers(0, 255, 3)
        pictures.append(picture)
    return pictures


def _damaged(clip: Path, grid: Grid) -> Iterator[tuple[str, Path]]:
    """(kind, path) of each damaged copy; the file at the path is overwritten by the next."""
    data, target = clip.read_bytes(), clip.with_name(f"damaged-{clip.name}")
    for kind in grid.kinds:
        for place in grid.places:
            for draw in range(1 if kind in ("zeroed", "cut", "dropped") else grid.n_draws):
                if kind == "dropped":
                    drop_packet(clip, target, place)
                else:
                    target.write_bytes(damage(data, kind, place, np.random.default_rng([int(place * 100), draw])))
                yield kind, target


def damage(data: bytes, kind: str, place: float, generator: np.random.Generator) -> bytes:
    """A file's bytes, damaged at a place (a share of its length)."""
    start = int(len(data) * place)
    if kind == "cut":
        return data[:start]
    changed = np.frombuffer(data, dtype=np.uint8).copy()
    block = changed[start : start + BLOCK]
    if kind == "zeroed":
        block[:] = 0
    elif kind == "overwritten":
        block[:] = generator.integers(0, 256, len(block))
    else:
        for position in generator.integers(0, len(block), {"one bit": 1, "eight bits": 8}[kind]):
            block[position] ^= 1 << int(generator.integers(8))
    return changed.tobytes()


def drop_packet(source: Path, target: Path, place: float) -> None:
    """A copy of a file without one of its packets, which the container knows nothing of."""
    import av

    with av.open(str(source)) as reader, av.open(str(target), "w", options=_muxer_options(target)) as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream, opaque=True)
        packets = [packet for packet in reader.demux(stream) if packet.size]
        known, first = next((number, packet.dts) for number, packet in enumerate(packets) if packet.dts is not None)
        for number, packet in enumerate(packets[:known]):  # Matroska has no decoding times: those of the first are open
            packet.dts = first - (known - number) * (packet.duration or 1)
        for number, packet in enumerate(packets):
            if number != int(len(packets) * place):
                packet.stream = copy
                writer.mux(packet)


def record(found: Found, grid: Grid) -> dict[str, Any]:
    """The result file: PyAV's counts, and the table of the page, whose note says where other decoders' differ."""
    outcomes = found.outcomes
    counts: dict[str, dict[str, str]] = {}
    for (codec_name, ending, kind, decoder), count in outcomes.items():
        if decoder == "auto":
            words = ", ".join(f"{count[name]} {name}" for name in OUTCOMES if count[name])
            counts.setdefault(f"{codec_name}, {ending}", {})[kind] = words
    columns = ["codec", "container", "files", "listed", "right", "fewer frames", "wrong", *grid.kinds]
    rows = []
    for codec in grid.codecs:
        for ending in codec.endings:
            ours = {
                key[2]: count for key, count in outcomes.items() if key[:2] == (codec.name, ending) and key[3] == "auto"
            }
            total = sum(ours.values(), Counter())
            n_files = sum(total.values())
            shares = [_share(total[name], n_files) for name in OUTCOMES]
            kinds = [_share(ours[kind]["wrong"], sum(ours[kind].values())) for kind in grid.kinds]
            rows.append([codec.name, ending.replace(".", " "), str(n_files), *shares, *kinds])
    note = (
        f"Clips of {N_FRAMES} frames, {grid.size[0]}x{grid.size[1]}, damaged at {len(grid.places)} places each: "
        f"{BLOCK} bytes "
        f"zeroed or overwritten, one bit or eight within {BLOCK} bytes flipped, cut there, one packet left out by "
        "the muxer; shares in per cent, the last columns the wrong ones by kind. *Fewer frames*: every "
        f"picture right, but some are missing, so that others were sampled. `--decoder decord`: {_others(outcomes)}."
        f"{_how_far(found.off_by)}"
    )
    return {
        "counts": counts,
        "off_by": found.off_by,
        "readme": {"columns": columns, "rows": rows, "note": note, "command": COMMAND},
    }


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}" if part else "0"


def _how_far(off_by: dict[str, list[float]]) -> str:
    words = [f"{name} {np.median(far):.1f}, at most {max(far):.1f} ({len(far)})" for name, far in off_by.items()]
    if not words:
        return ""
    return (
        " Delivered wrong after one bit, the worst picture is off by, mean over its pixels of 255, median over files: "
        f"{'; '.join(words)}."
    )


def _others(outcomes: dict[tuple[str, str, str, str], Counter]) -> str:
    """Where another decoder's outcomes differ from PyAV's, in words."""
    differences = [
        f"{key[0]} in {key[1]}, {key[2]}: {dict(count)}"
        for key, count in outcomes.items()
        if key[3] != "auto" and count != outcomes[(*key[:3], "auto")]
    ]
    return "; ".join(differences) or "the same outcomes, file by file"


def main(arguments: list[str]) -> int:
    """Runs the grid, prints its table and writes it to benchmarks/results/damage.json."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=2, help="of overwritten bytes and flipped bits (default 2)")
    parser.add_argument(
        "--out", type=Path, default=RESULT, help="result file (default: benchmarks/results/damage.json)"
    )
    parser.add_argument("--size", default="320x240", help="width x height of the clips (default 320x240)")
    options = parser.parse_args(arguments)
    os.environ.setdefault("SVT_LOG", "1")  # keeps the AV1 encoder's greeting out of the output
    width, height = map(int, options.size.split("x"))
    grid = Grid(n_draws=options.draws, size=(width, height))
    with tempfile.TemporaryDirectory(prefix="vidfeat-damage-") as folder:
        written = record(measure(grid, Path(folder)), grid)
    table = written["readme"]
    print(f"{markdown_table(table['columns'], table['rows'])}\n\n{table['note']}")
    write_bytes(options.out, (json.dumps(written, indent=1, ensure_ascii=False) + "\n").encode())
    return 0
