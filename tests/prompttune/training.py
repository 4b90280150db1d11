"""Short trainings for tests: small, deterministic, through the same functions as the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prompttune.config.runs import Run, expand_runs
from prompttune.config.train_config import merge
from prompttune.data.protocols import open_sources
from prompttune.training.fit import FitOptions, FitResult, fit
from prompttune.training.run_group import RunGroup, make_trainer, prepare
from prompttune.training.trainer import Trainer

SHORT = {"protocol": {"shots": 4}, "optim": {"epochs": 4, "batch_size": 8, "lr": 0.01, "warmup_epochs": 1.0}}


def short_runs(
    tables: dict[str, Any] | None = None, axes: dict[str, list[Any]] | None = None, **given: Any
) -> list[Run]:
    """Runs of a short configuration with `tables` and top-level keys on top."""
    return expand_runs(merge(merge(SHORT, tables or {}), given), axes or {})


def train_runs(out: Path, tables: dict[str, Any] | None = None, *, overwrite: bool = False, **given: Any) -> FitResult:
    """A whole command into a folder."""
    return fit(short_runs(tables, **given), out, options=FitOptions(overwrite=overwrite))


def trainer_of(runs: list[Run]) -> tuple[RunGroup, Trainer]:
    """A group and its trainer at the first step."""
    group = prepare(runs, open_sources(runs[0].config))
    return group, make_trainer(group)
