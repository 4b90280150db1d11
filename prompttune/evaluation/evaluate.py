"""Test sets to accuracies: every video counted once, classes encoded once, each test set among its own classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
import torch
from torch import Tensor

from prompttune.base.devices import autocast
from prompttune.data.features import FeatureTable, labels_of
from prompttune.data.frames import TokenReader
from prompttune.errors import explain
from prompttune.model.prompt_model import PromptModel
from prompttune.splits.split import TestSet, VideoTable

_EVALUATION_BATCH = 512  # videos per pass through the head
_EVALUATION_TOKENS = 32_768  # tokens x frames x runs per pass through the vision tower: bounds its memory
_CALIBRATION_BINS = 15


@dataclass(frozen=True)
class TestVideos:
    """A test set with its features.

    Attributes:
        test: which videos, among which classes.
        table: the store's columns that `test.videos` are rows of.
        features: at least those videos' features, of the first view and all frames.
        tokens: reads their tokens; None without visual prompts.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    test: TestSet
    table: VideoTable
    features: FeatureTable
    tokens: TokenReader | None = None


@dataclass(frozen=True)
class Predictions:
    """What one run says about one test set.

    Attributes:
        name: the test set's.
        ids: the videos, n.
        classes: columns of the logits.
        labels: int64 [n], positions in `classes`.
        logits: float32 [n C], scale included.
        n_listed: how many videos the test set's split file lists; None without one, and of predictions read back.
    """

    name: str
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Tensor
    logits: Tensor
    n_listed: int | None = None

    def __post_init__(self) -> None:
        if self.logits.shape != (len(self.ids), len(self.classes)) or self.labels.shape != (len(self.ids),):
            raise ValueError(
                f"{self.name}: {len(self.ids)} videos, {len(self.classes)} classes, labels {tuple(self.labels.shape)}, "
                f"logits {tuple(self.logits.shape)}"
            )

    def top(self, k: int) -> float:
        """Share of videos whose label is among the k highest logits, in [0, 1]; ties count against the label.

        A model that gives every class the same logit has told nothing apart, so it gets no credit for it.
        """
        own = self.logits.gather(1, self.labels[:, None])
        rank = (self.logits >= own).sum(dim=1) - 1
        return float((rank < k).float().mean())

    def per_class(self) -> dict[str, float]:
        """Top-1 accuracy of each class that has test videos, in [0, 1]."""
        own = self.logits.gather(1, self.labels[:, None])
        right = ((self.logits >= own).sum(dim=1) == 1).float()
        return {
            name: float(right[self.labels == index].mean())
            for index, name in enumerate(self.classes)
            if bool((self.labels == index).any())
        }

    def macro_f1(self) -> float:
        """F1 in [0, 1], mean over the classes that have test videos; a tie on top is no answer, as in `top`."""
        own = self.logits.gather(1, self.labels[:, None])
        right = (self.logits >= own).sum(dim=1) == 1
        answered = self.logits.argmax(dim=1)[right | (self.logits.argmax(dim=1) != self.labels)]
        n = len(self.classes)
        hits = torch.bincount(self.labels[right], minlength=n)
        sizes, answers = torch.bincount(self.labels, minlength=n), torch.bincount(answered, minlength=n)
        present = sizes > 0
        return float((2 * hits[present] / (sizes + answers)[present]).double().mean())

    def confusion(self) -> Tensor:
        """Counts [C C], rows the labels, columns the predictions."""
        flat = self.labels * len(self.classes) + self.logits.argmax(dim=1)
        return torch.bincount(flat, minlength=len(self.classes) ** 2).reshape(len(self.classes), -1)

    @property
    def videos_sha256(self) -> str:
        """Hash over the test set: its name, its classes in their order, and each video's id with its label."""
        labelled = [[key, self.classes[label]] for key, label in zip(self.ids, self.labels.tolist(), strict=True)]
        content = json.dumps([self.name, self.classes, labelled], ensure_ascii=False)
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()

    def calibration_error(self) -> float:
        """Expected calibration error in [0, 1], 0 for a model that is right as often as it claims.

        Videos are put into 15 equal bins of their confidence, the largest of the softmaxed logits. The error is the
        mean over videos of |accuracy - mean confidence| of their bin. An edge belongs to the bin below it in the paper,
        and to the bin above it here, which no logit of a real model tells apart.

        Source: Guo et al. 2017, equation 3.
        """
        confidence, predicted = self.logits.softmax(dim=1).max(dim=1)
        right = (predicted == self.labels).float()
        bins = (confidence * _CALIBRATION_BINS).long().clamp(max=_CALIBRATION_BINS - 1)
        gaps = [
            float((right[bins == b].mean() - confidence[bins == b].mean()).abs()) * int((bins == b).sum())
            for b in range(_CALIBRATION_BINS)
            if bool((bins == b).any())
        ]
        return sum(gaps) / len(self.labels)


