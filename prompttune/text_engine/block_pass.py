"""A frozen residual block on packed rows, forward and backward, with gradients for the activations alone.

Rows are `[N R W]`: N rows for each of R runs. Weights never get a gradient, so nothing is kept for one: backward needs
a norm's input and two numbers per row, queries, keys, values and attention weights, and the MLP's hidden rows.

Matrices run in the weights' dtype (bfloat16 under autocast); residual stream, norms and attention in the rows' own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prompttune.text_engine.frozen_block import FrozenBlock, in_dtype
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
        query = block.query.forward(normed).add_(block.query_bias)
        return cls(x=x, query=query, key_value=block.key_value.forward(normed))


@dataclass(frozen=True)
class BlockInput:
    """What a block takes besides the rows that carry gradients.

    Attributes:
        block: the weights.
        tiles: who attends to whom.
        constant_kv: `[n_constants 2W]`, keys and values of the constant rows.
        fixed: the layout's last rows, in block 0 alone.
        lends_trunk: other chunks attend to this one's trunk rows.
    """

    block: FrozenBlock
    tiles: HeadTiles
    constant_kv: Tensor
    fixed: FixedRows | None
    lends_trunk: bool


class BlockPass(torch.autograd.Function):
    """A residual block for the rows from `tiles.first_query` on; the others serve as keys and values alone.

    `apply(x, trunk_kv, given)`:
        x: `[n_live R W]`, the layout's rows but for `given.fixed`.
        trunk_kv: `[P R 2W]`, keys and values of the trunk that another chunk lends, or None.
        given: a BlockInput.

    Returns `[n_queries R W]`, and the keys and values `[P R 2W]` of the trunk rows in x when they are lent, else None.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, trunk_kv: Tensor | None, given: BlockInput) -> tuple[Tensor, Tensor | None]:
        tiles, n_runs = given.tiles, given.tiles.n_runs
        rows = x.reshape(-1, x.shape[-1])
        attended, lent_kv, kept_by_attention = _attention_forward(rows, trunk_kv, given)
        y, kept_by_mlp = _mlp_forward(attended, given.block)
        ctx.given, ctx.live_shape = given, x.shape
        ctx.borrowed_shape = None if trunk_kv is None else trunk_kv.shape
        ctx.n_kept_by_attention = len(kept_by_attention)
        ctx.save_for_backward(*kept_by_attention, *kept_by_mlp)
        ctx.set_materialize_grads(False)
        lent = lent_kv.view(tiles.n_own_trunk, n_runs, lent_kv.shape[-1]) if given.lends_trunk else None
        return y.view(tiles.n_queries, n_runs, y.shape[-1]), lent

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_lent_kv: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        kept, n = ctx.saved_tensors, ctx.n_kept_by_attention
        given: BlockInput = ctx.given
        width = dy.shape[-1]
        # The forward pass left autocast outside; a backward pass may be called within.
        with _Outside(dy.device.type):
            d_attended = _mlp_backward(dy.reshape(-1, width), given.block, kept[n:])
            d_lent = None if d_lent_kv is None else d_lent_kv.reshape(-1, 2 * width)
            d_rows, d_trunk_kv = _attention_backward(d_attended, d_lent, given, kept[:n])
        return (
            d_rows.view(ctx.live_shape),
            None if ctx.borrowed_shape is None else d_trunk_kv.view(ctx.borrowed_shape),
            None,
        )


class _Outside:
    """Autocast off, at no cost where it is off already."""

    def __init__(self, device_type: str) -> None:
        self._autocast = torch.autocast(device_type, enabled=False) if torch.is_autocast_enabled(device_type) else None

    def __enter__(self) -> None:
        if self._autocast is not None:
            self._autocast.__enter__()

    def __exit__(self, *exception: Any) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(*exception)


