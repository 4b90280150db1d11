"""Videos that cannot be used, stores and folders that are refused, bytes that rotted."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_extraction import (
    N_FRAMES,
    digests,
    extract,
    rows_by_id,
    small_options,
    write_mp4,
    write_tiny_clip,
)

from vidfeat.errors import FingerprintMismatchError, ManifestError, VidfeatError
from vidfeat.extraction import job_store
from vidfeat.extraction.options import Machine, OptionsError
from vidfeat.store import open_store, verify
from vidfeat.video.decode.video_file import VideoFile
from vidfeat.video.preprocess import ViewSpec
from vidfeat.video.sampling import SamplingPolicy


def broken_videos(root: Path) -> None:
    """Files that cannot be used, each for another reason."""
    (root / "run" / "empty.mp4").write_bytes(b"")
    (root / "run" / "text.mp4").write_text("this is no video\n" * 50)
    whole = write_mp4(root / "run" / "cut.mp4", n_frames=60).read_bytes()
    (root / "run" / "cut.mp4").write_bytes(whole[: len(whole) // 2])


def test_bad_files_are_recorded_with_reasons_and_the_rest_finishes(tmp_path, own_videos, model):
    broken_videos(own_videos)
    out = tmp_path / "X.zarr"
    summary = extract(small_options(own_videos, out, model))
    assert summary.n_videos == 9
    assert summary.n_failed == 3
    reader = open_store(out)
    reasons = {Path(row.id).name: row.reason for row in reader.videos() if not row.ok}
    assert reasons["empty.mp4"] == "empty"
    assert reasons["text.mp4"] == "invalid_data"
    assert reasons["cut.mp4"] in ("truncated", "invalid_data")
    assert sum(row.ok for row in reader.videos()) == 6
    assert verify(out, level="full").problems == ()
    again = extract(small_options(own_videos, out, model))
    assert again.nothing_to_do
    assert again.n_failed == 3


def test_retry_takes_up_the_failures_of_one_reason_once_they_are_repaired(tmp_path, own_videos, model):
    broken_videos(own_videos)
    out = tmp_path / "X.zarr"
    extract(small_options(own_videos, out, model))
    write_mp4(own_videos / "run" / "empty.mp4", n_frames=12)
    summary = extract(small_options(own_videos, out, model, retry="empty"))
    assert summary.n_frames == N_FRAMES
    assert summary.n_failed == 2
    assert "run/empty.mp4" in rows_by_id(out)
    everything = extract(small_options(own_videos, out, model, retry="all"))
    assert everything.n_failed == 2
    assert everything.n_frames == 0
    with pytest.raises(OptionsError, match="--retry does not know"):
        extract(small_options(own_videos, out, model, retry="boredom"))


def test_what_the_machine_failed_to_read_is_tried_by_the_next_run(tmp_path, videos, model, finished, monkeypatch):
    out = tmp_path / "X.zarr"
    options = small_options(videos, out, model, machine=Machine(workers=0, device="cpu"))
    honest = VideoFile.picture

    def no_more_files(file, frame):
        if file.path.endswith("002.mp4"):
            raise OSError(errno.EMFILE, "Too many open files")
        return honest(file, frame)

    with monkeypatch.context() as patch:
        patch.setattr(VideoFile, "picture", no_more_files)
        for _ in range(2):  # the second run tries again, and fails again
            summary = extract(options)
            assert summary.failures == {"machine": 1}
            assert not summary.nothing_to_do
    (failed,) = [row for row in open_store(out).videos() if not row.ok]
    assert failed.id.endswith("002.mp4")
    assert "OSError: [Errno 24] Too many open files" in failed.detail
    assert "no_more_files" in failed.detail, "the traceback"
    summary = extract(options)
    assert (summary.n_failed, summary.n_frames) == (0, N_FRAMES)
    assert extract(options).nothing_to_do
    expected = rows_by_id(finished)
    for name, values in rows_by_id(out).items():  # a unit of one video is a batch of another size: float16's last bit
        np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-4)


def test_missing_files_are_refused_unless_failures_are_allowed(tmp_path, videos, model):
    listing = tmp_path / "videos.csv"
    ids = sorted(path.relative_to(videos).as_posix() for path in videos.rglob("*.mp4"))
    listing.write_text("path,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in [*ids, "run/gone.mp4"]))
    options = small_options(listing, tmp_path / "X.zarr", model, root=videos)
    with pytest.raises(ManifestError, match="gone"):
        extract(options)
    summary = extract(replace(options, allow_failures=1))
    assert (summary.n_videos, summary.n_failed) == (7, 1)
    assert summary.failures == {"unreadable": 1}


def test_a_changed_file_is_a_failure_when_a_tap_is_added_to_an_old_store(tmp_path, own_videos, model, monkeypatch):
    out = tmp_path / "X.zarr"
    with monkeypatch.context() as patch:  # stores have kept sizes and times of files since later
        patch.setattr("vidfeat.extraction.recipe.stat_facts", lambda path: {})
        extract(small_options(own_videos, out, model, taps=("pooled",)))
    write_mp4(own_videos / "run" / "001.mp4", n_frames=16, seed=99)
    summary = extract(small_options(own_videos, out, model, taps=("tokens@1",)))
    assert summary.n_failed == 1
    row = next(row for row in open_store(out).videos() if not row.ok)
    assert row.id == "run/001.mp4"
    assert "content_sha256" in row.detail


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling": SamplingPolicy("uniform", n_frames=N_FRAMES)}, "sampling.kind"),
        ({"dtype": "float32"}, "dtype"),
        ({"views": ViewSpec(seed=5)}, "views.seed"),
        ({"machine": Machine(workers=0, device="cpu", precision="bf16")}, "precision"),
    ],
)
def test_a_store_of_other_settings_is_refused_field_by_field(finished, videos, model, change, field):
    before = digests(finished)
    with pytest.raises(FingerprintMismatchError, match=field):
        extract(small_options(videos, finished, model, **change))
    assert digests(finished) == before


def test_a_store_of_other_weights_is_refused(tmp_path, finished, videos):
    other = write_tiny_clip(tmp_path, seed=1)
    with pytest.raises(FingerprintMismatchError, match=r"model\.weights_sha256"):
        extract(small_options(videos, finished, other))


def test_what_verify_finds_is_extracted_again(tmp_path, finished, videos, model):
    out = tmp_path / "X.zarr"
    shutil.copytree(finished, out)
    whole = digests(out)
    shard = sorted(out.glob("tokens/01/c.*"))[1]
    shard.write_bytes(b"")  # what a power loss leaves behind: found by its size
    summary = extract(small_options(videos, out, model))
    assert summary.n_units_done == 1
    assert digests(out) == whole
    content = bytearray(shard.read_bytes())
    content[100] ^= 1  # found by its checksum alone
    shard.write_bytes(content)
    assert extract(small_options(videos, out, model)).nothing_to_do
    summary = extract(small_options(videos, out, model, check="full"))
    assert summary.n_units_done == 1
    assert digests(out) == whole
    for name in ("manifest.json", "index/n_frames/c.0", "pack/visual.safetensors"):
        damaged = bytearray((out / name).read_bytes())
        damaged[len(damaged) // 2] ^= 4
        (out / name).write_bytes(damaged)
        extract(small_options(videos, out, model, check="full"))
        assert digests(out) == whole, name


def test_a_folder_that_is_no_store_is_not_written_into(tmp_path, videos, model):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("...")
    with pytest.raises(OptionsError, match=r"chapter1\.tex"):
        extract(small_options(videos, out, model))
    assert os.listdir(out) == ["chapter1.tex"]


def test_a_source_without_the_videos_still_to_do_is_refused(tmp_path, videos, own_videos, model):
    out = tmp_path / "X.zarr"
    extract(small_options(videos, out, model, units=(1, 3)))
    shutil.rmtree(own_videos / "run")
    with pytest.raises(VidfeatError, match="still to extract"):
        extract(small_options(own_videos, out, model))


def test_an_unknown_layer_is_refused_with_the_range(tmp_path, videos, model):
    with pytest.raises(OptionsError, match="tokens@2 "):
        extract(small_options(videos, tmp_path / "X.zarr", model, taps=("tokens@3",)))
    assert not (tmp_path / "X.zarr").exists()


def test_a_store_and_its_extraction_claim_the_same_names():
    assert {"pack", "plan"} <= job_store.OWN_NAMES
