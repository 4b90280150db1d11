"""Vectors of unit length, and their gradient in half the operations of `torch.nn.functional.normalize`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

_EPS = 1e-12  # F.normalize's


def unit(x: Tensor) -> Tensor:
    """`x / max(|x|, 1e-12)` along the last axis: bit for bit `F.normalize(x, dim=-1)` and, where `|x|` is 0 or at least
    1e-12, its gradient."""
    return _Unit.apply(x)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_EPS)
        y = x / norm
        ctx.save_for_backward(norm, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        norm, y = ctx.saved_tensors
        along = (dy * (y / norm)).sum(dim=-1, keepdim=True)
        return dy / norm - y * along
