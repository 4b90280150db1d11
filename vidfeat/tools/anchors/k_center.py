"""Greedy k-center: videos chosen one by one, each the farthest from those chosen before."""

from __future__ import annotations

import numpy as np


def k_center(features: np.ndarray, n: int, *, first: int) -> np.ndarray:
    """Positions int64 [n] of the chosen features, in the order of choice; `first` is the first.

    The next one is always that whose largest cosine with the chosen ones is smallest; equals go to the lower position,
    so the same input gives the same choice. No video is farther from its nearest chosen one than twice what the best
    possible choice of n would reach.

    Args:
        features: float32 [B E], of length 1.
        n: at most B.

    Raises:
        ValueError: n is not in [1, B], or `first` not in [0, B).

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985. On the sphere the farthest in
    angle is the farthest in distance, and the one of the smallest cosine.
    """
    if not (1 <= n <= len(features) and 0 <= first < len(features)):
        raise ValueError(f"{n} of {len(features)} features, the first at {first}")
    chosen = np.empty(n, np.int64)
    chosen[0] = first
    nearest = np.full(len(features), -np.inf, np.float32)  # largest cosine with a chosen one
    for step in range(1, n):
        np.maximum(nearest, features @ features[chosen[step - 1]], out=nearest)
        nearest[chosen[step - 1]] = np.inf  # never twice
        chosen[step] = np.argmin(nearest)
    return chosen
