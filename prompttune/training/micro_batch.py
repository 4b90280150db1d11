"""What one pass through the model takes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prompttune.data.features import AnchorBatch, Batch
from prompttune.losses.mixup import Mix


@dataclass(frozen=True)
class MicroBatch:
    """What one pass through the model takes, all on the device.

    Attributes:
        share: of the step's videos that are in it.
        batch: the videos.
        anchors, mix: see `PromptModel.steps`.
        classes: each run's classes [R K]; None for all.
    """

    share: float
    batch: Batch
    anchors: AnchorBatch | None = None
    mix: Mix | None = None
    classes: Tensor | None = None
