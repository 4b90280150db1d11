"""Damage that no frame's flag tells of is listed all the same, and what only looks like damage is not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
import video_files as vf

from benchmarks import damage as grid
from vidfeat.errors import DecodeError
from vidfeat.video.decode import choose_decoder, decode, decode_all, probe
from vidfeat.video.decode.log_lines import listening
from vidfeat.video.decode.payload import Payloads

X265 = "log-level=none:pools=1"


def remux(source: Path, target: Path, *, keep: slice) -> Path:
    """A copy of `source` with the packets `keep` alone, in decoding order."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        stream = reader.streams.video[0]
        copy = writer.add_stream_from_template(stream)
        packets = [packet for packet in reader.demux(stream) if packet.size and packet.dts is not None]
        for packet in packets[keep]:
            packet.stream = copy
            writer.mux(packet)
    return target


def test_a_small_cut_of_the_grid_hands_on_no_wrong_picture(tmp_path: Path) -> None:
    """The whole grid is `python -m benchmarks damage`; docs/limits.md has its table."""
    names = {"H.264": ("mp4",), "MPEG-4": ("ts",)}
    codecs = [grid.Codec(c.name, c.encoder, names[c.name], c.options) for c in grid.CODECS if c.name in names]
    small = grid.Grid(codecs, ("zeroed", "overwritten", "eight bits", "cut", "dropped"), (0.3, 0.75), n_draws=1)
    outcomes = grid.measure(small, tmp_path, say=lambda line: None)
    assert {key: dict(counts) for key, counts in outcomes.items() if counts["wrong"]} == {}
    assert sum(counts["listed"] for counts in outcomes.values()) >= 28  # of 40
    for key, counts in outcomes.items():
        assert counts == outcomes[(*key[:3], "auto")]  # decord accepts nothing that PyAV lists


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg4.ts"])
def test_joined_transport_streams_are_whole_and_cut_ones_are_not(tmp_path: Path, name: str) -> None:
    codecs = {"h264.ts": {}, "hevc.ts": {"codec": "libx265", "codec_options": {"x265-params": X265}}}
    codec: dict[str, Any] = codecs.get(name, {"codec": "mpeg4"})
    one = vf.write_video(tmp_path / name, n_frames=24, width=240, height=160, **codec)
    joined = tmp_path / f"joined-{name}"
    joined.write_bytes(one.read_bytes() * 2)  # the counters start anew, as in a download of HLS segments
    assert vf.read_numbers(decode_all(joined).pixels) == [*range(24), *range(24)]

    data = one.read_bytes()
    packets = [data[start : start + 188] for start in range(0, len(data), 188)]
    with av.open(str(one)) as container:
        pid = container.streams.video[0].id
    ours = [n for n, p in enumerate(packets) if (p[1] & 0x1F) << 8 | p[2] == pid]
    last = next(b for b, c in pairwise(ours) if packets[c][1] & 0x40 and not packets[b][1] & 0x40)
    for damaged_data, reason in (
        (b"".join(packets[:last] + packets[last + 1 :]), "invalid_data"),  # the last one of a frame is lost
        (b"".join(packets[: last - 1] + packets[last:]), "invalid_data"),  # one amid a frame
        (data[: last * 188] + bytes(188) + data[(last + 1) * 188 :], "invalid_data"),  # one is zeroed
        (data[:-100], "truncated"),
    ):
        damaged = tmp_path / f"damaged-{name}"
        damaged.write_bytes(damaged_data)
        with pytest.raises(DecodeError) as caught:
            decode_all(damaged)
        assert caught.value.reason == reason


