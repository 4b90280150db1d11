"""The table a paper prints: one line per method, base / new / harmonic mean, mean and standard deviation over seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prompttune.base.tensor_files import write_bytes
from prompttune.cli.result_table import result_rows
from prompttune.evaluation.results import Result, describe
from prompttune.report.markdown import TEST_NAMES, markdown_table

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.suite import Cell, Suite


@dataclass(frozen=True)
class Row:
    """One method on one store under one protocol.

    Attributes:
        n_seeds: runs the mean is taken over; a method that trains nothing has one.
        metrics: by test set: the mean and deviation in words, in per cent.
        seconds: wall clock of training per seed, evaluation left out.
    """

    label: str
    store: str
    protocol: str
    shots: int
    grid: str
    n_seeds: int
    metrics: dict[str, str]
    n_parameters: int
    seconds: float

    @property
    def place(self) -> tuple[str, str, int, str]:
        """What it is compared within: store, protocol, shots, grid."""
        return (self.store, self.protocol, self.shots, self.grid)

    def cells(self, names: Sequence[str], places: Sequence[str] = ()) -> list[str]:
        """The row in words, in the order of `headings(names, places)`."""
        numbers = [self.metrics.get(name, "-") for name in names]
        where = [str(getattr(self, name)) for name in places]
        return [self.label, *where, *numbers, str(self.n_seeds), f"{self.n_parameters:,}", f"{self.seconds:.1f}"]


def headings(names: Sequence[str], places: Sequence[str] = ()) -> list[str]:
    """Column titles for these metrics; `places` are fields of a row that say where it was reached."""
    return ["method", *places, *(TEST_NAMES.get(name, name) for name in names), "seeds", "parameters", "s / seed"]


def places_of(rows: Sequence[Row]) -> list[str]:
    """The fields of `place` in which the rows differ."""
    names = ("store", "protocol", "shots", "grid")
    return [name for name in names if len({getattr(row, name) for row in rows}) > 1]


def rows_of(finished: Sequence[Cell]) -> list[Row]:
    """The rows of finished cells, in their order."""
    return [_row(cell, Result.read(cell.config.out)) for cell in finished]


def _row(cell: Cell, result: Result) -> Row:
    metrics = result.cells[0].metrics
    return Row(
        label=cell.label,
        store=cell.store,
        protocol=cell.protocol,
        shots=cell.shots,
        grid=cell.grid,
        n_seeds=len(result.runs),
        metrics={name: describe(metrics, name) for name in metrics if name != "harmonic_mean_of_means"},
        n_parameters=result.runs[0].n_parameters,
        seconds=sum(run.train_seconds / run.runs_together for run in result.runs) / len(result.runs),
    )


def metric_names(rows: Sequence[Row]) -> list[str]:
    """Every metric of the rows, base and new before their harmonic mean."""
    found = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return sorted(found, key=lambda name: (name == "harmonic_mean", found.index(name)))


def print_rows(console: Console, suite: Suite, rows: Sequence[Row]) -> None:
    """The table on the terminal, one per store, protocol and number of shots; several where it is over 80 columns."""
    from prompttune.base.narrow_tables import narrow_tables, numbered

    for key in dict.fromkeys(row.place for row in rows):
        group = [row for row in rows if row.place == key]
        names = metric_names(group)
        where = f"{key[1]}, {key[2]} shots, store {key[0]}{', ' + key[3] if key[3] else ''}"
        console.print(f"{suite.title}: {where}", soft_wrap=True)
        labels, *numbers = [list(column) for column in zip(*(row.cells(names) for row in group), strict=True)]
        method, *heads = headings(names)
        column, legend = numbered(method, labels, longest=28)
        for part in (*narrow_tables([column], list(zip(heads, numbers, strict=True))), *legend):
            console.print(part, soft_wrap=isinstance(part, str))


def plain_rows(finished: Sequence[Cell]) -> list[dict[str, Any]]:
    """The same for programs, a row per finished cell: where it was reached, metrics in [0, 1] with their deviation."""
    results = [(cell, Result.read(cell.config.out)) for cell in finished]
    return [cell.facts | row for cell, result in results for row in result_rows(result)]


def write_rows(out: Path, suite: Suite, rows: Sequence[Row]) -> None:
    """`table.md` and `table.json` of the suite's results folder."""
    names, places = metric_names(rows), places_of(rows)
    columns = headings(names, places)
    lines: list[list[object]] = [list(row.cells(names, places)) for row in rows]
    out.mkdir(parents=True, exist_ok=True)
    text = f"# {suite.title}\n\n{suite.shows}\n\n{markdown_table(columns, lines)}\n"
    write_bytes(out / "table.md", text.encode())
    document: dict[str, Any] = {
        "title": suite.title,
        "columns": columns,
        "rows": lines,
        "against": {row.label: row.against for row in suite.methods if row.against},
        "readme": {
            "columns": columns,
            "rows": lines,
            "note": f"{suite.title}: top-1 in per cent, mean ± standard deviation over seeds.",
            "command": suite.command,
        },
    }
    write_bytes(out / "table.json", (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
