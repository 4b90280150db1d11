"""The plan of a suite: every cell's state, its steps, time and memory, and what is missing, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from benchmarks.jobs import MEMBERS, Job, holds_another, is_finished, make_jobs
from benchmarks.suite import Cell
from benchmarks.trial import Estimate, Trials
from prompttune.errors import ConfigError, PrompttuneError, explain
from prompttune.evaluation.results import Result
from prompttune.training.run_folder import CLAIM
from vidfeat.errors import StoreNotFoundError, VidfeatError

if TYPE_CHECKING:
    from rich.table import Table

State = Literal["finished", "begun", "to do", "cannot run"]


@dataclass(frozen=True)
class CellPlan:
    """What the plan says of one cell.

    Attributes:
        estimate: of its whole job; None where it is finished or cannot run.
        n_together: cells of that job.
        problem: why it cannot run; empty where it can.
        note: why nothing is known of its time and memory, where nothing is.
    """

    cell: Cell
    state: State
    estimate: Estimate | None = None
    n_together: int = 1
    problem: str = ""
    note: str = ""


@dataclass(frozen=True)
class SuitePlan:
    """Every cell with its state, and the jobs to run.

    Attributes:
        cells: in the order of the suite.
        jobs: in the order of need; those with a problem are left out.
        estimates: by the job's folder.
    """

    cells: tuple[CellPlan, ...]
    jobs: tuple[Job, ...]
    estimates: Mapping[Path, Estimate]

    @property
    def problems(self) -> dict[str, str]:
        """By cell: why it cannot run."""
        return {one.cell.name: one.problem for one in self.cells if one.problem}

    @property
    def seconds(self) -> float:
        """Of all jobs, one after the other."""
        return sum(self.estimates[job.folder].seconds for job in self.jobs)

    def require_runnable(self) -> None:
        """Refuses a plan with a cell that cannot run.

        Raises:
            ConfigError: each problem once, with the cells that have it.
        """
        if not self.problems:
            return
        cells: dict[str, list[str]] = {}
        for name, problem in self.problems.items():
            cells.setdefault(problem, []).append(name)
        told = [
            f"\n  {', '.join(names)}\n    {problem.replace(chr(10), chr(10) + '    ')}"
            for problem, names in cells.items()
        ]
        raise ConfigError(
            explain(
                f"{len(self.problems)} of {len(self.cells)} cells cannot run; nothing was started",
                got="".join(told),
                fix="mend them, or --allow-missing runs the others and records these as failures",
            )
        )

    def summary(self) -> str:
        """One line: how many cells, how long, how much memory."""
        counts = {state: sum(one.state == state for one in self.cells) for state in ("finished", "begun", "cannot run")}
        parts = [f"{len(self.cells)} cells", *(f"{n} {state}" for state, n in counts.items() if n)]
        if self.jobs:
            memory = max(self.estimates[job.folder].memory_bytes for job in self.jobs)
            parts.append(f"about {in_words(self.seconds)} in {len(self.jobs)} trainings, {in_mib(memory)} at most")
        return ", ".join(parts)

    def parts(self) -> Iterator[Table | str]:
        """The plan on the terminal: a table, the names that are too long for it, what is missing, and the summary."""
        from prompttune.base.narrow_tables import narrow_tables, numbered

        names, legend = numbered("cell", [one.cell.name for one in self.cells], longest=28)
        heads = ("state", "runs", "steps", "time", "memory")
        numbers = zip(*((one.state, *_numbers(one)) for one in self.cells), strict=True)
        yield from narrow_tables([names], [(head, list(column)) for head, column in zip(heads, numbers, strict=True)])
        yield from legend
        for one in self.cells:
            if one.problem or one.note:
                yield f"{one.cell.name}: {_headline(one.problem or one.note)}"
        yield self.summary()

    def rows(self) -> list[dict[str, Any]]:
        """The same for programs, a row for each cell; seconds and memory are those of its whole training."""
        return [
            one.cell.facts
            | {"state": one.state, "runs": len(one.cell.runs()), "cells_together": one.n_together}
            | {name: getattr(one.estimate, name, None) for name in ("n_steps", "seconds", "memory_bytes", "how")}
            | {"problem": one.problem, "note": one.note}
            for one in self.cells
        ]


def plan_suite(planned: Sequence[Cell], *, out: Path, overwrite: bool = False) -> SuitePlan:
    """The plan of these cells; nothing is trained and nothing is written.

    Args:
        planned: cells in the order of need.
        out: folder of the suite's results.
        overwrite: whether finished cells are trained again.
    """
    with Trials(planned) as trials:
        states = {cell.name: _state(cell, trials, overwrite=overwrite) for cell in planned}
        todo = [cell for cell in planned if states[cell.name].state in ("to do", "begun")]
        jobs, estimates = [], {}
        for job in make_jobs(todo, planned, out=out):
            for part, found in _plan_job(job, trials, states):
                states |= {one.cell.name: one for one in found if states[one.cell.name].state != "finished"}
                if found[0].estimate is not None:
                    jobs.append(part)
                    estimates[part.folder] = found[0].estimate
    return SuitePlan(tuple(states[cell.name] for cell in planned), tuple(jobs), estimates)


def _state(cell: Cell, trials: Trials, *, overwrite: bool) -> CellPlan:
    if overwrite:
        return CellPlan(cell, "to do")
    try:
        other = holds_another(cell)
    except PrompttuneError as error:  # a split file that is gone
        return CellPlan(cell, "cannot run", problem=str(error))
    if other:
        problem = explain(
            "its folder holds a run of other settings",
            where=cell.folder,
            fix="--overwrite trains it anew; another --out keeps both",
        )
        return CellPlan(cell, "cannot run", problem=problem)
    if not is_finished(cell):
        return CellPlan(cell, "begun" if (cell.folder / CLAIM).exists() else "to do")
    problem = _stale(cell, trials)
    return CellPlan(cell, "cannot run" if problem else "finished", problem=problem)


def _stale(cell: Cell, trials: Trials) -> str:
    """Why a result is not of the store that is there now; empty where it is, or where the store is gone."""
    try:
        result, source = Result.read(cell.folder), trials.sources(cell).train
    except StoreNotFoundError:
        return ""
    except (PrompttuneError, VidfeatError) as error:
        return str(error)
    if result.store.fingerprint == source.fingerprint:
        return ""
    return explain(
        "its result is of another store than the one that is there now",
        where=cell.folder,
        expected=f"fingerprint {source.fingerprint}",
        got=f"fingerprint {result.store.fingerprint}",
        fix="--overwrite trains it anew",
    )


def _plan_job(job: Job, trials: Trials, states: Mapping[str, CellPlan]) -> list[tuple[Job, list[CellPlan]]]:
    """The job with its cells' plans; job by cell where one of them spoils what they share."""
    blocked = [name for name in job.needs if name in states and states[name].state == "cannot run"]
    if blocked:
        problem = f"needs the prompts of {', '.join(blocked)}, which cannot run"
        return [(job, [CellPlan(cell, "cannot run", problem=problem) for cell in job.cells])]
    note = ""
    try:
        estimate = trials.estimate(job)
    except (PrompttuneError, VidfeatError) as error:
        if len(job.cells) > 1:
            return [found for cell in job.cells for found in _plan_job(Job((cell,), cell.folder), trials, states)]
        return [(job, [CellPlan(job.cells[0], "cannot run", problem=str(error))])]
    except Exception as error:
        # No problem of the suite: a GPU that only the cluster has, or a defect, whose traceback the run keeps.
        estimate, note = Estimate(0, 0.0, 0, "unknown"), f"not to be opened here: {type(error).__name__}: {error}"
    begun = any((job.folder / name).exists() for name in (CLAIM, MEMBERS))
    state: State = "begun" if begun else "to do"
    return [(job, [CellPlan(cell, state, estimate, len(job.cells), note=note) for cell in job.cells])]


