"""Cells -> jobs: what is trained in one go, where, and how each cell gets a result of its own.

Cells that differ in their learning rate, weight decay or loss weights alone go through the towers together along the
run axis (`prompttune.config.runs.group_runs`). They train in a folder they share, `together/HASH`, and when it is
finished each cell's runs are copied into the cell's own folder, which then reads as if the cell had been trained alone.
The shared folder goes last, so that a kill anywhere loses nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.locks import held
from benchmarks.suite import Cell, Resources
from prompttune.base.tensor_files import write_bytes
from prompttune.config.record import fingerprint_tables
from prompttune.config.runs import Run, group_runs, trains_by_gradient
from prompttune.evaluation.results import RESULT, Result
from prompttune.training.checkpoint import NOT_TRAINING
from prompttune.training.run_folder import CLAIM, claim, claim_content, finished_result

if TYPE_CHECKING:
    from prompttune.training.fit import OnStep

TOGETHER = "together"
MEMBERS = "cells.json"  # in a shared folder: the names of its cells


@dataclass(frozen=True)
class Job:
    """Cells that are trained in one go.

    Attributes:
        cells: one, or several that share a folder.
        folder: the run folder that `fit` works in: the cell's own, or the shared one.
    """

    cells: tuple[Cell, ...]
    folder: Path

    @property
    def name(self) -> str:
        """The first cell's name, and how many more there are."""
        more = f" and {len(self.cells) - 1} more" if len(self.cells) > 1 else ""
        return f"{self.cells[0].name}{more}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the cells that must be finished before."""
        return self.cells[0].needs

    @property
    def resources(self) -> Resources:
        """The most that any of its cells asks for."""
        asked = [cell.resources for cell in self.cells]
        gpus = [one.gpus for one in asked if one.gpus is not None]
        memory = [one.memory_gib for one in asked if one.memory_gib is not None]
        return Resources(
            cpus=max(one.cpus for one in asked), gpus=max(gpus, default=None), memory_gib=max(memory, default=None)
        )

    def runs(self) -> list[Run]:
        """The runs of all cells, as `fit` takes them; in a shared folder each is named by its cell."""
        if len(self.cells) == 1:
            return self.cells[0].runs()
        return [replace(run, overrides={"cell": cell.name}) for cell in self.cells for run in cell.runs()]


def is_finished(cell: Cell) -> bool:
    """Whether the cell's folder holds a result of these very settings."""
    return (cell.folder / RESULT).exists() and not holds_another(cell)


def holds_another(cell: Cell) -> bool:
    """Whether the cell's folder belongs to other settings than the suite's."""
    claimed = cell.folder / CLAIM
    return claimed.exists() and claimed.read_bytes() != claim_content(cell.runs())


def make_jobs(todo: Sequence[Cell], planned: Sequence[Cell], *, out: Path) -> list[Job]:
    """The jobs that finish these cells, in the order of need.

    A shared folder that an earlier call left is gone on with; a cell that has begun alone goes on alone.

    Args:
        todo: cells without a result.
        planned: all cells of the suite.
        out: folder of the suite's results.
    """
    jobs = {cell.name: job for job in _left_shared(planned, out) for cell in job.cells if cell in todo}
    free = [cell for cell in todo if cell.name not in jobs]
    begun = [cell for cell in free if (cell.folder / CLAIM).exists() or not trains_by_gradient(cell.config)]
    for members in _groups([cell for cell in free if cell not in begun]):
        job = Job(tuple(members), members[0].folder if len(members) == 1 else out / TOGETHER / _hash(members))
        jobs |= {cell.name: job for cell in members}
    jobs |= {cell.name: Job((cell,), cell.folder) for cell in begun}
    ordered = [jobs[cell.name] for cell in todo]
    return list({job.folder: job for job in ordered}.values())


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    by_name = {cell.name: cell for cell in cells}
    firsts = [replace(cell.runs()[0], overrides={"cell": cell.name}) for cell in cells]
    return [[by_name[run.overrides["cell"]] for run in members] for members in group_runs(firsts)]


