"""What differences are worth: paired over seeds, resampled over test videos, corrected for how many were looked at.

Two sources of chance are kept apart. Seeds draw the shots, the initial values and the order of training: differences
are paired by seed, and a t interval says how they vary when training is repeated on the same test videos. Test videos
are a sample too: a bootstrap over them says how the difference varies with other videos of the same classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
MIN_SEEDS = 3  # two differences have no spread to speak of: their t interval is 12.7 standard errors wide
N_RESAMPLES = 2000
_RESAMPLES_AT_ONCE = 100  # bounds the memory to 100 x videos


@dataclass(frozen=True)
class Difference:
    """A mean difference with its 95 % confidence interval.

    Attributes:
        mean: of the paired differences.
        low, high: the interval's ends; None where there are too few pairs.
        p: two-sided, of no difference; None where there is no test.
        n: pairs (seeds), or resampled videos.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    n: int


def paired_difference(differences: Sequence[float]) -> Difference:
    """The mean of differences paired by seed, with a t interval and the paired t test's p.

    Fewer than MIN_SEEDS pairs have neither. Differences that are all the same, as coarse accuracies can be, have no
    variance for a t test to work with; they get the exact sign-flip test's p, which n seeds cannot bring below
    2^(1 - n), and no interval.

    Raises:
        ValueError: no differences.
    """
    from scipy import stats

    values = np.asarray(differences, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no pairs to take differences of")
    mean, n = float(values.mean()), int(values.size)
    if n < MIN_SEEDS:
        return Difference(mean, None, None, None, n)
    if np.ptp(values) <= 1e-12:
        return Difference(mean, None, None, 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - n), n)
    test = stats.ttest_1samp(values, 0.0)
    interval = test.confidence_interval(1 - LEVEL)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), n)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, adjusted so that the chance of any false rejection among them stays at the level.

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    n = len(p_values)
    adjusted = [0.0] * n
    so_far = 0.0
    for rank, place in enumerate(sorted(range(n), key=lambda index: p_values[index])):
        so_far = max(so_far, min(1.0, (n - rank) * p_values[place]))
        adjusted[place] = so_far
    return adjusted


def harmonic_means(base: NDArray[np.float64], new: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise `2 b n / (b + n)`; 0 where both are 0."""
    total = base + new
    return np.divide(2 * base * new, total, out=np.zeros_like(total), where=total > 0)


def bootstrap_difference(
    ours: Mapping[str, NDArray[np.bool_]],
    theirs: Mapping[str, NDArray[np.bool_]],
    *,
    metric: str,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Difference:
    """The difference of two methods' mean over seeds, with the percentile interval of a bootstrap over test videos.

    Each resample draws every test set's videos with replacement, the same draw for both methods and all seeds. Videos
    are taken as independent; clips cut from one recording are not, and make the interval too narrow.

    Args:
        ours, theirs: by test set, whether each video was told right by each run, [n S]; rows the same videos.
        metric: a test set's name, or "harmonic_mean" of the test sets "base" and "new", taken per run.

    Raises:
        ValueError: test sets of different length.
    """
    needed = ("base", "new") if metric == "harmonic_mean" else (metric,)
    for name in needed:
        if len(ours[name]) != len(theirs[name]):
            raise ValueError(f"{name}: {len(ours[name])} and {len(theirs[name])} videos; the same videos are compared")
    rng = np.random.default_rng(seed)
    observed = _mean_score(_accuracies(ours, needed), metric) - _mean_score(_accuracies(theirs, needed), metric)
    found: list[NDArray[np.float64]] = []
    for start in range(0, n_resamples, _RESAMPLES_AT_ONCE):
        n_draws = min(_RESAMPLES_AT_ONCE, n_resamples - start)
        weights = {name: _draw_counts(rng, len(ours[name]), n_draws) for name in needed}
        ours_drawn, theirs_drawn = _accuracies(ours, needed, weights), _accuracies(theirs, needed, weights)
        found.append(_mean_score(ours_drawn, metric) - _mean_score(theirs_drawn, metric))
    low, high = np.quantile(np.concatenate(found), [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(float(observed[0]), float(low), float(high), None, sum(len(ours[name]) for name in needed))


def _draw_counts(rng: np.random.Generator, n: int, n_draws: int) -> NDArray[np.float64]:
    """How often each of n videos is drawn when n are, as shares [n_draws n]."""
    drawn = rng.integers(n, size=(n_draws, n)) + n * np.arange(n_draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_draws * n).reshape(n_draws, n) / n


def _accuracies(
    right: Mapping[str, NDArray[np.bool_]],
    names: Sequence[str],
    weights: Mapping[str, NDArray[np.float64]] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """By test set: accuracy of each draw and run, [draws S]; one draw of equal weights where none are given."""
    values = {}
    for name in names:
        n = len(right[name])
        shares = weights[name] if weights is not None else np.full((1, n), 1 / n)
        values[name] = shares @ right[name].astype(np.float64)
    return values


def _mean_score(accuracies: Mapping[str, NDArray[np.float64]], metric: str) -> NDArray[np.float64]:
    """Mean over runs of each draw's metric, [draws]."""
    if metric == "harmonic_mean":
        return harmonic_means(accuracies["base"], accuracies["new"]).mean(axis=1)
    return accuracies[metric].mean(axis=1)


def flips_p(gained: int, lost: int) -> float:
    """Two-sided p that videos gained and lost are equally likely: the exact McNemar test. 1 when none changed."""
    from scipy import stats

    if gained + lost == 0:
        return 1.0
    return float(stats.binomtest(gained, gained + lost, 0.5).pvalue)


def in_per_cent(value: float | None, *, signed: bool = False) -> str:
    """A share in [-1, 1] as tables print it; "-" for none."""
    if value is None or math.isnan(value):
        return "-"
    rounded = round(100 * value, 1) + 0.0  # no "-0.0"
    return f"{rounded:+.1f}" if signed else f"{rounded:.1f}"
