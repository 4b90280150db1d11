"""The report's statistics against scipy, against hand-computed values, and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from prompttune.evaluation.evaluate import harmonic_mean
from prompttune.report.statistics import (
    bootstrap_difference,
    flips_p,
    harmonic_means,
    holm,
    in_per_cent,
    paired_difference,
)


def test_paired_difference_is_the_paired_t_test() -> None:
    ours, theirs = np.array([61.2, 60.1, 62.9, 61.0]), np.array([58.0, 58.9, 58.8, 57.9])
    found = paired_difference((ours - theirs).tolist())
    expected = stats.ttest_rel(ours, theirs)
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.mean == pytest.approx((ours - theirs).mean())
    assert found.n == 4


def test_two_seeds_have_neither_interval_nor_test() -> None:
    found = paired_difference([0.5, 0.6])
    assert (found.mean, found.n) == (pytest.approx(0.55), 2)
    assert (found.p, found.low, found.high) == (None, None, None)


@pytest.mark.parametrize(("differences", "p"), [([0.25] * 3, 0.25), ([0.25] * 6, 1 / 32), ([0.0] * 3, 1.0)])
def test_equal_differences_are_no_proof_beyond_their_signs(differences: list[float], p: float) -> None:
    assert paired_difference(differences).p == p


def test_no_pairs_raise() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference([])


def test_holm_as_in_its_paper() -> None:
    # Smallest of four times 4, the next times 3, ..., never below what came before, never above 1.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_harmonic_means_are_those_of_results() -> None:
    base, new = np.array([0.8, 0.0, 0.3]), np.array([0.4, 0.0, 0.0])
    assert harmonic_means(base, new) == pytest.approx(
        [harmonic_mean(float(b), float(n)) for b, n in zip(base, new, strict=True)]
    )


def test_bootstrap_of_independent_answers_has_the_binomial_error() -> None:
    rng = np.random.default_rng(0)
    n = 2000
    ours, theirs = rng.random((n, 1)) < 0.7, rng.random((n, 1)) < 0.6
    found = bootstrap_difference({"test": ours}, {"test": theirs}, metric="test")
    p, q = ours.mean(), theirs.mean()
    # Paired answers: variance of the per-video difference, over n.
    error = np.std(ours.astype(float) - theirs.astype(float)) / np.sqrt(n)
    assert found.mean == pytest.approx(p - q)
    assert found.low is not None
    assert found.high is not None
    # 2000 resamples put a 2.5 % quantile within a few per cent of the error's size.
    assert (found.low, found.high) == pytest.approx((p - q - 1.96 * error, p - q + 1.96 * error), abs=0.15 * error)


def test_bootstrap_draws_the_same_videos_for_both() -> None:
    right = np.random.default_rng(1).random((300, 3)) < 0.5
    answers = {"base": right, "new": ~right}
    found = bootstrap_difference(answers, answers, metric="harmonic_mean")
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_bootstrap_takes_the_harmonic_mean_per_run() -> None:
    ours = {"base": np.array([[1, 0], [1, 0]], bool), "new": np.array([[0, 1], [0, 1]], bool)}
    theirs = {"base": np.zeros((2, 1), bool), "new": np.zeros((2, 1), bool)}
    # Each run is right on one side alone: both harmonic means are 0, though the mean accuracies are one half.
    assert bootstrap_difference(ours, theirs, metric="harmonic_mean").mean == 0.0


def test_bootstrap_interval_covers_what_it_promises() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for repeat in range(100):
        ours, theirs = rng.random((150, 2)) < 0.65, rng.random((150, 1)) < 0.5
        found = bootstrap_difference({"t": ours}, {"t": theirs}, metric="t", n_resamples=300, seed=repeat)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.15 <= found.high
    # 95 expected; fewer than 88 has a probability below 1 %. An interval far too wide is seen by the test above.
    assert covered >= 88


def test_bootstrap_refuses_other_videos() -> None:
    with pytest.raises(ValueError, match="same videos"):
        bootstrap_difference({"t": np.ones((3, 1), bool)}, {"t": np.ones((4, 1), bool)}, metric="t")


def test_flips_are_the_exact_mcnemar_test() -> None:
    assert flips_p(0, 0) == 1.0
    assert flips_p(5, 0) == pytest.approx(2 / 32)
    assert flips_p(3, 9) == pytest.approx(2 * stats.binom.cdf(3, 12, 0.5))


def test_per_cent_has_no_negative_zero() -> None:
    assert in_per_cent(-0.0001, signed=True) == "+0.0"
    assert in_per_cent(-0.012, signed=True) == "-1.2"
    assert in_per_cent(None) == "-"
