"""What a run folder holds, documented and versioned: `result.json`, read back into objects or a pandas frame."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticSerializationError

from prompttune.base.tensor_files import write_bytes
from prompttune.base.version import __version__
from prompttune.config.runs import nested
from prompttune.config.train_config import merge
from prompttune.errors import RunFolderError, explain

if TYPE_CHECKING:
    import pandas

    from prompttune.data.features import FeatureSource
    from prompttune.evaluation.evaluate import Predictions

SCHEMA_VERSION = 1
RESULT = "result.json"
# What changes no number of a run, and the store, which its fingerprint stands for.
NO_SETTING = {"seeds", "out", "log", "device", "graph", "compile", "runs_at_once", "store"}
_COLUMNS = ("top5", "mean_per_class", "macro_f1")


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TestResult(_Record):
    """One run on one test set; every accuracy in [0, 1], over every video of the set, none counted twice."""

    __test__ = False  # not a test case, whatever pytest makes of the name

    n_videos: int = Field(description="videos evaluated")
    n_listed: int | None = Field(
        default=None, description="videos that the split file lists, missing and failed ones too; null without a file"
    )
    n_classes: int = Field(description="classes they were told apart among")
    top1: float = Field(description="share with the label on top")
    top5: float = Field(description="share with the label among the five highest logits")
    calibration_error: float = Field(
        description="expected calibration error: mean over videos of |accuracy - mean confidence| in their bin, "
        "of 15 equal bins of the largest softmaxed logit"
    )
    per_class: dict[str, float] = Field(description="top-1 of each class")
    mean_per_class: float | None = Field(default=None, description="mean of the classes' top-1, each of equal weight")
    macro_f1: float | None = Field(default=None, description="F1, mean over the classes that have test videos")
    videos_sha256: str = Field(
        default="", description="hash over the set's name, classes, and videos with their labels"
    )


class RunResult(_Record):
    """One training and its evaluation."""

    name: str = Field(description="folder of this run")
    seed: int = Field(description="seed of shots, initial values, data order, dropout and anchors")
    overrides: dict[str, Any] = Field(description="the run's place on the run axes, by dotted key")
    split_sha256: str = Field(description="hash over ids, labels and classes of all of its videos")
    n_train: int = Field(description="training videos")
    n_val: int = Field(description="validation videos, carved from the training shots")
    metrics: dict[str, float] = Field(description="top-1 by test set, its mean over `NAME/...`, `harmonic_mean`")
    tests: dict[str, TestResult] = Field(description="by test set")
    n_parameters: int = Field(description="trained numbers")
    n_steps: int = Field(description="optimiser steps")
    selected_epoch: int | None = Field(description="epoch that validation chose; null for the last")
    val_accuracy: float | None = Field(description="validation accuracy of the selected epoch")
    train_accuracy: float | None = Field(description="accuracy on the training videos, after training")
    train_seconds: float = Field(description="training time of the runs that went together, evaluation left out")
    runs_together: int = Field(description="runs trained in the same passes")
    notes: list[str] = Field(
        default=[],
        description="what to know of the videos: classes with fewer shots, listed videos that are missing, recordings "
        "in training and test",
    )
    inert_terms: list[str] = Field(description="loss terms whose gradient stayed at zero, where that was allowed")


class Summary(_Record):
    """A number over the runs of a cell."""

    mean: float = Field(description="mean over runs")
    std: float | None = Field(description="sample standard deviation over runs; null where it has no meaning")
    n: int = Field(description="runs")


class CellResult(_Record):
    """Runs that differ in their seed alone."""

    overrides: dict[str, Any] = Field(description="place on the run axes")
    metrics: dict[str, Summary] = Field(
        description="by metric; `harmonic_mean` is the mean of the runs' harmonic means, `harmonic_mean_of_means` is "
        "taken of the mean accuracies"
    )


class StoreFacts(_Record):
    """A store that was read."""

    path: str = Field(description="where it was read from, as given")
    fingerprint: str = Field(description="sha256 of all that changed its numbers")
    pack_hash: str = Field(description="hash of the backbone pack")
    model: str = Field(description="the backbone's name and weights")
    failed_videos: list[str] = Field(description="videos whose extraction failed; in no split, never replaced")


class Result(_Record):
    """`result.json`: everything one command found, and what it depended on."""

    schema_version: int = Field(description="1; changes when a key changes its meaning")
    method: str = Field(description="a row of `prompttune methods`")
    protocol: str = Field(description="how videos were split")
    visual_prompts: str | None = Field(
        default=None,
        description="`published` where the first visual prompt joins at block 0, `late(k)` where it joins at block k, "
        "which is another method; null without visual prompts",
    )
    config: dict[str, Any] = Field(description="resolved configuration of the first run, with all seeds")
    axes: dict[str, list[Any]] = Field(description="dotted key -> values of the run axes")
    store: StoreFacts = Field(description="the training store")
    other_stores: dict[str, StoreFacts] = Field(description="test stores and the anchors' store, by role")
    split_files: dict[str, str] = Field(default={}, description="split files that were used -> sha256 of their content")
    classes: dict[str, list[str]] = Field(description="class names by test set")
    prompts: dict[str, str] = Field(description="exact prompt of each class; [M] stands for M learned vectors")
    hard_prompts: list[dict[str, Any]] = Field(description="provenance of the hard prompts that were coupled")
    runs: list[RunResult] = Field(description="one per seed and place on the run axes")
    cells: list[CellResult] = Field(description="one per place on the run axes: its runs' mean and deviation")
    versions: dict[str, str] = Field(description="packages that made it")
    seconds: float = Field(description="wall clock of the whole command")

    def __repr__(self) -> str:
        cells = [
            ", ".join([*(f"{key}={value}" for key, value in cell.overrides.items()), *_in_words(cell.metrics)])
            for cell in self.cells
        ]
        return f"Result({self.method_name}, {self.protocol}, {len(self.runs)} runs: {'; '.join(cells)})"

    @property
    def frame(self) -> pandas.DataFrame:
        """One row per run, as `load` gives it."""
        import pandas

        return pandas.DataFrame(rows(self))

    @property
    def method_name(self) -> str:
        """The method as tables print it: `ivlp`, or `ivlp late(2)` where visual prompts join late."""
        late = self.visual_prompts is not None and self.visual_prompts != "published"
        return f"{self.method} {self.visual_prompts}" if late else self.method

    @property
    def notes(self) -> list[str]:
        """The runs' notes, each once."""
        return list(dict.fromkeys(note for run in self.runs for note in run.notes))

    def write(self, folder: str | Path) -> Path:
        """Writes `result.json` into a folder, whole or not at all, and gives its path."""
        path = Path(folder) / RESULT
        try:
            content = self.model_dump_json(indent=2)
        except PydanticSerializationError:  # the id of a video may hold bytes that are no UTF-8; JSON can escape them
            content = json.dumps(self.model_dump(mode="json"), indent=2)
        write_bytes(path, (content + "\n").encode())
        return path

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The result of a run folder (or of the file itself).

        Raises:
            RunFolderError: no result there, or one of another schema version.
        """
        path = Path(folder)
        path = path / RESULT if path.is_dir() else path
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise RunFolderError(explain("there is no finished run here", where=path)) from None
        found = document.get("schema_version")
        if found != SCHEMA_VERSION:
            raise RunFolderError(explain("a result of another schema", where=path, expected=SCHEMA_VERSION, got=found))
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise RunFolderError(explain("this is no result", where=path, got=error)) from None


def load(folders: Iterable[str | Path] | str | Path) -> pandas.DataFrame:
    """One row per run of all results at or below the given folders: method, store, seed, overrides, metrics, costs.

    Runs of one `setting` differ in their seed alone; `groupby("method")` would merge what differs in more.
    """
    import pandas

    given = [folders] if isinstance(folders, str | Path) else list(folders)
    paths = [path for folder in given for path in (sorted(Path(folder).rglob(RESULT)) or [Path(folder)])]
    return pandas.DataFrame([row for path in paths for row in rows(Result.read(path), folder=path.parent)])


def rows(result: Result, *, folder: Path | None = None) -> list[dict[str, Any]]:
    """One flat row per run of a result."""
    shared = {
        "method": result.method_name,
        "protocol": result.protocol,
        "store": result.store.path,
        "folder": str(folder),
    }
    return [
        shared
        | {"run": run.name, "seed": run.seed, "setting": _setting(result, run)}
        | run.overrides
        | run.metrics
        | {f"{name}_{key}": getattr(test, key) for name, test in run.tests.items() for key in _COLUMNS}
        | {
            "n_parameters": run.n_parameters,
            "seconds": run.train_seconds / run.runs_together,
            "split_sha256": run.split_sha256,
        }
        for run in result.runs
    ]


def _setting(result: Result, run: RunResult) -> str:
    """A short hash of all that decided a run but its seed, test videos included: runs of one may be averaged."""
    config = {key: value for key, value in result.config.items() if key not in NO_SETTING}
    for key, value in run.overrides.items():
        config = merge(config, nested(key, value))
    stores = {name: facts.fingerprint for name, facts in {"": result.store, **result.other_stores}.items()}
    tested = {name: test.videos_sha256 for name, test in run.tests.items()}
    content = json.dumps([config, result.protocol, stores, tested], sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def confusion(folder: str | Path, test: str) -> pandas.DataFrame:
    """How often each label (rows) was taken for each class (columns), of one run on one test set.

    Args:
        folder: a run's own folder, with its `predictions.npz`.
        test: "base", "new", "test" or another test set of the run.

    Raises:
        RunFolderError: no predictions there, or no such test set.
    """
    import pandas

    from prompttune.evaluation.evaluate import load_predictions

    path = Path(folder) / "predictions.npz"
    if not path.is_file():
        raise RunFolderError(explain("there are no predictions of a run here", where=path, fix="RUN_FOLDER/seed1, say"))
    found = load_predictions(str(path))
    if test not in found:
        raise RunFolderError(explain(f"no test set {test!r}", where=path, expected=f"one of {', '.join(found)}"))
    classes = list(found[test].classes)
    counts = found[test].confusion().numpy()
    frame = pandas.DataFrame(counts, index=pandas.Index(classes, name="label"), columns=classes)
    return frame.rename_axis(columns="prediction")


def test_result(predictions: Predictions) -> TestResult:
    """What a result says about one run on one test set."""
    per_class = predictions.per_class()
    return TestResult(
        n_videos=len(predictions.ids),
        n_listed=predictions.n_listed,
        n_classes=len(predictions.classes),
        top1=predictions.top(1),
        top5=predictions.top(5),
        calibration_error=predictions.calibration_error(),
        per_class=per_class,
        mean_per_class=fmean(per_class.values()),
        macro_f1=predictions.macro_f1(),
        videos_sha256=predictions.videos_sha256,
    )


def store_facts(source: FeatureSource) -> StoreFacts:
    """What a result says about a store."""
    backbone = source.pack.config
    return StoreFacts(
        path=source.path,
        fingerprint=source.fingerprint,
        pack_hash=source.pack.hash,
        model=f"{backbone.name} ({backbone.pretrained})",
        failed_videos=list(source.failed),
    )


def package_versions() -> dict[str, str]:
    """Versions of what computed a result."""
    import numpy
    import torch

    return {
        "prompttune": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "zarr": metadata.version("zarr"),  # importing it for that would take 0.4 s
    }


def _in_words(metrics: Mapping[str, Summary]) -> list[str]:
    return [f"{name} {describe(metrics, name)}" for name in metrics]


def describe(metrics: Mapping[str, Summary], name: str) -> str:
    """A metric as papers print it, in per cent: mean ± standard deviation."""
    found = metrics.get(name)
    if found is None:
        return "-"
    if found.std is None:
        return f"{100 * found.mean:.1f}"
    return f"{100 * found.mean:.1f} ± {100 * found.std:.1f}"
