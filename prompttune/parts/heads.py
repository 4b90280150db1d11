"""From frame features to one video feature, or to class scores: what the head of a method does before normalisation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from prompttune.config.train_config import HeadConfig
from prompttune.data.features import FrameReduction
from prompttune.parts.adapters import CLIPAdapter
from prompttune.parts.temporal import (
    AttentionPool,
    TemporalTransformer,
    concept_scores,
    mean_of_frames,
    mean_of_normalised_frames,
)


def frame_reduction(config: HeadConfig) -> FrameReduction:
    """What happens to frames while they are read: heads with nothing to do across frames need no frames."""
    if config.temporal == "mean" or config.temporal == "mean-of-normalised":
        return config.temporal
    return "none"


class Head(nn.Module):
    """Frames to a video feature: pooled over time, then adapted.

    Args:
        config: which parts there are.
        embed_dim: E.
        seeds: one per run.
    """

    def __init__(self, config: HeadConfig, *, embed_dim: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.config = config
        self.temporal: nn.Module | None = None
        if config.temporal == "transformer":
            self.temporal = TemporalTransformer(
                embed_dim,
                max_frames=config.max_frames,
                seeds=seeds,
                n_layers=config.temporal_layers,
                residual=config.temporal_residual,
            )
        elif config.temporal == "attention":
            self.temporal = AttentionPool(embed_dim, n_runs=len(seeds))
        self.adapter: CLIPAdapter | None = None
        if config.adapter == "clip-adapter":
            self.adapter = CLIPAdapter(embed_dim, seeds=seeds, ratio=config.adapter_ratio)

    @property
    def spots_concepts(self) -> bool:
        """Whether class scores are made of frames, each class weighing them for itself."""
        return self.config.temporal == "concept-spotting"

    def forward(self, features: Tensor) -> Tensor:
        """Video features `[R B E]`, not normalised, of frames `[R B F E]`, or of `[R B E]` averaged while read."""
        if features.dim() == 4:
            features = self.temporal(features) if self.temporal is not None else self.mean(features)
        return self.adapter(features) if self.adapter is not None else features

    def mean(self, features: Tensor) -> Tensor:
        """Video features `[R B E]` with nothing learned: the mean of frames `[R B F E]`, or `[R B E]` as they are."""
        if features.dim() == 3:
            return features
        normalised = self.config.temporal == "mean-of-normalised"
        return mean_of_normalised_frames(features) if normalised else mean_of_frames(features)

    def scores(self, frames: Tensor, class_features: Tensor) -> Tensor:
        """Cosine-like scores `[R B C]` of frames `[R B F E]` and unit class features, where the head spots concepts."""
        return concept_scores(frames, class_features, temperature=self.config.spotting_temperature)


def build_head(config: HeadConfig, *, embed_dim: int, seeds: Sequence[int]) -> Head:
    """The head that the configuration asks for."""
    return Head(config, embed_dim=embed_dim, seeds=seeds)
