"""mp4 files -> store: the numbers, resuming, adding."""

from __future__ import annotations

import json
import shutil
import time
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
    write_videos,
)

from vidfeat.backbone import BackbonePack
from vidfeat.errors import PackError, PlanError
from vidfeat.store import StoreWriter, open_store, verify
from vidfeat.store.files import LocalFiles
from vidfeat.video.preprocess import ViewSpec
from vidfeat.video.sampling import SamplingPolicy, sample_indices


def test_values_equal_a_plain_loop_over_open_clips_own_model_and_transform(finished, videos, model):
    import av
    import open_clip
    import torch
    from PIL import Image
    from safetensors.torch import load_file

    clip = open_clip.CLIP(**json.loads(Path(model.model_config).read_text("utf-8"))).eval()
    clip.load_state_dict(load_file(model.weights), strict=False)
    transform = open_clip.image_transform(32, is_train=False)
    stored = rows_by_id(finished)
    assert len(stored) == 6
    for video_id, values in stored.items():
        with av.open(str(videos / video_id)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        indices = sample_indices(SamplingPolicy("segments-middle", n_frames=N_FRAMES), n_source_frames=len(frames))
        pixels = torch.stack([transform(Image.fromarray(frames[index])) for index in indices])
        with torch.no_grad():
            expected = clip.encode_image(pixels).numpy()
        # float16 keeps 11 bits: it rounds by 2^-12 to 2^-11 = 5e-4 of a value; atol leaves room for small ones.
        np.testing.assert_allclose(values.astype(np.float32), expected, rtol=1e-3, atol=2e-3 * np.abs(expected).max())


def test_tokens_lead_to_the_pooled_features(finished):
    import torch

    reader = open_store(finished)
    tower = BackbonePack.load(reader.pack_path, expected_hash=reader.pack_hash).vision_tower()
    tokens = torch.from_numpy(reader.rows("tokens/01", [3]).values.astype(np.float32))
    pooled = reader.rows("pooled", [3]).values.astype(np.float32)
    with torch.no_grad():
        resumed = tower.resume(tokens, layer=1).numpy()
    # Two roundings to float16 on the way: 2 x 2^-11 of values of order 1, times the gain of one block.
    np.testing.assert_allclose(resumed, pooled, atol=5e-3)


def test_facts_are_stored(finished, videos):
    reader = open_store(finished)
    assert reader.classes == ("jump", "run")
    for row in reader.videos():
        number = int(Path(row.id).stem)
        assert row.label == ("jump", "run")[number % 2]
        assert row.n_source_frames == 9 + 7 * (number % 4)
        assert row.fps == pytest.approx(25)
        indices = sample_indices(SamplingPolicy("segments-middle", n_frames=4), n_source_frames=row.n_source_frames)
        assert row.pts_seconds == pytest.approx(indices / 25)
        assert len(row.content_sha256) == 64
    assert verify(finished, level="full").problems == ()


def test_the_same_command_again_does_nothing(finished, videos, model):
    before = digests(finished)
    times = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file() and path.name != ".lock"}
    summary = extract(small_options(videos, finished, model))
    assert summary.nothing_to_do
    assert digests(finished) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_weights_are_read_once_and_the_pack_is_hashed_as_it_is_written(tmp_path, finished, videos, model, monkeypatch):
    def read(self, name):
        raise AssertionError(f"{name} is read back")

    read_many = LocalFiles.read_many

    def none_of_the_pack(self, paths):
        assert not [path for path in paths if path.startswith("pack/")]
        return read_many(self, paths)

    monkeypatch.setattr(BackbonePack, "_read", read)
    monkeypatch.setattr(LocalFiles, "read_many", none_of_the_pack)
    extract(small_options(videos, tmp_path / "X.zarr", model))
    assert digests(tmp_path / "X.zarr") == digests(finished)
    assert verify(tmp_path / "X.zarr", level="full").problems == ()


def test_no_unit_is_committed_before_the_pack_is_there(tmp_path, finished, videos, model, monkeypatch):
    out = tmp_path / "X.zarr"
    save = BackbonePack.save

    def too_slow(self):
        time.sleep(0.5)
        raise PackError("the disk is full")

    monkeypatch.setattr(BackbonePack, "save", too_slow)
    with pytest.raises(PackError, match="the disk is full"):
        extract(small_options(videos, out, model))
    assert (out / "plan").exists()
    assert not StoreWriter.open(out).committed_units()
    assert not (out / "pack").exists()
    monkeypatch.setattr(BackbonePack, "save", save)
    extract(small_options(videos, out, model))
    assert digests(out) == digests(finished)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, finished, videos, model, workers):
    options = small_options(videos, tmp_path / "X.zarr", model)
    extract(replace(options, machine=replace(options.machine, workers=workers)))
    assert digests(tmp_path / "X.zarr") == digests(finished)


def test_an_interrupted_run_resumes_to_the_same_bytes(tmp_path, finished, videos, model, monkeypatch):
    out = tmp_path / "X.zarr"
    commit = StoreWriter.commit
    commits = []

    def commit_twice(self, unit, arrays, rows):
        if len(commits) % 2:
            commits.append(None)
            raise KeyboardInterrupt
        commits.append(unit.index)
        return commit(self, unit, arrays, rows)

    monkeypatch.setattr(StoreWriter, "commit", commit_twice)
    n_interrupts = 0
    while True:
        try:
            summary = extract(small_options(videos, out, model))
            break
        except KeyboardInterrupt:
            n_interrupts += 1
    assert n_interrupts == 2
    assert summary.n_units_left == 0
    assert [index for index in commits if index is not None] == [0, 1, 2]
    assert digests(out) == digests(finished)


