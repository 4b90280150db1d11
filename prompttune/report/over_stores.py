"""Comparisons of the same lines on several data sets -> one: means over data sets, and differences with the data set
as the unit of chance.

A difference is taken on each data set, paired by seed; the mean over seeds of one data set is one number, and interval
and p come from the t test over these numbers. More seeds of one data set are no evidence about other data sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from prompttune.evaluation.evaluate import Spread, spread
from prompttune.report.comparison import Comparison, differences, scores
from prompttune.report.entries import Entry
from prompttune.report.statistics import Difference, holm, paired_difference


@dataclass(frozen=True)
class LineOverStores:
    """One label on all the data sets it stands on.

    Attributes:
        against: label of the line that differences are counted against; empty where there is none.
        n_stores: data sets it stands on.
        means: by metric: over data sets, of each one's mean over seeds.
        gains: by metric: the differences, one per data set; without those where nothing pairs.
        p: of the main metric's gain, after Holm's correction over the lines; None where there is no test.
    """

    label: str
    against: str
    n_stores: int
    means: Mapping[str, Spread]
    gains: Mapping[str, Difference]
    p: float | None

    @property
    def data_sets(self) -> str:
        """How many, and of how many the differences are, where the line it is set against is not on all of them."""
        n = max((gain.n for gain in self.gains.values()), default=self.n_stores)
        return f"{self.n_stores}" if n == self.n_stores else f"{self.n_stores}, Δ on {n}"


@dataclass(frozen=True)
class OverStores:
    """Comparisons alike in everything but the data set."""

    comparisons: tuple[Comparison, ...]

    @property
    def title(self) -> str:
        group = self.comparisons[0].group
        return f"Over {len(self.comparisons)} data sets: {group.setting}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the first data set, which are all data sets'."""
        return self.comparisons[0].group.metrics

    @property
    def main_metric(self) -> str:
        """What p is of."""
        return self.comparisons[0].group.main_metric

    @cached_property
    def lines(self) -> tuple[LineOverStores, ...]:
        """A line per label that stands on at least two of the data sets."""
        by_label: dict[str, list[tuple[Comparison, Entry]]] = {}
        for comparison in self.comparisons:
            for entry in comparison.group.entries:
                by_label.setdefault(entry.label, []).append((comparison, entry))
        found = [self._line(label, places) for label, places in by_label.items() if len(places) > 1]
        tested = [line for line in found if line.p is not None]
        adjusted = dict(zip((line.label for line in tested), holm([line.p or 0.0 for line in tested]), strict=True))
        return tuple(LineOverStores(**{**vars(line), "p": adjusted.get(line.label)}) for line in found)

    def _line(self, label: str, places: Sequence[tuple[Comparison, Entry]]) -> LineOverStores:
        entries = [entry for _, entry in places]
        pairs = [(entry, other) for comparison, entry in places if (other := reference(comparison, entry)) is not None]
        means, gains = {}, {}
        for metric in self.metrics:
            per_store = [fmean(scores(entry, metric).values()) for entry in entries if scores(entry, metric)]
            means[metric] = spread(per_store)
            gained = [fmean(found) for entry, other in pairs if (found := differences(entry, other, metric))]
            if gained:
                gains[metric] = paired_difference(gained)
        main = gains.get(self.main_metric)
        against = pairs[0][1].label if pairs else ""
        return LineOverStores(label, against, len(places), means, gains, main.p if main else None)


def reference(comparison: Comparison, entry: Entry) -> Entry | None:
    """What a line is counted against: the line that its suite names for it, else the comparison's baseline."""
    named = next((other for other in comparison.group.entries if entry.against and other.label == entry.against), None)
    found = named or comparison.baseline
    return None if found is entry else found


def over_stores(comparisons: Sequence[Comparison]) -> list[OverStores]:
    """The comparisons that share protocol, shots, backbone and metrics, where they are of at least two data sets.

    Two splits of one data set are no two data sets: where a store is there with several, there is no mean over stores.
    """
    alike: dict[tuple[object, ...], list[Comparison]] = {}
    for comparison in comparisons:
        group = comparison.group
        key = (group.model, group.protocol, group.shots, group.metrics)
        alike.setdefault(key, []).append(comparison)
    one_each = [members for members in alike.values() if len({one.group.path for one in members}) == len(members)]
    found = [OverStores(tuple(members)) for members in one_each if len(members) > 1]
    return [one for one in found if one.lines]
