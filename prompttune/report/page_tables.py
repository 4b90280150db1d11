"""The page's tables: cells that know what they are sorted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from prompttune.report.comparison import Comparison, Line
from prompttune.report.over_stores import OverStores
from prompttune.report.published import Published
from prompttune.report.settings import Setting
from prompttune.report.statistics import in_per_cent
from prompttune.report.tables import heading, interval, mean_and_std, published_frame

CALIBRATION_RULE = (
    "Calibration error: the expected one in per cent, |accuracy - mean confidence| over 15 bins of confidence; mean "
    "over seeds and test sets."
)


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the number it is sorted by (None: by its text), whether it is a tested best."""

    text: str
    value: float | None = None
    is_best: bool = False
    small: str = ""

    @classmethod
    def number(cls, value: float, form: str = "{:g}") -> Cell:
        return cls(form.format(value), float(value))


@dataclass(frozen=True)
class PageTable:
    """A table whose first column is the label that the filter looks at.

    Attributes:
        title: above it; empty for none.
        is_long: shown with a height of its own, to be scrolled.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_long: bool = False

    def is_number(self, column: int) -> bool:
        """Whether the column's cells are numbers, which stand to the right."""
        return any(row[column].value is not None for row in self.rows)


def result_table(comparison: Comparison) -> PageTable:
    """The comparison's lines with their statistics."""
    metrics = comparison.group.metrics
    columns = ["method", *(heading(metric) for metric in metrics)]
    if comparison.baseline is not None:
        columns += [f"Δ {heading(comparison.group.main_metric)}", "p", "over videos"]
    columns += ["seeds", "calibration error", "parameters", "s / seed"]
    rows = [_row(comparison, line) for line in comparison.lines]
    return PageTable("", columns, rows)


def _row(comparison: Comparison, line: Line) -> list[Cell]:
    cells = [Cell(line.label)]
    for metric in comparison.group.metrics:
        found = line.metrics.get(metric)
        mean = found.mean if found else None
        cells.append(Cell(mean_and_std(found), mean, metric in line.best))
    if comparison.baseline is not None:
        seeds, videos = line.over_seeds, line.over_videos
        cells += [
            Cell(in_per_cent(seeds.mean, signed=True), seeds.mean, small=interval(seeds)) if seeds else Cell("-"),
            Cell.number(seeds.p, "{:.2g}") if seeds and seeds.p is not None else Cell("-"),
            Cell(interval(videos), videos.low) if videos else Cell("-"),
        ]
    errors = [test.calibration_error for run in line.entry.runs for test in run.tests.values()]
    return [
        *cells,
        Cell.number(len(line.entry.runs)),
        Cell.number(100 * sum(errors) / len(errors), "{:.1f}") if errors else Cell("-"),
        Cell.number(line.entry.n_parameters, "{:,}"),
        Cell.number(line.entry.seconds, "{:.1f}"),
    ]


def over_stores_table(over: OverStores) -> PageTable:
    """Means over data sets, what each line gains over the line it is set against, and Holm's p."""
    columns = ["method", "against"]
    for metric in over.metrics:
        columns += [heading(metric), f"Δ {heading(metric)}"]
    rows = []
    for line in over.lines:
        cells = [Cell(line.label), Cell(line.against or "-")]
        for metric in over.metrics:
            mean, gain = line.means.get(metric), line.gains.get(metric)
            cells.append(Cell(mean_and_std(mean), mean.mean if mean else None))
            shown = gain and Cell(in_per_cent(gain.mean, signed=True), gain.mean, small=interval(gain))
            cells.append(shown or Cell("-"))
        p = Cell("-") if line.p is None else Cell.number(line.p, "{:.2g}")
        rows.append([*cells, p, Cell(line.data_sets, line.n_stores)])
    return PageTable("", [*columns, f"p of Δ {heading(over.main_metric)}", "data sets"], rows)


def settings_table(settings: Sequence[Setting]) -> PageTable:
    """Every line's value of the settings that are told, the lines of one setting together."""
    rows = [
        [
            Cell(label),
            Cell(one.key),
            Cell(value, small=f"default {usual}" if (usual := one.defaults.get(label)) else ""),
        ]
        for one in settings
        for label, value in one.values.items()
    ]
    return PageTable("", ["method", "setting", "value"], rows, is_long=True)


def published_table(lines: Sequence[Published]) -> PageTable:
    """Published numbers on the same data set."""
    frame = published_frame(lines)
    rows = [[_guess(str(text)) for text in row] for row in frame.to_numpy().tolist()]
    return PageTable("Published by others", [str(name) for name in frame.columns], rows)


def _guess(text: str) -> Cell:
    """A cell sorted as a number where its text begins with one."""
    try:
        return Cell(text, float(text.split(" ")[0]))
    except ValueError:
        return Cell(text)