def _headline(problem: str) -> str:
    """The problem's first line, and where it is."""
    first, *others = problem.splitlines() or [""]
    places = [line.partition(":")[2].strip() for line in others if line.strip().startswith("where:")]
    return ": ".join([first, *places[:1]])


def _numbers(one: CellPlan) -> tuple[str, str, str, str]:
    n_runs = str(len(one.cell.runs()))
    if one.estimate is None:
        return n_runs, "", "", ""
    if one.estimate.how == "unknown":
        return n_runs, "?", "?", "?"
    approximately = "≈ " if one.estimate.how == "counted" else ""
    shared = f" / {one.n_together} cells" if one.n_together > 1 else ""
    seconds = f"{approximately}{in_words(one.estimate.seconds)}{shared}"
    return n_runs, f"{one.estimate.n_steps:,}", seconds, in_mib(one.estimate.memory_bytes)


def in_words(seconds: float) -> str:
    """A duration to two figures: 0.4 s, 12 s, 3.5 min, 2.1 h."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 99.5:
        return f"{minutes:.1f} min" if minutes < 9.95 else f"{minutes:.0f} min"
    return f"{minutes / 60:.1f} h"


def in_mib(n_bytes: int) -> str:
    """Bytes as MiB or GiB."""
    mib = n_bytes / 2**20
    if mib < 1024:
        return f"{mib:.0f} MiB" if mib >= 9.5 else f"{mib:.1f} MiB"
    return f"{mib / 1024:.1f} GiB"
