"""The two branches of a frozen residual block on packed rows, with backward passes for the activations alone.

Rows are `[N R W]`: N rows for each of R runs. Weights never get a gradient, so nothing is kept for one: backward needs a
norm's input and two numbers per row, queries, keys, values and attention weights, and the MLP's hidden rows.

Linear layers run in the weights' dtype (bfloat16 under autocast); residual stream, norms and attention stay in the rows'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prompttune.text_engine.frozen_block import FrozenBlock
from prompttune.text_engine.head_tiles import HeadTiles


@dataclass(frozen=True)
class FixedRows:
    """Rows of block 0 that no prompt reaches: the words. Block 0's norm and projections of them are constants.

    Attributes:
        x: `[F W]` what enters the block.
        query, key_value: `[F W]`, `[F 2W]`.
    """

    x: Tensor
    query: Tensor
    key_value: Tensor

    @classmethod
    def of(cls, block: FrozenBlock, x: Tensor) -> FixedRows:
        """What block 0 makes of its words' rows `[F W]`."""
        normed = block.ln_1.forward(x)[0]
        return cls(x=x, query=block.query.forward(normed), key_value=block.key_value.forward(normed))


@dataclass(frozen=True)
class AttentionInput:
    """What the attention branch takes besides rows that carry gradients.

    Attributes:
        block: the weights.
        tiles: who attends to whom.
        constant_kv: `[n_constants 2W]`, keys and values of the constant rows.
        fixed: the layout's last rows, in block 0 alone.
    """

    block: FrozenBlock
    tiles: HeadTiles
    constant_kv: Tensor
    fixed: FixedRows | None = None


class AttentionBranch(torch.autograd.Function):
    """`x + attention(ln_1(x))` for the rows from `tiles.first_query` on; the others serve as keys and values alone.

    `apply(x, trunk_kv, given)` takes the layout's rows but for `given.fixed` `[n_live R W]`, the keys and values
    `[P R 2W]` of a trunk that another chunk computes (or None), and an AttentionInput. It returns `[n_queries R W]`, and
    the keys and values of the trunk rows in x.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, trunk_kv: Tensor | None, given: AttentionInput) -> tuple[Tensor, Tensor]:
        block, tiles = given.block, given.tiles
        normed, mean, rstd = block.ln_1.forward(x)
        kv = _project_keys_values(normed, trunk_kv, given)
        key, value = (heads.to(x.dtype) for heads in tiles.keys_and_values(kv))
        query = tiles.queries(_project_queries(normed, given)).to(x.dtype)
        scores = torch.bmm(query, key.transpose(1, 2))
        tiles.hide(scores)
        weights = torch.softmax(scores, dim=-1)
        attended = tiles.rows_of_queries(torch.bmm(weights, value))
        kept = _with_fixed(x[tiles.first_query :], given.fixed and given.fixed.x, tiles.n_queries)
        y = block.out.add_to(kept.flatten(0, 1), attended.flatten(0, 1)).view_as(kept)
        ctx.given, ctx.has_trunk_kv = given, trunk_kv is not None
        ctx.save_for_backward(x, mean, rstd, query, key, value, weights)
        ctx.set_materialize_grads(False)
        n_constants = len(given.constant_kv)
        return y, kv[n_constants : n_constants + tiles.n_own_trunk].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_own_trunk_kv: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        x, mean, rstd, query, key, value, weights = ctx.saved_tensors
        block, tiles = ctx.given.block, ctx.given.tiles
        n_borrowed = tiles.n_trunk - tiles.n_own_trunk
        n_live_queries = max(len(x) - tiles.first_query, 0)
        with torch.autocast(x.device.type, enabled=False):
            d_attended = tiles.queries(block.out.backward(dy.flatten(0, 1)).view_as(dy))
            d_value = torch.bmm(weights.transpose(1, 2), d_attended)
            d_weights = torch.bmm(d_attended, value.transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_query = tiles.rows_of_queries(torch.bmm(d_scores, key))
            d_key = torch.bmm(d_scores.transpose(1, 2), query)
            d_kv = tiles.rows_of_keys(d_key, d_value, n_rows=n_borrowed + len(x))
            d_trunk_kv, d_own_kv = d_kv[:n_borrowed], d_kv[n_borrowed:]
            if d_own_trunk_kv is not None:
                d_own_kv[: tiles.n_own_trunk].add_(d_own_trunk_kv)
            d_normed = block.key_value.backward(d_own_kv.flatten(0, 1)).view_as(x)
            if n_live_queries:
                d_normed_queries = d_normed[tiles.first_query :]
                block.query.add_backward(d_normed_queries.flatten(0, 1), d_query[:n_live_queries].flatten(0, 1))
            dx = block.ln_1.backward(d_normed, x, mean, rstd)
            dx[tiles.first_query :].add_(dy[:n_live_queries])
        return dx, d_trunk_kv if ctx.has_trunk_kv else None, None


class MlpBranch(torch.autograd.Function):
    """`x + mlp(ln_2(x))`; `apply(x [n R W], block)` returns `[n R W]`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: FrozenBlock) -> Tensor:
        rows = x.flatten(0, 1)
        normed, mean, rstd = block.ln_2.forward(rows)
        hidden = block.c_fc.forward(normed)
        ctx.block = block
        ctx.save_for_backward(rows, mean, rstd, hidden)
        return block.c_proj.add_to(rows, block.activate(hidden)).view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        rows, mean, rstd, hidden = ctx.saved_tensors
        block, d_rows = ctx.block, dy.flatten(0, 1)
        with torch.autocast(dy.device.type, enabled=False):
            d_hidden = block.activate_backward(block.c_proj.backward(d_rows).to(hidden.dtype), hidden)
            d_normed = block.c_fc.backward(d_hidden).to(rows.dtype)
            return block.ln_2.backward(d_normed, rows, mean, rstd).add_(d_rows).view_as(dy), None


def _project_keys_values(normed: Tensor, trunk_kv: Tensor | None, given: AttentionInput) -> Tensor:
    """Keys and values `[constants + trunk + leaf rows, R, 2W]` of everything the tiles attend to."""
    n_runs, width = normed.shape[1:]
    n_constants, n_live = len(given.constant_kv), len(normed)
    n_ahead = n_constants + (0 if trunk_kv is None else len(trunk_kv))
    kv = given.constant_kv.new_empty(n_ahead + given.tiles.n_rows, n_runs, 2 * width)
    kv[:n_constants] = given.constant_kv.unsqueeze(1)
    if trunk_kv is not None:
        kv[n_constants:n_ahead] = trunk_kv
    given.block.key_value.write(normed.flatten(0, 1), out=kv[n_ahead : n_ahead + n_live].flatten(0, 1))
    if given.fixed is not None:
        kv[n_ahead + n_live :] = given.fixed.key_value.unsqueeze(1)
    return kv


def _project_queries(normed: Tensor, given: AttentionInput) -> Tensor:
    """Queries `[n_queries R W]`."""
    live = normed[given.tiles.first_query :]
    query = given.block.query.forward(live.flatten(0, 1)).view_as(live)
    return _with_fixed(query, given.fixed and given.fixed.query, given.tiles.n_queries)


def _with_fixed(live: Tensor, fixed: Tensor | None, n_rows: int) -> Tensor:
    """`n_rows` rows `[n R W]`: the live ones, then as many of the last fixed ones `[F W]`, the same for every run."""
    if fixed is None:
        return live
    last = fixed[len(fixed) - (n_rows - len(live)) :]
    return torch.cat([live, last.unsqueeze(1).expand(-1, live.shape[1], -1)])
