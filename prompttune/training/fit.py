"""One command, whole: stores -> splits -> training -> evaluation -> a run folder with its result.

The folder is `result.json` and a folder per run: config.toml, prompt.safetensors, log.jsonl, predictions.npz. Killed
anywhere, the same call goes on from the last checkpoint; a finished folder is refused or read back, never mixed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttune.base.machine import choose_threads, cpu_threads, keep_freed_memory, note_slow_precision, training_device
from prompttune.config.runs import Run, trains_by_gradient
from prompttune.cost.memory import largest_product_flop
from prompttune.data.protocols import open_sources
from prompttune.errors import InertTermError, NonFiniteLossError
from prompttune.evaluation.evaluate import Classifiers, Predictions
from prompttune.evaluation.results import Result, RunResult
from prompttune.losses.of_runs import anchor_term_names
from prompttune.model.fitted_adapters import tune_adapter
from prompttune.training.checkpoint import read_checkpoint, training_hash, write_checkpoint
from prompttune.training.gradients import inert_terms
from prompttune.training.run_folder import (
    CHECKPOINTS,
    Trained,
    claim,
    command_result,
    finished_result,
    release,
    remove_checkpoints,
    require_place,
    run_result,
    write_run,
)
from prompttune.training.run_group import RunGroup, make_trainer, plan_groups, predictions_of, prepare, subset_accuracy
from prompttune.training.run_log import OnLog, RunLog, require_library
from prompttune.training.trainer import StepRecord, Trainer

OnStep = Callable[[Trainer, StepRecord], None]


@dataclass(frozen=True)
class FitOptions:
    """How a command treats its folder and tells of its progress.

    Attributes:
        overwrite: starts anew in a folder that holds something.
        on_step: called after every step.
        on_log: called with a run's name and each line of its log (`run_log.RunLog` says what a line has).
    """

    overwrite: bool = False
    on_step: OnStep | None = None
    on_log: OnLog | None = None


@dataclass(frozen=True)
class FitResult:
    """What `fit` gives back.

    Attributes:
        result: what `result.json` holds.
        folder: the run folder.
        predictions: per run name, by test set; empty when the folder was finished before.
    """

    result: Result
    folder: Path
    predictions: Mapping[str, Mapping[str, Predictions]] = field(default_factory=dict, repr=False)


def fit(
    runs: Sequence[Run],
    out: str | Path,
    *,
    axes: Mapping[str, Sequence[Any]] | None = None,
    options: FitOptions = FitOptions(),
) -> FitResult:
    """Trains and evaluates runs into a folder.

    Has the C library keep freed memory from then on, and sets PyTorch's number of CPU threads while it trains
    (`prompttune.base.machine`).

    Args:
        runs: of one method and store, see `runs.expand_runs`.
        out: the run folder; created. An unfinished training of the same runs there is gone on with.
        axes: the run axes, for the record.

    Raises:
        RunFolderError: the folder holds another run.
        PrompttuneError, vidfeat.errors.VidfeatError: anything wrong with configuration, stores, prompts or training.
    """
    started = time.perf_counter()
    folder = Path(out)
    finished = finished_result(folder, runs, overwrite=options.overwrite)
    if finished is not None:
        return FitResult(finished, folder)
    training_device(runs[0].config.device)  # these are refused before anything is read
    require_library(runs[0].config)
    require_place(folder)
    note_slow_precision(runs[0].config.precision, runs[0].config.device)
    found, group = _run_groups(runs, folder, options)
    result = command_result(runs, group, {name: run for name, (run, _) in found.items()}, axes or {})
    result = result.model_copy(update={"seconds": round(time.perf_counter() - started, 3)})
    result.write(folder)
    remove_checkpoints(folder)
    return FitResult(result, folder, {name: predictions for name, (_, predictions) in found.items()})


def _run_groups(
    runs: Sequence[Run], folder: Path, options: FitOptions
) -> tuple[dict[str, tuple[RunResult, Mapping[str, Predictions]]], RunGroup]:
    """Each run's record and predictions by its name, and the last group."""
    keep_freed_memory()
    sources = open_sources(runs[0].config)
    found: dict[str, tuple[RunResult, Mapping[str, Predictions]]] = {}
    group = None
    for members in plan_groups(runs, sources):
        group = prepare(members, sources)
        with cpu_threads(_threads(group)):
            trainer = make_trainer(group) if trains_by_gradient(group.config) else None
            if not found:  # all that can be wrong before the first step has been looked at
                claim(folder, runs, overwrite=options.overwrite)
            try:
                found |= _run_group(group, trainer, folder, options)
            except BaseException:
                if not found and (trainer is None or trainer.step_index == 0):
                    release(folder, runs)
                raise
    assert group is not None
    return found, group


