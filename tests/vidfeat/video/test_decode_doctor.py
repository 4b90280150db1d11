"""Which decoders work here, and do two of them agree."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import video_files as vf

from vidfeat.errors import DecodeError, VidfeatError
from vidfeat.video.decode import available_decoders, choose_decoder, crosscheck, decode, decoder_versions, doctor, probe
from vidfeat.video.decode import decoders as decoders_module
from vidfeat.video.decode.decoder import Pictures
from vidfeat.video.decode.frames import Deadline
from vidfeat.video.decode.with_decord import Decord
from vidfeat.video.sampling import SamplingPolicy

FOUR = SamplingPolicy("uniform", n_frames=4)
DECORD_WORKS = any(status.name == "decord" and status.works for status in available_decoders())


@pytest.fixture
def _fresh_statuses() -> object:
    decoders_module._status.cache_clear()
    yield
    decoders_module._status.cache_clear()


def test_the_doctor_has_decoded_a_real_clip_with_each() -> None:
    statuses = {status.name: status for status in doctor()}

    assert list(statuses) == ["pyav", "decord", "torchcodec"]
    assert statuses["pyav"].works
    assert statuses["pyav"].version.startswith("pyav ")
    assert "libavcodec" in statuses["pyav"].version
    for status in statuses.values():
        assert status.detail
        assert status.works or not status.version or "self-test" in status.detail


def broken_module(name: str, error: BaseException) -> types.ModuleType:
    module = types.ModuleType(name)
    module.__version__ = "9.9"  # type: ignore[attr-defined]

    def fail(attribute: str) -> object:
        raise error

    module.__getattr__ = fail  # type: ignore[method-assign]
    return module


@pytest.mark.usefixtures("_fresh_statuses")
@pytest.mark.parametrize(
    "error", [OSError("libnvrtc.so.13: cannot open"), RuntimeError("no FFmpeg"), ImportError("half")]
)
def test_a_decoder_that_imports_and_then_breaks_does_not_work(
    error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchcodec beside a CPU-only torch is found by find_spec and fails with OSError: only decoding tells."""
    monkeypatch.setitem(sys.modules, "torchcodec", broken_module("torchcodec", error))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", broken_module("torchcodec.decoders", error))

    status = {status.name: status for status in available_decoders()}["torchcodec"]

    assert not status.works
    assert "self-test" in status.detail
    assert str(error) in status.detail or "cannot import" in status.detail


@pytest.mark.usefixtures("_fresh_statuses")
def test_a_decoder_that_shows_other_frames_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    if not DECORD_WORKS:
        pytest.skip("decord does not work here")
    honest = Decord.read_pictures

    def one_before(self: Decord, path: str, indices: list[int], *, deadline: Deadline) -> Pictures:
        return honest(self, path, [max(0, index - 1) for index in indices], deadline=deadline)

    monkeypatch.setattr(Decord, "read_pictures", one_before)

    status = {status.name: status for status in available_decoders()}["decord"]

    assert not status.works
    assert "frames [0, 5, 11] show" in status.detail


@pytest.mark.usefixtures("_fresh_statuses")
def test_without_decord_everything_is_read_by_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    path = vf.write_video(tmp_path / "a.mp4", n_frames=20)

    choice = choose_decoder(probe(path), preferred="decord")

    assert choice.decoder == "pyav"
    assert "does not work here" in choice.why
    assert decode(path, policy=FOUR, decoder="decord").decoder.startswith("pyav ")
    assert [version.split()[0] for version in decoder_versions("decord")] == ["pyav"]


@pytest.mark.usefixtures("_fresh_statuses")
def test_torchcodec_is_refused_where_it_does_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    path = vf.write_video(tmp_path / "a.mp4", n_frames=20)

    with pytest.raises(VidfeatError, match="torchcodec does not work here") as caught:
        decode(path, policy=FOUR, decoder="torchcodec")
    assert not isinstance(caught.value, DecodeError), "no verdict on the file"


def test_versions_that_a_fingerprint_holds() -> None:
    assert [version.split()[0] for version in decoder_versions("auto")] == ["pyav"]
    assert decoder_versions("auto") == decoder_versions("pyav")


@pytest.mark.skipif(not DECORD_WORKS, reason="decord does not work here")
def test_a_crosscheck_agrees_on_good_files_and_shows_where_decord_lies(tmp_path: Path) -> None:
    good = vf.write_video(tmp_path / "good.mp4", n_frames=40)
    trim = vf.trim_copy(good, tmp_path / "trim.mp4", start_seconds=0.72)
    open_gop = vf.write_video(
        tmp_path / "open.mp4", n_frames=40, codec="libx265", codec_options={"x265-params": "log-level=none:pools=1"}
    )
    late = vf.write_video(tmp_path / "late.mkv", n_frames=40, pts=tuple(8000 + 40 * i for i in range(40)))
    text = tmp_path / "text.mp4"
    text.write_text("no video")

    results = crosscheck([good, trim, open_gop, late, text], n_frames=13)

    assert [result.agrees for result in results] == [True, False, False, True, False]
    assert results[0].decoders == ("pyav", "decord")
    assert results[0].n_frames == 13
    assert results[0].max_abs_difference == 0
    assert results[0].chosen.startswith("decord")
    assert "decord sees 28 frames" in results[1].error
    assert "PyAV 22 frames" in results[1].error
    assert results[2].max_abs_difference > 100
    assert "open groups of pictures" in results[2].chosen
    assert "no video, or a damaged one" in results[4].error


@pytest.mark.skipif(not DECORD_WORKS, reason="decord does not work here")
def test_a_crosscheck_looks_at_n_files_and_at_real_pairs(tmp_path: Path) -> None:
    path = vf.write_video(tmp_path / "a.mp4", n_frames=10)

    assert len(crosscheck([path] * 5, n=3, n_frames=2)) == 3
    with pytest.raises(ValueError, match="cannot be compared"):
        crosscheck([path], decoders=("pyav", "opencv"))
