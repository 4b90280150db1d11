"""Predictions on disk -> which videos each run told right, and what it took the others for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prompttune.evaluation.evaluate import Predictions, load_predictions
from prompttune.report.entries import Entry

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True)
class Answers:
    """What all runs of one entry say about one test set.

    Attributes:
        ids: the videos, n; sorted, so that two entries' rows are the same videos.
        classes: what they were told apart among, C.
        labels: int64 [n], positions in `classes`.
        predicted: int64 [n S], the class on top for each run.
        right: bool [n S]; a tie on top counts as wrong, as in the accuracies of `result.json`.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    right: NDArray[np.bool_]

    @property
    def confusion(self) -> NDArray[np.float64]:
        """Videos [C C], rows the labels, columns the predictions, mean over runs."""
        n_classes, n_runs = len(self.classes), self.predicted.shape[1]
        flat = self.labels[:, None] * n_classes + self.predicted
        return np.bincount(flat.ravel(), minlength=n_classes**2).reshape(n_classes, n_classes) / n_runs

    @property
    def majority(self) -> NDArray[np.int64]:
        """Of each video, 1 where most runs tell it right, -1 where most do not, 0 where they are divided; [n]."""
        return np.sign(2 * self.right.sum(axis=1) - self.right.shape[1]).astype(np.int64)

    def taken_for(self, row: int) -> str:
        """The class that most of the runs which have a video wrong took it for; its label where none has."""
        wrong = self.predicted[row][~self.right[row]]
        return self.classes[int(np.bincount(wrong).argmax()) if len(wrong) else int(self.labels[row])]

    def per_class(self) -> NDArray[np.float64]:
        """Accuracy [C S] of each class and run; NaN for classes without test videos."""
        members = self.labels[None, :] == np.arange(len(self.classes))[:, None]
        sizes = members.sum(axis=1, keepdims=True)
        found = members.astype(np.float64) @ self.right
        return np.divide(found, sizes, out=np.full(found.shape, np.nan), where=sizes > 0)


def read_answers(entry: Entry) -> dict[str, Answers] | None:
    """By test set, what the entry's runs answered; None when predictions of a run are not there."""
    paths = [entry.folder / run.name / PREDICTIONS for run in entry.runs]
    if not all(path.is_file() for path in paths):
        return None
    runs = [load_predictions(str(path)) for path in paths]
    return {name: _joined([run[name] for run in runs]) for name in runs[0]}


def _joined(runs: list[Predictions]) -> Answers:
    first = runs[0]
    order = np.argsort(np.array(first.ids))
    ids = tuple(first.ids[place] for place in order)
    predicted, right = [], []
    for run in runs:
        own = np.argsort(np.array(run.ids))
        if tuple(run.ids[place] for place in own) != ids or run.classes != first.classes:
            raise ValueError(f"{first.name}: two runs of one result were tested on different videos or classes")
        logits, labels = run.logits.numpy()[own], run.labels.numpy()[own]
        of_label = np.take_along_axis(logits, labels[:, None], axis=1)
        right.append((logits >= of_label).sum(axis=1) == 1)
        predicted.append(logits.argmax(axis=1))
    return Answers(
        ids, first.classes, first.labels.numpy()[order], np.stack(predicted, axis=1), np.stack(right, axis=1)
    )


def same_videos(ours: Mapping[str, Answers] | None, theirs: Mapping[str, Answers] | None) -> bool:
    """Whether two entries answered for the same videos among the same classes, so that videos can be compared."""
    if ours is None or theirs is None or set(ours) != set(theirs):
        return False
    return all(ours[name].ids == theirs[name].ids and ours[name].classes == theirs[name].classes for name in ours)


@dataclass(frozen=True)
class ClassChange:
    """What became of one class against the baseline.

    Attributes:
        name: of the class.
        before: the baseline's accuracy, in [0, 1].
        after: accuracy of each run, [S].
        n_videos: test videos of the class.
    """

    name: str
    before: float
    after: NDArray[np.float64]
    n_videos: int

    @property
    def change(self) -> float:
        # Means of equal shares differ in their last bits, which is no change.
        return round(float(self.after.mean()) - self.before, 9)

    @property
    def is_unanimous(self) -> bool:
        """Whether every run changed in the same direction."""
        changes = np.round(self.after - self.before, 9)
        return bool((changes > 0).all() or (changes < 0).all())


