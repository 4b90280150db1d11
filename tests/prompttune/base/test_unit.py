"""Unit vectors in half the operations: the bits of PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from prompttune.base.unit import unit


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_torch_to_the_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 17, 129, generator=generator, dtype=dtype)
    x[0, 0], x[1, 2] = 0.0, 1e-6 * x[1, 2]
    weights = torch.randn(x.shape, generator=generator, dtype=dtype)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    ours, theirs = unit(found), F.normalize(expected, dim=-1)
    assert torch.equal(ours, theirs)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert torch.equal(found.grad, expected.grad)
