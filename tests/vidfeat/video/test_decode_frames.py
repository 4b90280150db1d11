"""Decoding gives the frames it says it gives: every test video carries its frame numbers in the picture."""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import video_files as vf

from vidfeat.video.decode import choose_decoder, decode, decode_all, pick, probe
from vidfeat.video.decode.decoders import DECODERS, available_decoders
from vidfeat.video.decode.frames import Deadline, Frames
from vidfeat.video.sampling import SamplingPolicy, sample_indices

os.environ.setdefault("SVT_LOG", "1")  # keep the AV1 encoder's greeting out of the test output
DECORD_WORKS = any(status.name == "decord" and status.works for status in available_decoders())
DECORD = DECODERS["decord"]
UNEVEN = tuple(np.cumsum([40 if i % 3 else 100 for i in range(40)]).tolist())
LATE = tuple(8333 + 40 * i for i in range(40))
TURN = 1 << 16
QUIET_X265 = "log-level=none:pools=1"


def turned(degrees: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda picture: np.rot90(picture, -degrees // 90)


# name -> how it is written; every one has 40 frames.
VIDEOS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.mov": {},
    "h264.avi": {},
    "h264.ts": {},
    "h264.flv": {},
    "no_b_frames.mp4": {"b_frames": 0},
    "one_gop.mp4": {"gop": 250, "b_frames": 3},
    "every_frame_a_key.mp4": {"gop": 1, "b_frames": 0},
    "ntsc.mp4": {"fps": Fraction(30000, 1001)},
    "ntsc.mkv": {"fps": Fraction(30000, 1001)},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "hevc_open_gop.mp4": {"codec": "libx265", "codec_options": {"x265-params": QUIET_X265}},
    "hevc_closed_gop.mp4": {"codec": "libx265", "codec_options": {"x265-params": "open-gop=0:" + QUIET_X265}},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp9_hidden_frames.webm": {
        "codec": "libvpx-vp9",
        "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16"},
        "gop": 30,
    },
    "vp8.webm": {"codec": "libvpx"},
    "vp8_hidden_frames.webm": {
        "codec": "libvpx",
        "codec_options": {"auto-alt-ref": "1", "lag-in-frames": "16"},
        "gop": 30,
    },
    "av1.mp4": {"codec": "libsvtav1", "codec_options": {"preset": "11"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_no_b_frames.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "gif.gif": {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0},
    "uneven.mp4": {"pts": UNEVEN},
    "uneven.mkv": {"pts": UNEVEN},
    "late.mp4": {"pts": LATE},
    "late.mkv": {"pts": LATE},
    "ten_bit.mp4": {"pixel_format": "yuv420p10le"},
    "full_chroma.mp4": {"pixel_format": "yuv444p"},
    "odd.mp4": {"width": 97, "height": 65, "pixel_format": "yuv444p"},
    "odd.webm": {"width": 97, "height": 65, "codec": "libvpx-vp9"},
    "turned_90.mp4": {"rotation": 90, "stored": turned(90)},
    "turned_180.mp4": {"rotation": 180, "stored": turned(180)},
    "turned_270.mp4": {"rotation": -90, "stored": turned(-90)},
    "mirrored.mp4": {"matrix": (-TURN, 0, 0, 0, TURN, 0, 0, 0, 1 << 30), "stored": lambda p: p[:, ::-1]},
    "upside_down.mp4": {"matrix": (TURN, 0, 0, 0, -TURN, 0, 0, 0, 1 << 30), "stored": lambda p: p[::-1]},
    "transposed.mp4": {
        "matrix": (0, TURN, 0, TURN, 0, 0, 0, 0, 1 << 30),
        "stored": lambda p: p.transpose(1, 0, 2),
    },
}
# Those on which decord 0.6.0 gave other frames, pixels or counts when they were made.
DECORD_IS_WRONG = (
    "h264.avi",
    "h264.ts",
    "hevc_open_gop.mp4",
    "mpeg4.mp4",
    "mpeg4.avi",
    "av1.mp4",
    "gif.gif",
    "mirrored.mp4",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def written(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.exists() else vf.write_video(path, n_frames=40, **VIDEOS[name])


def same_frames(one: Frames, other: Frames) -> None:
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.pts_seconds, other.pts_seconds, atol=1e-9)
    assert one.n_source_frames == other.n_source_frames


@pytest.mark.parametrize("name", VIDEOS)
def test_every_frame_is_in_its_place(folder: Path, name: str) -> None:
    path = written(folder, name)

    frames = decode_all(path)

    assert vf.read_numbers(frames.pixels) == list(range(40))
    assert frames.n_source_frames == 40
    assert (np.diff(frames.pts_seconds) > 0).all()
    assert frames.decoder.startswith("pyav ")
    spec = VIDEOS[name]
    if "pts" in spec:
        # MP4 and Matroska both keep the times; half a tick of Matroska's millisecond clock.
        np.testing.assert_allclose(frames.pts_seconds, np.array(spec["pts"]) / 1000, atol=5.1e-4)
        assert frames.fps == pytest.approx(39 / ((spec["pts"][-1] - spec["pts"][0]) / 1000), rel=1e-3)
    else:
        fps = float(spec.get("fps", 25))
        assert frames.fps == pytest.approx(fps, rel=1e-3)
        times = frames.pts_seconds - frames.pts_seconds[0]
        # A GIF's clock has hundredths, Matroska's milliseconds.
        np.testing.assert_allclose(times, np.arange(40) / fps, atol=1.1e-3)


@pytest.mark.parametrize("name", VIDEOS)
@pytest.mark.parametrize("decoder", ["auto", "decord"])
def test_sampled_frames_are_those_asked_for(folder: Path, name: str, decoder: str) -> None:
    path = written(folder, name)
    everything = decode_all(path)
    policies = [
        SamplingPolicy("uniform", n_frames=8),
        SamplingPolicy("segments-random", n_frames=5),
        SamplingPolicy("segments-middle", n_frames=1),
        SamplingPolicy("dense", n_frames=6, stride=7, n_clips=3),
        SamplingPolicy("segments-middle", n_frames=64),
    ]
    for seed, policy in enumerate(policies):
        frames = decode(path, policy=policy, seed=seed, decoder=decoder)
        expected = sample_indices(policy, n_source_frames=40, fps=everything.fps, seed=seed)
        np.testing.assert_array_equal(frames.indices, expected)
        assert vf.read_numbers(frames.pixels) == expected.tolist()
        np.testing.assert_array_equal(frames.pixels, everything.pixels[expected])
        np.testing.assert_allclose(frames.pts_seconds, everything.pts_seconds[expected], atol=1e-9)


def test_the_two_ways_of_picking_frames_give_the_same_and_one_does_less(folder: Path) -> None:
    direct = []
    for name in VIDEOS:
        facts = probe(written(folder, name))
        if not pick.is_direct(facts):
            continue
        direct.append(name)
        deadline = Deadline.after(facts.path, None)
        for wanted in ({0}, {39}, {11, 12}, {3, 26, 27, 39}, set(range(40))):
            straight = pick.pick_directly(facts, wanted, deadline=deadline)
            through = pick.pick_through(facts.path, wanted, facts=facts, deadline=deadline)
            assert straight is not None
            assert straight.pictures.keys() == through.pictures.keys() == wanted
            for index in wanted:
                np.testing.assert_array_equal(straight.pictures[index], through.pictures[index])
                assert straight.pts_seconds[index] == pytest.approx(through.pts_seconds[index], abs=1e-9)
            assert straight.n_decoded <= through.n_decoded == 40
        last = pick.pick_directly(facts, {39}, deadline=deadline)
        if facts.codec in ("h264", "hevc") and len(facts.key_ticks) > 2:
            assert last is not None
            assert last.n_decoded < 16  # one group of 12, less its unreferenced frames, plus what seeking passes over
    one_gop = probe(written(folder, "one_gop.mp4"))
    last = pick.pick_directly(one_gop, {39}, deadline=Deadline.after(one_gop.path, None))
    assert last is not None
    assert last.n_decoded < 30  # frames that no other refers to are left out
    assert {"h264.mp4", "h264.mkv", "hevc_closed_gop.mp4", "vp9.webm", "late.mp4", "uneven.mkv", "ten_bit.mp4"} <= set(
        direct
    )
    assert not {"hevc_open_gop.mp4", "av1.mp4", "vp8_hidden_frames.webm", "h264.avi", "h264.ts"} & set(direct)


def test_pictures_have_the_size_they_are_shown_at(folder: Path) -> None:
    for name, size in [("turned_90.mp4", (64, 96)), ("transposed.mp4", (64, 96)), ("odd.webm", (65, 97))]:
        assert decode(written(folder, name), policy=SamplingPolicy("uniform", n_frames=1)).pixels.shape[1:3] == size


def test_colours_survive(tmp_path: Path) -> None:
    path = tmp_path / "colours.mp4"
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "8"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for colour in colours:
            picture = np.full((64, 64, 3), colour, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())

    for decoder in ("pyav", "decord"):
        seen = decode_all(path, decoder=decoder).pixels.reshape(3, -1, 3).mean(axis=1)
        # YUV in 8 bits holds these colours to about 2 steps; swapped channels would be off by 160.
        np.testing.assert_allclose(seen, colours, atol=5)


# --- trims ---


@pytest.mark.parametrize("source", ["h264.mp4", "no_b_frames.mp4", "hevc_open_gop.mp4", "vp9.webm"])
def test_a_stream_copied_trim_starts_where_its_edit_list_says(folder: Path, tmp_path: Path, source: str) -> None:
    trim = vf.trim_copy(written(folder, source), tmp_path / "trim.mp4", start_seconds=0.72)

    facts, frames = probe(trim), decode_all(trim)

    assert facts.has_edit_list
    assert facts.first_pts_seconds < 0
    assert vf.read_numbers(frames.pixels) == list(range(18, 40))
    assert frames.n_source_frames == 22
    assert frames.pts_seconds[0] == 0
    sampled = decode(trim, policy=SamplingPolicy("uniform", n_frames=8), decoder="decord")
    assert vf.read_numbers(sampled.pixels) == [18 + index for index in sampled.indices]
    assert sampled.decoder.startswith("pyav ")


def test_a_trim_that_starts_between_key_frames_loses_what_cannot_be_decoded(folder: Path, tmp_path: Path) -> None:
    # Matroska seeks past the key frame here: the copy starts with frames whose key frame is not in the file.
    trim = vf.trim_copy(written(folder, "h264.mkv"), tmp_path / "trim.mp4", start_seconds=0.72)

    frames = decode_all(trim)

    numbers = vf.read_numbers(frames.pixels)
    assert numbers == list(range(40 - len(numbers), 40))
    assert frames.n_source_frames == len(numbers)


def test_of_several_video_streams_all_readers_take_the_same(folder: Path, tmp_path: Path) -> None:
    large = vf.write_video(tmp_path / "large.mp4", width=192, height=128, n_frames=20)
    both = vf.mux_streams(tmp_path / "both.mp4", [written(folder, "h264.mp4"), large])

    facts = probe(both)
    one, other = (decode_all(both, decoder=decoder) for decoder in ("pyav", "decord"))

    assert facts.n_video_streams == 2
    same_frames(one, other)
    assert vf.read_numbers(one.pixels) == list(range(one.n_source_frames))


# --- decord ---


@pytest.mark.skipif(not DECORD_WORKS, reason="decord does not work here")
@pytest.mark.parametrize("name", VIDEOS)
def test_where_decord_is_trusted_it_is_right(folder: Path, name: str) -> None:
    path = written(folder, name)
    facts = probe(path)
    choice = choose_decoder(facts, preferred="decord")
    assert choice.decoder == ("pyav" if DECORD.doubts(facts) else "decord")
    if choice.decoder == "pyav":
        return

    everything = decode_all(path)
    generator = np.random.default_rng(0)
    for _ in range(6):
        wanted = generator.choice(40, size=4, replace=False).tolist()
        pictures = DECORD.read_pictures(str(path), wanted, deadline=Deadline.after("", None))
        assert pictures.n_frames == 40
        np.testing.assert_array_equal(pictures.pixels, everything.pixels[wanted])
    assert decode(path, policy=SamplingPolicy("uniform", n_frames=3), decoder="decord").decoder.startswith("decord ")


@pytest.mark.skipif(not DECORD_WORKS, reason="decord does not work here")
@pytest.mark.parametrize("name", [*DECORD_IS_WRONG, "trim"])
def test_the_doubts_about_decord_matter(folder: Path, tmp_path: Path, name: str) -> None:
    """Each of these files makes decord return something else: without the guard it would be in the store."""
    if name == "trim":
        path = vf.trim_copy(written(folder, "h264.mp4"), tmp_path / "trim.mp4", start_seconds=0.72)
    else:
        path = written(folder, name)
    everything = decode_all(path)

    assert DECORD.doubts(probe(path))
    assert not _decord_agrees(path, everything)


def _decord_agrees(path: Path, everything: Frames) -> bool:
    import decord

    generator = np.random.default_rng(1)
    for _ in range(6):
        wanted = sorted(generator.choice(everything.n_source_frames, size=5, replace=False).tolist())
        try:
            pictures = DECORD.read_pictures(str(path), wanted, deadline=Deadline.after("", None))
        except decord.DECORDError:
            return False
        if pictures.n_frames != everything.n_source_frames or pictures.pixels.shape[1:] != everything.pixels.shape[1:]:
            return False
        if vf.read_numbers(pictures.pixels) != wanted:
            return False
    return True


# --- Frames ---


def test_frames_check_their_axes() -> None:
    pixels, indices, times = np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 1]), np.array([0.0, 0.1])
    Frames(pixels, indices, times, 2, 10.0, "test")
    for wrong in (
        (pixels[:1], indices, times, 2),
        (pixels.astype(np.float32), indices, times, 2),
        (pixels, indices.astype(np.int32), times, 2),
        (pixels, indices, times, 1),
        (pixels, indices, times[:1], 2),
        (pixels, indices, np.array([0.0, np.nan]), 2),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            Frames(*wrong, 10.0, "test")
