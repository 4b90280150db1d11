"""The weights of a frozen residual block, laid out for packed rows; gradients are for activations alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfeat.backbone import ResidualBlock

QUICK_GELU_SLOPE = 1.702  # quick_gelu(x) = x sigmoid(1.702 x) = silu(1.702 x) / 1.702


def in_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in that dtype; without a call into PyTorch, which costs a microsecond, where it is so already."""
    return x if x.dtype == dtype else x.to(dtype)


@dataclass(frozen=True)
class FrozenNorm:
    """A layer norm's weights."""

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, norm: nn.LayerNorm) -> FrozenNorm:
        """The weights of a module."""
        return cls(weight=norm.weight.detach(), bias=norm.bias.detach(), eps=norm.eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised rows, then the mean and the inverse deviation that `backward` needs."""
        return torch.native_layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def backward(self, gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """The gradient of the norm's input; a new tensor."""
        wanted = [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        return backward(gradient, x, self.weight.shape, mean, rstd, self.weight, self.bias, wanted)[0]


@dataclass(frozen=True)
class FrozenMatrix:
    """`x W^T` with the weight kept both ways round: matrices of few rows multiply up to 1.4 times faster so.

    Biases are the caller's: adding one inside the product costs more than a pass over its result (docs/log.md).

    Attributes:
        forward_weight: `scale * W^T` `[in out]`, contiguous.
        weight: W `[out in]` itself; the gradient of x is `scale * gradient W`.
    """

    forward_weight: Tensor
    weight: Tensor
    scale: float

    @classmethod
    def of(cls, weight: Tensor, *, dtype: torch.dtype, scale: float = 1.0) -> FrozenMatrix:
        """From W `[out in]`, in `dtype`."""
        weight = weight.detach()
        return cls(forward_weight=(weight.t() * scale).to(dtype).contiguous(), weight=weight.to(dtype), scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[n out]` of `x [n in]`, in the weight's dtype."""
        return torch.mm(in_dtype(x, self.weight.dtype), self.forward_weight)

    def write(self, x: Tensor, *, out: Tensor) -> None:
        """`forward` into `out [n out]`."""
        torch.mm(in_dtype(x, self.weight.dtype), self.forward_weight, out=out)

    def add_to(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums [n out]` with the product for `x [n in]` added in place, in the dtype of `sums`."""
        if x.dtype == sums.dtype == self.weight.dtype:
            return sums.addmm_(x, self.forward_weight)
        return sums.add_(torch.mm(x.to(self.weight.dtype), self.forward_weight))

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient `[n in]` of x but for the scale, in the dtype of `gradient [n out]`."""
        return in_dtype(torch.mm(in_dtype(gradient, self.weight.dtype), self.weight), gradient.dtype)

    def add_backward(self, sums: Tensor, gradient: Tensor) -> None:
        """Adds the gradient of x to `sums [n in]` in place."""
        if gradient.dtype == sums.dtype == self.weight.dtype:
            sums.addmm_(gradient, self.weight, alpha=self.scale)
        else:
            sums.add_(self.backward(gradient), alpha=self.scale)


@dataclass(frozen=True)
class FrozenBlock:
    """A residual block's weights, with everything folded in that is exact algebra.

    - The queries' scale `1 / sqrt(head width)` is in the query weight and bias.
    - The keys' bias adds the same to all scores of a query, which softmax ignores: there is none.
    - The values' bias passes through attention unchanged, as weights sum to one: it is part of `out_bias`.
    - quick_gelu's slope is in the MLP's forward weights, which makes it PyTorch's fused silu. The backward pass through
      the MLP needs no slope: its two occurrences cancel.
    """

    ln_1: FrozenNorm
    query: FrozenMatrix
    query_bias: Tensor
    key_value: FrozenMatrix
    out: FrozenMatrix
    out_bias: Tensor
    ln_2: FrozenNorm
    c_fc: FrozenMatrix
    c_fc_bias: Tensor
    c_proj: FrozenMatrix
    c_proj_bias: Tensor
    is_quick: bool

    @classmethod
    @torch.no_grad()
    def of(cls, block: ResidualBlock, *, n_heads: int, is_quick: bool, dtype: torch.dtype) -> FrozenBlock:
        """The weights of a block, matrices in `dtype`."""
        attn, mlp = block.attn, block.mlp
        width = attn.in_proj_weight.shape[1]
        head_scale = 1.0 / math.sqrt(width // n_heads)
        slope = QUICK_GELU_SLOPE if is_quick else 1.0
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        return cls(
            ln_1=FrozenNorm.of(block.ln_1),
            query=FrozenMatrix.of(weight[:width], dtype=dtype, scale=head_scale),
            query_bias=(bias[:width] * head_scale).to(dtype),
            key_value=FrozenMatrix.of(weight[width:], dtype=dtype),
            out=FrozenMatrix.of(attn.out_proj.weight, dtype=dtype),
            out_bias=attn.out_proj.bias + attn.out_proj.weight @ bias[2 * width :],
            ln_2=FrozenNorm.of(block.ln_2),
            c_fc=FrozenMatrix.of(mlp.c_fc.weight, dtype=dtype, scale=slope),
            c_fc_bias=(mlp.c_fc.bias * slope).to(dtype),
            c_proj=FrozenMatrix.of(mlp.c_proj.weight, dtype=dtype, scale=1.0 / slope),
            c_proj_bias=mlp.c_proj.bias.detach(),
            is_quick=is_quick,
        )

    def activate(self, hidden: Tensor) -> Tensor:
        """The MLP's activation, of hidden rows that carry the slope."""
        return F.silu(hidden) if self.is_quick else F.gelu(hidden)

    def activate_backward(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        """The gradient of the hidden rows."""
        if self.is_quick:
            return torch.ops.aten.silu_backward(gradient, hidden)
        return torch.ops.aten.gelu_backward(gradient, hidden)
