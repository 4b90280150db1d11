"""What the machine does is no verdict on a file, and decoding leaves neither threads nor pictures behind."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import video_files as vf

from vidfeat.errors import DecodeError
from vidfeat.extraction.recipe import file_sha256
from vidfeat.video.decode import decode, decode_all
from vidfeat.video.decode.container import completeness
from vidfeat.video.decode.video_file import VideoFile
from vidfeat.video.sampling import SamplingPolicy

PROBE = sys.modules["vidfeat.video.decode.probe"]  # its name in the package is the function's
EIGHT = SamplingPolicy("uniform", n_frames=8)
SYSTEM_ERRORS = ("EAGAIN", "ENOMEM", "EMFILE", "ENFILE", "ENOSPC", "EIO", "ESTALE", "ETIMEDOUT", "EINTR")


def by_ffmpeg(code: int) -> BaseException:
    return av.error.classes.get(code, av.error.FFmpegError)(code, os.strerror(code))


FAULTS: dict[str, BaseException] = {
    **{name: OSError(getattr(errno, name), "by the system") for name in SYSTEM_ERRORS},
    **{f"{name} by FFmpeg": by_ffmpeg(getattr(errno, name)) for name in SYSTEM_ERRORS},
    "external": av.error.ExternalError(542398533, "Generic error in an external library"),
    "no thread": RuntimeError("can't start new thread"),
    "memory": MemoryError(),
    "import": ImportError("libswscale.so.9: cannot open shared object file"),
    "our own": AttributeError("'VideoFrame' object has no attribute 'colour'"),
    "our own, too": KeyError("a bug of ours"),
}


def raiser(error: BaseException) -> Callable[..., object]:
    # A new one each time: an exception keeps its traceback, and so the frames of the decoding it broke off.
    arguments = error.args if not isinstance(error, av.FFmpegError) else (error.errno, error.strerror)

    def fail(*_: object, **__: object) -> object:
        raise type(error)(*arguments)

    return fail


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("place", ["stat", "structure", "open", "first frame", "picture"])
@pytest.mark.parametrize("name", ["a.mp4", "doubtful.avi"])
def test_a_fault_of_the_machine_is_never_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, fault: str
) -> None:
    """The second file is sound, but its header gives rise to doubts about its end."""
    path = vf.write_video(tmp_path / name, n_frames=6, codec="mpeg4", b_frames=0)
    if name == "doubtful.avi":
        data = bytearray(path.read_bytes())
        data[4:8] = (len(data) + 1000).to_bytes(4, "little")
        path.write_bytes(data)
        assert completeness(str(path)).cut
    expected = decode(path, policy=EIGHT)

    with monkeypatch.context() as patch:
        if place == "stat":
            honest = os.stat
            failing = raiser(FAULTS[fault])
            patch.setattr(os, "stat", lambda at, **more: failing() if at == str(path) else honest(at, **more))
        elif place == "structure":
            patch.setattr(PROBE, "completeness", raiser(FAULTS[fault]))
        elif place == "open":
            patch.setattr(av, "open", raiser(FAULTS[fault]))
        elif place == "first frame":
            patch.setattr(PROBE, "orientation", raiser(FAULTS[fault]))
        else:
            patch.setattr(VideoFile, "picture", raiser(FAULTS[fault]))
        with pytest.raises(DecodeError) as caught:
            decode(path, policy=EIGHT)
    assert caught.value.reason == "machine"
    assert type(FAULTS[fault]).__name__ in str(caught.value)
    assert "Traceback" in str(caught.value)
    np.testing.assert_array_equal(decode(path, policy=EIGHT).pixels, expected.pixels)


def test_hashing_a_file_gives_no_verdict_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=3)
    for name, reason in (("EIO", "machine"), ("EMFILE", "machine"), ("ENOENT", "unreadable"), ("EACCES", "unreadable")):
        with monkeypatch.context() as patch:
            patch.setattr("builtins.open", raiser(OSError(getattr(errno, name), "by the system")))
            with pytest.raises(DecodeError) as caught:
                file_sha256(str(path))
        assert caught.value.reason == reason


needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")


@needs_proc
def test_decoding_starts_no_thread_and_leaves_no_picture_behind(tmp_path: Path) -> None:
    """PyAV alone starts a thread per core for every frame, and ties frames into circles (up to 19.0.0)."""
    paths = [vf.write_video(tmp_path / name, n_frames=32) for name in ("a.mp4", "b.avi")]
    decode_all(paths[0])
    gc.collect()
    gc.disable()
    try:
        threads = len(os.listdir("/proc/self/task"))
        for path in paths:
            decode(path, policy=SamplingPolicy("uniform", n_frames=16))
        assert len(os.listdir("/proc/self/task")) == threads
        assert [thing for thing in gc.get_objects() if isinstance(thing, av.VideoFrame)] == []
    finally:
        gc.enable()


@needs_proc
def test_many_frames_decode_in_little_address_space(tmp_path: Path) -> None:
    """A thread takes 8 MB of address space for its stack: 32 frames with one per core each did not fit."""
    path = vf.write_video(tmp_path / "a.mp4", n_frames=32, width=832, height=480)
    script = f"""
import resource
from vidfeat.video.decode import decode_all
import av, numpy
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 2**20,) * 2)
assert len(decode_all({str(path)!r}).indices) == 32
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_picture_is_what_pyav_converts_by_itself(tmp_path: Path) -> None:
    """The shared, single-threaded context gives the pixels of a context per frame."""
    quiet = {"x265-params": "log-level=none:pools=1"}
    for name, options in {
        "h264.mp4": {},
        "ten_bits.mkv": {"codec": "libx265", "pixel_format": "yuv420p10le", "codec_options": quiet},
        "wide_chroma.mkv": {"pixel_format": "yuv444p"},
        "odd.mkv": {"width": 97, "height": 65, "pixel_format": "yuv444p"},
        "palette.gif": {"codec": "gif", "pixel_format": "rgb8", "b_frames": 0},
    }.items():
        path = vf.write_video(tmp_path / name, n_frames=9, **options)  # type: ignore[arg-type]
        with av.open(str(path)) as container:
            pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        np.testing.assert_array_equal(decode_all(path).pixels, np.stack(pictures))
