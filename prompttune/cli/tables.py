"""What the command line prints: the table of a result, the table of methods."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from prompttune.config.methods import METHODS, Method
from prompttune.config.runs import nested
from prompttune.config.train_config import merge, resolve
from prompttune.evaluation.results import CellResult, Result, describe

if TYPE_CHECKING:
    from prompttune.api.classify import Classified

_TITLES = {"harmonic_mean": "HM"}


def result_table(results: Sequence[Result], labels: Sequence[str] | None = None) -> Table:
    """Top-1 in per cent, one row per cell: mean ± standard deviation over its runs.

    HM is the mean of the runs' harmonic means; the harmonic mean of the mean accuracies, which papers print more often,
    stands below the table where it differs.
    """
    cells = [
        (label, result, cell)
        for result, label in zip(results, labels or [result.method_name for result in results], strict=True)
        for cell in result.cells
    ]
    names = list(dict.fromkeys(name for _, _, cell in cells for name in cell.metrics))
    names = [name for name in names if name != "harmonic_mean_of_means"]
    several = any(cell.metrics[name].n > 1 for _, _, cell in cells for name in names)
    table = Table(
        title="top-1 accuracy (%)" + (", mean ± standard deviation over seeds" if several else ""),
        caption="\n".join(filter(None, (_of_means(label, cell) for label, _, cell in cells))) or None,
        box=box.SIMPLE_HEAD,
    )
    table.add_column("method", overflow="fold")
    for name in names:
        table.add_column(_TITLES.get(name, name), justify="right", no_wrap=True)
    for title in ("runs", "params", "s/run"):
        table.add_column(title, justify="right", no_wrap=True)
    for label, result, cell in cells:
        runs = [run for run in result.runs if run.overrides == cell.overrides]
        seconds = sum(run.train_seconds / run.runs_together for run in runs) / len(runs)
        table.add_row(
            _cell_name(label, cell),
            *(describe(cell.metrics, name) for name in names),
            str(len(runs)),
            f"{runs[0].n_parameters:,}",
            f"{seconds:.1f}",
        )
    return table


def _cell_name(label: str, cell: CellResult) -> str:
    if "prompts" in cell.overrides:
        return str(cell.overrides["prompts"])
    return " ".join([label, *(f"{key}={value}" for key, value in cell.overrides.items())])


def _of_means(label: str, cell: CellResult) -> str | None:
    of_means, of_runs = cell.metrics.get("harmonic_mean_of_means"), cell.metrics.get("harmonic_mean")
    if of_means is None or of_runs is None or f"{100 * of_means.mean:.1f}" == f"{100 * of_runs.mean:.1f}":
        return None
    return f"{_cell_name(label, cell)}: harmonic mean of the mean accuracies {100 * of_means.mean:.1f}"


def methods_table() -> Table:
    """Every method: what it is, what must be given besides a store, which path of the text engine it takes."""
    table = Table(title="methods", show_lines=True)
    for title in ("name", "what it is", "needs", "text path"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for method in METHODS.values():
        needs = ["pooled features", *_tokens_needed(method), *method.requires]
        table.add_row(method.name, method.summary, "\n".join(needs), method.text)
    return table


def _tokens_needed(method: Method) -> list[str]:
    from vidfeat.store import Tap

    visual = method.defaults.get("visual")
    return [] if visual is None else [f"{Tap(visual.get('first_block', 0)).flag}, or @k for late(k)"]


def describe_method(name: str) -> str:
    """A method's source as comments, then its configuration as TOML.

    Raises:
        ConfigError: an unknown method.
    """
    required = {"store": "STORE.zarr"}
    for key in METHODS[name].requires if name in METHODS else ():
        required = merge(required, nested(key, ["PROMPT.safetensors"]))
    config = resolve({"method": name, **required})
    about = textwrap.wrap(f"{METHODS[name].summary}. Defaults: {METHODS[name].source}", 100)
    return "\n".join([*(f"# {line}" for line in about), config.to_toml()])


def classified_table(found: Sequence[Classified]) -> Table:
    """Every video with its most likely classes and their probabilities, one class per line."""
    table = Table("video", "class", "score", box=box.SIMPLE_HEAD)
    for video in found:
        for place, (name, score) in enumerate(zip(video.classes, video.scores, strict=True)):
            table.add_row(video.id if place == 0 else "", name, f"{100 * score:.1f} %")
    return table


def write_classified(path: Path, found: Sequence[Classified]) -> None:
    """Writes the same as a CSV `video,rank,class,score`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("video", "rank", "class", "score"))
        for video in found:
            for rank, (name, score) in enumerate(zip(video.classes, video.scores, strict=True), 1):
                writer.writerow((video.id, rank, name, f"{score:.6f}"))