class Classifiers:
    """A model's classifiers by their classes, each encoded once, for as long as no parameter changes."""

    def __init__(self, model: PromptModel) -> None:
        self.model = model
        self._made: dict[tuple[str, ...], Callable[[Tensor], Tensor]] = {}

    def among(self, classes: Sequence[str]) -> Callable[[Tensor], Tensor]:
        """The classifier among these classes, see `PromptModel.classifier`."""
        names = tuple(classes)
        if names not in self._made:
            self._made[names] = self.model.classifier(names)
        return self._made[names]


def predict(classifiers: Classifiers, videos: TestVideos) -> list[Predictions]:
    """Every run's predictions on one test set that all share."""
    return [_predictions(videos, run) for run in _logits(classifiers, videos, videos.test.videos[None])]


def predict_own(classifiers: Classifiers, videos: Sequence[TestVideos]) -> list[Predictions]:
    """Each run's predictions on a test set of its own, run r's on `videos[r]`, in one pass for all.

    Args:
        classifiers: of a model of as many runs.
        videos: of one store and among the same classes; they may be unequally many.
    """
    longest = max(len(own.test.videos) for own in videos)
    # Shorter sets are filled up with their last video, whose further logits are not looked at.
    rows = np.stack([np.pad(own.test.videos, (0, longest - len(own.test.videos)), mode="edge") for own in videos])
    logits = _logits(classifiers, videos[0], rows)
    return [_predictions(own, run[: len(own.test.videos)]) for own, run in zip(videos, logits, strict=True)]


def _predictions(videos: TestVideos, logits: Tensor) -> Predictions:
    test = videos.test
    labels = labels_of(videos.table, test.videos, test.classes)
    ids = tuple(videos.table.ids[row] for row in test.videos)
    return Predictions(test.name, ids, test.classes, labels, logits.cpu(), test.n_listed)


@torch.no_grad()
def _logits(classifiers: Classifiers, videos: TestVideos, rows: np.ndarray) -> Tensor:
    """Float32 [R n C] of the store's `rows`: [R n], or [1 n] where all runs see the same."""
    model = classifiers.model
    was_training = model.training
    model.eval()
    try:
        return _all_logits(classifiers, videos, rows)
    finally:
        model.train(was_training)


def _all_logits(classifiers: Classifiers, videos: TestVideos, rows: np.ndarray) -> Tensor:
    model = classifiers.model
    values = videos.features.values
    device = torch.device(values.device)
    positions = torch.stack([videos.features.positions(own) for own in rows]).to(device)
    size = _videos_per_pass(model, videos)
    with autocast(device, model.config.precision):
        classes = classifiers.among(videos.test.classes)
        parts = []
        for start in range(0, rows.shape[1], size):
            features, tokens = values[positions[:, start : start + size]], None
            if videos.tokens is not None:
                tokens = videos.tokens.read(rows[:, start : start + size]).to(device)
            shown = model.frame_features(features, tokens)
            parts.append(classes(shown.expand(model.n_runs, *shown.shape[1:])).float())
    return torch.cat(parts, dim=1)


