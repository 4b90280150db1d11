"""Small random steps in float64, built from leaf tensors so that tests can ask for gradients and finite differences."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from prompttune.losses.terms import AnchorTensors, StepTensors

R, B, C, E, A, Q = 3, 5, 4, 12, 6, 2


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


@dataclass
class RawStep:
    """Un-normalised leaves; `build` makes the step of them, the way a model would."""

    classes: Tensor
    videos: Tensor
    anchors: Tensor
    negatives: Tensor
    frozen_classes: Tensor
    frozen_videos: Tensor
    frozen_anchors: Tensor
    frozen_negatives: Tensor
    labels: Tensor
    logit_scale: float = 10.0
    extra: dict = field(default_factory=dict)

    def build(self, *, prompted_negatives: bool = True, anchors: bool = True) -> StepTensors:
        videos, classes = unit(self.videos), unit(self.classes)
        held = AnchorTensors(
            anchor_features=unit(self.anchors),
            frozen_anchor_features=unit(self.frozen_anchors),
            frozen_negative_features=unit(self.frozen_negatives),
            negative_features=unit(self.negatives) if prompted_negatives else None,
        )
        return StepTensors(
            logits=self.logit_scale * torch.einsum("rbe,rce->rbc", videos, classes),
            labels=self.labels,
            video_features=videos,
            class_features=classes,
            frozen_class_features=unit(self.frozen_classes),
            frozen_logits=self.logit_scale * unit(self.frozen_videos) @ unit(self.frozen_classes).T,
            frozen_video_features=unit(self.frozen_videos),
            logit_scale=self.logit_scale,
            anchors=held if anchors else None,
            **self.extra,
        )

    def leaves(self) -> dict[str, Tensor]:
        """Name -> the leaves that can be trained, gradients switched on."""
        return {name: getattr(self, name).requires_grad_() for name in ("classes", "videos", "anchors", "negatives")}

    def run(self, r: int) -> RawStep:
        """The same step with run r alone."""
        alone = {
            name: getattr(self, name)[r : r + 1].detach().clone()
            for name in ("classes", "videos", "anchors", "negatives", "frozen_videos", "frozen_anchors", "labels")
        }
        return replace(self, **alone)


def make_step(seed: int = 0, *, n_negatives: int = Q, dtype: torch.dtype = torch.float64) -> RawStep:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return RawStep(
        classes=draw(R, C, E),
        videos=draw(R, B, E),
        anchors=draw(R, A, E),
        negatives=draw(R, n_negatives, E),
        frozen_classes=draw(C, E),
        frozen_videos=draw(R, B, E),
        frozen_anchors=draw(R, A, E),
        frozen_negatives=draw(n_negatives, E),
        labels=torch.randint(C, (R, B), generator=generator),
    )
