"""The reference path: every class through all 77 positions of every block."""

from __future__ import annotations

import torch
from torch import Tensor

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from vidfeat.backbone import TextTower


def plain_encode(tower: TextTower, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """Class features `[R C E]` (kind "image": `[R B C E]`) through all `C x 77` tokens, as the published code does it.

    The reference the engine is tested against and measured against: nothing is shared, trimmed or skipped.

    Raises:
        ValueError: a context that does not fit the prompts or the tower.
    """
    context.check(prompts, tower)
    runs = context.along_runs()
    features = torch.stack([_plain_encode_run(tower, prompts, runs, run) for run in range(runs.n_runs)])
    return features.unflatten(0, context.ctx.shape[:2]) if context.kind == "image" else features


def _plain_encode_run(tower: TextTower, prompts: ClassPrompts, context: TextContext, run: int) -> Tensor:
    layout = prompts.plain_layout()
    device = context.ctx.device
    ctx_index, eot_index = layout.ctx_index.to(device), layout.eot_index.to(device)
    ctx = context.ctx[run].expand(prompts.n_classes, -1, -1)
    ctx_at_positions = ctx.gather(1, ctx_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, ctx.shape[-1]))
    words = tower.embed(layout.token_ids.to(device))
    x = torch.where(ctx_index.unsqueeze(-1) >= 0, ctx_at_positions.to(words.dtype), words) + tower.positional_embedding
    for index, block in enumerate(tower.blocks):
        if index in context.replaced_blocks:
            rows = context.deep[index - 1] if index <= len(context.deep) else context.class_tokens[index]
            rows = rows[run].expand(prompts.n_classes, -1, -1).to(x.dtype)
            x = torch.cat([x[:, :1], rows, x[:, 1 + context.n_ctx :]], dim=1)
        x = block(x, is_causal=True)
    return tower.read(x[torch.arange(len(x), device=device), eot_index])
