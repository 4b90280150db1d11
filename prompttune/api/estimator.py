"""Prompt learning in scikit-learn's manner: an estimator whose X is a list of a store's videos.

    store = prompttune.open_store("target.zarr")
    split = store.split("base-to-new", shots=16)
    prompttune.PromptClassifier(store, method="coop").fit(split).evaluate(split)

One estimator is one run: `runs.expand_runs` and `fit.fit` train many seeds together and write a run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompttune.api.step_bar import StepBar
from prompttune.api.video_store import VideoStore
from prompttune.config.runs import Run, nested, trains, trains_by_gradient
from prompttune.config.train_config import NONE, TrainConfig, merge, nearest, resolve, valid_keys
from prompttune.data.features import read_features
from prompttune.data.protocols import open_sources
from prompttune.errors import ConfigError, SplitError, explain
from prompttune.evaluation.evaluate import Classifiers, Predictions, TestVideos, metrics, predict
from prompttune.model.fitted_adapters import tune_adapter
from prompttune.parts.heads import frame_reduction
from prompttune.prompts.file import write_prompt_file
from prompttune.splits.split import TRAIN_SPLIT, Split, TestSet, VideoTable, draw_shots
from prompttune.training.run_folder import prompt_file_of
from prompttune.training.run_group import make_trainer, prepare

if TYPE_CHECKING:
    import pandas

if TYPE_CHECKING or find_spec("sklearn") is not None:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import NotFittedError
else:  # the base install: everything below works, `clone`, `GridSearchCV` and the like come with `[sklearn]`

    class BaseEstimator: ...

    class ClassifierMixin: ...

    class NotFittedError(ValueError, AttributeError):
        """As scikit-learn's."""


Videos = Split | TestSet | Sequence[str] | Sequence[int] | np.ndarray


class PromptClassifier(ClassifierMixin, BaseEstimator):
    """A method of `prompttune methods`, trained on some of a store's videos.

    Args:
        store: a VideoStore, or the path of one.
        method: the method's name.
        seed: of initial values, data order and dropout.
        device: auto, cpu, cuda, cuda:1, mps.
        progress: whether a progress bar is drawn; None for a terminal or a notebook.
        config: keys of the method's configuration, "__" for the dot: `optim__lr=0.01`, `context__n_ctx=4`.

    Attributes:
        classes_: the classes trained on, columns of `predict_proba`; sorted where videos were given one by one.
        config_: the whole configuration.
        group_: the trained model with its videos.
        n_parameters_: trained numbers.
    """

    def __init__(
        self,
        store: VideoStore | str | Path | None = None,
        method: str = "coop",
        *,
        seed: int = 1,
        device: str = "auto",
        progress: bool | None = None,
        **config: Any,
    ) -> None:
        self.store = store
        self.method = method
        self.seed = seed
        self.device = device
        self.progress = progress
        self.config = config

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The arguments, each configuration key one of its own; `deep` changes nothing."""
        named = {name: getattr(self, name) for name in ("store", "method", "seed", "device", "progress")}
        return named | self.config

    def set_params(self, **params: Any) -> PromptClassifier:
        """Sets arguments and configuration keys.

        Raises:
            ValueError: a key that is neither, with the nearest one.
        """
        named = set(self.get_params()) - set(self.config)
        known = [key.replace(".", "__") for key in valid_keys()]
        for key, value in params.items():
            if key in named:
                setattr(self, key, value)
            elif key in known or key.startswith("losses__"):
                self.config = self.config | {key: value}
            else:
                raise ValueError(explain(f"no parameter {key!r}", fix=nearest(key, [*named, *known])))
        return self

    def fit(self, X: Videos, y: Sequence[str] | np.ndarray | None = None) -> PromptClassifier:
        """Trains on a split's training videos, or on the videos given by their ids or rows.

        Args:
            X: a Split, or ids or rows of the store's videos [n]; all of them train, whatever the store's own splits.
            y: their labels [n]; None for the store's.

        Raises:
            PrompttuneError: a configuration that cannot be, or videos that cannot train.
        """
        store = self._opened()
        protocol = X.protocol if isinstance(X, Split) else "few-shot"
        self.config_ = self._configuration(store, protocol)
        self.store_ = store
        split = X if isinstance(X, Split) else self._split_of(X, y)
        if trains(self.config_) and not len(split.train):
            raise SplitError(explain(f"{self.method} trains, and the split has no training videos", got=repr(split)))
        sources = replace(open_sources(self.config_), train=store.source)
        self.group_ = prepare([Run(self.seed, self.config_)], sources, splits=[split])
        if trains_by_gradient(self.config_):
            trainer = make_trainer(self.group_)
            with StepBar(self.progress) as bar:
                trainer.train(lambda record: bar.on_step(trainer, record))
            trainer.finish()
        tune_adapter(self.group_.model, splits=self.group_.splits, features=self.group_.features[""])
        self.classes_ = np.array(split.classes or split.tests[0].classes)
        self.n_parameters_ = self.group_.model.n_parameters
        return self

    def predict(self, X: Videos, classes: Sequence[str] | None = None) -> np.ndarray:
        """The class of each video, str [n], among `classes` (default: a test set's own, else those trained on)."""
        found = self._predictions(X, classes)
        return np.array(found.classes)[found.logits.argmax(dim=1).numpy()]

    def predict_proba(self, X: Videos, classes: Sequence[str] | None = None) -> np.ndarray:
        """The probability of each class for each video, float32 [n C]; each row sums to 1."""
        return self._predictions(X, classes).logits.softmax(dim=1).numpy()

    def decision_function(self, X: Videos, classes: Sequence[str] | None = None) -> np.ndarray:
        """Scaled cosines, float32 [n C]."""
        return self._predictions(X, classes).logits.numpy()

    def score(
        self, X: Videos, y: Sequence[str] | np.ndarray | None = None, classes: Sequence[str] | None = None
    ) -> float:
        """Top-1 accuracy in [0, 1], ties counted as wrong; of a Split its first test set's."""
        return self._predictions(X, classes, labels=y, labelled=True).top(1)

    def evaluate(self, split: Split) -> pandas.DataFrame | dict[str, dict[str, float]]:
        """One row per test set of a split: videos, classes, top1, top5, calibration_error; and the harmonic mean.

        A pandas frame where pandas is installed, else the same rows as a dictionary of dictionaries.
        """
        sets = {test.name: replace(split, tests=(test,)) for test in split.tests}
        found = {name: self._predictions(one, labelled=True) for name, one in sets.items()}
        rows: dict[str, dict[str, float]] = {
            name: {
                "n_videos": len(one.ids),
                "n_classes": len(one.classes),
                "top1": one.top(1),
                "top5": one.top(5),
                "calibration_error": one.calibration_error(),
            }
            for name, one in found.items()
        }
        rows |= {name: {"top1": value} for name, value in metrics(found).items() if name not in rows}
        if find_spec("pandas") is None:
            return rows
        import pandas

        return pandas.DataFrame.from_dict(rows, orient="index")

    def save(self, path: str | Path) -> Path:
        """Writes the prompt file, as `prompttune train` does, for `eval`, `classify` and `coupling.hard_prompts`."""
        self._require_fitted()
        write_prompt_file(path, prompt_file_of(self.group_, 0))
        return Path(path)

    def _require_fitted(self) -> None:
        if not hasattr(self, "group_"):
            raise NotFittedError(explain("this PromptClassifier is not fitted yet", fix=".fit(split) first"))

    def _opened(self) -> VideoStore:
        if self.store is None:
            raise ConfigError(explain("no store given", fix='PromptClassifier("target.zarr", method="coop")'))
        return self.store if isinstance(self.store, VideoStore) else VideoStore(self.store)

    def _configuration(self, store: VideoStore, protocol: str) -> TrainConfig:
        given: dict[str, Any] = {
            "method": self.method,
            "store": store.path,
            "seeds": [self.seed],
            "device": self.device,
        }
        given["protocol"] = {"name": protocol, "shots": NONE}
        for key, value in self.config.items():
            given = merge(given, nested(key.replace("__", "."), NONE if value is None else value))
        return resolve(given)

    def _split_of(self, videos: Any, labels: Any) -> Split:
        """All given videos train; `protocol.val_shots` of each class are held out to validate."""
        rows, table = self._rows(videos, labels)
        twice = len(rows) - len(np.unique(rows))
        if twice:
            raise SplitError(explain("a video trains once", got=f"{twice} given twice"))
        splits = np.full(len(table.ids), "", dtype=object)
        splits[rows] = TRAIN_SPLIT
        classes = tuple(np.unique([table.labels[row] for row in rows]).tolist())
        table = replace(table, splits=tuple(splits.tolist()), classes=classes)
        n_val = self.config_.protocol.val_shots
        train, val = draw_shots(table, classes, shots=None, val_shots=n_val, seed=self.seed)
        return Split("few-shot", classes, train, val, (), table)

    def _rows(self, videos: Any, labels: Any = None) -> tuple[np.ndarray, VideoTable]:
        """Rows of ids or rows, and the store's columns with these videos alone usable, under the labels given."""
        given = np.asarray(videos).reshape(-1)
        table = self.store_.source.table
        rows = given.astype(np.int64) if given.dtype.kind in "iu" else self.store_.rows_of(given)
        failed = [table.ids[row] for row in rows if not table.usable[row]]
        if failed:
            raise SplitError(explain("videos whose extraction failed have no features", got=", ".join(failed[:5])))
        own = list(table.labels)
        if labels is not None:
            if len(labels) != len(rows):
                raise SplitError(explain("labels of other videos", expected=f"{len(rows)} labels", got=len(labels)))
            for row, label in zip(rows, labels, strict=True):
                own[row] = str(label)
        usable = np.zeros(len(table.ids), dtype=bool)
        usable[rows] = True
        classes = tuple(dict.fromkeys((*table.classes, *(own[row] for row in rows))))
        return rows, replace(table, labels=tuple(own), classes=classes, usable=usable)

    def _asked(self, videos: Any, labels: Any) -> tuple[np.ndarray, VideoTable, tuple[str, ...]]:
        """Rows, the columns they are rows of, and the classes they are told apart among unless others are given."""
        if isinstance(videos, Split):
            return videos.tests[0].videos, videos.table, videos.tests[0].classes
        if isinstance(videos, TestSet):
            of_fit = any(videos is test for test in self.group_.splits[0].tests)
            table = self.group_.splits[0].table if of_fit else self.store_.source.table
            return videos.videos, table, videos.classes
        return *self._rows(videos, labels), tuple(self.classes_.tolist())

    def _predictions(
        self, videos: Any, classes: Sequence[str] | None = None, *, labels: Any = None, labelled: bool = False
    ) -> Predictions:
        self._require_fitted()
        rows, table, own = self._asked(videos, labels)
        names = own if classes is None else tuple(map(str, classes))
        if not labelled:  # labels play no part in what is predicted
            table = replace(table, labels=(names[0],) * len(table.ids), classes=names)
        reduce = frame_reduction(self.config_.head)
        features = read_features(self.store_.source, rows, reduce=reduce).to(self.group_.model.device)
        tokens = self.group_.tokens(self.store_.source)
        videos = TestVideos(TestSet("videos", rows, names), table, features, tokens)
        return predict(Classifiers(self.group_.model), videos)[0]
