"""A frozen residual block in as few kernels as PyTorch has for it: what a device runs where a launch costs more than
what it computes.

It computes what `block_pass.py` does, on the same rows and tiles, with

- one product for queries, keys and values, of all live rows, and one gather of all three;
- the constants' keys and values in one buffer with the live rows' (`Space`), copied there once, not at every step;
- no pass of its own for a bias: the output's comes of a vector (1, 0, ..) that every row of attended heads ends with,
  the MLP's of a hidden unit that is always the same;
- under autocast, attention too in half precision, as PyTorch's own; the residual stream stays in the tower's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prompttune.base.devices import without_autocast
from prompttune.text.engine.frozen_block import (
    FrozenBlock,
    FrozenNorm,
    activate,
    activate_backward,
    in_dtype,
)
from prompttune.text.engine.fused_tiles import FusedTiles
from vidfeat.backbone.tower_config import Activation

UNITS_OF_BIAS = 8  # hidden units that are added, of which one is used: products want widths that 8 divides


@dataclass(frozen=True)
class FusedBlock:
    """A `FrozenBlock`'s weights in fewer products, input by output; d is a head's width.

    Attributes:
        qkv, qkv_bias: `[W 3W]`, `[3W]`; zero for keys and values.
        out: `[W + d, W]`; row W is the bias, those behind it are zero.
        c_fc, c_fc_bias: `[W M + 8]`, `[M + 8]`; unit M is always 1 before the activation, those behind it 0.
        c_proj: `[M + 8, W]`; row M times what the activation makes of 1 is the bias.
    """

    ln_1: FrozenNorm
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    ln_2: FrozenNorm
    c_fc: Tensor
    c_fc_bias: Tensor
    c_proj: Tensor
    activation: Activation

    @classmethod
    @torch.no_grad()
    def of(cls, block: FrozenBlock, *, head_width: int) -> FusedBlock:
        """The same weights, in these products."""
        query, key_value, c_fc = (own.matrix.forward_weight for own in (block.query, block.key_value, block.c_fc))
        unit = query.new_ones(1)
        of_unit = activate(unit, block.activation).to(block.c_proj_bias.dtype)
        n_unused = UNITS_OF_BIAS - 1
        return cls(
            ln_1=block.ln_1,
            qkv=torch.cat([query, key_value], dim=1),
            qkv_bias=torch.cat([block.query_bias.flatten(), query.new_zeros(key_value.shape[1])]),
            out=_with_rows(block.out.matrix.forward_weight, block.out_bias, head_width - 1),
            ln_2=block.ln_2,
            c_fc=torch.cat([c_fc, c_fc.new_zeros(len(c_fc), UNITS_OF_BIAS)], dim=1),
            c_fc_bias=torch.cat([block.c_fc_bias.flatten(), unit, unit.new_zeros(n_unused)]),
            c_proj=_with_rows(block.c_proj.matrix.forward_weight, block.c_proj_bias / of_unit, n_unused),
            activation=block.activation,
        )

    def projections(self, rows: Tensor) -> Tensor:
        """Queries, keys and values `[n 3W]` of rows `[n W]` that enter the block."""
        normed = in_dtype(self.ln_1.forward(rows)[0], self.qkv.dtype)
        return torch.addmm(self.qkv_bias, normed, self.qkv)


def _with_rows(weight: Tensor, row: Tensor, n_zero: int) -> Tensor:
    return torch.cat([weight, row.to(weight.dtype).unsqueeze(0), weight.new_zeros(n_zero, weight.shape[1])])


class Space:
    """Buffers that the blocks of a chunk use one after the other.

    Args:
        constants: queries, keys and values of the constant rows, per block `[n_constants 3W]`.
        fixed: those of block 0's fixed rows `[F 3W]`.
        n_borrowed, n_live, n_queries: numbers of a block at most: borrowed keys and values, those of the live rows with
            their queries, what the tiles attend to.
        width: d.

    Attributes:
        vectors: `[n d]`: constants block by block, fixed, borrowed, live.
        attended: `[1 + n d]`: (1, 0, ..), then a block's tiles.
    """

    def __init__(
        self, constants: Sequence[Tensor], fixed: Tensor, *, n_borrowed: int, n_live: int, n_queries: int, width: int
    ) -> None:
        given = torch.cat([*constants, fixed]).view(-1, width)
        self.n_constants = constants[0].numel() // width
        self.first_fixed = self.n_constants * len(constants)
        self.first_borrowed = len(given)
        self.first_live = self.first_borrowed + n_borrowed
        self.vectors = given.new_empty(self.first_live + n_live, width)
        self.vectors[: len(given)] = given
        self.attended = given.new_zeros(1 + n_queries, width)
        self.attended[0, 0] = 1.0


@dataclass(frozen=True)
class FusedInput:
    """What a block takes besides the rows that carry gradients.

    Attributes:
        fixed: `[F W]`, the layout's last rows, in block 0 alone.
        lends_trunk: other chunks attend to this one's trunk rows.
    """

    block: FusedBlock
    tiles: FusedTiles
    space: Space
    fixed: Tensor | None
    lends_trunk: bool


class FusedPass(torch.autograd.Function):
    """`BlockPass` in fewer kernels; the same arguments and results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, trunk_kv: Tensor | None, given: FusedInput) -> tuple[Tensor, Tensor | None]:
        rows = x.reshape(-1, x.shape[-1])
        block, tiles, space = given.block, given.tiles, given.space
        normed, *of_ln_1 = block.ln_1.forward(rows)
        live = tiles.live(space.vectors, space.first_live)
        torch.addmm(block.qkv_bias, in_dtype(normed, block.qkv.dtype), block.qkv, out=live)
        if trunk_kv is not None:
            tiles.borrowed(space.vectors, space.first_borrowed).copy_(trunk_kv.flatten(1))
        tiled = tiles.tiled(space.vectors)
        (key, value), (query, _) = tiles.split(tiled)
        scores = torch.baddbmm(tiles.hidden, query, key.transpose(1, 2))
        weights = scores.new_empty(2, *scores.shape)
        torch.softmax(scores, dim=-1, out=weights[1])
        torch.bmm(weights[1], value, out=space.attended[1 : 1 + tiles.n_queries_in_tiles].view_as(query))
        attended = space.attended.index_select(0, tiles.attended_index).view(-1, len(block.out))
        residual = tiles.heads.residual(rows, given.fixed)
        y = _plus_product(residual, attended, block.out)
        again, *of_ln_2 = block.ln_2.forward(y)
        hidden = torch.addmm(block.c_fc_bias, in_dtype(again, block.c_fc.dtype), block.c_fc)
        z = _plus_product(y, activate(hidden, block.activation), block.c_proj)
        ctx.given, ctx.live_shape = given, x.shape
        ctx.borrowed_shape = None if trunk_kv is None else trunk_kv.shape
        ctx.save_for_backward(rows, *of_ln_1, tiled, weights, y, *of_ln_2, hidden)
        ctx.set_materialize_grads(False)
        lent = tiles.own_trunk_kv(live).clone() if given.lends_trunk else None
        return z.view(-1, tiles.n_runs, z.shape[-1]), lent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_lent_kv: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        rows, mean_1, rstd_1, tiled, weights, y, mean_2, rstd_2, hidden = ctx.saved_tensors
        given: FusedInput = ctx.given
        block, tiles = given.block, given.tiles
        # The forward pass left autocast outside; a backward pass may be called within. `data`: it writes into halves
        # that are its own, which autograd would take for a change of what was kept.
        with without_autocast(dy.device.type):
            dy = dy.reshape(-1, dy.shape[-1])
            d_activated = torch.mm(in_dtype(dy, hidden.dtype), block.c_proj.t())
            d_hidden = activate_backward(d_activated, hidden, block.activation)
            d_y = block.ln_2.backward(_product(d_hidden, block.c_fc.t(), y.dtype), y, mean_2, rstd_2).add_(dy)
            d_attended = torch.mm(in_dtype(d_y, hidden.dtype), block.out[: dy.shape[-1]].t())
            d_trunk_kv, d_live = _attention_backward(d_attended, tiles, tiled.data, weights.data)
            if d_lent_kv is not None:
                tiles.own_trunk_kv(d_live).add_(d_lent_kv)
            d_normed = _product(d_live, block.qkv.t(), rows.dtype)
            d_rows = tiles.add_to_queries(block.ln_1.backward(d_normed, rows, mean_1, rstd_1), d_y)
        return (
            d_rows.view(ctx.live_shape),
            None if ctx.borrowed_shape is None else d_trunk_kv.view(ctx.borrowed_shape),
            None,
        )


