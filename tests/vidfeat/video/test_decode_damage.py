"""Damage that no frame's flag tells of is listed all the same, and what only looks like damage is not."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import video_files as vf

from benchmarks import damage as grid
from vidfeat.errors import DecodeError
from vidfeat.video.decode import choose_decoder, decode, decode_all, probe, transport, video_file, with_pyav
from vidfeat.video.decode.log_lines import listening
from vidfeat.video.decode.payload import Payloads
from vidfeat.video.decode.wavefront import has_wavefronts

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
    outcomes = grid.measure(small, tmp_path, say=lambda line: None).outcomes
    assert {key: dict(counts) for key, counts in outcomes.items() if counts["wrong"]} == {}
    assert sum(counts["listed"] for counts in outcomes.values()) >= 28  # of 40
    for key, counts in outcomes.items():
        assert counts == outcomes[(*key[:3], "auto")]  # decord accepts nothing that PyAV lists


def test_how_far_a_picture_is_off_is_the_mean_over_its_pixels(tmp_path: Path) -> None:
    clip = vf.write_video(tmp_path / "a.mp4", n_frames=24, width=64, height=48)
    whole = decode_all(clip)
    assert grid.off_by(clip, whole) == 0.0
    other = whole.pixels.copy()
    other[0] ^= 1  # each value by one; the first frame is among any eight
    assert grid.off_by(clip, replace(whole, pixels=other)) == 1.0


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


PID = 256


def transport_packet(
    counter: int, *, pid: int = PID, starts: bool = False, filled: bool = False, broken: bool = False, new: bool = False
) -> bytes:
    """188 bytes; `new`: the counter's jump is announced."""
    head = bytes([0x47, broken << 7 | starts << 6 | pid >> 8, pid & 0xFF, (0x30 if filled or new else 0x10) | counter])
    return (head + (bytes([7, new << 7]) if filled or new else b"")).ljust(188, b"\xff")


@pytest.mark.parametrize(
    ("after_six", "at"),
    [
        ([transport_packet(6), transport_packet(6), transport_packet(7)], None),  # a repeated packet
        ([transport_packet(7)], 6),
        ([transport_packet(9, new=True)], None),
        ([transport_packet(6, broken=True)], 6),
        ([transport_packet(6), transport_packet(9, starts=True)], 7),
        ([transport_packet(6, filled=True), transport_packet(9, starts=True)], None),  # a joint behind a whole frame
        ([transport_packet(6, filled=True), transport_packet(9)], 7),
        ([transport_packet(0, pid=0), transport_packet(9, starts=True)], None),  # a joint behind a table of programs
        ([bytes(188)], 6),
    ],
)
@pytest.mark.parametrize(("before", "behind"), [(0, 0), (4, 0), (0, 16)])
def test_lost_transport_packets_are_told_from_joints(
    after_six: list[bytes], at: int | None, before: int, behind: int
) -> None:
    packets = [*(transport_packet(counter) for counter in range(6)), *after_six]
    content = b"".join(bytes(before) + packet + bytes(behind) for packet in packets)
    found = transport.damage(io.BytesIO(content), PID)
    assert found.endswith(f" at byte {at * (188 + before + behind) + before}") if at is not None else found == ""


