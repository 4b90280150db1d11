"""What a job will take, before it runs: its steps counted, one of them timed, its memory counted.

A job is opened as it will be opened in earnest (stores, splits, class prompts, model), so that what cannot run is known
before anything does. One step of every shape is then timed on this machine; where a step is too long to try, its
operations are counted and divided by the rate of a matrix product. Hard prompts that the suite has yet to train are
stood in for by random ones of their shape.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.jobs import Job
from benchmarks.suite import Cell
from prompttune.config.runs import PER_RUN_KEYS, Run, trains, trains_by_gradient

if TYPE_CHECKING:
    from prompttune.data.protocols import Sources

LONGEST_TRIAL_SECONDS = 5.0
TIMED_STEPS, MATRIX_WIDTH = 6, 512


@dataclass(frozen=True)
class Estimate:
    """What one job takes.

    Attributes:
        n_steps: optimiser steps of one run.
        seconds: of the job, evaluation left out.
        memory_bytes: features, frozen towers, and what the runs that go together keep for their backward pass.
        how: whether a step was "measured" here or its operations were "counted"; "none" where nothing is stepped,
            "unknown" where the job could not be opened here (a GPU that only the cluster has).
    """

    n_steps: int
    seconds: float
    memory_bytes: int
    how: Literal["measured", "counted", "none", "unknown"]


@dataclass(frozen=True)
class _Shape:
    """What runs of one shape share: seconds of opening, seconds of a step of all groups, bytes, how it was found."""

    opening_seconds: float
    step_seconds: float
    memory_bytes: int
    how: Literal["measured", "counted", "none"]


@dataclass
class Trials:
    """Opens jobs and times their steps; a context manager, for the stand-ins' folder.

    Attributes:
        planned: all cells of the suite: where hard prompts will come from.
    """

    planned: Sequence[Cell]
    _sources: dict[str, Sources] = field(default_factory=dict, repr=False)
    _shapes: dict[str, _Shape] = field(default_factory=dict, repr=False)
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None, repr=False)

    def __enter__(self) -> Trials:
        self._folder = tempfile.TemporaryDirectory(prefix="stand-in-prompts-")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._folder is not None
        self._folder.cleanup()

    def sources(self, cell: Cell) -> Sources:
        """The stores that the cell reads, opened once for all cells that read the same.

        Raises:
            PrompttuneError, vidfeat.errors.VidfeatError: stores that are not there, or not of one backbone.
        """
        from prompttune.data.protocols import open_sources

        config = cell.config
        anchors = config.anchors.store if config.anchors is not None else ""
        tests = (config.protocol.test_stores, config.protocol.test_split_files)
        key = repr((config.store, tests, anchors, config.visual, config.frames))
        if key not in self._sources:
            self._sources[key] = open_sources(config)
        return self._sources[key]

    def estimate(self, job: Job) -> Estimate:
        """What the job will take.

        Raises:
            PrompttuneError, vidfeat.errors.VidfeatError: why it cannot run.
        """
        sources = self.sources(job.cells[0])
        runs = [self._with_stand_ins(run) for run in job.runs()]
        n_steps = max(_n_steps(run, sources) for run in runs)
        key = _shape_key(runs)
        if key not in self._shapes:
            self._shapes[key] = _measure(runs, sources)
        shape = self._shapes[key]
        seconds = shape.opening_seconds + n_steps * shape.step_seconds
        return Estimate(n_steps, seconds, shape.memory_bytes, shape.how if n_steps else "none")

    def _with_stand_ins(self, run: Run) -> Run:
        coupling = run.config.coupling
        if coupling is None:
            return run
        paths = tuple(str(self._stand_in(path)) for path in coupling.hard_prompts)
        changed = coupling.model_copy(update={"hard_prompts": paths})
        return replace(run, config=run.config.model_copy(update={"coupling": changed}))

    def _stand_in(self, path: str) -> str | Path:
        """The prompt file itself where it is there, or where no cell of the suite will make it."""
        makers = [cell for cell in self.planned if cell.folder in Path(path).parents]
        if Path(path).exists() or not makers:
            return path
        assert self._folder is not None
        made = Path(self._folder.name) / f"{makers[0].name}.safetensors"
        if not made.exists():
            _write_stand_in(made, makers[0], self.sources(makers[0]))
        return made


def _write_stand_in(path: Path, maker: Cell, sources: Sources) -> None:
    """A prompt file such as the cell will make, its context random."""
    import torch

    from prompttune.prompts.file import DEEP, PromptFile, write_prompt_file

    n_ctx, width = maker.config.context.n_ctx, sources.train.pack.config.open_text.width
    rows = 0.02 * torch.randn(
        maker.config.context.prompt_depth, n_ctx, width, generator=torch.Generator().manual_seed(0)
    )
    write_prompt_file(
        path,
        PromptFile(
            method=maker.config.method,
            seed=0,
            config=maker.config.model_dump(mode="json"),
            classes=sources.train.table.classes,
            split_sha256="",
            store_fingerprint=sources.train.fingerprint,
            pack_hash=sources.train.pack.hash,
            n_ctx=n_ctx,
            width=width,
            ctx=rows[0],
            learned={f"{DEEP}.{block}": row for block, row in enumerate(rows[1:])},
        ),
    )


def _n_steps(run: Run, sources: Sources) -> int:
    """Optimiser steps of a run; makes its split, which refuses what cannot be split."""
    from prompttune.data.protocols import make_split, split_table
    from prompttune.training.schedules import steps_per_epoch

    protocol, optim = run.config.protocol, run.config.optim
    table = split_table(protocol, sources.train.table)
    split = make_split(protocol, table, seed=run.seed, trains=trains(run.config))
    if not trains_by_gradient(run.config):
        return 0
    return steps_per_epoch(optim, len(split.train)) * optim.epochs


def _shape_key(runs: Sequence[Run]) -> str:
    """Equal for jobs whose steps cost the same: what differs per run, shots and epochs left out."""
    tables: dict[str, Any] = runs[0].config.model_dump(mode="json", exclude={"seeds", "out", "log", "losses"})
    tables["losses"] = sorted(name for name, weight in runs[0].config.losses.items() if weight > 0)
    for key in (*PER_RUN_KEYS, "optim.epochs", "protocol.shots", "protocol.val_shots"):
        section, name = key.split(".")
        if tables[section] is not None:
            tables[section].pop(name)
    return repr((len(runs), tables))


def _measure(runs: Sequence[Run], sources: Sources) -> _Shape:
    from prompttune.cost.rate import matrix_rate, step_seconds
    from prompttune.cost.step import memory_bytes, step_operations, step_text_pass
    from prompttune.training.run_group import make_trainer, plan_groups, prepare

    groups = plan_groups(runs, sources)
    started = time.perf_counter()
    group = prepare(groups[0], sources)
    opening = len(groups) * (time.perf_counter() - started)
    model, split = group.model, group.splits[0]
    n_frames = int(sources.train.reader.n_frames_per_video.max())
    memory = memory_bytes(model, split, sources, n_frames=n_frames)
    if not trains_by_gradient(runs[0].config) or not len(split.train):
        return _Shape(opening, 0.0, memory, "none")
    started = time.perf_counter()
    trainer = make_trainer(group)
    opening += len(groups) * (time.perf_counter() - started)
    step = step_operations(group.runs, model, step_text_pass(model, split.classes), n_frames=n_frames)
    counted = step.total / matrix_rate(MATRIX_WIDTH, device=model.device) if step.total else 0.0
    if counted > LONGEST_TRIAL_SECONDS:
        return _Shape(opening, len(groups) * counted, memory, "counted")
    return _Shape(opening, len(groups) * step_seconds(trainer, at_least=TIMED_STEPS), memory, "measured")
