"""Splits: who trains, who tests, among which classes; nothing leaks, everything is hashed."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompttune.errors import SplitError
from prompttune.splits.split import (
    Split,
    TestSet,
    VideoTable,
    base_to_new,
    draw_splits,
    few_shot,
    fully_supervised,
    zero_shot,
)

CLASSES = ("a", "b", "c", "d", "e")
PINNED_DRAWS = "0343f3ef356adc2bde2d1aa0761ceede64020489b6e9f5f21f171e08a7b34dd6"


def table(
    n_train: int = 5, n_test: int = 3, *, splits: bool = True, groups: int = 0, failed: tuple[int, ...] = ()
) -> VideoTable:
    rows = [(name, number) for name in CLASSES for number in range(n_train + n_test)]
    usable = np.ones(len(rows), dtype=bool)
    usable[list(failed)] = False
    return VideoTable(
        ids=tuple(f"{name}/{number}" for name, number in rows),
        labels=tuple(name for name, _ in rows),
        splits=tuple(("train" if number < n_train else "test") if splits else "" for _, number in rows),
        groups=tuple(f"g{number % groups}" if groups else "" for _, number in rows),
        classes=CLASSES,
        usable=usable,
    )


def labels(videos: VideoTable, rows: np.ndarray) -> set[str]:
    return {videos.labels[row] for row in rows}


def test_base_to_new_trains_base_alone_and_tests_each_among_its_own() -> None:
    videos = table()
    split = base_to_new(videos, shots=2, seed=1)
    base, new = split.test("base"), split.test("new")
    assert split.classes == base.classes == ("a", "b", "c")  # ceil(5 / 2) in the class list's order
    assert new.classes == ("d", "e")
    assert len(split.train) == 2 * 3
    assert labels(videos, split.train) == {"a", "b", "c"}
    assert labels(videos, base.videos) == {"a", "b", "c"}
    assert labels(videos, new.videos) == {"d", "e"}
    assert {videos.splits[row] for row in split.train} == {"train"}
    assert {videos.splits[row] for row in (*base.videos, *new.videos)} == {"test"}
    assert len(base.videos) == 9
    assert len(new.videos) == 6


def test_shots_depend_on_the_seed_and_fewer_shots_are_among_more() -> None:
    videos = table()
    two, same = base_to_new(videos, shots=2, seed=1), base_to_new(videos, shots=2, seed=1)
    assert np.array_equal(two.train, same.train)
    assert two.sha256 == same.sha256
    assert set(two.train) <= set(base_to_new(videos, shots=4, seed=1).train)
    others = [base_to_new(videos, shots=2, seed=seed) for seed in range(2, 8)]
    assert len({tuple(split.train) for split in others}) > 1
    assert all(np.array_equal(two.test("new").videos, split.test("new").videos) for split in others)


def test_draws_are_those_of_earlier_releases() -> None:
    """Published numbers hang on them: the hash is of commit 11a389d, which scanned all rows for each class."""
    drawn = [
        few_shot(table(), shots=shots, seed=seed, val_shots=val).sha256
        for shots in (2, 5)
        for seed in (1, 2)
        for val in (0, 1)
    ]
    assert hashlib.sha256("".join(drawn).encode()).hexdigest() == PINNED_DRAWS


def test_a_class_draws_the_same_shots_whatever_other_classes_there_are() -> None:
    videos = table()
    all_classes = few_shot(videos, shots=2, seed=3).train
    base = base_to_new(videos, shots=2, seed=3).train
    assert set(base) <= set(all_classes)


def test_validation_is_carved_from_the_training_shots() -> None:
    videos = table()
    split = few_shot(videos, shots=4, seed=0, val_shots=1)
    assert len(split.train) == 3 * 5
    assert len(split.val) == 5
    assert labels(videos, split.val) == set(CLASSES)
    without = few_shot(videos, shots=4, seed=0)
    assert set(split.train) | set(split.val) == set(without.train)
    assert {videos.splits[row] for row in split.val} == {"train"}


def test_failed_videos_are_in_no_part() -> None:
    videos = table(failed=(0, 6, 7))
    split = fully_supervised(videos, seed=0)
    everything = {*split.train, *split.val, *split.test("test").videos}
    assert everything.isdisjoint({0, 6, 7})
    assert len(everything) == len(videos.ids) - 3


def test_too_few_shots_name_the_classes() -> None:
    with pytest.raises(SplitError, match=r"a: 4") as caught:
        base_to_new(table(failed=(0,)), shots=5, seed=0)
    assert "5 per class" in str(caught.value)
    assert "b:" not in str(caught.value)


def test_a_store_without_splits_needs_test_fraction() -> None:
    with pytest.raises(SplitError, match="test_fraction"):
        base_to_new(table(splits=False), shots=2, seed=0)


def test_unknown_and_missing_classes_are_named() -> None:
    with pytest.raises(SplitError, match="zebra"):
        base_to_new(table(), shots=2, seed=0, base_classes=["a", "zebra"])
    with pytest.raises(SplitError, match="5 base, 0 new"):
        base_to_new(table(), shots=2, seed=0, base_classes=CLASSES)
    with pytest.raises(SplitError, match="not in the class list"):
        VideoTable(("x",), ("zebra",), ("",), ("",), CLASSES, np.ones(1, dtype=bool))
    with pytest.raises(SplitError, match="twice"):
        VideoTable(("x", "x"), ("a", "a"), ("", ""), ("", ""), CLASSES, np.ones(2, dtype=bool))


def test_zero_shot_takes_all_videos_of_a_store_without_splits() -> None:
    assert len(zero_shot(table(splits=False, failed=(1,))).tests[0].videos) == 39
    assert len(zero_shot(table()).tests[0].videos) == 15


def test_a_split_refuses_videos_in_two_parts_and_foreign_classes() -> None:
    videos = table()
    none = np.zeros(0, dtype=np.int64)
    test = TestSet("test", np.array([5, 6]), CLASSES)
    with pytest.raises(SplitError, match="both in train and in test"):
        Split("x", CLASSES, np.array([1, 5]), none, (test,), videos)
    with pytest.raises(SplitError, match="both in train and in val"):
        Split("x", CLASSES, np.array([1, 2]), np.array([2]), (test,), videos)
    with pytest.raises(SplitError, match="must not train"):
        Split("x", ("a",), np.array([1, 8]), none, (test,), videos)


def test_the_hash_sees_every_part() -> None:
    videos = table()
    split = few_shot(videos, shots=2, seed=0, val_shots=1)
    changed = [
        few_shot(videos, shots=2, seed=1, val_shots=1),
        few_shot(videos, shots=2, seed=0),
        few_shot(table(n_test=4), shots=2, seed=0, val_shots=1),
        base_to_new(videos, shots=2, seed=0, val_shots=1),
    ]
    assert len({split.sha256, *(other.sha256 for other in changed)}) == 5


@settings(max_examples=40, deadline=None)
@given(
    n_videos=st.integers(4, 14),
    groups=st.sampled_from([0, 3, 5]),
    fraction=st.sampled_from([0.2, 0.3, 0.5]),
    seed=st.integers(0, 5),
)
def test_drawn_splits_are_stratified_and_keep_groups_together(
    n_videos: int, groups: int, fraction: float, seed: int
) -> None:
    videos = table(n_videos, 0, splits=False, groups=groups)
    try:
        drawn = draw_splits(videos, test_fraction=fraction, seed=seed)
    except SplitError:
        assert n_videos * fraction < 1 or groups, "only tiny classes or coarse groups may be impossible"
        return
    again = draw_splits(videos, test_fraction=fraction, seed=seed)
    assert drawn.splits == again.splits
    for name in CLASSES:
        sides = [drawn.splits[row] for row in range(len(drawn.ids)) if drawn.labels[row] == name]
        assert {"train", "test"} == set(sides)
        if not groups:
            assert abs(sides.count("test") - fraction * n_videos) <= 1
    if groups:
        sides_of = {}
        for row, group in enumerate(drawn.groups):
            sides_of.setdefault(group, set()).add(drawn.splits[row])
        assert all(len(sides) == 1 for sides in sides_of.values())


def test_drawn_splits_differ_by_seed_and_refuse_given_ones() -> None:
    videos = table(10, 0, splits=False)
    assert len({draw_splits(videos, test_fraction=0.3, seed=seed).splits for seed in range(5)}) > 1
    with pytest.raises(SplitError, match="splits of its own"):
        draw_splits(table(), test_fraction=0.3, seed=0)
