"""What a method learns in the vision tower: prompt rows of its own, or maps of its text prompts; tokens -> features.

own        rows [R M D] per prompted block                          (VPT, IVLP, PromptSRC, ViFi-CLIP, GA2-CLIP)
from-text  rows of block j = Linear_j(text prompt of block j)       (MaPLe)
to-text    rows of their own; the text prompts are maps of them     (`LearnedContext` holds those maps)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prompttune.config.sections import VisualConfig
from prompttune.errors import ConfigError
from prompttune.parts.coupling import ModalityCoupling
from prompttune.parts.visual_prompts import (
    Recompute,
    VisualContext,
    VisualPrompts,
    prompted_forward,
)
from vidfeat.backbone import BackbonePack, VisionTower


class LearnedVisual(nn.Module):
    """The visual prompts of R runs, and the frozen tower they are in.

    Args:
        config: how many rows, where, and whose.
        pack: the backbone.
        seeds: one per run.
        device: where it computes.

    Raises:
        ConfigError: blocks that this backbone does not have.
    """

    def __init__(
        self, config: VisualConfig, pack: BackbonePack, *, seeds: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.config = config
        self.text_width = pack.config.open_text.width if config.source == "from-text" else 0
        tower = pack.vision_tower().to(device)
        self._frozen = _Frozen(tower)
        self.recompute = Recompute(config.recompute, config.frames_per_chunk or None)
        self.own: VisualContext | None = None
        self.from_text: ModalityCoupling | None = None
        try:
            context = VisualContext(tower, config=config, seeds=seeds)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        if config.source == "from-text":
            self.from_text = ModalityCoupling(
                depth=config.depth, n_in=self.text_width, n_out=pack.config.vit.width, seeds=seeds
            )
        else:
            self.own = context

    @property
    def tower(self) -> VisionTower:
        """The frozen vision tower; no module of this one."""
        return self._frozen.tower

    def prompts(self, text_rows: Sequence[Tensor] = ()) -> VisualPrompts:
        """This step's rows.

        Args:
            text_rows: text prompts [R M W] of the blocks in order; looked at where the rows are made of them.
        """
        if self.own is not None:
            return self.own()
        assert self.from_text is not None
        return VisualPrompts(self.from_text(text_rows[: self.config.depth]), self.config.first_block)

    def forward(self, tokens: Tensor, text_rows: Sequence[Tensor] = ()) -> Tensor:
        """Frame features [R B F E], not normalised, of tokens [R B F S D], or of [1 B F S D] that all runs share."""
        groups, n_videos, n_frames = tokens.shape[:3]
        frames = tokens.flatten(1, 2)
        prompts = self.prompts(text_rows)
        features = prompted_forward(
            self.tower,
            frames[0] if groups == 1 else frames,
            prompts=prompts,
            recompute=self.recompute,
            compiled=self.config.compile,
        )
        return features.unflatten(1, (n_videos, n_frames))


@dataclass(frozen=True)
class _Frozen:
    """Keeps the tower out of the modules: it is neither trained nor saved."""

    tower: VisionTower