def test_shares_of_the_units_make_the_same_store(tmp_path, finished, videos, model):
    out = tmp_path / "X.zarr"
    first = extract(small_options(videos, out, model, units=(2, 2)))
    assert (first.n_units_done, first.n_units_left) == (1, 2)
    second = extract(small_options(videos, out, model, units=(1, 2)))
    assert (second.n_units_done, second.n_units_left) == (2, 0)
    assert digests(out) == digests(finished)


def test_new_videos_are_added_and_the_others_left_alone(tmp_path, own_videos, model, monkeypatch):
    out = tmp_path / "X.zarr"
    extract(small_options(own_videos, out, model))
    before = rows_by_id(out)
    old = {name: digest for name, digest in digests(out).items() if name.startswith(("commits/", "pooled/c"))}
    write_videos(own_videos, 3, first=6)
    summary = extract(small_options(own_videos, out, model))
    assert summary.n_frames == 3 * N_FRAMES
    after = rows_by_id(out)
    assert len(after) == 9
    for video_id, values in before.items():
        np.testing.assert_array_equal(after[video_id], values)
    now = digests(out)
    assert {name: now[name] for name in old} == old
    assert verify(out, level="full").problems == ()


def test_a_new_tap_is_added_to_the_videos_there_are(tmp_path, videos, model, finished):
    out = tmp_path / "X.zarr"
    extract(small_options(videos, out, model, taps=("pooled",)))
    summary = extract(small_options(videos, out, model, taps=("tokens@1",)))
    assert summary.n_frames == 6 * N_FRAMES
    expected, found = rows_by_id(finished, "tokens/01"), rows_by_id(out, "tokens/01")
    for video_id, values in expected.items():
        # Other units, hence other batches: the last bits of float32 arithmetic, then one rounding to float16.
        np.testing.assert_allclose(found[video_id].astype(float), values.astype(float), atol=2e-3)
    assert extract(small_options(videos, out, model)).nothing_to_do


def test_views_are_added_and_differ(tmp_path, videos, model, finished):
    out = tmp_path / "X.zarr"
    shutil.copytree(finished, out)
    summary = extract(small_options(videos, out, model, views=ViewSpec(n_views=3)))
    assert summary.n_frames == 6 * N_FRAMES * 2
    reader = open_store(out)
    assert reader.n_views == 3
    views = [reader.rows("pooled", [0], view=view).values for view in range(3)]
    assert not np.array_equal(views[0], views[1])
    assert not np.array_equal(views[1], views[2])
    fresh = tmp_path / "fresh.zarr"
    extract(small_options(videos, fresh, model, views=ViewSpec(n_views=3)))
    for view in range(3):
        for video_id, values in rows_by_id(fresh, view=view).items():
            np.testing.assert_allclose(rows_by_id(out, view=view)[video_id], values, atol=2e-3)
    assert extract(small_options(videos, out, model)).nothing_to_do  # fewer views asked for: they are there


def test_videos_of_different_lengths(tmp_path, videos, model):
    out = tmp_path / "X.zarr"
    options = small_options(videos, out, model, sampling=SamplingPolicy("every-nth", stride=3), max_frames=16)
    extract(options)
    reader = open_store(out)
    assert reader.n_frames is None
    for row in reader.videos():
        assert row.n_frames == -(-row.n_source_frames // 3)
    assert verify(out, level="full").problems == ()
    with pytest.raises(PlanError, match="--max-frames 10"):
        extract(replace(options, out=tmp_path / "Y.zarr", max_frames=4))


def test_int8_tokens(tmp_path, videos, model, finished):
    out = tmp_path / "X.zarr"
    extract(small_options(videos, out, model, dtype="int8"))
    exact, kept = rows_by_id(finished, "tokens/01"), rows_by_id(out, "tokens/01")
    for video_id, values in exact.items():
        span = float(np.ptp(values.astype(np.float32)))
        # One step of 255 of a channel's range is at most 1/255 of the whole range.
        np.testing.assert_allclose(kept[video_id].astype(float), values.astype(float), atol=span / 255 + 2e-3)


CLIPS = Path(__file__).parents[4] / "shared" / "clips"


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs ../shared/clips")
def test_real_files_of_many_codecs_are_extracted_or_refused_with_a_reason(tmp_path, model):
    """HEVC, AV1, VP8, VP9, MPEG-2/4, 8 to 12 bit, odd sizes, rotation, a dropped first key frame."""
    files = sorted(path for path in (CLIPS / "codecs").iterdir() if path.suffix in (".mp4", ".mkv", ".avi", ".webm"))
    assert len(files) > 30
    listing = tmp_path / "codecs.csv"
    listing.write_text("path,label\n" + "".join(f"{path.name},clip\n" for path in files))
    options = small_options(listing, tmp_path / "X.zarr", model, root=CLIPS / "codecs")
    extract(replace(options, machine=replace(options.machine, workers=1)))
    rows = open_store(tmp_path / "X.zarr").videos()
    failed = {row.id: row.reason for row in rows if not row.ok}
    # Each of the few that may be refused needs a reason of its own; everything else must be read.
    assert set(failed) <= {"discard_first_keyframe.mp4"}, failed
    assert all(np.all(np.diff(row.pts_seconds) >= 0) for row in rows)
