"""The residual attention block both towers are made of, with open_clip's parameter names.

Source: mlfoundations/open_clip, src/open_clip/transformer.py, ResidualAttentionBlock (3.3.0). Ours differs in three
ways that leave the values alone: attention is `scaled_dot_product_attention` instead of nn.MultiheadAttention (whose
fast path switches kernels with `training` and gradients), the causal mask is a flag, and a block can be asked for its
first rows only, so that what nobody reads is not computed. What EVA-02's blocks have beyond that is in `BlockOptions`;
layer scale is folded into the weights when a model is loaded (`vidfeat.clip`), and a missing bias is a bias of zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerNorm, Linear
from .rotary import RotaryTable, rotate
from .tower_config import Activation, NormOrder


@dataclass(frozen=True)
class BlockOptions:
    """What a block has beyond CLIP's; see VisionConfig for what each stands for."""

    norm_eps: float = 1e-5
    norm_order: NormOrder = "pre"
    gated_mlp: bool = False
    mlp_norm: bool = False
    attention_norm: bool = False


PLAIN = BlockOptions()


QUICK_GELU_SLOPE = 1.702


def quick_gelu(x: Tensor) -> Tensor:
    """`x * sigmoid(1.702 x)`, elementwise.

    Written as `silu(1.702 x) / 1.702`, the same to rounding: autograd keeps one tensor for it instead of two.

    Source: openai/CLIP, clip/model.py, QuickGELU.
    """
    return F.silu(QUICK_GELU_SLOPE * x) / QUICK_GELU_SLOPE


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
    """Multi-head self-attention; parameters named as nn.MultiheadAttention names them.

    `ln_inner`, where there is one, works on what was attended to, before the output projection.
    """

    def __init__(self, width: int, heads: int, options: BlockOptions = PLAIN) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.head_width = width // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.ln_inner = LayerNorm(width, eps=options.norm_eps) if options.attention_norm else None
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

    def output(self, attended: Tensor) -> Tensor:
        """[N S D] of what the heads attended to, [N H S D/H]."""
        merged = self.merge_heads(attended)
        return self.out_proj(merged if self.ln_inner is None else self.ln_inner(merged))

    def forward(
        self,
        x: Tensor,
        *,
        is_causal: bool = False,
        n_query: int | None = None,
        rotary: RotaryTable | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """[N S D] -> [N Q D], Q = `n_query` or S; `visible` bool [N 1 Q S] takes the place of `is_causal`."""
        query, key, value = self.project(x, n_query=n_query)
        if rotary is not None:
            query, key = rotate(query, rotary), rotate(key, rotary)
            # A copy, or the values would keep the queries and keys before their turn in memory.
            value = value.contiguous()
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=is_causal)
        return self.output(attended)


class Mlp(nn.Module):
    """Linear, activation, linear; with a gate, the activation is the gate's (SwiGLU)."""

    def __init__(self, width: int, hidden_width: int, activation: Activation, options: BlockOptions = PLAIN) -> None:
        super().__init__()
        self.c_fc = Linear(width, hidden_width)
        self.c_gate = Linear(width, hidden_width) if options.gated_mlp else None
        self.ln = LayerNorm(hidden_width, eps=options.norm_eps) if options.mlp_norm else None
        self.c_proj = Linear(hidden_width, width)
        self.activation = activation_function(activation)

    def forward(self, x: Tensor) -> Tensor:
        """[... D] -> [... D]."""
        hidden = self.c_fc(x)
        hidden = self.activation(hidden) if self.c_gate is None else self.activation(self.c_gate(x)) * hidden
        return self.c_proj(hidden if self.ln is None else self.ln(hidden))


class ResidualBlock(nn.Module):
    """`x + attn(ln_1(x))`, then `x + mlp(ln_2(x))`; with norm order `post`, `x + ln_1(attn(x))` and `x + ln_2(mlp(x))`.

    `before_attention`, `after_attention` and `add_mlp` are the parts of `forward`, for who runs the attention itself.
    """

    def __init__(
        self, *, width: int, heads: int, mlp_width: int, activation: Activation, options: BlockOptions = PLAIN
    ) -> None:
        super().__init__()
        self.is_post_norm = options.norm_order == "post"
        self.ln_1 = LayerNorm(width, eps=options.norm_eps)
        self.attn = Attention(width, heads, options)
        self.ln_2 = LayerNorm(width, eps=options.norm_eps)
        self.mlp = Mlp(width, mlp_width, activation, options)

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """The MLP's elementwise function."""
        return self.mlp.activation

    def before_attention(self, x: Tensor) -> Tensor:
        """What queries, keys and values are projected from, [... S D]."""
        return x if self.is_post_norm else self.ln_1(x)

    def after_attention(self, update: Tensor) -> Tensor:
        """What the attention's output [... S D] adds to the rows."""
        return self.ln_1(update) if self.is_post_norm else update

    def add_mlp(self, rows: Tensor) -> Tensor:
        """The rows [... S D] with the MLP's update."""
        update = self.ln_2(self.mlp(rows)) if self.is_post_norm else self.mlp(self.ln_2(rows))
        return rows + update

    def forward(
        self,
        x: Tensor,
        *,
        is_causal: bool = False,
        n_query: int | None = None,
        rotary: RotaryTable | None = None,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The block's output for the first `n_query` rows (all by default), attending to every row.

        Args:
            x: [N S D].
            is_causal: row i attends to rows [0, i] only; needs `n_query` to be None.
            n_query: how many leading rows to compute; the others serve as keys and values only.
            rotary: turns queries and keys of as many leading rows as it has.
            visible: bool [N 1 S S], who attends to whom, in the place of `is_causal`.

        Returns:
            [N Q D], Q = `n_query` or S.
        """
        if is_causal and n_query is not None:
            raise ValueError(
                "is_causal with n_query is not defined here: rows of a causal sequence are cut before the call"
            )
        rows = x if n_query is None else x[..., :n_query, :]
        update = self.attn(
            self.before_attention(x), is_causal=is_causal, n_query=n_query, rotary=rotary, visible=visible
        )
        return self.add_mlp(rows + self.after_attention(update))


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
        options: BlockOptions = PLAIN,
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            ResidualBlock(width=width, heads=heads, mlp_width=mlp_width, activation=activation, options=options)
            for _ in range(layers)
        )

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self.resblocks)

    def __len__(self) -> int:
        return len(self.resblocks)
