"""The reference path: every class through all positions of every block."""

from __future__ import annotations

import torch
from torch import Tensor

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.full_rows import FullRows
from vidfeat.backbone import PromptableText


def plain_encode(tower: PromptableText, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """Class features `[R C E]` (kind "image": `[R B C E]`) through all `C x S` tokens, as the published code does it.

    The reference the engine is tested against and measured against: nothing is shared, trimmed or skipped.

    Raises:
        ValueError: a context that does not fit the prompts or the tower.
    """
    context.check(prompts, tower)
    runs = context.along_runs()
    features = torch.stack([_plain_encode_run(tower, prompts, runs, run) for run in range(runs.n_runs)])
    return features.unflatten(0, context.ctx.shape[:2]) if context.kind == "image" else features


def _plain_encode_run(tower: PromptableText, prompts: ClassPrompts, context: TextContext, run: int) -> Tensor:
    rows = FullRows.of(prompts, tower)
    ctx = context.ctx[run].expand(prompts.n_classes, -1, -1)
    ctx_at_positions = ctx.gather(1, rows.ctx_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, ctx.shape[-1]))
    words = tower.embed(rows.token_ids)
    is_ctx = rows.ctx_index.unsqueeze(-1) >= 0
    x = torch.where(is_ctx, ctx_at_positions.to(words.dtype), words) + tower.positional_embedding
    start = prompts.n_start
    for index, block in enumerate(tower.blocks):
        if index in context.replaced_blocks:
            entering = context.deep[index - 1] if index <= len(context.deep) else context.class_tokens[index]
            entering = entering[run].expand(prompts.n_classes, -1, -1).to(x.dtype)
            x = torch.cat([x[:, :start], entering, x[:, start + context.n_ctx :]], dim=1)
        x = block(x, is_causal=rows.is_causal, visible=rows.visible)
    return tower.read(x[torch.arange(len(x), device=x.device), rows.read_index])