def _attention_backward(d_attended: Tensor, tiles: FusedTiles, tiled: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of a borrowed trunk's keys and values, and of the live rows' queries, keys and values, see
    `FusedTiles.gradients_of_rows`.

    Keys' and values' are one product: of (gradients of scores, weights) and (queries, gradients of what they attended
    to), which lie beside each other because the second and the first half are written here, at every pass.
    """
    (key, value), queries = tiles.split(tiled)
    tiles.gradients_of_attended(d_attended, out=queries[1])
    d_weights = torch.bmm(queries[1], value.transpose(1, 2))
    torch._softmax_backward_data(d_weights, weights[1], -1, weights.dtype, grad_input=weights[0])
    found = tiles.new_gradients(tiled)
    d_key_value, (d_query,) = tiles.split(found)
    torch.bmm(weights[0], key, out=d_query)
    torch.bmm(weights.flatten(0, 1).transpose(1, 2), queries.flatten(0, 1), out=d_key_value.flatten(0, 1))
    return tiles.gradients_of_rows(found)


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`x weight` in that dtype."""
    if x.dtype == dtype:
        return torch.mm(x, weight)
    return torch.mm(x, weight, out_dtype=dtype) if adds_wide(x.device, x.dtype) else torch.mm(x, weight).to(dtype)


def _plus_product(sums: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`sums + x weight`, in the dtype of `sums`."""
    if x.dtype == sums.dtype:
        return torch.addmm(sums, x, weight)
    if adds_wide(x.device, x.dtype):
        return torch.addmm(sums, x, weight, out_dtype=sums.dtype)
    return torch.mm(x, weight).add(sums)


@lru_cache
def adds_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether that device gives products of half precision in float32, in which it adds them up anyway: then nothing is
    rounded, nor converted, on the way to the residual stream. Asked by trying, as it depends on PyTorch's version too.
    """
    x = torch.zeros(8, 8, device=device, dtype=dtype)
    try:
        torch.addmm(x.float(), x, x, out_dtype=torch.float32)
    except (RuntimeError, TypeError):
        return False
    return True
