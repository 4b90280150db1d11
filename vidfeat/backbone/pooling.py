"""Heads that read a frame's tokens by attention from one learned query, as SigLIP, Perception Encoder and CoCa do."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Mlp
from .layers import LayerNorm, Linear
from .tower_config import Activation, AttentionPool


class AttentionPoolHead(nn.Module):
    """[... S D] -> [... P]: one query attends to every token; behind it a residual MLP where the pool has one.

    The query is the same for all frames: it is projected once per call.

    Sources: timm, layers/attention_pool.py, AttentionPoolLatent; open_clip, transformer.py, AttentionalPooler, of whose
    queries CoCa's contrastive feature is the first.
    """

    def __init__(self, config: AttentionPool, *, token_width: int, activation: Activation, norm_eps: float) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.query = nn.Parameter(torch.empty(width))
        self.ln_q = LayerNorm(width, eps=norm_eps) if config.norms else None
        self.ln_k = LayerNorm(token_width, eps=norm_eps) if config.norms else None
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(token_width, width)
        self.v_proj = Linear(token_width, width)
        self.out_proj = Linear(width, width)
        self.ln_mlp = LayerNorm(width, eps=norm_eps) if config.mlp_width is not None else None
        self.mlp = Mlp(width, config.mlp_width, activation) if config.mlp_width is not None else None

    def forward(self, tokens: Tensor) -> Tensor:
        """[... S D] -> [... P]."""
        query = self.q_proj(self.query if self.ln_q is None else self.ln_q(self.query))
        keyed = tokens if self.ln_k is None else self.ln_k(tokens)
        query = self._split(query.view(1, -1)).expand(*tokens.shape[:-2], -1, -1, -1)
        key, value = self._split(self.k_proj(keyed)), self._split(self.v_proj(keyed))
        attended = F.scaled_dot_product_attention(query, key, value)
        pooled = self.out_proj(attended.flatten(-3))
        return pooled if self.mlp is None or self.ln_mlp is None else pooled + self.mlp(self.ln_mlp(pooled))

    def _split(self, x: Tensor) -> Tensor:
        """[... S P] -> [... H S P/H]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
