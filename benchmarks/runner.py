"""Runs a suite: plans every cell first, skips what is finished, resumes what was cut off, goes on after a bad cell.

A cell is one `prompttune` training in a folder of its own; `prompttune` itself makes that folder resumable and refuses
to mix two configurations in it, so a killed suite is continued by the same command with nothing lost or doubled.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.failures import FAILURES, Failure, FailureLog
from benchmarks.jobs import forget_shared, is_finished
from benchmarks.locks import held
from benchmarks.suite import Cell, Suite, cells
from benchmarks.suite_plan import SuitePlan, in_words, plan_suite
from benchmarks.table import Row, print_rows, rows_of, write_rows
from prompttune.base.console import plain_console
from prompttune.errors import ConfigError, explain

__all__ = ["FAILURES", "Outcome", "RunOptions", "make_plan", "run_suite"]


@dataclass(frozen=True)
class RunOptions:
    """How a suite is run.

    Attributes:
        overwrite: trains finished cells again.
        allow_missing: runs what can run where some cells cannot; those are recorded as failures.
        only: patterns of cell names, labels or stores (`*` and `?`); empty for all. Prompts they take come along.
        engine: "local" runs trainings one after the other here, "ray" spreads them over a cluster.
        address: of the Ray cluster; "auto" finds one, None starts one here.
    """

    overwrite: bool = False
    allow_missing: bool = False
    only: tuple[str, ...] = ()
    engine: Literal["local", "ray"] = "local"
    address: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a suite.

    Attributes:
        rows: the finished methods in the suite's order, one per cell of the grid.
        failures: cell name -> why it has no result.
        seconds: of this call.
        finished: the cells of `rows`.
    """

    rows: Sequence[Row]
    failures: Mapping[str, Failure]
    seconds: float
    finished: tuple[Cell, ...] = ()


def make_plan(suite: Suite, *, out: Path, data: Path, options: RunOptions = RunOptions()) -> SuitePlan:
    """The plan of the suite's cells; trains nothing and writes nothing.

    Raises:
        ConfigError: a suite whose configurations are not valid, or patterns that no cell matches.
    """
    planned = _chosen(cells(suite, out=out, data=data), options.only)
    return plan_suite(planned, out=out, overwrite=options.overwrite)


def run_suite(
    suite: Suite, *, out: Path, data: Path, console: Console | None = None, options: RunOptions = RunOptions()
) -> Outcome:
    """The suite's table, every cell trained that was not finished before.

    Args:
        out: folder of the results: a run folder per cell below `cells/`, `table.md`, `table.json`, `failures.json`.
        data: folder that the suite's stores are relative to.

    Raises:
        ConfigError: cells that cannot run, all in one message, unless `allow_missing`.
        RunFolderError: another process runs a suite into `out`.
        KeyboardInterrupt: the same call resumes.
    """
    console = console or plain_console()
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with held(out, wait=False):
        plan = make_plan(suite, out=out, data=data, options=options)
        console.print(f"{suite.title}: {suite.shows}", style="bold")
        for part in plan.parts():
            console.print(part, soft_wrap=isinstance(part, str))
        if not options.allow_missing:
            plan.require_runnable()
        log = _run(plan, out, options, console)
        finished = [cell for cell in cells(suite, out=out, data=data) if cell.kind == "method" and is_finished(cell)]
        rows = _write_tables(suite, finished, out, console)
    for name, failure in log.new.items():
        console.print(f"failed {name}", style="red")
        console.print(failure.message)
    if log.new:
        console.print(f"tracebacks: {out / FAILURES}; the same command tries again", soft_wrap=True)
    return Outcome(rows, log.new, time.monotonic() - started, tuple(finished))


def _chosen(planned: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells that match any pattern, and those whose prompts they take."""
    if not patterns:
        return list(planned)
    matching = [
        cell
        for cell in planned
        if any(fnmatch(word, p) for word in (cell.name, cell.label, cell.store) for p in patterns)
    ]
    if not matching:
        names = ", ".join(cell.name for cell in planned)
        raise ConfigError(explain("--only matches no cell", expected=names, got=", ".join(patterns)))
    wanted = {cell.name for cell in matching}
    for cell in reversed(planned):  # what is needed stands before what needs it
        if cell.name in wanted:
            wanted.update(cell.needs)
    return [cell for cell in planned if cell.name in wanted]


def _run(plan: SuitePlan, out: Path, options: RunOptions, console: Console) -> FailureLog:
    from benchmarks.engine_local import run_local
    from benchmarks.progress import SuiteProgress
    from vidfeat.extraction.extract import sigterm_as_interrupt

    log = FailureLog(out, retried=[one.cell.name for one in plan.cells])
    for name, problem in plan.problems.items():
        log.record(name, Failure("blocked", problem))
    if options.overwrite:
        forget_shared(out)
    started = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(sigterm_as_interrupt())
        progress = stack.enter_context(SuiteProgress(console, plan.estimates, n_jobs=len(plan.jobs)))
        if options.engine == "ray":
            from benchmarks.engine_ray import run_on_ray

            run_on_ray(
                plan.jobs,
                address=options.address,
                estimates=plan.estimates,
                log=log,
                progress=progress,
                overwrite=options.overwrite,
            )
        else:
            run_local(plan.jobs, log=log, progress=progress, overwrite=options.overwrite)
    if plan.jobs:
        took = time.monotonic() - started
        console.print(f"{in_words(took)}, planned {in_words(plan.seconds)}")
    return log


def _write_tables(suite: Suite, finished: Sequence[Cell], out: Path, console: Console) -> list[Row]:
    """The table of all cells that are finished, chosen by this call or not."""
    rows = rows_of(finished)
    if rows:
        write_rows(out, suite, rows)
        print_rows(console, suite, rows)
    return rows
