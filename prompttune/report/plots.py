"""The page's figures of accuracies: base against new, cost, learning curves, gains and losses per class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prompttune.report.answers import ClassChange
from prompttune.report.comparison import Comparison, scores
from prompttune.report.logs import Curve, Curves
from prompttune.report.over_stores import OverStores
from prompttune.report.statistics import harmonic_means
from prompttune.report.svg import BASELINE, FAINT, GAIN, INK, LOSS, Drawing, colours, drawing, markers
from prompttune.report.tables import heading, mean_and_std, with_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 24  # bars a person still reads; of more classes the largest losses and gains are shown
COSTS = {"seconds": "seconds of training per seed", "n_parameters": "trained numbers"}


def label_colours(comparison: Comparison) -> dict[str, str]:
    """The comparison's colour per label."""
    baseline = comparison.baseline.label if comparison.baseline else None
    return colours([entry.label for entry in comparison.group.entries], baseline)


def label_markers(comparison: Comparison) -> dict[str, str]:
    """The comparison's shape per label."""
    baseline = comparison.baseline.label if comparison.baseline else None
    return markers([entry.label for entry in comparison.group.entries], baseline)


def base_against_new(comparison: Comparison, *, name: str) -> str:
    """Scatter of new over base accuracy, a dot per seed and a large one per mean, with lines of equal HM."""
    palette, shapes = label_colours(comparison), label_markers(comparison)
    with drawing(height=3.9) as figure:
        axes = figure.axes[0]
        for entry in comparison.group.entries:
            base, new = (100 * np.array(list(scores(entry, metric).values())) for metric in ("base", "new"))
            tip = f"{entry.label}: base {base.mean():.1f}, new {new.mean():.1f}"
            look: dict[str, Any] = {"marker": shapes[entry.label], "color": palette[entry.label]}
            figure.mark(axes.plot(base, new, ls="", ms=3.5, mew=0, alpha=0.45, **look), label=entry.label)
            # The baseline as a ring: a method that moved nowhere lies inside it, not on top of it.
            shape = {"ms": 12, "mew": 2, "mfc": "none"} if entry is comparison.baseline else {"ms": 9, "mew": 0}
            mean = axes.plot(base.mean(), new.mean(), ls="", label=entry.label, **look, **shape)
            figure.mark(mean, label=entry.label, tip=tip)
        _equal_limits(figure)
        _iso_lines(figure)
        axes.set(xlabel="base accuracy (%)", ylabel="new accuracy (%)")
        _legend(figure)
        return figure.svg(name=name, alt="new accuracy over base accuracy with lines of equal harmonic mean")


def _equal_limits(figure: Drawing) -> None:
    axes = figure.axes[0]
    for limits, change in ((axes.get_xlim(), axes.set_xlim), (axes.get_ylim(), axes.set_ylim)):
        low, high = limits
        room = max(2.0, 0.12 * (high - low))
        change(max(0.0, low - room), min(100.0, high + room))


def _iso_lines(figure: Drawing) -> None:
    axes = figure.axes[0]
    x, y = (np.linspace(max(low, 1e-3), high, 120) for low, high in (axes.get_xlim(), axes.get_ylim()))
    grid = np.meshgrid(x, y)
    means = harmonic_means(grid[0], grid[1])
    step = next(step for step in (1, 2, 5, 10, 20) if (means.max() - means.min()) / step <= 9)
    levels = np.arange(np.ceil(means.min() / step) * step, means.max(), step)
    lines = axes.contour(*grid, means, levels=levels, colors=FAINT, linewidths=0.8, zorder=0)
    axes.clabel(lines, fmt="HM %g", fontsize=6.5, colors=INK)


def _legend(figure: Drawing, axes_index: int = 0) -> None:
    handles, labels = figure.axes[axes_index].get_legend_handles_labels()
    legend = figure.figure.legend(
        handles, labels, loc="outside lower center", ncols=2, handlelength=1.2, columnspacing=1.0, markerscale=0.6
    )
    for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
        figure.mark([text], label=text.get_text())
        if handle is not None:
            figure.mark([handle], label=text.get_text())


def cost_against_accuracy(comparison: Comparison, *, cost: str, name: str) -> str:
    """Accuracy over one cost, bars of one standard deviation; what costs nothing is a line across.

    Args:
        cost: "seconds" of training per seed, or "n_parameters" trained.
    """
    palette, shapes = label_colours(comparison), label_markers(comparison)
    metric = comparison.group.main_metric
    with drawing(height=3.3) as figure:
        axes = figure.axes[0]
        for line in comparison.lines:
            found, colour = line.metrics.get(metric), palette[line.label]
            if found is None:
                continue
            paid, accuracy = float(getattr(line.entry, cost)), 100 * found.mean
            tip = f"{line.label}: {mean_and_std(found)} at {paid:,.4g} {COSTS[cost]}"
            if paid > 0:
                std = 100 * (found.std or 0)
                bar = axes.plot([paid, paid], [accuracy - std, accuracy + std], color=colour)
                mean = axes.plot(paid, accuracy, shapes[line.label], ms=7, mew=0, color=colour, label=line.label)
                figure.mark([*bar, *mean], label=line.label, tip=tip)
            else:
                across = axes.axhline(accuracy, ls="--", lw=1.2, color=colour, label=line.label)
                figure.mark(across, label=line.label, tip=tip)
        _log_axis(axes)
        axes.set(xlabel=COSTS[cost], ylabel=f"{heading(metric)} (%)")
        axes.grid(axis="y")
        _legend(figure)
        return figure.svg(name=name, alt=f"accuracy over {COSTS[cost]}")