def class_changes(ours: Answers, baseline: Answers) -> list[ClassChange]:
    """Every class with test videos, the largest loss first."""
    before, after = baseline.per_class().mean(axis=1), ours.per_class()
    sizes = np.bincount(ours.labels, minlength=len(ours.classes))
    found = [
        ClassChange(name, float(before[place]), after[place], int(sizes[place]))
        for place, name in enumerate(ours.classes)
        if sizes[place]
    ]
    return sorted(found, key=lambda change: (change.change, change.name))


@dataclass(frozen=True)
class ConfusionPair:
    """Videos of one class taken for another.

    Attributes:
        label, predicted: class names.
        n: videos, mean over runs; `n_before`: the baseline's.
        n_videos: test videos of the class.
    """

    label: str
    predicted: str
    n: float
    n_before: float
    n_videos: int


def confusion_pairs(ours: Answers, baseline: Answers | None, *, limit: int = 10) -> list[ConfusionPair]:
    """The pairs of classes most often taken for one another, most frequent first."""
    counts = ours.confusion
    before = baseline.confusion if baseline is not None else np.zeros_like(counts)
    # Not the sums of the rows: means over runs need not add up to whole numbers, thirds of 9 videos give 8.999.
    sizes = np.bincount(ours.labels, minlength=len(counts))
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    places = [(int(place) // len(counts), int(place) % len(counts)) for place in order]
    return [
        ConfusionPair(ours.classes[row], ours.classes[column], float(wrong[row, column]), float(before[row, column]),
                      int(sizes[row]))
        for row, column in places
        if wrong[row, column] > 0
    ]  # fmt: skip


@dataclass(frozen=True)
class Flip:
    """A video whose answer changed against the baseline.

    Attributes:
        id: of the video in its store.
        label: its class.
        taken_for: what those who have it wrong took it for: the baseline of a gained video, the runs of a lost one.
        change: share of runs that tell it right, minus the baseline's.
    """

    id: str
    label: str
    taken_for: str
    change: float


def flips(ours: Answers, baseline: Answers, *, limit: int) -> tuple[list[Flip], list[Flip]]:
    """The videos gained and the videos lost, those that most runs agree on first; at most one per class and kind
    until every class was shown, so that the pictures differ.
    """
    change = ours.right.mean(axis=1) - baseline.right.mean(axis=1)
    kinds = []
    for rows, who in zip(_flipped(ours, baseline), (baseline, ours), strict=True):
        found = [
            Flip(ours.ids[row], ours.classes[ours.labels[row]], who.taken_for(int(row)), float(change[row]))
            for row in np.flatnonzero(rows)
        ]
        found.sort(key=lambda flip: (-abs(flip.change), flip.id))
        kinds.append(_spread_over_classes(found)[:limit])
    return kinds[0], kinds[1]


def _flipped(ours: Answers, baseline: Answers) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which videos were gained and which lost, [n] each, by the majority of the runs; where either side's runs are
    evenly divided, neither.
    """
    gained = (ours.majority > 0) & (baseline.majority < 0)
    lost = (ours.majority < 0) & (baseline.majority > 0)
    return gained, lost


def _spread_over_classes(found: list[Flip]) -> list[Flip]:
    seen: dict[str, int] = {}
    ranked = []
    for place, flip in enumerate(found):
        seen[flip.label] = seen.get(flip.label, 0) + 1
        ranked.append((seen[flip.label], place, flip))
    return [flip for _, _, flip in sorted(ranked, key=lambda item: item[:2])]


def count_flips(ours: Answers, baseline: Answers) -> tuple[int, int]:
    """How many videos were gained and lost, by the majority of the runs."""
    gained, lost = _flipped(ours, baseline)
    return int(gained.sum()), int(lost.sum())
