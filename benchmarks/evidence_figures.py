"""The figures of docs/findings.md, from the records of the evidence and of the plug study alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prompttune.report.statistics import harmonic_means

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURES = Path(__file__).parents[1] / "docs" / "figures"
PANELS = {"base": "base", "new": "new", "harmonic_mean": "harmonic mean"}


def draw_figures(document: Mapping[str, Any], *, baseline: str, folder: Path = FIGURES) -> list[Path]:
    """Base against new, and each method's differences against the baseline, as SVG files; their paths.

    Args:
        document: what `evidence.write_record` gave.
        baseline: label of the line that differences are taken against.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        folder / "evidence-base-new.svg": base_new_figure(document),
        folder / "evidence-differences.svg": difference_figure(document, baseline),
    }
    for path, figure in written.items():
        _save(figure, path)
    return list(written)


def _save(figure: Figure, path: Path) -> None:
    """The same bytes for the same figure: without a date, its ids from a fixed salt."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": path.stem}):
        figure.savefig(path, metadata={"Date": None})


def base_new_figure(document: Mapping[str, Any]) -> Figure:
    """New over base accuracy: a numbered dot per method, bars of one standard deviation, lines of equal HM."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    for number, line in enumerate(document["lines"], 1):
        (x, dx), (y, dy) = ((100 * line[m]["mean"], 100 * (line[m]["std"] or 0.0)) for m in ("base", "new"))
        axes.errorbar(x, y, xerr=dx, yerr=dy, fmt="o", ms=4, lw=0.7, alpha=0.8, label=f"{number}  {line['label']}")
        axes.annotate(str(number), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    grid = np.meshgrid(*(np.linspace(*limits, 120) for limits in (axes.get_xlim(), axes.get_ylim())))
    lines = axes.contour(*grid, harmonic_means(grid[0], grid[1]), levels=12, colors="0.8", linewidths=0.7, zorder=0)
    axes.clabel(lines, fmt="HM %g", fontsize=7)
    axes.set(xlabel="base accuracy (%)", ylabel="new accuracy (%)")
    figure.legend(loc="outside right center", fontsize=8, frameon=False)
    return figure


def difference_figure(document: Mapping[str, Any], baseline: str) -> Figure:
    """Each method's mean difference against the baseline with its 95 % interval, one panel per metric."""
    from matplotlib.figure import Figure

    lines = [line for line in document["lines"] if baseline in line["against"]]
    figure = Figure(figsize=(8.0, 0.34 * len(lines) + 1.2), layout="constrained")
    figure.suptitle(f"points against {baseline}, paired by seed, with 95 % intervals", fontsize=9)
    places = np.arange(len(lines))[::-1]
    for panel, (metric, title) in zip(figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True):
        panel.axvline(0, color="0.6", lw=0.8)
        for place, line in zip(places, lines, strict=True):
            found = line["against"][baseline][metric]
            panel.plot(100 * found["mean"], place, "o", ms=5, color="C0")
            if found["low"] is not None:
                panel.plot([100 * found["low"], 100 * found["high"]], [place, place], color="C0", lw=1.4)
        panel.set_title(title, fontsize=9)
        panel.set_yticks(places, [line["label"] for line in lines])
        panel.tick_params(labelsize=8)
    return figure


def draw_forest(document: Mapping[str, Any], *, folder: Path = FIGURES, name: str = "plug") -> Path:
    """The forest plot of the plug study as an SVG file; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-forest.svg"
    _save(forest_figure(document), path)
    return path


def forest_figure(document: Mapping[str, Any]) -> Figure:
    """Points each plug adds to each host, with 95 % intervals over worlds: a panel per metric, a colour per arm."""
    from matplotlib.figure import Figure

    effects = document["effects"]
    hosts, arms = (list(dict.fromkeys(line[key] for line in effects)) for key in ("host", "arm"))
    hosts = [*(host for host in hosts if host != "all"), "all"]
    figure = Figure(figsize=(8.0, 0.5 * len(hosts) + 1.4), layout="constrained")
    figure.suptitle(f"points gained over the host alone; {len(document['worlds'])} worlds, 95 % intervals", fontsize=9)
    for panel, (metric, title) in zip(figure.subplots(1, 3, sharey=True), PANELS.items(), strict=True):
        panel.axvline(0, color="0.6", lw=0.8)
        for line in (line for line in effects if line["metric"] == metric):
            nth = arms.index(line["arm"])
            place = len(hosts) - 1 - hosts.index(line["host"]) + 0.66 * ((len(arms) - 1) / 2 - nth) / len(arms)
            marker, colour = "os^vDP*X"[nth], f"C{nth}"
            label = f"+ {line['arm']}" if line["host"] == "all" else None
            panel.plot(100 * line["mean"], place, marker, ms=5, color=colour, label=label)
            if line["low"] is not None:
                panel.plot([100 * line["low"], 100 * line["high"]], [place, place], color=colour, lw=1.4)
        panel.set_title(title, fontsize=9)
        panel.set_yticks(range(len(hosts) - 1, -1, -1), ["mean over hosts" if h == "all" else h for h in hosts])
        panel.tick_params(labelsize=8)
    figure.legend(*panel.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure
