"""Prompts as a text tower sees them at its full length: what stands at every position, who sees whom, what is read."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from prompttune.text.class_prompts import ClassPrompts
from vidfeat.backbone import PromptableText


@dataclass(frozen=True)
class FullRows:
    """C prompts of P positions each; on the tower's device.

    Attributes:
        token_ids: int64 `[C P]`, 0 where a context vector stands; the class embedding's id last where there is one.
        ctx_index: int64 `[C P]`, which context vector stands there, -1 elsewhere.
        read_index: int64 `[C]`, the row that is read.
        is_causal: each row sees those before it alone.
        visible: bool `[C 1 P P]`, who sees whom, where it is none of both rules.
    """

    token_ids: Tensor
    ctx_index: Tensor
    read_index: Tensor
    is_causal: bool
    visible: Tensor | None

    @classmethod
    def of(cls, prompts: ClassPrompts, tower: PromptableText) -> FullRows:
        """The rows of all classes of the prompts."""
        layout, config, device = prompts.plain_layout(), tower.config, tower.device
        token_ids, ctx_index = layout.token_ids.to(device), layout.ctx_index.to(device)
        read_index = layout.eot_index.to(device)
        if config.pooling in ("last", "class"):
            read_index = read_index.new_full(read_index.shape, config.n_positions - 1)
        if config.pooling == "class":
            token_ids = F.pad(token_ids, (0, 1), value=config.vocab_size)
            ctx_index = F.pad(ctx_index, (0, 1), value=-1)
        # A context vector is no padding, whatever number stands in its place.
        visible = tower.visible(token_ids.masked_fill(ctx_index >= 0, -1))
        return cls(token_ids, ctx_index, read_index, config.causal and visible is None, visible)
