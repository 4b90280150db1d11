"""Mix-up of features: each video of a batch is blended with another one of the same run, labels alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prompttune.base.devices import CPU, one_hot, send
from prompttune.base.run_axis import RunGenerators


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One draw: how much of itself each run keeps and which video each video is mixed with.

    Attributes:
        keep: `[R]` in `[0, 1]`, one per run and batch.
        partner: int64 `[R B]`, a permutation of `[0, B)` per run.
    """

    keep: Tensor
    partner: Tensor

    def features(self, features: Tensor) -> Tensor:
        """`keep x + (1 - keep) x[partner]` of `[R B ... E]`, not normalised; frozen and learned features mix alike."""
        keep = self.keep.to(features.dtype).view(-1, *[1] * (features.dim() - 1))
        return keep * features + (1.0 - keep) * self._partners(features)

    def targets(self, labels: Tensor, n_classes: int) -> Tensor:
        """Soft labels `[R B C]` float32 of `labels [R B]`."""
        onehot = one_hot(labels, n_classes, torch.float32)
        keep = self.keep.view(-1, 1, 1)
        return keep * onehot + (1.0 - keep) * self._partners(onehot)

    def _partners(self, values: Tensor) -> Tensor:
        runs = torch.arange(len(values), device=values.device).unsqueeze(1)
        return values[runs, self.partner]


class FeatureMixup:
    """Draws a `Mix` per step, each run from its own generators; resumable through `state`.

    Source: Zhang et al. 2018 (mixup), lambda ~ Beta(alpha, alpha) per batch. ViFi-CLIP mixes pixels with alpha 0.8;
    mixing pooled features instead is the manifold form (Verma et al. 2019) at the last layer, and what a cache can
    serve.
    """

    def __init__(self, *, alpha: float, seeds: Sequence[int]) -> None:
        """
        Raises:
            ValueError: alpha not above 0.
        """
        if not alpha > 0:
            raise ValueError(f"mix-up needs alpha > 0, got {alpha}")
        self.alpha = alpha
        self.generators = RunGenerators(seeds, "mixup")

    def draw(self, batch_size: int, *, device: torch.device = CPU) -> Mix:
        """The mix of the next step for batches of `batch_size` videos, sent to the device."""
        partner = self.generators.permutation(batch_size)
        # torch draws no Beta from a generator of one's own; its generator seeds numpy's, which does.
        entropy = self.generators.integers(2**62, 1).flatten().tolist()
        keep = [np.random.default_rng(seed).beta(self.alpha, self.alpha) for seed in entropy]
        return Mix(keep=send(torch.tensor(keep, dtype=torch.float32), device), partner=send(partner, device))

    def state(self) -> Tensor:
        """The generators' states, uint8 `[R n_bytes]`: what a checkpoint keeps."""
        return self.generators.state()

    def load_state(self, state: Tensor) -> None:
        """Continues where `state` was taken."""
        self.generators.load_state(state)
