"""From stored predictions to gains, losses and confusions, with answers chosen so that every count is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_results import BASE, VIDEOS_PER_CLASS, write_entry

from prompttune.report.answers import (
    Answers,
    class_changes,
    confusion_pairs,
    count_flips,
    flips,
    read_answers,
    same_videos,
)
from prompttune.report.entries import read_groups


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Answers]]:
    root = tmp_path_factory.mktemp("results")
    write_entry(root / "zero", "zero-shot", [((10, 10, 10), (10, 10, 10))])
    write_entry(
        root / "coop", "coop", [((20, 10, 4), (10, 8, 10)), ((18, 10, 6), (12, 6, 10)), ((20, 11, 5), (9, 4, 10))]
    )
    (group,) = read_groups(root)
    found = {entry.label: read_answers(entry) for entry in group.entries}
    return {label: one for label, one in found.items() if one is not None}


def test_rows_are_the_same_videos_whatever_order_runs_list_them_in(answers: dict[str, dict[str, Answers]]) -> None:
    ours, theirs = answers["coop"], answers["zero-shot"]
    assert same_videos(ours, theirs)
    assert ours["base"].right.shape == (3 * VIDEOS_PER_CLASS, 3)
    # run/000 .. run/019 are right in runs 1 and 3, run/018 and run/019 wrong in run 2.
    place = ours["base"].ids.index("run/019.mp4")
    assert ours["base"].right[place].tolist() == [True, False, True]


def test_per_class_accuracy_by_run(answers: dict[str, dict[str, Answers]]) -> None:
    assert answers["coop"]["base"].per_class() == pytest.approx(np.array([[20, 18, 20], [10, 10, 11], [4, 6, 5]]) / 20)


def test_class_changes_name_the_forgotten_first(answers: dict[str, dict[str, Answers]]) -> None:
    changes = class_changes(answers["coop"]["base"], answers["zero-shot"]["base"])
    assert [change.name for change in changes] == ["swim", "jump", "run"]
    assert [change.change for change in changes] == pytest.approx([-5 / 20, 1 / 60, 28 / 60])
    assert [change.is_unanimous for change in changes] == [True, False, True]


def test_confusions_count_videos_of_the_label_taken_for_another(answers: dict[str, dict[str, Answers]]) -> None:
    first, *_ = confusion_pairs(answers["coop"]["base"], answers["zero-shot"]["base"])
    assert (first.label, first.predicted) == ("swim", "run")
    assert (first.n, first.n_before, first.n_videos) == (15.0, 10.0, 20)
    total = answers["coop"]["base"].confusion
    assert total.sum() == pytest.approx(3 * VIDEOS_PER_CLASS)


def test_flips_are_videos_that_most_runs_changed(answers: dict[str, dict[str, Answers]]) -> None:
    ours, theirs = answers["coop"]["base"], answers["zero-shot"]["base"]
    gained, lost = flips(ours, theirs, limit=100)
    # run/010 .. 019: gained in two runs or more. swim/005 .. 009: lost in two or more; swim/004 in one of three.
    assert {flip.id for flip in gained} == {f"run/{n:03d}.mp4" for n in range(10, 20)}
    assert {flip.id for flip in lost} == {f"swim/{n:03d}.mp4" for n in range(5, 10)}
    assert {(flip.label, flip.taken_for) for flip in lost} == {("swim", "run")}
    assert count_flips(ours, theirs) == (10, 5)


def test_a_tie_among_the_runs_is_neither_gain_nor_loss(tmp_path: Path) -> None:
    write_entry(tmp_path / "zero", "zero-shot", [((10, 10, 10), (10, 10, 10))])
    write_entry(tmp_path / "coop", "coop", [((12, 10, 8), (10, 10, 10)), ((14, 10, 6), (10, 10, 10))])
    zero, coop = (read_answers(entry) for entry in read_groups(tmp_path)[0].entries)
    assert zero is not None
    assert coop is not None
    # run/010, 011: both runs; run/012, 013: one of two. swim/008, 009: both; swim/006, 007: one of two.
    gained, lost = flips(coop["base"], zero["base"], limit=100)
    assert {flip.id for flip in gained} == {"run/010.mp4", "run/011.mp4"}
    assert {flip.id for flip in lost} == {"swim/008.mp4", "swim/009.mp4"}
    assert count_flips(coop["base"], zero["base"]) == (2, 2) == count_flips(zero["base"], coop["base"])


def test_a_gain_over_several_runs_names_what_those_that_had_it_wrong_took_it_for() -> None:
    labels, seen = np.array([0]), {"ids": ("v",), "classes": ("run", "jump", "swim")}
    before = np.array([[0, 2, 2, 1]])  # the first run is right
    ours = Answers(labels=labels, predicted=before * 0, right=before == before, **seen)
    baseline = Answers(labels=labels, predicted=before, right=before == 0, **seen)
    ((flip,), lost) = flips(ours, baseline, limit=1)
    assert (flip.label, flip.taken_for, flip.change, lost) == ("run", "swim", 0.75, [])


def test_the_videos_of_a_class_are_counted_not_summed_over_means() -> None:
    labels = np.zeros(9, dtype=np.int64)
    predicted = np.ones((9, 3), dtype=np.int64)
    predicted[:, 2] = [0, 0, 0, 1, 1, 1, 1, 2, 2]
    ours = Answers(tuple("abcdefghi"), ("run", "jump", "swim"), labels, predicted, predicted == 0)
    assert int(ours.confusion.sum(axis=1)[0]) == 8, "thirds that do not add up to 9: what this test is about"
    assert [pair.n_videos for pair in confusion_pairs(ours, None)] == [9, 9]


def test_answers_of_another_class_list_are_not_compared(answers: dict[str, dict[str, Answers]]) -> None:
    ours = answers["coop"]
    one = ours["base"]
    other = Answers(one.ids, (*BASE[:2], "dive"), one.labels, one.predicted, one.right)
    assert not same_videos(ours, {"base": other, "new": ours["new"]})
    assert not same_videos(ours, None)


def test_missing_predictions_are_said_not_guessed(tmp_path: Path) -> None:
    write_entry(tmp_path / "coop", "coop", [((20, 10, 4), (10, 8, 10)), ((18, 10, 6), (12, 6, 10))])
    (tmp_path / "coop" / "seed2" / "predictions.npz").unlink()
    (group,) = read_groups(tmp_path)
    assert read_answers(group.entries[0]) is None


def test_equal_shares_are_no_change_whatever_the_number_of_seeds(tmp_path: Path) -> None:
    counts = ((7, 11, 13), (3, 6, 9))
    write_entry(tmp_path / "zero", "zero-shot", [counts])
    write_entry(tmp_path / "coop", "coop", [counts] * 3)
    zero, coop = (read_answers(entry) for entry in read_groups(tmp_path)[0].entries)
    assert zero is not None
    assert coop is not None
    for test in ("base", "new"):
        changes = class_changes(coop[test], zero[test])
        assert [change.change for change in changes] == [0.0] * 3
        assert not any(change.is_unanimous for change in changes)
