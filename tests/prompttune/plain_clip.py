"""A small open_clip CLIP, and published prompting written out on its towers: C x 77 tokens, all rows of all blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vidfeat.backbone import BackbonePack

CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 48, "head_width": 16, "layers": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


def random_clip(model_config: Mapping[str, Any] = CONFIG) -> nn.Module:
    """Its biases and norms are random too, so that a lost one is seen."""
    from open_clip import CLIP

    torch.manual_seed(0)
    model = CLIP(**model_config).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("bias") or "ln_" in name:
            value.add_(0.1 * torch.randn_like(value))
    return model


def plain_class_features(
    clip: Any,
    pack: BackbonePack,
    texts: Sequence[str],
    ctx: Tensor,
    deep: Sequence[Tensor] = (),
    *,
    template: str = "{}.",
    class_tokens: tuple[int, Tensor] | None = None,
) -> Tensor:
    """[C E] unit, of [SOS][ctx][name . EOT], deep prompts in the place of the context at each later block.

    Args:
        ctx: [M W], or [C M W].
        template: the frozen words around the name.
        class_tokens: block, and tokens [C M W] that take the context's place there (TCP).
    """
    tokenizer, n_ctx, features = pack.tokenizer(), ctx.shape[-2], []
    for place, text in enumerate(texts):
        own = ctx if ctx.dim() == 2 else ctx[place]
        ids = [tokenizer.sot_id, *[0] * n_ctx, *tokenizer.encode(template.format(text)), tokenizer.eot_id]
        padded = torch.tensor([ids + [0] * (77 - len(ids))])
        x = clip.token_embedding(padded)
        x = torch.cat([x[:, :1], own[None], x[:, 1 + n_ctx :]], dim=1) + clip.positional_embedding
        for index, block in enumerate(clip.transformer.resblocks):
            if 0 < index <= len(deep):
                x = torch.cat([x[:, :1], deep[index - 1][None], x[:, 1 + n_ctx :]], dim=1)
            if class_tokens is not None and index == class_tokens[0]:
                x = torch.cat([x[:, :1], class_tokens[1][place][None], x[:, 1 + n_ctx :]], dim=1)
            x = block(x, attn_mask=clip.attn_mask)
        features.append(clip.ln_final(x)[0, len(ids) - 1] @ clip.text_projection)
    return F.normalize(torch.stack(features), dim=-1)


def plain_video_feature(visual: Any, pixels: Tensor, rows: list[Tensor]) -> Tensor:
    """[E] unit: frames [F 3 H W] with visual prompts, averaged before they are normalised."""
    x = visual.conv1(pixels).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    n_tokens = x.shape[1]
    if rows:
        x = torch.cat([x, rows[0].expand(len(x), -1, -1)], dim=1)
    x = visual.ln_pre(x)
    for index, block in enumerate(visual.transformer.resblocks):
        if 0 < index < len(rows):
            x = torch.cat([x[:, :n_tokens], rows[index].expand(len(x), -1, -1)], dim=1)
        x = block(x)
    pooled, _ = visual._pool(x)
    return F.normalize((pooled @ visual.proj).mean(dim=0), dim=-1)
