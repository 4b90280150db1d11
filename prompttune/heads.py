"""From frame features to one video feature: what the head of a method does before normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prompttune.config import HeadConfig
from prompttune.data import FrameReduction


def frame_reduction(config: HeadConfig) -> FrameReduction:
    """What happens to frames while they are read: heads with nothing to train across frames need no frames."""
    if config.temporal == "mean" or config.temporal == "mean-of-normalised":
        return config.temporal
    return "none"


class Head(nn.Module):
    """Video features [R B E], not normalised, of features [R B E] that were averaged over frames while read."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def build_head(config: HeadConfig, *, embed_dim: int, seeds: Sequence[int]) -> Head:
    """The head that the configuration asks for."""
    return Head()
