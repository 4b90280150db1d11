"""Adding to a store: new videos, a new tap, more views, retries; what was committed stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from small_store import FAILED_VIDEO, SmallStore, Video, tree

from vidfeat.errors import StoreError, StoreIncompleteError
from vidfeat.store import StoreWriter, VideoRow, open_store, verify

FIRST = SmallStore(n_videos=7, n_views=1)


def committed(path):
    """The files that no later run may touch."""
    return {
        name: content
        for name, content in tree(path).items()
        if name.startswith(("commits/", "plan/")) or (name.startswith(("pooled/c", "tokens/")) and "/c." in name)
    }


def check_all(world, path):
    reader = open_store(path, check="always")
    indices = [index for index in range(world.n_videos) if index != FAILED_VIDEO]
    for tap in world.spec.taps:
        for view in range(world.n_views):
            rows = reader.rows(tap.name, indices, view=view)
            for position, index in enumerate(indices):
                np.testing.assert_array_equal(rows[position], world.rows(tap.name, index, view).astype(tap.dtype))
    assert reader.videos() == [world.facts(index) for index in range(world.n_videos)]
    assert verify(path, level="full").problems == ()


@pytest.mark.parametrize("n_frames", [4, None])
@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"n_videos": 11}, id="videos"),
        pytest.param({"layers": (2, 5)}, id="tap"),
        pytest.param({"n_views": 3}, id="views"),
        pytest.param({"n_videos": 11, "layers": (2, 5), "n_views": 3}, id="all"),
    ],
)
def test_only_what_is_missing_is_extracted(change, n_frames, tmp_path):
    path = tmp_path / "X.zarr"
    first = replace(FIRST, n_frames=n_frames)
    first.extract(path)
    before = committed(path)
    second = replace(first, **change)
    writer = StoreWriter.open_or_create(path, second.spec, second.videos)
    new = writer.pending_units()
    views = {unit.index: range(unit.view_start, unit.view_stop) for unit in new}
    asked = {(v, view, tap) for u in new for v in u.video_indices for view in views[u.index] for tap in u.taps}
    had = {(v, 0, tap) for v in range(7) for tap in ("pooled", "tokens/02")}
    taps = [tap.name for tap in second.spec.taps]
    every = {(v, view, tap) for v in range(second.n_videos) for view in range(second.n_views) for tap in taps}
    failed = {item for item in every if item[0] == FAILED_VIDEO}
    assert asked == every - had - failed
    with pytest.raises(StoreIncompleteError):
        open_store(path)
    for unit in new:
        second.commit(writer, unit)
    writer.finalize()
    assert before.items() <= committed(path).items(), "a committed file was rewritten"
    check_all(second, path)
    assert second.extract(path).pending_units() == ()


def test_what_the_store_has_and_the_run_does_not_ask_for_stays(tmp_path):
    path = tmp_path / "X.zarr"
    SmallStore(layers=(2, 5), n_views=3).extract(path)
    before = tree(path)
    SmallStore(n_videos=3, layers=(2,), n_views=1).extract(path)
    assert tree(path) == before


def test_new_videos_get_every_tap_and_view_of_the_store(tmp_path):
    path = tmp_path / "X.zarr"
    SmallStore(n_videos=7, n_views=2, layers=(2, 5)).extract(path)
    narrow = SmallStore(n_videos=11, n_views=1, layers=(2,))
    units = StoreWriter.open_or_create(path, narrow.spec, narrow.videos).pending_units()
    assert {index for unit in units for index in unit.video_indices} == {7, 8, 9, 10}
    assert all(unit.taps == ("pooled", "tokens/02", "tokens/05") for unit in units)
    assert all((unit.view_start, unit.view_stop) == (0, 2) for unit in units)


@pytest.mark.parametrize(
    ("spec", "videos", "word"),
    [
        (replace(FIRST.spec, n_frames=8), FIRST.videos, "n_frames"),
        (replace(FIRST.spec, taps=SmallStore(dtype="float32").spec.taps), FIRST.videos, "tokens/02"),
        (replace(FIRST.spec, classes=("süß", "walk")), FIRST.videos, "classes"),
        (replace(FIRST.spec, pack_hash="00" * 32), FIRST.videos, "pack_hash"),
        (FIRST.spec, [Video(FIRST.videos[0].id, "walk"), *FIRST.videos[1:]], "'süß/clip 0.mp4'"),
    ],
)
def test_contradictions_are_refused_and_change_nothing(spec, videos, word, tmp_path):
    FIRST.extract(tmp_path / "X.zarr")
    before = tree(tmp_path / "X.zarr")
    with pytest.raises(StoreError, match=word):
        StoreWriter.open_or_create(tmp_path / "X.zarr", spec, videos)
    assert tree(tmp_path / "X.zarr") == before


def test_of_many_contradictions_the_first_ten_are_told(tmp_path):
    many = replace(FIRST, n_videos=30)
    many.extract(tmp_path / "X.zarr")
    walks = [Video(video.id, "walk") for video in many.videos]  # other labels and no splits: every video differs
    with pytest.raises(StoreError, match="and 20 more") as refused:
        StoreWriter.open_or_create(tmp_path / "X.zarr", many.spec, walks)
    assert str(refused.value).count("\n  - video") == 10


def test_a_failed_video_can_be_tried_again(tmp_path):
    path = tmp_path / "X.zarr"
    FIRST.extract(path)
    writer = StoreWriter.open(path)
    assert list(writer.failures()) == [FAILED_VIDEO]
    (unit,) = writer.retry(writer.failures())
    assert unit.video_indices == (FAILED_VIDEO,)
    facts = replace(FIRST.facts(3), id=FIRST.videos[FAILED_VIDEO].id, label="süß", split="train")
    rows = {"pooled": np.full((4, 8), 0.5, np.float32), "tokens/02": np.full((4, 5, 6), 0.25, np.float32)}
    writer.commit(unit, rows, [facts])
    writer.finalize()
    reader = open_store(path)
    assert reader.ok.all()
    assert (reader.rows("pooled", [FAILED_VIDEO]).values == 0.5).all()
    assert reader.videos()[FAILED_VIDEO] == facts
    assert verify(path, level="full").problems == ()
    assert StoreWriter.open(path).failures() == {}


def test_of_two_passes_over_a_video_the_later_counts(tmp_path):
    path = tmp_path / "X.zarr"
    FIRST.extract(path)
    writer = StoreWriter.open(path)
    (unit,) = writer.retry([3])
    rows = {tap: FIRST.rows(tap, 3, 0) + 1 for tap in unit.taps}
    writer.commit(unit, rows, [FIRST.facts(3)])
    writer.finalize()
    np.testing.assert_array_equal(open_store(path).rows("pooled", [3]).values, rows["pooled"].astype(np.float16))
    assert verify(path, level="full").problems == ()


def test_a_source_that_changed_between_two_passes_is_noticed(tmp_path):
    path = tmp_path / "X.zarr"
    FIRST.extract(path)
    wide = replace(FIRST, n_views=2)
    writer = StoreWriter.open_or_create(path, wide.spec, wide.videos)
    for unit in writer.pending_units():
        facts = [replace(wide.facts(index), content_sha256="00" * 31 + "01") for index in unit.video_indices]
        arrays = {tap: [wide.rows(tap, index, 1) for index in unit.video_indices] for tap in unit.taps}
        writer.commit(unit, arrays, facts)
    with pytest.raises(StoreError, match="not the same in two passes"):
        writer.finalize()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda arrays, facts: arrays.pop("pooled"), "taps"),
        (lambda arrays, facts: arrays.update(pooled=arrays["pooled"][:-1]), r"pooled has the shape \(8, 8\)"),
        (lambda arrays, facts: arrays.update(pooled=np.zeros((12, 9), np.float32)), "9"),
        (lambda arrays, facts: facts.pop(), "2 videos for the 3"),
        (lambda arrays, facts: facts.reverse(), "where the plan has"),
        (lambda arrays, facts: facts.__setitem__(0, replace(facts[0], n_frames=3, pts_seconds=(0, 1, 2))), "3 frames"),
        (lambda arrays, facts: arrays["tokens/02"][1].__setitem__((2, 0, 0), np.nan), "view 0: 1 of 120 values"),
        (lambda arrays, facts: arrays["tokens/02"][2].__setitem__((2, 0, 0), 7e4), r"clip 2.*65504"),
    ],
)
def test_a_unit_with_wrong_content_is_refused_and_nothing_written(change, word, tmp_path):
    writer = StoreWriter.create(tmp_path / "X.zarr", FIRST.spec, FIRST.videos)
    before = tree(tmp_path / "X.zarr")
    unit = writer.plan_units()[0]
    facts = [FIRST.facts(index) for index in unit.video_indices]
    arrays = {tap: [FIRST.rows(tap, index, 0) for index in unit.video_indices] for tap in unit.taps}
    change(arrays, facts)
    with pytest.raises(StoreError, match=word):
        writer.commit(unit, arrays, facts)
    assert tree(tmp_path / "X.zarr") == before


def test_videos_longer_than_their_bounds_are_refused_in_words(tmp_path):
    world = SmallStore(n_frames=None, n_views=1)
    writer = StoreWriter.create(tmp_path / "X.zarr", world.spec, world.videos[:2], frame_bounds=[1, 1])
    (unit,) = writer.plan_units()
    facts = [VideoRow(*video, n_frames=100, pts_seconds=tuple(range(100)), decoder="x") for video in world.videos[:2]]
    with pytest.raises(StoreError, match="frame bounds"):
        writer.commit(unit, {}, facts)
