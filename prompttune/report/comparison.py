"""A group of entries -> its lines: means, differences against the baseline, and which best is backed by a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from prompttune.errors import ConfigError, explain
from prompttune.evaluation.evaluate import Spread, spread
from prompttune.report.answers import Answers, read_answers, same_videos
from prompttune.report.entries import Entry, Group
from prompttune.report.statistics import (
    LEVEL,
    MIN_SEEDS,
    Difference,
    bootstrap_difference,
    holm,
    paired_difference,
)

BOLD_RULE = (
    "Bold: the best mean, where a two-sided paired t test over seeds tells it from every other line "
    f"(p < {LEVEL} after Holm's correction for the number of lines, at least {MIN_SEEDS} seeds); "
    "no bold where no test says so."
)


@dataclass(frozen=True)
class Line:
    """One line of the table with its statistics.

    Attributes:
        entry: whose line it is.
        metrics: by metric: mean and standard deviation over seeds.
        best: metrics in which it is best and a test tells it from every other line.
        over_seeds: difference of the main metric against the baseline, paired by seed; None for the baseline itself
            and where nothing pairs.
        over_videos: the same difference, its interval from a bootstrap over test videos; None without predictions.
        harmonic_mean_of_means: of the mean accuracies; None where there is no harmonic mean.
    """

    entry: Entry
    metrics: Mapping[str, Spread]
    best: frozenset[str]
    over_seeds: Difference | None
    over_videos: Difference | None
    harmonic_mean_of_means: float | None

    @property
    def label(self) -> str:
        return self.entry.label


@dataclass(frozen=True)
class Comparison:
    """A group with its baseline and what the runs answered; lines are computed when first asked for.

    Attributes:
        group: the entries.
        baseline: the entry that gains and losses are counted against; None where there is none.
    """

    group: Group
    baseline: Entry | None

    @cached_property
    def answers(self) -> dict[str, dict[str, Answers] | None]:
        """By label, what the entry's runs answered; None where predictions are not there."""
        return {entry.label: read_answers(entry) for entry in self.group.entries}

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        best = {metric: backed_best(self.group, metric) for metric in self.group.metrics}
        return tuple(self._line(entry, best) for entry in self.group.entries)

    def comparable(self, entry: Entry) -> bool:
        """Whether the entry is not the baseline and answered for the same videos as the baseline."""
        if self.baseline is None or entry is self.baseline:
            return False
        return same_videos(self.answers[entry.label], self.answers[self.baseline.label])

    def against_baseline(self, entry: Entry) -> dict[str, tuple[Answers, Answers]]:
        """By test set, the answers of a comparable entry and of the baseline; empty where they cannot be compared."""
        if self.baseline is None or not self.comparable(entry):
            return {}
        ours, theirs = self.answers[entry.label], self.answers[self.baseline.label]
        assert ours is not None
        assert theirs is not None
        return {name: (ours[name], theirs[name]) for name in ours}

    def _line(self, entry: Entry, best: Mapping[str, str | None]) -> Line:
        of_means = entry.cell.metrics.get("harmonic_mean_of_means")
        return Line(
            entry=entry,
            metrics={metric: spread(list(scores(entry, metric).values())) for metric in _metrics(entry)},
            best=frozenset(metric for metric, label in best.items() if label == entry.label),
            over_seeds=self._over_seeds(entry),
            over_videos=self._over_videos(entry),
            harmonic_mean_of_means=of_means.mean if of_means is not None else None,
        )

    def _over_seeds(self, entry: Entry) -> Difference | None:
        if self.baseline is None or entry is self.baseline:
            return None
        pairs = differences(entry, self.baseline, self.group.main_metric)
        return paired_difference(pairs) if pairs else None

    def _over_videos(self, entry: Entry) -> Difference | None:
        pairs = self.against_baseline(entry)
        if not pairs or self.group.main_metric not in _metrics(entry):
            return None
        return bootstrap_difference(
            {name: ours.right for name, (ours, _) in pairs.items()},
            {name: theirs.right for name, (_, theirs) in pairs.items()},
            metric=self.group.main_metric,
        )


def compare(group: Group, *, baseline: str | None = None) -> Comparison:
    """The group against a baseline: the entry of that label, by default the zero-shot classifier if there is one.

    Raises:
        ConfigError: no entry of that label.
    """
    if baseline is None:
        return Comparison(group, next((entry for entry in group.entries if entry.result.method == "zero-shot"), None))
    for entry in group.entries:
        if entry.label == baseline:
            return Comparison(group, entry)
    raise ConfigError(
        explain(
            f"no line is labelled {baseline!r}",
            where=group.title,
            expected=f"one of {', '.join(entry.label for entry in group.entries)}",
            fix="--baseline LABEL",
        )
    )


def scores(entry: Entry, metric: str) -> dict[int, float]:
    """The metric by seed."""
    return {run.seed: run.metrics[metric] for run in entry.runs if metric in run.metrics}


def differences(ours: Entry, theirs: Entry, metric: str) -> list[float]:
    """`ours - theirs` of one metric, paired by seed.

    A method that trains nothing has one result, which is paired with every seed; learned prompts that are evaluated
    train nothing there either, and have one for each seed. Two runs of one seed are a pair only if they trained on the
    same videos.
    """
    left, right = scores(ours, metric), scores(theirs, metric)
    if not left or not right:
        return []
    if (other := _constant(theirs, right)) is not None:
        values = list(left.values()) if _constant(ours, left) is None else list(left.values())[:1]
        return [value - other for value in values]
    if (own := _constant(ours, left)) is not None:
        return [own - value for value in right.values()]
    splits = {run.seed: run.split_sha256 for run in theirs.runs}
    shared = [run.seed for run in ours.runs if splits.get(run.seed) == run.split_sha256]
    return [left[seed] - right[seed] for seed in shared if seed in left and seed in right]


def _constant(entry: Entry, found: Mapping[int, float]) -> float | None:
    """The one result of an entry that trains nothing, None for any other."""
    values = set(found.values())
    return values.pop() if not entry.is_trained and len(values) == 1 else None


def backed_best(group: Group, metric: str) -> str | None:
    """The label of the best mean if a paired test over seeds tells it from every other entry, else None."""
    found = {entry.label: list(scores(entry, metric).values()) for entry in group.entries}
    means = {label: spread(values).mean for label, values in found.items() if values}
    if len(means) < 2:
        return None
    winner = max(means, key=lambda label: means[label])
    best = next(entry for entry in group.entries if entry.label == winner)
    others = [entry for entry in group.entries if entry.label in means and entry is not best]
    p_values = []
    for other in others:
        pairs = differences(best, other, metric)
        p = paired_difference(pairs).p if pairs else None
        if p is None:
            return None
        p_values.append(p)
    return winner if max(holm(p_values)) < LEVEL else None


def _metrics(entry: Entry) -> list[str]:
    return list(dict.fromkeys(name for run in entry.runs for name in run.metrics))
