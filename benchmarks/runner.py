"""Runs a suite: plans every cell first, skips what is finished, resumes what was cut off, goes on after a bad cell.

A cell is one `prompttune` training in a folder of its own; `prompttune` itself makes that folder resumable and refuses
to mix two configurations in it, so a killed suite is continued by the same command with nothing lost or doubled.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.suite import Cell, Suite, cells
from benchmarks.table import Row, print_rows, rows_of, write_rows
from prompttune.errors import PrompttuneError, explain
from prompttune.results import RESULT, Result
from vidfeat.errors import StoreNotFoundError, VidfeatError

FAILURES = "failures.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a suite.

    Attributes:
        rows: the finished methods in the suite's order, one per cell of the grid.
        failures: cell name -> the error that ended it.
        seconds: of this call.
    """

    rows: Sequence[Row]
    failures: dict[str, str]
    seconds: float


def run_suite(
    suite: Suite, *, out: Path, data: Path, overwrite: bool = False, console: Console | None = None
) -> Outcome:
    """The suite's table, every cell trained that was not finished before.

    Args:
        out: folder of the results: a run folder per cell below `cells/`, `table.md`, `table.json`, `failures.json`.
        data: folder that the suite's stores are relative to.
        overwrite: trains finished cells again.

    Raises:
        ConfigError: a suite that cannot be planned.
        StoreNotFoundError: stores that are not there; all in one message.
    """
    console = console or Console()
    started = time.monotonic()
    planned = cells(suite, out=out, data=data)
    _require_stores(suite, data)
    todo = planned if overwrite else [cell for cell in planned if not is_finished(cell)]
    console.print(
        f"[bold]{suite.title}[/]: {len(planned)} cells, {len(planned) - len(todo)} finished, cost {suite.cost}"
    )
    failures = _run_cells(todo, overwrite=overwrite, console=console)
    _write_failures(out / FAILURES, failures)
    rows = rows_of([cell for cell in planned if cell.kind == "method" and is_finished(cell)])
    if rows:
        write_rows(out, suite, rows)
        print_rows(console, suite, rows)
    for name, message in failures.items():
        console.print(f"[red]failed[/] {name}\n{message}", highlight=False)
    return Outcome(rows, failures, time.monotonic() - started)


def is_finished(cell: Cell) -> bool:
    """Whether the cell's folder holds a result; of these very settings, or training in it would be refused."""
    return (Path(cell.config.out) / RESULT).exists()


def _require_stores(suite: Suite, data: Path) -> None:
    missing = [str(data / path) for path in suite.stores.values() if not (data / path).exists()]
    if missing:
        raise StoreNotFoundError(
            explain(
                "the suite's stores are not there",
                where=", ".join(missing),
                fix="make them with `vidfeat extract`, or name their folder with --data; "
                "`python -m benchmarks quickstart` makes those of the embedded world",
            )
        )


def _run_cells(todo: Sequence[Cell], *, overwrite: bool, console: Console) -> dict[str, str]:
    from prompttune.fit import FitOptions, fit
    from prompttune.runs import expand_runs

    failures: dict[str, str] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("cells", total=len(todo))
        for cell in todo:
            progress.update(task, description=cell.label)
            try:
                fit(expand_runs(cell.given, {}), cell.config.out, options=FitOptions(overwrite=overwrite))
            except (PrompttuneError, VidfeatError) as error:
                failures[cell.name] = str(error)
            progress.advance(task)
    return failures


def _write_failures(path: Path, failures: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if failures:
        path.write_text(json.dumps(failures, indent=1) + "\n")
    else:
        path.unlink(missing_ok=True)


def result_of(cell: Cell) -> Result:
    """The result of a finished cell."""
    return Result.read(cell.config.out)