def _log_axis(axes: Axes) -> None:
    """A logarithmic x axis with few, plain numbers, whatever part of a decade it spans."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    decades = np.log10(high / low)
    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0) if decades < 0.8 else (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def learning_curves(curves: Mapping[str, Curves], palette: Mapping[str, str], *, name: str) -> str:
    """Loss and batch accuracy over steps: mean of the runs, a thin line each."""
    with drawing(height=4.6, rows=2) as figure:
        for label, found in curves.items():
            for axes, curve, scale in zip(figure.axes, (found.loss, found.accuracy), (1.0, 100.0), strict=True):
                _draw_curve(figure, axes, curve, colour=palette[label], label=label, scale=scale)
        figure.axes[0].set(ylabel="loss")
        figure.axes[1].set(ylabel="batch accuracy (%)", xlabel="step")
        for axes in figure.axes:
            axes.grid(axis="y")
        _legend(figure)
        return figure.svg(name=name, alt="loss and batch accuracy over training steps")


def gradient_norms(label: str, curves: Curves, *, name: str) -> str:
    """Norm of each loss term's gradient over steps: which term moves the prompt, which one is idle."""
    palette = colours(list(curves.gradient_norms), None)
    with drawing(height=2.8) as figure:
        axes = figure.axes[0]
        for term, curve in curves.gradient_norms.items():
            _draw_curve(figure, axes, curve, colour=palette[term], label=term, scale=1.0, owner=label)
        if all((curve.values[np.isfinite(curve.values)] > 0).all() for curve in curves.gradient_norms.values()):
            axes.set_yscale("log")
        axes.set(xlabel="step", ylabel="gradient norm")
        axes.grid(axis="y")
        figure.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=1.2)
        return figure.svg(name=name, alt=f"gradient norms of the loss terms of {label}")


def _draw_curve(
    figure: Drawing, axes: Axes, curve: Curve, *, colour: str, label: str, scale: float, owner: str = ""
) -> None:
    values = scale * curve.values
    marker = "o" if len(curve.steps) < 12 else ""
    for run in values:
        figure.mark(axes.plot(curve.steps, run, lw=0.7, alpha=0.35, color=colour), label=owner or label)
    mean = axes.plot(curve.steps, np.nanmean(values, axis=0), marker=marker, ms=3, color=colour, label=label)
    figure.mark(mean, label=owner or label, tip=label)


def gains_over_stores(over: OverStores, *, name: str) -> str:
    """Forest plot: each line's gain over the line it is set against, with its interval over data sets; a panel per
    metric."""
    shown = [line for line in over.lines if line.gains]
    with drawing(width=7.6, height=0.8 + 0.19 * len(shown), columns=len(over.metrics)) as figure:
        for metric, axes in zip(over.metrics, figure.axes, strict=True):
            for place, line in enumerate(shown):
                gain = line.gains.get(metric)
                if gain is None:
                    continue
                colour = BASELINE if gain.low is None or gain.low <= 0 <= (gain.high or 0) else _direction(gain.mean)
                tip = f"{line.label} against {line.against}: {with_interval(gain)}"
                marks = axes.plot(100 * gain.mean, place, "o", ms=4, color=colour)
                if gain.low is not None and gain.high is not None:
                    marks += axes.plot([100 * gain.low, 100 * gain.high], [place, place], color=colour)
                figure.mark(marks, label=line.label, tip=tip)
            axes.axvline(0, color=INK, lw=0.8)
            names = [f"{line.label} ({line.against})" for line in shown] if axes is figure.axes[0] else []
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(shown) - 0.4, -0.6)
            axes.tick_params(axis="y", length=0)
            axes.grid(axis="x")
            axes.set_axisbelow(True)
            axes.set_xlabel(f"Δ {heading(metric)} (points)")
        return figure.svg(name=name, alt="points gained on each metric, with intervals over data sets")


def _direction(value: float) -> str:
    return GAIN if value > 0 else LOSS


def reach_of(changes: Iterable[ClassChange]) -> tuple[float, float]:
    """Limits of an axis, in points, that holds all of these changes and zero; so that figures can share one."""
    values = [0.0, *(100 * change.change for change in changes)]
    room = max(1.0, 0.04 * (max(values) - min(values)))
    return min(values) - room, max(values) + room


def class_bars(label: str, changes: Sequence[ClassChange], *, test: str, reach: tuple[float, float], name: str) -> str:
    """Change of each class's accuracy against the baseline, the largest loss on top.

    Solid bars: every run changed in that direction. Of more than MAX_CLASSES classes, the ends of the list.
    """
    shown = list(changes)
    if len(shown) > MAX_CLASSES:
        shown = shown[: MAX_CLASSES // 2] + shown[-(MAX_CLASSES // 2) :]
    with drawing(height=0.7 + 0.165 * len(shown)) as figure:
        axes = figure.axes[0]
        for place, change in enumerate(shown):
            mean = 100 * change.change
            colour = BASELINE if mean == 0 else GAIN if mean > 0 else LOSS
            alpha = 1.0 if change.is_unanimous else 0.45
            bar = axes.barh(place, mean, height=0.72, color=colour, alpha=alpha)
            after = 100 * change.after
            tip = (
                f"{change.name}: {100 * change.before:.0f} % → {after.mean():.0f} % "
                f"(runs: {', '.join(f'{value:.0f}' for value in after)}; {change.n_videos} videos)"
            )
            figure.mark(list(bar), tip=tip)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_xlim(reach)
        axes.set_yticks(range(len(shown)), [change.name for change in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.set_xlabel("change of accuracy (points)")
        return figure.svg(name=name, alt=f"change of accuracy of each {test} class under {label}")