def test_pictures_are_held_against_their_checksums(tmp_path: Path) -> None:
    options: dict[str, Any] = {"codec": "libx265", "codec_options": {"x265-params": f"hash=1:{X265}"}}
    path = vf.write_video(tmp_path / "a.mp4", n_frames=24, container_options={"movflags": "faststart"}, **options)
    assert vf.read_numbers(decode_all(path).pixels) == list(range(24))
    with pytest.raises(DecodeError, match=r"Verifying checksum.*mismatch"):
        decode_all(vf.flip_bits(path, tmp_path / "b.mp4", n_bits=5, seed=1, span=(0.7, 0.95)))


@pytest.mark.parametrize("source", ["h264.mkv", "h264_open.ts", "hevc_open.mp4", "mpeg4.ts"])
@pytest.mark.parametrize("first", [5, 12])
def test_a_file_that_starts_amid_gives_what_it_holds(tmp_path: Path, source: str, first: int) -> None:
    """Without its first packets: frames from the first key frame on, each right, and no failure."""
    codecs: dict[str, dict[str, Any]] = {
        "h264_open.ts": {"codec_options": {"x264-params": "open-gop=1"}},
        "hevc_open.mp4": {"codec": "libx265", "codec_options": {"x265-params": X265}},
        "mpeg4.ts": {"codec": "mpeg4"},
    }
    whole = vf.write_video(tmp_path / source, n_frames=40, **codecs.get(source, {}))
    part = remux(whole, tmp_path / f"part-{source}", keep=slice(first, None))
    frames = decode_all(part)
    numbers = vf.read_numbers(frames.pixels)
    assert numbers == list(range(numbers[0], 40))
    assert numbers[0] <= 24
    assert frames.n_source_frames == len(numbers)


def test_open_groups_that_no_early_frame_betrays_are_not_for_decord(tmp_path: Path) -> None:
    """decord 0.6.0 shows frame 47 for 49 of such a file."""
    options: dict[str, Any] = {"codec_options": {"x264-params": "open-gop=1:bframes=2:b-adapt=0:scenecut=0:keyint=10"}}
    path = vf.write_video(tmp_path / "a.mp4", n_frames=50, gop=10, **options)
    facts = probe(path)
    assert facts.has_open_gop
    assert "open groups" in choose_decoder(facts, preferred="decord").why
    assert vf.read_numbers(decode_all(path, decoder="decord").pixels) == list(range(50))


def test_blocks_of_zeros_are_told_from_padding() -> None:
    lengths = Payloads("h264", bytes([1, 100, 0, 10, 0xFF]))
    unit = bytes([0x65]) + bytes(range(1, 200))
    with_length = len(unit).to_bytes(4, "big") + unit
    assert not lengths.is_zeroed(with_length)
    assert not lengths.is_zeroed(with_length + (len(unit) + 64).to_bytes(4, "big") + unit + bytes(64))
    assert lengths.is_zeroed(with_length[:100] + bytes(64) + with_length[164:])
    codes = Payloads("h264", b"")
    assert not codes.is_zeroed(b"\0\0\0\1" + unit + bytes(64) + b"\0\0\1" + unit + bytes(64))
    assert codes.is_zeroed(b"\0\0\0\1" + unit + bytes(64) + unit)
    assert not Payloads("mpeg4", b"").is_zeroed(bytes(5000))
    assert lengths.is_open_key(len(unit).to_bytes(4, "big") + b"\x41" + unit[1:])
    assert not lengths.is_open_key(with_length)


def test_listening_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=20)
    before = av.logging.get_level(), av.logging.get_skip_repeated()
    with listening() as outer:
        decode(path, policy=grid.EIGHT)
        assert av.logging.get_level() == av.logging.DEBUG
        av.logging.log(av.logging.DEBUG, "h264", "Frame num gap 5 3")
        assert outer.evidence(of=("mpegts",)) == ""
        for _ in range(2):  # a line like the one before is heard too
            av.logging.log(av.logging.DEBUG, "h264", "Frame num gap 5 3")
            assert outer.evidence() == "h264: Frame num gap 5 3"
    assert (av.logging.get_level(), av.logging.get_skip_repeated()) == before
