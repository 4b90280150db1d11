"""What PyTorch's own counter of operations can be held against."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode


def counts_attention() -> bool:
    """Whether the counter knows attention on a CPU; that of torch 2.6 leaves it out."""
    rows = torch.ones(1, 1, 2, 8)
    with FlopCounterMode(display=False) as counted:
        torch.nn.functional.scaled_dot_product_attention(rows, rows, rows)
    return counted.get_total_flops() > 0


needs_counted_attention = pytest.mark.skipif(
    not counts_attention(), reason=f"torch {torch.__version__} counts no operations of attention on a CPU"
)
