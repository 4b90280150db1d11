"""The table of a result: settings that vary as columns, what is too long for a column numbered below, 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from prompttune.base.narrow_tables import Column, narrow_tables, numbered
from prompttune.evaluation.results import CellResult, Result, RunResult, describe

if TYPE_CHECKING:
    from rich.table import Table

_TITLES = {"harmonic_mean": "HM"}
_OF_MEANS = "harmonic_mean_of_means"


def result_rows(result: Result) -> list[dict[str, Any]]:
    """One flat row per cell: method, its settings, each metric's mean and deviation in [0, 1], and what it took."""
    best = best_by_validation(result)
    rows = []
    for place, cell in enumerate(result.cells):
        runs = _runs_of(result, cell)
        row: dict[str, Any] = {"method": result.method_name} | cell.overrides
        for name, metric in cell.metrics.items():
            row |= {name: metric.mean, f"{name}_std": metric.std}
        if (validation := _validation(runs)) is not None:
            row |= {"val": validation, "best_by_validation": place == best}
        rows.append(row | {"runs": len(runs), "n_parameters": runs[0].n_parameters, "seconds_per_run": _seconds(runs)})
    return rows


def best_by_validation(result: Result) -> int | None:
    """The cell of the highest mean validation accuracy, the first of equals; None where nothing was held out, or there
    is one cell alone. Test accuracies choose nothing."""
    scores = [_validation(_runs_of(result, cell)) for cell in result.cells]
    known = [score for score in scores if score is not None]
    return scores.index(max(known)) if known and len(scores) > 1 else None


def result_tables(result: Result) -> Iterator[Table | str]:
    """Top-1 in per cent, one row per cell: mean ± standard deviation over its runs; then lines for what lies beside.

    As many tables as keep within 80 columns, each with the settings. HM is the mean of the runs' harmonic means; the
    harmonic mean of the mean accuracies, which papers print more often, is told below where it differs.
    """
    names = [name for name in dict.fromkeys(n for c in result.cells for n in c.metrics) if name != _OF_MEANS]
    several = any(cell.metrics[name].n > 1 for cell in result.cells for name in names if name in cell.metrics)
    title = "top-1 accuracy (%)" + (", mean ± standard deviation over seeds" if several else "")
    settings, legend = _settings(result)
    columns = [(_TITLES.get(name, name), [describe(cell.metrics, name) for cell in result.cells]) for name in names]
    columns += _beside(result)
    yield from narrow_tables(settings, columns, title=title)
    yield from legend
    if best_by_validation(result) is not None:
        yield "* best by validation; no row is chosen by test videos"
    elif len(result.cells) > 1 and result.axes:
        yield "no validation: rows differ on test videos, which choose nothing (--val N holds shots out)"
    for place, cell in enumerate(result.cells):
        yield from _of_means(cell, ", ".join(f"{head} {values[place]}" for head, values in settings))


def _settings(result: Result) -> tuple[list[Column], list[str]]:
    """A column for every setting that varies, and the lines that tell what its numbers stand for."""
    keys = list(dict.fromkeys(key for cell in result.cells for key in cell.overrides))
    if not keys:
        return [("method", [result.method_name] * len(result.cells))], []
    last = [key.rpartition(".")[2] for key in keys]
    columns: list[Column] = []
    legend: list[str] = []
    for key, short in zip(keys, last, strict=True):
        values = [str(cell.overrides.get(key, "-")) for cell in result.cells]
        head = short if last.count(short) == 1 else key
        column, told = numbered(head, values)
        columns.append(column)
        legend += told
    return columns, legend


def _beside(result: Result) -> Iterator[Column]:
    """Columns of what is no test accuracy: validation, number of runs, parameters, seconds."""
    runs = [_runs_of(result, cell) for cell in result.cells]
    validation, best = [_validation(of_cell) for of_cell in runs], best_by_validation(result)
    if any(score is not None for score in validation):
        texts = ["-" if score is None else f"{100 * score:.1f}" for score in validation]
        yield "val", [f"{text}{'*' if place == best else ''}" for place, text in enumerate(texts)]
    yield "runs", [str(len(of_cell)) for of_cell in runs]
    yield "params", [f"{of_cell[0].n_parameters:,}" for of_cell in runs]
    yield "s/run", [f"{_seconds(of_cell):.1f}" for of_cell in runs]


def _of_means(cell: CellResult, row: str) -> Iterator[str]:
    of_means, of_runs = cell.metrics.get(_OF_MEANS), cell.metrics.get("harmonic_mean")
    if of_means is not None and of_runs is not None and f"{100 * of_means.mean:.1f}" != f"{100 * of_runs.mean:.1f}":
        yield f"{row.removeprefix('method ')}: harmonic mean of the mean accuracies {100 * of_means.mean:.1f}"


def _runs_of(result: Result, cell: CellResult) -> list[RunResult]:
    return [run for run in result.runs if run.overrides == cell.overrides]


def _validation(runs: Sequence[RunResult]) -> float | None:
    scores = [run.val_accuracy for run in runs if run.val_accuracy is not None]
    return fmean(scores) if scores else None


def _seconds(runs: Sequence[RunResult]) -> float:
    return sum(run.train_seconds / run.runs_together for run in runs) / len(runs)
