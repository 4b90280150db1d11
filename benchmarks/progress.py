"""How far a suite is and how long it still takes: one live line on a terminal, one line per training elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.jobs import Job
from benchmarks.suite_plan import in_words
from benchmarks.trial import Estimate

if TYPE_CHECKING:
    from prompttune.training.fit import OnStep
    from prompttune.training.trainer import StepRecord, Trainer

LEAST_SECONDS = 0.05  # what a training with no estimate counts for


class SuiteProgress:
    """The progress of a suite's trainings; a context manager.

    Time left is the plan's for what is left, times how much slower or faster than the plan it went so far.

    Args:
        estimates: the plan's, by the job's folder; a job that is not among them counts for little.
        n_jobs: trainings of this call.
    """

    def __init__(self, console: Console, estimates: Mapping[Path, Estimate], *, n_jobs: int) -> None:
        self._console = console
        self._seconds = {folder: max(one.seconds, LEAST_SECONDS) for folder, one in estimates.items()}
        self._total = sum(self._seconds.values())
        self._done = 0.0
        self._parts: dict[Path, float] = {}  # share done of the trainings that are going on
        self._n_done, self._n_jobs = 0, n_jobs
        self._started = time.monotonic()
        self._begun: dict[Path, float] = {}
        self._line = Progress(
            TextColumn("{task.fields[count]}", markup=False),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._line.add_task("", total=self._total, count="", left="")

    def __enter__(self) -> SuiteProgress:
        self._line.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._line.stop()

    @property
    def seconds_left(self) -> float:
        """Of all trainings that are not done; the plan's own figure until something is."""
        done = self._done + sum(self._seconds_of(folder) * share for folder, share in self._parts.items())
        pace = (time.monotonic() - self._started) / done if done > LEAST_SECONDS else 1.0
        return max(self._total - done, 0.0) * pace

    def started(self, job: Job) -> OnStep:
        """Tells that a training starts; what is returned is told of its steps."""
        self._parts[job.folder] = 0.0
        self._begun[job.folder] = time.monotonic()
        self._show(job.name)
        n_runs, runs_done, last = len(job.runs()), 0, -1

        def on_step(trainer: Trainer, record: StepRecord) -> None:
            nonlocal runs_done, last
            together = len(trainer.inputs.runs)
            if record.step < last:
                runs_done += together  # the next group of runs, where not all fitted the memory
            last = record.step
            share = (runs_done + together * (record.step + 1) / trainer.n_steps) / n_runs
            self._parts[job.folder] = min(share, 1.0)
            self._show(job.name)

        return on_step

    def finished(self, job: Job, *, failed: bool) -> None:
        """Tells that a training is over."""
        self._parts.pop(job.folder, None)
        self._done += self._seconds_of(job.folder)
        self._n_done += 1
        self._show(job.name)
        took = time.monotonic() - self._begun.get(job.folder, time.monotonic())
        word = "failed" if failed else "done"
        left = f", {in_words(self.seconds_left)} left" if self._n_done < self._n_jobs else ""
        self._console.print(
            f"{self._count()} {word} {job.name} ({in_words(took)}{left})", style="red" if failed else None
        )

    def _seconds_of(self, folder: Path) -> float:
        return self._seconds.get(folder, LEAST_SECONDS)

    def _count(self) -> str:
        return f"{self._n_done:>{len(str(self._n_jobs))}}/{self._n_jobs}"

    def _show(self, name: str) -> None:
        if not self._console.is_terminal:
            return
        done = self._done + sum(self._seconds_of(folder) * share for folder, share in self._parts.items())
        fields: dict[str, Any] = {"count": self._count(), "left": f"{in_words(self.seconds_left)} left"}
        self._line.update(self._task, completed=done, description=name, **fields)
