"""Every real clip gives right frames, checked against a plain decode from start to end, or a right refusal."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from vidfeat.errors import DecodeError
from vidfeat.video.decode import choose_decoder, decode, probe
from vidfeat.video.sampling import SamplingPolicy

CLIPS = Path(__file__).resolve().parents[4] / "shared" / "clips"
NOT_VIDEOS = ("LICENSE", "SOURCE.txt", "LICENSE.txt")
CODECS = sorted(path for path in (CLIPS / "codecs").glob("*.*") if path.name not in NOT_VIDEOS)
OTHERS = sorted(
    path
    for folder in ("irrelevant/games", "irrelevant/gestures", "actions/clapping")
    for path in sorted((CLIPS / folder).glob("*.*"))[:6]
    if path.name not in NOT_VIDEOS
)

pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not CODECS, reason="no shared clips"),
]


def plainly(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """Pictures and times of a video by the shortest PyAV program there is, turned by its rotation."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = list(container.decode(stream))
    pictures = [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in frames]
    return pictures, [float(frame.pts * frame.time_base) for frame in frames]


@pytest.mark.parametrize("path", [*CODECS, *OTHERS], ids=lambda path: path.name)
def test_real_clips_give_right_frames(path: Path) -> None:
    pictures, times = plainly(path)
    facts = probe(path)
    assert facts.n_packets == len(pictures)

    for decoder in ("auto", "decord"):
        for policy in (SamplingPolicy("uniform", n_frames=5), SamplingPolicy("segments-random", n_frames=8)):
            frames = decode(path, policy=policy, seed=1, decoder=decoder)
            assert frames.n_source_frames == len(pictures)
            for index, picture, seconds in zip(
                frames.indices.tolist(), frames.pixels, frames.pts_seconds.tolist(), strict=True
            ):
                np.testing.assert_array_equal(picture, pictures[index])
                assert seconds == pytest.approx(times[index], abs=1e-6)
            chosen = choose_decoder(facts, preferred=decoder).decoder
            assert frames.decoder.startswith(chosen)


def test_the_clips_cover_both_decoders_and_many_doubts() -> None:
    choices = {path.name: choose_decoder(probe(path), preferred="decord") for path in CODECS}

    for name, doubt in {
        "av1_video.mkv": "codec av1",
        "testsrc2_vp8.webm": "codec vp8",
        "discard_first_keyframe.mp4": "edit list",
        "h264_10bits.mp4": "yuv420p10le",
        "testsrc2_odd_height_vp9.mp4": "odd size",
        "nasa_13013_rotated.mp4": "rotated",
        "nasa_13013.mp4": "2 video streams",
        "h265_video.mp4": "open groups",
        "testsrc2_444_8bit_hevc.mp4": "yuv444p",
    }.items():
        assert choices[name].decoder == "pyav"
        assert doubt in choices[name].why
    assert {name for name, choice in choices.items() if choice.decoder == "decord"} >= {
        "testsrc2.mp4",
        "testsrc2_vp9.webm",
        "test_non_zero_start.mp4",
        "bt709_full_range.mp4",
    }


@pytest.mark.parametrize("name", ["LICENSE", "SOURCE.txt"])
def test_texts_beside_the_clips_are_refused(name: str) -> None:
    with pytest.raises(DecodeError) as caught:
        probe(CLIPS / "codecs" / name)
    assert caught.value.reason == "invalid_data"
