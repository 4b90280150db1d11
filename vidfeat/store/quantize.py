"""float -> int8 with one scale per frame and channel, and back; the error is measured, not promised.

value = zero + step * q, q in [-127, 127]. A channel is one position of the last axis: its range over a frame's tokens
fits exactly, so nothing is clipped, no calibration pass is needed, and units stay independent of each other. The scales
cost 8 bytes per frame and
channel: 4 % of 197 int8 tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_LEVELS = 127
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Quantized:
    """values int8 [n ... D] and scales float32 [n 2 D]: (step, zero) of every row and channel."""

    values: np.ndarray
    scales: np.ndarray


def quantize(rows: np.ndarray) -> Quantized:
    """int8 rows and their scales, for finite float rows [n ... D] of at least one axis between n and D."""
    flat = _by_channel(rows)
    values = np.empty(flat.shape, np.int8)
    scales = np.empty((len(rows), 2, rows.shape[-1]), np.float32)
    for block in _blocks(flat):
        part = flat[block].astype(np.float32, copy=False)
        low, high = part.min(axis=1).astype(np.float64), part.max(axis=1).astype(np.float64)
        zero = ((low + high) / 2).astype(np.float32)
        step = ((high - low) / (2 * _LEVELS)).astype(np.float32)
        divisor = np.where(step > 0, step, np.float32(1))
        levels = np.rint((part - zero[:, None]) / divisor[:, None])
        values[block] = np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8)
        scales[block, 0], scales[block, 1] = step, zero
    return Quantized(values.reshape(rows.shape), scales)


def dequantize(values: np.ndarray, scales: np.ndarray, *, dtype: str = "float32") -> np.ndarray:
    """Float rows [n ... D] from int8 rows [n ... D] and scales [n 2 D]."""
    out = np.empty(values.shape, dtype)
    flat, result = _by_channel(values), _by_channel(out)
    for block in _blocks(flat):
        result[block] = flat[block] * scales[block, 0][:, None] + scales[block, 1][:, None]
    return out


def cosine_and_error(rows: np.ndarray, quantized: Quantized) -> tuple[float, float]:
    """(smallest cosine between a token and its int8 version, largest absolute error) over rows [n ... D]."""
    cosine, error = 1.0, 0.0
    flat = _by_channel(rows)
    values = quantized.values.reshape(flat.shape)
    for block in _blocks(flat):
        exact = flat[block].astype(np.float64)
        back = dequantize(values[block], quantized.scales[block]).astype(np.float64)
        norms = np.linalg.norm(exact, axis=-1) * np.linalg.norm(back, axis=-1)
        products = (exact * back).sum(axis=-1)
        cosines = np.divide(products, norms, out=np.ones_like(norms), where=norms > 0)
        cosine, error = min(cosine, float(cosines.min())), max(error, float(np.abs(exact - back).max()))
    return cosine, error


def _by_channel(rows: np.ndarray) -> np.ndarray:
    return rows.reshape(len(rows), math.prod(rows.shape[1:-1]), rows.shape[-1])


def _blocks(flat: np.ndarray) -> list[slice]:
    rows = max(1, _BLOCK_BYTES // (8 * flat[0].size)) if len(flat) else 1
    return [slice(start, start + rows) for start in range(0, len(flat), rows)]
