"""The weights of a frozen residual block, laid out for packed rows; gradients are for activations alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfeat.backbone import ResidualBlock

QUICK_GELU_SLOPE = 1.702  # quick_gelu(x) = x sigmoid(1.702 x) = silu(1.702 x) / 1.702


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
        return torch.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)

    def backward(self, gradient: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
        """The gradient of the norm's input."""
        wanted = [True, False, False]
        backward = torch.ops.aten.native_layer_norm_backward
        return backward(gradient, x, x.shape[-1:], mean, rstd, self.weight, self.bias, wanted)[0]


@dataclass(frozen=True)
class FrozenLinear:
    """`scale * (x W^T) + b`, with the weight kept both ways round: few rows multiply up to 1.4 times faster so.

    Attributes:
        forward_weight: `scale * W^T` `[in out]`, contiguous.
        bias: b `[out]`, already scaled by whoever asked for it.
        weight: W `[out in]` itself, for the backward pass.
        scale: the gradient of x is `scale * gradient W`.
    """

    forward_weight: Tensor
    bias: Tensor
    weight: Tensor
    scale: float

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, *, dtype: torch.dtype, scale: float = 1.0) -> FrozenLinear:
        """From W `[out in]` and b `[out]`; in `dtype`."""
        weight = weight.detach()
        forward_weight = (weight.t() * scale).to(dtype).contiguous()
        return cls(forward_weight=forward_weight, bias=bias.detach().to(dtype), weight=weight.to(dtype), scale=scale)

    def forward(self, x: Tensor) -> Tensor:
        """`[n out]` of `x [n in]`, in the weights' dtype."""
        return torch.addmm(self.bias, x.to(self.weight.dtype), self.forward_weight)

    def write(self, x: Tensor, *, out: Tensor) -> None:
        """`forward` into `out [n out]`."""
        torch.addmm(self.bias, x.to(self.weight.dtype), self.forward_weight, out=out)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual [n out]` plus what comes of `x [n in]`, in the residual's dtype; a new tensor."""
        sums = residual + self.bias
        if x.dtype == sums.dtype == self.weight.dtype:
            return sums.addmm_(x, self.forward_weight)
        return sums.add_(x.to(self.weight.dtype) @ self.forward_weight)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient `[n in]` of x, in the dtype of `gradient [n out]`, but for the scale."""
        return (gradient.to(self.weight.dtype) @ self.weight).to(gradient.dtype)

    def add_backward(self, sums: Tensor, gradient: Tensor) -> None:
        """Adds the gradient of x to `sums [n in]` in place."""
        if gradient.dtype == sums.dtype == self.weight.dtype:
            sums.addmm_(gradient, self.weight, alpha=self.scale)
        else:
            sums.add_(self.backward(gradient), alpha=self.scale)


@dataclass(frozen=True)
class FrozenBlock:
    """A residual block's weights, laid out for packed rows.

    The queries' scale `1 / sqrt(head width)` and quick_gelu's slope are folded into the forward weights, which makes
    quick_gelu PyTorch's fused silu. The backward pass through the MLP needs no slope: its two occurrences cancel.
    """

    ln_1: FrozenNorm
    query: FrozenLinear
    key_value: FrozenLinear
    out: FrozenLinear
    ln_2: FrozenNorm
    c_fc: FrozenLinear
    c_proj: FrozenLinear
    is_quick: bool

    @classmethod
    def of(cls, block: ResidualBlock, *, n_heads: int, is_quick: bool, dtype: torch.dtype) -> FrozenBlock:
        """The weights of a block, linear layers in `dtype`."""
        attn, mlp = block.attn, block.mlp
        width = attn.in_proj_weight.shape[1]
        head_scale = 1.0 / math.sqrt(width // n_heads)
        slope = QUICK_GELU_SLOPE if is_quick else 1.0
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        return cls(
            ln_1=FrozenNorm.of(block.ln_1),
            query=FrozenLinear.of(weight[:width], bias[:width] * head_scale, dtype=dtype, scale=head_scale),
            key_value=FrozenLinear.of(weight[width:], bias[width:], dtype=dtype),
            out=FrozenLinear.of(attn.out_proj.weight, attn.out_proj.bias, dtype=dtype),
            ln_2=FrozenNorm.of(block.ln_2),
            c_fc=FrozenLinear.of(mlp.c_fc.weight, mlp.c_fc.bias * slope, dtype=dtype, scale=slope),
            c_proj=FrozenLinear.of(mlp.c_proj.weight, mlp.c_proj.bias, dtype=dtype, scale=1.0 / slope),
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
