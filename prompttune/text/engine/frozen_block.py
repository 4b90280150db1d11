"""The weights of a frozen residual block, laid out for packed rows; gradients are for activations alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidfeat.backbone import QUICK_GELU_SLOPE, ResidualBlock
from vidfeat.backbone.tower_config import Activation

MAX_ROWS_IN_PARTS = 320  # rows of all runs together; beyond, MKL's own sharing is as fast (docs/log.md)
MIN_FLOP_IN_PARTS = 4_000_000  # of the smallest product, 50 microseconds on one core
GELU_KIND: Mapping[str, str] = {"gelu": "none", "gelu_tanh": "tanh"}  # in PyTorch's words


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
    """A weight, kept both ways round: matrices of few rows multiply up to 1.4 times faster so.

    On a CPU, adding a bias inside the product costs more than a pass over its result (docs/log.md).

    Attributes:
        forward_weight: `scale * W^T` `[in out]`, contiguous.
        weight: W `[out in]` itself, contiguous; the gradient of x is `scale * gradient W`.
    """

    forward_weight: Tensor
    weight: Tensor
    scale: float

    @classmethod
    def of(cls, weight: Tensor, *, dtype: torch.dtype, scale: float = 1.0) -> FrozenMatrix:
        """From W `[out in]`, in `dtype`."""
        weight = weight.detach()
        forward_weight = (weight.t() * scale).to(dtype).contiguous()
        return cls(forward_weight=forward_weight, weight=weight.to(dtype).contiguous(), scale=scale)


class Spread:
    """`x W^T` from rows `[n in]` to Z parts of their columns, `[Z n out/Z]`: one CPU thread computes one part.

    Threads share a product of few rows badly (docs/log.md); in a batch of Z products each has its own part of the
    weight. `Spread`, then `Collect`, and in between no part needs another.
    Source: Shoeybi et al., "Megatron-LM", arXiv 1909.08053, section 3, there among GPUs.
    """

    def __init__(self, matrix: FrozenMatrix, n_parts: int) -> None:
        self.matrix = matrix
        self._columns = _columns(matrix.forward_weight, n_parts)
        self._rows = _rows(matrix.weight, n_parts)

    def forward(self, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """`[Z n out/Z]` of `x [n in]`, in the weight's dtype; in `out` if there is one."""
        return _products(in_dtype(x, self.matrix.weight.dtype), self._columns, out=out)

    def add_bias_forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """`forward` with `bias [Z 1 out/Z]` added."""
        return self.forward(x).add_(bias)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient `[n in]` of x but for the scale, in the dtype of `gradient [Z n out/Z]`."""
        return in_dtype(_product(in_dtype(gradient, self.matrix.weight.dtype), self._rows), gradient.dtype)

    def add_backward(self, sums: Tensor, gradient: Tensor) -> None:
        """Adds the gradient of x to `sums [n in]` in place."""
        _add_product(sums, gradient, self._rows, scale=self.matrix.scale)


class Collect:
    """`x W^T` from Z parts of the columns, `[Z n in/Z]`, to rows `[n out]`: the parts' products are added up."""

    def __init__(self, matrix: FrozenMatrix, n_parts: int) -> None:
        self.matrix = matrix
        self._rows = _rows(matrix.forward_weight, n_parts)
        self._columns = _columns(matrix.weight, n_parts)

    def add_forward(self, sums: Tensor, x: Tensor) -> Tensor:
        """`sums [n out]` with the product for `x [Z n in/Z]` added in place, in the dtype of `sums`."""
        return _add_product(sums, x, self._rows)

    def backward(self, gradient: Tensor) -> Tensor:
        """The gradient `[Z n in/Z]` of x but for the scale, in the dtype of `gradient [n out]`."""
        return in_dtype(_products(in_dtype(gradient, self.matrix.weight.dtype), self._columns), gradient.dtype)


def choose_parts(n_rows: int, *, width: int, n_heads: int, like: Tensor) -> int:
    """Z, into how many parts the products of `n_rows` rows are cut: one for each CPU thread, of whole heads.

    One part where that gains nothing: many rows, which MKL shares as well itself; products so small that threads cost
    more than they save; another device; half precision, which is not MKL's.
    """
    is_mkl = like.device.type == "cpu" and like.dtype in (torch.float32, torch.float64)
    if not is_mkl or n_rows > MAX_ROWS_IN_PARTS or 2 * n_rows * width * width < MIN_FLOP_IN_PARTS:
        return 1
    return next(z for z in range(min(torch.get_num_threads(), n_heads), 0, -1) if n_heads % z == 0)


def _columns(weight: Tensor, n_parts: int) -> Tensor:
    """`[k m]` cut into `[Z k m/Z]`, a view."""
    return weight.view(weight.shape[0], n_parts, -1).transpose(0, 1)


def _rows(weight: Tensor, n_parts: int) -> Tensor:
    """`[k m]` cut into `[Z k/Z m]`, a view."""
    return weight.view(n_parts, -1, weight.shape[1])


