"""Training logs -> curves: one series per run, as the log has them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompttune.report.entries import Entry
from prompttune.training.run_log import LOG


@dataclass(frozen=True)
class Curve:
    """Values over the steps that were logged.

    Attributes:
        steps: int64 [T].
        values: float64 [S T], a row per run; NaN where a run has none.
    """

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What an entry's training logged.

    Attributes:
        loss: of the batch, all terms with their weights.
        accuracy: of the batch, before the step, in [0, 1].
        gradient_norms: by loss term, on the steps that took them; empty where there is one term.
    """

    loss: Curve
    accuracy: Curve
    gradient_norms: dict[str, Curve]


def read_curves(entry: Entry) -> Curves | None:
    """The entry's curves; None where no run left a log."""
    paths = [entry.folder / run.name / LOG for run in entry.runs]
    runs = [records for path in paths if path.is_file() and (records := _records(path))]
    if not runs:
        return None
    terms = dict.fromkeys(name for records in runs for record in records for name in record["term_gradient_norms"])
    return Curves(
        loss=_curve([{record["step"]: record["loss"] for record in records} for records in runs]),
        accuracy=_curve([{record["step"]: record["accuracy"] for record in records} for records in runs]),
        gradient_norms={
            name: _curve(
                [
                    {r["step"]: r["term_gradient_norms"][name] for r in records if name in r["term_gradient_norms"]}
                    for records in runs
                ]
            )
            for name in terms
        },
    )


def _records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    # A training that is still going on may be in the middle of its last line.
    return [json.loads(line) for line in lines if line.endswith("}")]


def _curve(runs: list[dict[int, float]]) -> Curve:
    steps = sorted({step for run in runs for step in run})
    values = [[run.get(step, np.nan) for step in steps] for run in runs]
    return Curve(np.array(steps, dtype=np.int64), np.array(values, dtype=np.float64).reshape(len(runs), len(steps)))
