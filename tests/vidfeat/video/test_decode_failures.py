"""What cannot be decoded gets a reason, and nothing is handed on as if it were whole."""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
import video_files as vf

from vidfeat.errors import DecodeError
from vidfeat.video.decode import decode, decode_all, probe
from vidfeat.video.decode.container import completeness
from vidfeat.video.decode.video_file import VideoFile
from vidfeat.video.sampling import SamplingPolicy

FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}
EIGHT = SamplingPolicy("uniform", n_frames=8)


def reason_of(path: Path, **options: object) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(path, policy=EIGHT, **options)  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    return caught.value.reason


def header_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    return path


# --- no video at all ---


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "gone.mp4") == "unreadable"
    assert reason_of(tmp_path) == "unreadable"


def test_a_file_without_permission_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=3)
    path.chmod(0)
    if os.access(path, os.R_OK):  # root reads everything: let the system say what it says to others
        monkeypatch.setattr("builtins.open", _refuse)
    assert reason_of(path) == "unreadable"


def _refuse(path: object, *rest: object, **more: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert reason_of(tmp_path / "a.mp4") == "empty"


@pytest.mark.parametrize(
    "content",
    [b"this is a text, not a video\n" * 50, b"\0" * 5000, b"\x89PNG\r\n\x1a\n" + b"x" * 300, b"x", b"id,name\n"],
)
def test_other_files_by_a_video_name_are_invalid(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert reason_of(tmp_path / "a.mp4") == "invalid_data"


def test_a_playlist_by_a_video_name_opens_nothing_else(tmp_path: Path) -> None:
    vf.write_video(tmp_path / "secret.ts", n_frames=10)
    lists = {
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:0.4,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        assert reason_of(tmp_path / name) in ("codec_unsupported", "invalid_data")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    assert reason_of(vf.write_audio(tmp_path / "a.mp4")) == "no_video_stream"
    assert reason_of(vf.write_audio(tmp_path / "a.mkv")) == "no_video_stream"


def test_a_video_without_frames(tmp_path: Path) -> None:
    assert reason_of(header_only(tmp_path / "a.mkv")) == "no_frames"
    # FFmpeg leaves out the track that got no frame.
    assert reason_of(header_only(tmp_path / "a.mp4")) == "no_video_stream"
    # The first segment of a stream: a track, and its frames in other files.
    whole = vf.write_video(tmp_path / "b.mp4", n_frames=5, container_options=FRAGMENTED)
    (tmp_path / "head.mp4").write_bytes(whole.read_bytes().split(b"moof")[0][:-4])
    assert reason_of(tmp_path / "head.mp4") == "no_frames"


def test_a_codec_nobody_knows_is_unsupported(tmp_path: Path) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=5)
    data = path.read_bytes()
    assert data.count(b"avc1") > 0
    path.write_bytes(data.replace(b"avc1", b"zzz9"))
    assert reason_of(path) == "codec_unsupported"


def test_a_picture_turned_by_half_a_right_angle_is_unsupported(tmp_path: Path) -> None:
    assert reason_of(vf.write_video(tmp_path / "a.mp4", n_frames=3, rotation=45)) == "codec_unsupported"


def test_frames_that_change_size_are_unsupported(tmp_path: Path) -> None:
    one = vf.write_video(tmp_path / "one.ts", n_frames=20)
    two = vf.write_video(tmp_path / "two.ts", n_frames=20, width=128, height=96)
    (tmp_path / "both.ts").write_bytes(one.read_bytes() + two.read_bytes())

    with pytest.raises(DecodeError, match="96x64 to 128x96") as caught:
        decode_all(tmp_path / "both.ts")
    assert caught.value.reason == "codec_unsupported"


# --- cut files ---

WRITERS: dict[str, dict[str, object]] = {
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "index_last.mp4": {},
    "fragmented.mp4": {"container_options": FRAGMENTED},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "h264.avi": {},
    "a.gif": {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0},
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_cut_file_is_never_taken_for_a_whole_one(tmp_path: Path, name: str) -> None:
    """Cut anywhere: a reason, or every frame where the cut took what holds no frame (an index at the end)."""
    whole = vf.write_video(tmp_path / name, n_frames=60, **WRITERS[name])  # type: ignore[arg-type]
    assert completeness(str(whole)).cut == ""
    reasons: Counter[str] = Counter()
    for keep in [*np.linspace(0.01, 0.99, 50), 0.9999]:
        cut = vf.cut_end(whole, tmp_path / f"cut_{name}", keep=float(keep))
        try:
            frames = decode(cut, policy=EIGHT)
        except DecodeError as error:
            reasons[error.reason] += 1
        else:
            assert frames.n_source_frames == 60
            assert vf.read_numbers(frames.pixels) == frames.indices.tolist()
            reasons["whole"] += 1
    # The first bytes alone do not show what they were to become.
    assert set(reasons) <= {"truncated", "invalid_data", "whole"}
    assert reasons["truncated"] >= 40 - 10 * (name.endswith("avi"))


def test_a_cut_faststart_file_says_how_much_is_left(tmp_path: Path) -> None:
    """PyAV alone returns the frames that are there and no error: this is what is guarded against."""
    whole = vf.write_video(tmp_path / "a.mp4", n_frames=200, container_options={"movflags": "faststart"})
    cut = vf.cut_end(whole, tmp_path / "cut.mp4", keep=0.9)
    survivors = 0
    with av.open(str(cut)) as container:
        try:
            for _ in container.decode(video=0):
                survivors += 1
        except av.FFmpegError:
            pass
    assert 100 < survivors < 200

    with pytest.raises(DecodeError, match=r"bytes before its container does \(\d+/200 frames left\)") as caught:
        decode_all(cut)
    assert caught.value.reason == "truncated"


def test_a_recording_without_its_index_is_truncated(tmp_path: Path) -> None:
    whole = vf.write_video(tmp_path / "a.mp4", n_frames=20)
    cut = vf.cut_end(whole, tmp_path / "cut.mp4", keep=0.5)
    with pytest.raises(DecodeError, match="moov"):
        decode_all(cut)
    assert reason_of(cut) == "truncated"


# --- damaged files ---


def test_one_flipped_bit_in_a_matroska_cluster_is_found(tmp_path: Path) -> None:
    """FFmpeg skips damaged clusters and hands on the rest; the cluster's own checksum does not."""
    whole = vf.write_video(tmp_path / "a.mkv", n_frames=100)
    data = whole.read_bytes()
    low = data.index(bytes.fromhex("1f43b675")) / len(data)
    for seed in range(40):
        damaged = vf.flip_bits(whole, tmp_path / "flipped.mkv", n_bits=1, seed=seed, span=(low, 0.9))
        assert completeness(str(damaged)).damage
        assert reason_of(damaged) == "invalid_data"


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_flipped_bits_are_noticed_on_the_way(tmp_path: Path, name: str) -> None:
    """FFmpeg flags the frames it patches up; decord hands them on. Flips that leave a valid stream show nowhere."""
    whole = vf.write_video(tmp_path / name, n_frames=100, container_options=_faststart(name))
    healthy = decode(whole, policy=EIGHT)
    outcomes: Counter[str] = Counter()
    for seed in range(40):
        damaged = vf.flip_bits(whole, tmp_path / f"flipped_{name}", n_bits=12, seed=seed, span=(0.6, 0.95))
        try:
            frames = decode(damaged, policy=EIGHT)
        except DecodeError as error:
            outcomes[error.reason] += 1
        else:
            outcomes["same" if np.array_equal(frames.pixels, healthy.pixels) else "changed"] += 1
    assert set(outcomes) <= {"invalid_data", "truncated", "same", "changed"}
    assert outcomes["invalid_data"] + outcomes["truncated"] >= 36
    assert outcomes["changed"] <= (2 if name == "a.mp4" else 0)


def _faststart(name: str) -> dict[str, str]:
    return {"movflags": "faststart"} if name.endswith("mp4") else {}


@pytest.mark.parametrize("name", WRITERS)
def test_garbled_files_raise_nothing_but_decode_errors(tmp_path: Path, name: str) -> None:
    whole = vf.write_video(tmp_path / name, n_frames=30, **WRITERS[name])  # type: ignore[arg-type]
    generator, reasons = np.random.default_rng(7), set()
    for seed in range(25):
        low = float(generator.uniform(0, 0.9))
        garbled = vf.flip_bits(whole, tmp_path / f"garbled_{name}", n_bits=6, seed=seed, span=(low, low + 0.1))
        try:
            frames = decode(garbled, policy=EIGHT)
        except DecodeError as error:
            reasons.add(error.reason)
        else:
            assert len(frames.indices) == 8
    assert reasons
    assert "machine" not in reasons


# --- limits ---


def test_a_deadline_that_has_passed_is_a_timeout(tmp_path: Path) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=30)
    for decoder in ("pyav", "decord"):
        assert reason_of(path, timeout_seconds=0.0, decoder=decoder) == "timeout"
    assert len(decode(path, policy=EIGHT, timeout_seconds=600.0).indices) == 8


def test_memory_that_runs_out_is_no_verdict_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=3)

    def no_memory(file: VideoFile, frame: object) -> np.ndarray:
        raise MemoryError("no room for the picture")

    monkeypatch.setattr(VideoFile, "picture", no_memory)
    assert reason_of(path) == "machine"


def test_an_unknown_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Unknown decoder"):
        decode(tmp_path / "a.mp4", policy=EIGHT, decoder="opencv")


def test_failures_survive_the_way_back_from_a_worker(tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as caught:
        probe(tmp_path / "gone.mp4")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.reason) == (str(caught.value), "unreadable")
