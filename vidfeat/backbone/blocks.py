"""The residual attention block both towers are made of, with open_clip's parameter names.

Source: mlfoundations/open_clip, src/open_clip/transformer.py, ResidualAttentionBlock (3.3.0). Ours differs in three
ways that leave the values alone: attention is `scaled_dot_product_attention` instead of nn.MultiheadAttention (whose
fast path switches kernels with `training` and gradients), the causal mask is a flag, and a block can be asked for its
first rows only, so that what nobody reads is not computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import Activation
from .layers import LayerNorm, Linear


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)`, elementwise.

    Written as `silu(1.702 x) / 1.702`, the same to rounding: autograd keeps one tensor for it instead of two.

    Source: openai/CLIP, clip/model.py, QuickGELU.
    """
    return F.silu(1.702 * x) / 1.702


def activation_function(name: Activation) -> Callable[[Tensor], Tensor]:
    """The elementwise function of that name."""
    functions: dict[Activation, Callable[[Tensor], Tensor]] = {
        "gelu": F.gelu,
        "quick_gelu": quick_gelu,
        "gelu_tanh": partial(F.gelu, approximate="tanh"),
        "silu": F.silu,
    }
    return functions[name]


class Attention(nn.Module):
    """Multi-head self-attention; parameters named as nn.MultiheadAttention names them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.head_width = width // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = Linear(width, width)

    def split_heads(self, x: Tensor) -> Tensor:
        """[N S D] -> [N H S D/H]."""
        return x.unflatten(-1, (self.heads, self.head_width)).transpose(-3, -2)

    def merge_heads(self, x: Tensor) -> Tensor:
        """[N H S D/H] -> [N S D]."""
        return x.transpose(-3, -2).flatten(-2)

    def project_query(self, x: Tensor) -> Tensor:
        """Queries [N H S D/H] of rows [N S D]."""
        return self.split_heads(F.linear(x, self.in_proj_weight[: self.width], self.in_proj_bias[: self.width]))

    def project_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [N H S D/H] of rows [N S D]."""
        key, value = F.linear(x, self.in_proj_weight[self.width :], self.in_proj_bias[self.width :]).chunk(2, dim=-1)
        return self.split_heads(key), self.split_heads(value)

    def project(self, x: Tensor, *, n_query: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N H Q D/H] of the first `n_query` rows (all by default), keys and values [N H S D/H] of all rows."""
        if n_query is not None and n_query < x.shape[-2]:
            return self.project_query(x[..., :n_query, :]), *self.project_key_value(x)
        query, key, value = F.linear(x, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1)
        return self.split_heads(query), self.split_heads(key), self.split_heads(value)

    def forward(
        self, x: Tensor, *, is_causal: bool = False, n_query: int | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """[N S D] -> [N Q D], Q = `n_query` or S; `visible` bool [N 1 Q S] instead of `is_causal`."""
        query, key, value = self.project(x, n_query=n_query)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=is_causal)
        return self.out_proj(self.merge_heads(attended))


class Mlp(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden_width: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = Linear(width, hidden_width)
        self.c_proj = Linear(hidden_width, width)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... D]."""
        return self.c_proj(self.activation(self.c_fc(x)))


class ResidualBlock(nn.Module):
    """`x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`."""

    def __init__(
        self, *, width: int, heads: int, mlp_width: int, activation: Activation, norm_eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(width, eps=norm_eps)
        self.attn = Attention(width, heads)
        self.ln_2 = LayerNorm(width, eps=norm_eps)
        self.mlp = Mlp(width, mlp_width, activation)

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """The MLP's elementwise function."""
        return self.mlp.activation

    def forward(
        self, x: Tensor, *, is_causal: bool = False, n_query: int | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """The block's output for the first `n_query` rows (all by default), attending to every row.

        Args:
            x: [N S D].
            is_causal: row i attends to rows [0, i] only; needs `n_query` to be None.
            n_query: how many leading rows to compute; the others serve as keys and values only.
            visible: bool [N 1 S S], who attends to whom, instead of `is_causal`.

        Returns:
            [N Q D], Q = `n_query` or S.
        """
        if is_causal and n_query is not None:
            raise ValueError(
                "is_causal with n_query is not defined here: rows of a causal sequence are cut before the call"
            )
        rows = x if n_query is None else x[..., :n_query, :]
        rows = rows + self.attn(self.ln_1(x), is_causal=is_causal, n_query=n_query, visible=visible)
        return rows + self.mlp(self.ln_2(rows))


class Transformer(nn.Module):
    """The stack of blocks; exists so that parameters are named `transformer.resblocks.N...` as in open_clip."""

    def __init__(
        self,
        *,
        layers: int,
        width: int,
        heads: int,
        mlp_width: int,
        activation: Activation,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sizes: dict[str, Any] = {"width": width, "heads": heads, "mlp_width": mlp_width}
        self.resblocks = nn.ModuleList(
            ResidualBlock(**sizes, activation=activation, norm_eps=norm_eps) for _ in range(layers)
        )

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.resblocks)

    def __len__(self) -> int:
        return len(self.resblocks)