def _videos_per_pass(model: PromptModel, videos: TestVideos) -> int:
    if videos.tokens is None:
        return _EVALUATION_BATCH
    n_frames = int(videos.tokens.source.reader.n_frames_per_video.max())
    return max(1, _EVALUATION_TOKENS // (n_frames * model.pack.config.vit.n_tokens * model.n_runs))


def harmonic_mean(base: float, new: float) -> float:
    """`2 b n / (b + n)`; 0 when both are 0.

    Source: Xian et al. 2017; Zhou et al. 2022 (CoCoOp) for base-to-new.
    """
    if base < 0 or new < 0:
        raise ValueError(explain("a harmonic mean of accuracies", expected="both at least 0", got=(base, new)))
    return 2 * base * new / (base + new) if base + new else 0.0


@dataclass(frozen=True)
class Spread:
    """A number over seeds.

    Attributes:
        mean: their mean.
        std: sample standard deviation (n - 1); None for one seed, and where it has no meaning.
        n: how many.
    """

    mean: float
    std: float | None
    n: int


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation."""
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


def summarise(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Each metric over runs; with base and new also both harmonic means, which differ once seeds do.

    `harmonic_mean` is the mean over runs of each run's harmonic mean; `harmonic_mean_of_means` is taken of the two mean
    accuracies, as most papers print it.
    """
    summary = {name: spread([run[name] for run in runs]) for name in runs[0]}
    if "base" in summary and "new" in summary:
        of_means = harmonic_mean(summary["base"].mean, summary["new"].mean)
        summary["harmonic_mean_of_means"] = Spread(of_means, None, len(runs))
    return summary


def metrics(predictions: Mapping[str, Predictions]) -> dict[str, float]:
    """One run's numbers by name: top-1 of each test set under its name, and the harmonic mean of base and new.

    Several test sets of one data set (`hmdb/val1`, `hmdb/val2`, ...) are averaged, too, each with the same weight
    whatever its size, under the data set's name (`hmdb`): what papers print of HMDB-51's and UCF-101's three test
    splits and of Kinetics-600's three class splits.
    """
    found = {name: one.top(1) for name, one in predictions.items()}
    of_set: dict[str, list[float]] = {}
    for name, value in found.items():
        if "/" in name:
            of_set.setdefault(name.rpartition("/")[0], []).append(value)
    found |= {name: fmean(values) for name, values in of_set.items()}
    if "base" in found and "new" in found:
        found["harmonic_mean"] = harmonic_mean(found["base"], found["new"])
    return found


def save_predictions(path: str, predictions: Mapping[str, Predictions]) -> None:
    """Writes one run's predictions as an .npz without pickle: ids, classes, labels and float32 logits per test set."""
    arrays: dict[str, np.ndarray] = {}
    for name, one in predictions.items():
        arrays[f"{name}/ids"] = np.array(one.ids, dtype=np.str_)
        arrays[f"{name}/classes"] = np.array(one.classes, dtype=np.str_)
        arrays[f"{name}/labels"] = one.labels.numpy()
        arrays[f"{name}/logits"] = one.logits.numpy()
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def load_predictions(path: str) -> dict[str, Predictions]:
    """What `save_predictions` wrote, by test set; earlier releases wrote float16 logits, in which videos may tie."""
    with np.load(path, allow_pickle=False) as arrays:
        names = [key.removesuffix("/ids") for key in arrays.files if key.endswith("/ids")]
        return {
            name: Predictions(
                name,
                tuple(map(str, arrays[f"{name}/ids"])),
                tuple(map(str, arrays[f"{name}/classes"])),
                torch.from_numpy(arrays[f"{name}/labels"]),
                torch.from_numpy(arrays[f"{name}/logits"].astype(np.float32)),
            )
            for name in names
        }