def _hash(members: Sequence[Cell]) -> str:
    content = [[cell.name, fingerprint_tables(cell.config, exclude=NOT_TRAINING)] for cell in members]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _left_shared(planned: Sequence[Cell], out: Path) -> list[Job]:
    """Jobs of the shared folders that are there, those left out whose cells or settings the suite no longer has."""
    by_name = {cell.name: cell for cell in planned}
    found = []
    for listing in sorted(out.glob(f"{TOGETHER}/*/{MEMBERS}")):
        names = json.loads(listing.read_text(encoding="utf-8"))
        members = [by_name[name] for name in names if name in by_name]
        if len(members) == len(names) and _hash(members) == listing.parent.name:
            found.append(Job(tuple(members), listing.parent))
    return found


def forget_shared(out: Path) -> None:
    """Takes away every shared folder: its cells start anew."""
    shutil.rmtree(out / TOGETHER, ignore_errors=True)


def run_job(job: Job, *, overwrite: bool = False, on_step: OnStep | None = None) -> None:
    """Trains and evaluates the job's cells; each has its result afterwards.

    A lock on the job's folder is held, so that a worker taken for dead and the one in its place do not write at once.

    Raises:
        whatever `prompttune.training.fit.fit` raises.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    with held(job.folder):
        if not overwrite and all(is_finished(cell) for cell in job.cells):
            return
        _fit(job, overwrite=overwrite, on_step=on_step)


def _fit(job: Job, *, overwrite: bool, on_step: OnStep | None) -> None:
    from prompttune.training.fit import FitOptions, fit

    options = FitOptions(overwrite=overwrite, on_step=on_step)
    if len(job.cells) == 1:
        fit(job.runs(), job.folder, options=options)
        return
    write_bytes(job.folder / MEMBERS, json.dumps([cell.name for cell in job.cells]).encode())
    fitted = fit(job.runs(), job.folder, options=options)
    for cell in job.cells:
        _deal_out(job.folder, fitted.result, cell, overwrite=overwrite)
    shutil.rmtree(job.folder)


def _deal_out(shared: Path, result: Result, cell: Cell, *, overwrite: bool) -> None:
    """The cell's part of a shared folder in the cell's own, its result last."""
    runs = cell.runs()
    if finished_result(cell.folder, runs, overwrite=overwrite) is not None:
        return
    claim(cell.folder, runs, overwrite=overwrite)
    names = {replace(run, overrides={"cell": cell.name}).name: run.name for run in runs}
    for name, own in names.items():
        shutil.copytree(shared / name, cell.folder / own, dirs_exist_ok=True)
    part_of(result, cell, names).write(cell.folder)


def part_of(result: Result, cell: Cell, names: Mapping[str, str]) -> Result:
    """The result as the cell alone would have had it, but for the times: those are of the runs that went together.

    Args:
        names: run names in the shared folder -> in the cell's.
    """
    own = [one for one in result.cells if one.overrides == {"cell": cell.name}]
    runs = [one for one in result.runs if one.name in names]
    of_cell = {"seeds": tuple(run.seed for run in runs), "device": result.config["device"]}
    return result.model_copy(
        update={
            "config": cell.config.model_copy(update=of_cell).model_dump(mode="json"),
            "axes": {},
            "runs": [run.model_copy(update={"name": names[run.name], "overrides": {}}) for run in runs],
            "cells": [one.model_copy(update={"overrides": {}}) for one in own],
        }
    )


def apart(job: Job, *, overwrite: bool = False) -> list[Job]:
    """The job's unfinished cells (all of them to `overwrite`) as jobs of their own; what they share is dropped."""
    shutil.rmtree(job.folder, ignore_errors=True)
    return [Job((cell,), cell.folder) for cell in job.cells if overwrite or not is_finished(cell)]