def _products(x: Tensor, weight: Tensor, *, out: Tensor | None = None) -> Tensor:
    """`[Z n m/Z]` of `x [n k]` and `weight [Z k m/Z]`."""
    if len(weight) == 1:
        return torch.mm(x, weight[0], out=None if out is None else out[0]).unsqueeze(0)
    return torch.bmm(x.expand(len(weight), -1, -1), weight, out=out)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """`[n m]` of `x [Z n k/Z]` and `weight [Z k/Z m]`."""
    return torch.mm(x[0], weight[0]) if len(x) == 1 else torch.bmm(x, weight).sum(0)


def _add_product(sums: Tensor, x: Tensor, weight: Tensor, *, scale: float = 1.0) -> Tensor:
    """`sums [n m]` with the product of `x [Z n k/Z]` and `weight [Z k/Z m]`, times `scale`, added in place."""
    if len(x) == 1 and x.dtype == sums.dtype == weight.dtype:
        return sums.addmm_(x[0], weight[0], alpha=scale)
    return sums.add_(_product(in_dtype(x, weight.dtype), weight), alpha=scale)


@dataclass(frozen=True)
class FrozenBlock:
    """A residual block's weights, with everything folded in that is exact algebra.

    - The queries' scale `1 / sqrt(head width)` is in the query weight and bias.
    - The keys' bias adds the same to all scores of a query, which softmax ignores: there is none.
    - The values' bias passes through attention unchanged, as weights sum to one: it is part of `out_bias`.
    - quick_gelu's slope is in the MLP's forward weights, which makes it PyTorch's fused silu. The backward pass through
      the MLP needs no slope: its two occurrences cancel.

    Attributes:
        query_bias, c_fc_bias: `[Z 1 out/Z]`.
    """

    ln_1: FrozenNorm
    query: Spread
    query_bias: Tensor
    key_value: Spread
    out: Collect
    out_bias: Tensor
    ln_2: FrozenNorm
    c_fc: Spread
    c_fc_bias: Tensor
    c_proj: Collect
    c_proj_bias: Tensor
    activation: Activation

    @classmethod
    @torch.no_grad()
    def of(cls, block: ResidualBlock, *, n_heads: int, activation: Activation, dtype: torch.dtype) -> FrozenBlock:
        """The weights of a block, matrices in `dtype`."""
        attn, mlp = block.attn, block.mlp
        width = attn.in_proj_weight.shape[1]
        head_scale = 1.0 / math.sqrt(width // n_heads)
        slope = QUICK_GELU_SLOPE if activation == "quick_gelu" else 1.0
        weight, bias = attn.in_proj_weight, attn.in_proj_bias
        return cls(
            ln_1=FrozenNorm.of(block.ln_1),
            query=Spread(FrozenMatrix.of(weight[:width], dtype=dtype, scale=head_scale), 1),
            query_bias=(bias[:width] * head_scale).to(dtype).view(1, 1, -1),
            key_value=Spread(FrozenMatrix.of(weight[width:], dtype=dtype), 1),
            out=Collect(FrozenMatrix.of(attn.out_proj.weight, dtype=dtype), 1),
            out_bias=attn.out_proj.bias + attn.out_proj.weight @ bias[2 * width :],
            ln_2=FrozenNorm.of(block.ln_2),
            c_fc=Spread(FrozenMatrix.of(mlp.c_fc.weight, dtype=dtype, scale=slope), 1),
            c_fc_bias=(mlp.c_fc.bias * slope).to(dtype).view(1, 1, -1),
            c_proj=Collect(FrozenMatrix.of(mlp.c_proj.weight, dtype=dtype, scale=1.0 / slope), 1),
            c_proj_bias=mlp.c_proj.bias.detach(),
            activation=activation,
        )

    def in_parts(self, n_parts: int) -> FrozenBlock:
        """The same weights, seen in Z parts."""
        return replace(
            self,
            query=Spread(self.query.matrix, n_parts),
            query_bias=self.query_bias.view(n_parts, 1, -1),
            key_value=Spread(self.key_value.matrix, n_parts),
            out=Collect(self.out.matrix, n_parts),
            c_fc=Spread(self.c_fc.matrix, n_parts),
            c_fc_bias=self.c_fc_bias.view(n_parts, 1, -1),
            c_proj=Collect(self.c_proj.matrix, n_parts),
        )

    def keys_and_values(self, rows: Tensor) -> Tensor:
        """Keys and values `[n 2W]` of rows `[n W]` that enter the block."""
        normed = in_dtype(self.ln_1.forward(rows)[0], self.key_value.matrix.weight.dtype)
        return torch.mm(normed, self.key_value.matrix.forward_weight)


def activate(hidden: Tensor, activation: Activation) -> Tensor:
    """The MLP's activation, of hidden rows that carry the slope."""
    if activation in ("quick_gelu", "silu"):
        return F.silu(hidden)
    return F.gelu(hidden, approximate=GELU_KIND[activation])


def activate_backward(gradient: Tensor, hidden: Tensor, activation: Activation) -> Tensor:
    """The gradient of the hidden rows."""
    if activation in ("quick_gelu", "silu"):
        return torch.ops.aten.silu_backward(gradient, hidden)
    return torch.ops.aten.gelu_backward(gradient, hidden, approximate=GELU_KIND[activation])
