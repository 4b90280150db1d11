"""What a selection and a check write down: plain JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vidfeat.store import StoreReader
from vidfeat.store.files import LocalFiles
from vidfeat.tools.anchors.task import Task, content_hashes

_QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}


def finite(value: float) -> float | None:
    """A number for JSON: five digits, None for NaN and infinity."""
    return round(float(value), 5) if math.isfinite(value) else None


def quantiles(values: np.ndarray) -> dict[str, float | None]:
    """Minimum, 5 %, median, 95 % and maximum of the finite values, None where there are none."""
    known = values[np.isfinite(values)]
    return {name: finite(np.quantile(known, at)) if len(known) else None for name, at in _QUANTILES.items()}


def store_json(store: StoreReader) -> dict[str, Any]:
    """Which store it was, and what of it could not be vetted: `n_without_features` failed, `n_without_hash`."""
    unknown = [digest is None for digest in content_hashes(store)]
    return {
        "kind": "store",
        "path": str(store.path),
        "fingerprint": store.fingerprint.sha256,
        "pack": store.pack_hash,
        "n_videos": len(store),
        "n_without_features": int(np.count_nonzero(~store.ok)),
        "n_without_hash": sum(unknown),
        "n_without_either": int(np.count_nonzero(~store.ok & np.array(unknown, bool))),
    }


def against_json(task: Task) -> list[dict[str, Any]]:
    """Every store and list of the task."""
    lists = [
        {"kind": "list", "path": one.path, "encoding": one.encoding}
        | {"n_videos": len(one.entries), "n_hashed": len(one.hashes)}
        for one in task.lists
    ]
    return [store_json(store) for store in task.stores] + lists


def write_report(path: Path, report: Mapping[str, Any]) -> None:
    """Writes the report, whole or not at all; the same report is the same bytes."""
    content = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    LocalFiles(path.parent).write(path.name, content.encode("utf-8", "surrogateescape"), step="report")
