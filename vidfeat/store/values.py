"""Which numbers a tap may hold: those its dtype can keep, and pooled features that point somewhere."""

from __future__ import annotations

import math

import numpy as np

from vidfeat.store.spec import TapSpec
from vidfeat.store.tap import POOLED

_WITHOUT_DIRECTION = "are all zeros, or too large or small for float32 to have a length, and so point nowhere"


def storage_problem(values: np.ndarray, dtype: str) -> str | None:
    """Why `values` [...] cannot be kept in `dtype`, or None: NaN, infinity, float16 overflow."""
    if not np.issubdtype(values.dtype, np.floating):
        return f"values of dtype {values.dtype} are no floats"
    if values.size == 0 or (values.dtype == np.float16 and _all_finite_halves(values)):
        return None
    low, high = float(values.min()), float(values.max())  # NaN propagates, so two passes see everything
    if not (math.isfinite(low) and math.isfinite(high)):
        n_bad = int(values.size - np.count_nonzero(np.isfinite(values)))
        return f"{n_bad} of {values.size} values are NaN or infinite"
    limit = float(np.finfo(np.float16).max)
    if dtype == "float16" and max(-low, high) > limit:
        return f"largest magnitude {max(-low, high):.6g} is above float16's {limit:.0f}"
    return None


def feature_problem(values: np.ndarray, tap: TapSpec) -> str | None:
    """Why rows [n ...] of a tap say nothing about a video, or None: as `storage_problem`; and, of pooled features, rows
    without a direction: all zeros as they are stored, or so large or small that float32 has no length for them.
    """
    problem = storage_problem(values, tap.dtype)
    if problem is not None or tap.name != POOLED or values.size == 0:
        return problem
    stored = values if tap.dtype == "int8" else values.astype(tap.dtype, copy=False)
    lost = rows_without_direction(stored)
    return f"{lost.sum()} of {len(lost)} rows {_WITHOUT_DIRECTION}" if lost.any() else None


def rows_without_direction(values: np.ndarray) -> np.ndarray:
    """Which of the rows [n E] cannot be given unit length, bool [n]."""
    with np.errstate(over="ignore", under="ignore"):
        squares = np.einsum("ne,ne->n", values, values, dtype=np.float32)
    return ~(np.isfinite(squares) & (squares > np.finfo(np.float32).tiny))


def _all_finite_halves(values: np.ndarray) -> bool:
    """Whether float16 values are all finite, by their bits: 70 times faster than numpy's float16 minimum and maximum.

    Infinity is 0x7C00 under either sign (0xFC00), NaN lies above it, and every finite value below.
    """
    return bool(values.view(np.int16).max() < 0x7C00 and values.view(np.uint16).max() < 0xFC00)
