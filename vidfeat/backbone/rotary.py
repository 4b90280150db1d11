"""Rotary positions of image patches: pairs of a head's channels are turned by the angle of their row and column."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .tower_config import Rotary


class RotaryTable(NamedTuple):
    """Cosine and sine of every angle, float32 [S D/H]; a class token's angles are zero."""

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> RotaryTable:
        """The table on that device."""
        return RotaryTable(self.cos.to(device), self.sin.to(device))


def rotary_table(rotary: Rotary, *, grid: tuple[int, int], head_width: int, n_prefix: int) -> RotaryTable:
    """The angles of a grid of patches, behind `n_prefix` rows that are not turned.

    Args:
        rotary: how positions become angles.
        grid: rows and columns of patches.
        head_width: D/H, a multiple of 4.
        n_prefix: rows in front of the patches, 1 with a class token.

    Raises:
        ValueError: a head width that is no multiple of 4.

    Source: timm, layers/pos_embed_sincos.py, build_rotary_pos_embed (1.0); the same float32 operations in its order.
    """
    if head_width % 4:
        raise ValueError(f"rotary positions need heads whose width is a multiple of 4, got {head_width}")
    n_bands = head_width // 4
    bands = 1.0 / rotary.temperature ** (torch.arange(n_bands).to(torch.float32) / n_bands)
    sizes, reference = (grid, rotary.reference) if rotary.order == "ij" else (grid[::-1], rotary.reference[::-1])
    axes = [
        (torch.arange(size).to(torch.float32) + rotary.offset) / size * trained
        for size, trained in zip(sizes, reference, strict=True)
    ]
    positions = torch.stack(torch.meshgrid(axes, indexing=rotary.order), dim=-1)
    angles = (positions.unsqueeze(-1) * bands).flatten(-2).flatten(0, -2).repeat_interleave(2, dim=-1)
    angles = torch.cat([torch.zeros(n_prefix, head_width), angles])
    return RotaryTable(angles.cos(), angles.sin())


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Queries or keys [... S D/H], their leading rows turned; rows behind the table's (prompts) have no position.

    A pair (a, b) of neighbouring channels becomes (a cos - b sin, b cos + a sin), in float32 at least.
    """
    n_rows = min(x.shape[-2], len(table.cos))
    rows = x[..., :n_rows, :]
    quarter = torch.stack([-rows[..., 1::2], rows[..., ::2]], dim=-1).flatten(-2)
    turned = (rows * table.cos[:n_rows] + quarter * table.sin[:n_rows]).to(x.dtype)
    return turned if n_rows == x.shape[-2] else torch.cat([turned, x[..., n_rows:, :]], dim=-2)