def _threads(group: RunGroup) -> int:
    """CPU threads for a group's products."""
    values, n_frames = group.features[""].values, group.sources.train.reader.n_frames or 1
    numbers_per_video = values[0].numel() if len(values) else 0
    classes = group.splits[0].classes
    return choose_threads(
        largest_product_flop(group.model, classes, numbers_per_video=numbers_per_video, n_frames=n_frames)
    )


def _run_group(
    group: RunGroup, trainer: Trainer | None, folder: Path, options: FitOptions
) -> dict[str, tuple[RunResult, Mapping[str, Predictions]]]:
    inert: list[list[str]] = [[] for _ in group.runs]
    if trainer is not None:
        inert = _train(group, trainer, folder, options)
    tune_adapter(group.model, splits=group.splits, features=group.features[""])
    classifiers = Classifiers(group.model)
    predicted = predictions_of(group, classifiers=classifiers)
    accuracy = subset_accuracy(group, "train", classifiers=classifiers) if len(group.splits[0].train) else None
    trained = Trained(trainer, inert, accuracy)
    found: dict[str, tuple[RunResult, Mapping[str, Predictions]]] = {}
    for place, (run, predictions) in enumerate(zip(group.runs, predicted, strict=True)):
        record = run_result(group, place, predictions, trained)
        write_run(folder / run.name, group, place, predictions)
        found[run.name] = (record, predictions)
    return found


def _train(group: RunGroup, trainer: Trainer, folder: Path, options: FitOptions) -> list[list[str]]:
    """Trains to the end, from the last checkpoint if there is one; each run's inert terms."""
    training = training_hash(group.runs, group.splits, group.sources.fingerprints())
    checkpoint = folder / CHECKPOINTS / f"{training[:16]}.safetensors"
    if checkpoint.exists():
        trainer.load_state(read_checkpoint(checkpoint, training=training))
    every = group.config.log.checkpoint_seconds
    written = time.monotonic()
    with RunLog(folder, group.runs, from_step=trainer.step_index, on_log=options.on_log) as log:

        def on_step(record: StepRecord) -> None:
            nonlocal written
            last = trainer.finished
            ends_epoch = trainer.step_index % trainer.steps_per_epoch == 0
            # Where every step is looked at anyway, a short training has a line for each epoch at least.
            if record.step % group.config.log.every == 0 or last or (ends_epoch and trainer.read_every == 1):
                log.write(record)
            if not last and time.monotonic() - written >= every:
                log.flush()
                write_checkpoint(checkpoint, trainer.state(), training=training)
                written = time.monotonic()
            if options.on_step is not None:
                options.on_step(trainer, record)

        try:
            trainer.train(on_step)
        except (NonFiniteLossError, KeyboardInterrupt) as error:
            log.flush()
            # Ctrl-C may fall into a step: then the last checkpoint stays the one to go on from.
            if (trainer.between_steps and trainer.step_index) or isinstance(error, NonFiniteLossError):
                write_checkpoint(checkpoint, trainer.state(), training=training)
            if isinstance(error, NonFiniteLossError):
                message = f"{error}\n  {'kept:':<10}the state before that step, {checkpoint}"
                raise NonFiniteLossError(message, step=error.step, run=error.run, term=error.term) from None
            raise
        norms = log.term_gradient_norms()
    # Kept until the whole command's result is written: a kill in the evaluation costs no training.
    write_checkpoint(checkpoint, trainer.state(), training=training)
    trainer.finish()
    return _inert(group, norms, weights={term.name: term.weight for term in trainer.inputs.terms})


def _inert(
    group: RunGroup, norms: Mapping[str, Tensor], *, weights: Mapping[str, float | Sequence[float]]
) -> list[list[str]]:
    found = inert_terms(norms, weights=weights)
    anchors = group.config.anchors
    allowed = set(anchor_term_names(group.config)) if anchors is not None and anchors.allow_inert else set()
    wrong = [term for term in found if term.name not in allowed]
    if wrong:
        raise InertTermError("\n".join(term.message() for term in wrong))
    return [[term.name for term in found if place in term.runs] for place in range(len(group.runs))]