def _attention_forward(
    rows: Tensor, trunk_kv: Tensor | None, given: BlockInput
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """`[n_queries*R W]` with attention added, the keys and values `[P*R 2W]` of own trunk rows, what backward needs."""
    block, tiles, fixed, n_runs = given.block, given.tiles, given.fixed, given.tiles.n_runs
    normed, mean, rstd = block.ln_1.forward(rows)
    kv = _keys_and_values(normed, trunk_kv, given)
    key_value = in_dtype(tiles.keys_and_values(kv), rows.dtype)
    first_query = tiles.first_query * n_runs
    query = block.query.forward(normed[first_query:]).add_(block.query_bias)
    query = in_dtype(tiles.queries(_with_fixed(query, fixed.query if fixed else None, tiles)), rows.dtype)
    key, value = key_value.unbind(0)
    scores = torch.bmm(query, key.transpose(1, 2))
    tiles.hide(scores)
    weights = torch.softmax(scores, dim=-1)
    attended = tiles.rows_of_queries(torch.bmm(weights, value))
    residual = _with_fixed(rows[first_query:], fixed.x if fixed else None, tiles)
    y = block.out.add_to(residual + block.out_bias, attended)
    n_ahead = len(given.constant_kv) * n_runs
    return y, kv[n_ahead : n_ahead + tiles.n_own_trunk * n_runs], (rows, mean, rstd, query, key_value, weights)


def _attention_backward(
    dy: Tensor, d_lent_kv: Tensor | None, given: BlockInput, kept: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Gradients of the live rows `[n_live*R W]`, and of borrowed trunk keys and values `[P*R 2W]` (P may be 0)."""
    rows, mean, rstd, query, key_value, weights = kept
    block, tiles, n_runs = given.block, given.tiles, given.tiles.n_runs
    n_borrowed = tiles.n_trunk - tiles.n_own_trunk
    d_out = tiles.queries(block.out.backward(dy))
    gradients = tiles.new_key_gradients(query)
    d_key, d_value = tiles.gradients_of_tiles(gradients).unbind(0)
    key, value = key_value.unbind(0)
    d_weights = torch.bmm(d_out, value.transpose(1, 2))
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    torch.bmm(d_scores.transpose(1, 2), query, out=d_key)
    torch.bmm(weights.transpose(1, 2), d_out, out=d_value)
    d_kv = tiles.rows_of_key_gradients(gradients, n_rows=n_borrowed + len(rows) // n_runs)
    d_trunk_kv, d_own_kv = d_kv[: n_borrowed * n_runs], d_kv[n_borrowed * n_runs :]
    if d_lent_kv is not None:
        d_own_kv[: len(d_lent_kv)].add_(d_lent_kv)
    d_normed = block.key_value.backward(d_own_kv)
    first_query = tiles.first_query * n_runs
    n_live_queries = max(len(rows) - first_query, 0)
    if n_live_queries:
        d_query = tiles.rows_of_queries(torch.bmm(d_scores, key))[:n_live_queries]
        block.query.add_backward(d_normed[first_query:], d_query)
    d_rows = block.ln_1.backward(d_normed, rows, mean, rstd)
    if n_live_queries:
        d_rows[first_query:].add_(dy[:n_live_queries])
    return d_rows, d_trunk_kv


def _mlp_forward(rows: Tensor, block: FrozenBlock) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`[n W]` with the MLP added, and what backward needs."""
    normed, mean, rstd = block.ln_2.forward(rows)
    hidden = block.c_fc.forward(normed).add_(block.c_fc_bias)
    y = block.c_proj.add_to(rows + block.c_proj_bias, block.activate(hidden))
    return y, (rows, mean, rstd, hidden)


def _mlp_backward(dy: Tensor, block: FrozenBlock, kept: tuple[Tensor, ...]) -> Tensor:
    """The gradient `[n W]` of the MLP branch's input."""
    rows, mean, rstd, hidden = kept
    d_hidden = block.activate_backward(block.c_proj.backward(in_dtype(dy, hidden.dtype)), hidden)
    d_normed = in_dtype(block.c_fc.backward(d_hidden), dy.dtype)
    return block.ln_2.backward(d_normed, rows, mean, rstd).add_(dy)


def _keys_and_values(normed: Tensor, trunk_kv: Tensor | None, given: BlockInput) -> Tensor:
    """`[(constants + trunk + leaf rows)*R 2W]`, of everything the tiles attend to."""
    n_runs, constants = given.tiles.n_runs, given.constant_kv
    n_ahead = len(constants) + (0 if trunk_kv is None else len(trunk_kv))
    n_live = len(normed) // n_runs
    kv = constants.new_empty(n_ahead + given.tiles.n_rows, n_runs, constants.shape[1])
    kv[: len(constants)] = constants.unsqueeze(1)
    if trunk_kv is not None:
        kv[len(constants) : n_ahead] = trunk_kv
    if given.fixed is not None:
        kv[n_ahead + n_live :] = given.fixed.key_value.unsqueeze(1)
    kv = kv.view(-1, constants.shape[1])
    given.block.key_value.write(normed, out=kv[n_ahead * n_runs : (n_ahead + n_live) * n_runs])
    return kv


def _with_fixed(live: Tensor, fixed: Tensor | None, tiles: HeadTiles) -> Tensor:
    """The queries' rows `[n_queries*R W]`: the live, then the last of the fixed ones `[F W]`, alike for every run."""
    if fixed is None:
        return live
    n_fixed = tiles.n_queries - len(live) // tiles.n_runs
    last = fixed[len(fixed) - n_fixed :].unsqueeze(1).expand(-1, tiles.n_runs, -1)
    return torch.cat([live, last.reshape(-1, live.shape[1])])