def test_packets_that_an_index_lists_and_packets_cut_short_are_missed(tmp_path: Path) -> None:
    avi = vf.write_video(tmp_path / "a.avi", n_frames=40, codec="mpeg4", b_frames=0)
    data = bytearray(avi.read_bytes())
    place = data.index(b"00dc", len(data) // 2)
    data[place : place + 4] = b"\xff\xff\xff\xff"
    avi.write_bytes(data)
    with pytest.raises(DecodeError, match="of the 40 packets that its index lists can be found"):
        decode_all(avi)
    flv = vf.write_video(tmp_path / "a.flv", n_frames=40)
    with pytest.raises(DecodeError, match="1 packets are not whole"):
        decode_all(vf.cut_end(flv, tmp_path / "b.flv", keep=0.7))


def test_pictures_are_held_against_their_checksums(tmp_path: Path) -> None:
    options: dict[str, Any] = {"codec": "libx265", "codec_options": {"x265-params": f"hash=1:{X265}"}}
    path = vf.write_video(tmp_path / "a.mp4", n_frames=24, container_options={"movflags": "faststart"}, **options)
    assert vf.read_numbers(decode_all(path).pixels) == list(range(24))
    with pytest.raises(DecodeError, match=r"Verifying checksum.*mismatch"):
        decode_all(vf.flip_bits(path, tmp_path / "b.mp4", n_bits=5, seed=1, span=(0.7, 0.95)))


def n_listed(clip: Path, target: Path) -> int:
    """Of eight copies of a clip, each with one bit flipped in the first third of a packet: how many are refused."""
    with av.open(str(clip)) as container:
        places = [p.pos + p.size // 3 for p in container.demux(container.streams.video[0]) if p.size > 200]
    refused = 0
    for place in places[:8]:
        data = bytearray(clip.read_bytes())
        data[place] ^= 16
        target.write_bytes(data)
        try:
            decode(target, policy=grid.EIGHT)
        except DecodeError as error:
            refused += error.reason == "invalid_data"
    return refused


@pytest.mark.parametrize(
    ("encoder", "ending", "options", "least"),
    [
        ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}, 7),
        ("libx265", "mp4", {"preset": "ultrafast", "x265-params": f"open-gop=0:{X265}"}, 6),
    ],
)
def test_a_bit_of_an_arithmetic_code_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoder: str, ending: str, options: dict[str, str], least: int
) -> None:
    """By libvpx, and by the places of wavefronts; FFmpeg's decoders alone notice next to nothing."""
    clip = tmp_path / f"a.{ending}"
    grid.write_clip(clip, grid.Codec(encoder, encoder, (ending,), options), grid._pictures(192, 160)[:16])
    whole, n_strict = decode_all(clip), n_listed(clip, tmp_path / f"b.{ending}")
    assert n_strict >= least
    monkeypatch.setattr(video_file, "_decoder", lambda stream: stream.codec_context)
    monkeypatch.setattr(with_pyav, "_check_rows", lambda *arguments, **options: None)
    assert np.array_equal(decode_all(clip).pixels, whole.pixels)
    assert n_listed(clip, tmp_path / f"b.{ending}") <= 2


@pytest.mark.parametrize(("wpp", "ending"), [(1, "mp4"), (0, "mp4"), (1, "mkv"), (1, "ts"), (0, "ts")])
def test_wavefronts_are_told_by_the_picture_parameters(tmp_path: Path, wpp: int, ending: str) -> None:
    options: dict[str, Any] = {"codec": "libx265", "codec_options": {"x265-params": f"{X265}:wpp={wpp}"}}
    path = vf.write_video(tmp_path / f"a.{ending}", n_frames=8, width=240, height=160, **options)
    assert probe(path).has_wavefronts == bool(wpp)
    assert vf.read_numbers(decode_all(path).pixels) == list(range(8))
    assert not has_wavefronts(b"\1")  # cut short
    assert not has_wavefronts(b"\0\0\1\x44\1")


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
    for codec in ("vp8", "vp9"):
        assert Payloads(codec, None).is_zeroed(b"\1" + bytes(1024) + b"\1")
        assert not Payloads(codec, None).is_zeroed(b"\1" + bytes(1023) + b"\1")
    opens = [kind for kind in range(64) if Payloads("hevc", b"").is_open_key(bytes([0, 0, 1, kind << 1, 1]))]
    assert opens == [16, 17, 18, 21]


@pytest.mark.parametrize(
    ("part", "line", "counts"),
    [
        ("h264", "Missing reference picture, default is 0", True),
        ("h264", "reference picture missing during reorder", True),
        ("h264", "Increasing reorder buffer to 2", False),
        ("hevc", "Could not find ref with POC 12", True),
        ("hevc", "Error constructing the frame RPS.", True),
        ("hevc", "Skipping invalid undecodable NALU: 1", True),
        ("hevc", "Error parsing NAL unit #2.", True),
        ("hevc", "The cu_qp_delta 40 is outside the valid range [-26, 25].", True),
        ("hevc", "Decoded frame with POC 12/3.", False),
        ("mpegts", "PES packet size mismatch", True),
        ("avi", "Something went wrong during header parsing, tag has size 5, I will ignore it", True),
        ("aac", "Error parsing NAL unit #2.", False),
    ],
)
def test_which_lines_are_evidence(part: str, line: str, counts: bool) -> None:
    with listening() as lines:
        av.logging.log(av.logging.DEBUG, part, f"{line}\n")
        assert lines.evidence() == (f"{part}: {line}" if counts else "")


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
