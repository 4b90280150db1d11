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

from prompttune.base.devices import without_autocast
from prompttune.text.engine.frozen_block import FrozenBlock, activate, activate_backward, in_dtype
from prompttune.text.engine.head_tiles import HeadTiles


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
        query = block.query.add_bias_forward(block.ln_1.forward(x)[0], block.query_bias)
        return cls(x=x, query=query[0], key_value=block.keys_and_values(x))


@dataclass(frozen=True)
class BlockInput:
    """What a block takes besides the rows that carry gradients.

    Attributes:
        block: the weights, in the tiles' Z parts.
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
        rows = x.reshape(-1, x.shape[-1])
        attended, lent_kv, kept_by_attention = _attention_forward(rows, trunk_kv, given)
        y, kept_by_mlp = _mlp_forward(attended, given.block)
        ctx.given, ctx.live_shape = given, x.shape
        ctx.borrowed_shape = None if trunk_kv is None else trunk_kv.shape
        ctx.n_kept_by_attention = len(kept_by_attention)
        ctx.save_for_backward(*kept_by_attention, *kept_by_mlp)
        ctx.set_materialize_grads(False)
        return y.view(given.tiles.n_queries, given.tiles.n_runs, y.shape[-1]), lent_kv

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, d_lent_kv: Tensor | None) -> tuple[Tensor, Tensor | None, None]:
        kept, n = ctx.saved_tensors, ctx.n_kept_by_attention
        given: BlockInput = ctx.given
        width = dy.shape[-1]
        # The forward pass left autocast outside; a backward pass may be called within.
        with without_autocast(dy.device.type):
            d_attended = _mlp_backward(dy.reshape(-1, width), given.block, kept[n:])
            d_rows, d_trunk_kv = _attention_backward(d_attended, d_lent_kv, given, kept[:n])
        return (
            d_rows.view(ctx.live_shape),
            None if ctx.borrowed_shape is None else d_trunk_kv.view(ctx.borrowed_shape),
            None,
        )


def _attention_forward(
    rows: Tensor, trunk_kv: Tensor | None, given: BlockInput
) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
    """`[n_queries*R W]` with attention added, the keys and values `[P R 2W]` to lend, what backward needs."""
    block, tiles, fixed = given.block, given.tiles, given.fixed
    normed, mean, rstd = block.ln_1.forward(rows)
    kv, live_kv = _keys_and_values(normed, trunk_kv, given)
    key_value = in_dtype(tiles.keys_and_values(kv), rows.dtype)
    query = block.query.add_bias_forward(_from(tiles.first_query, normed, tiles), block.query_bias)
    query = in_dtype(tiles.queries(query, fixed.query if fixed else None), rows.dtype)
    key, value = key_value.unbind(0)
    weights = torch.softmax(tiles.scores(query, key), dim=-1)
    attended = tiles.attended(torch.bmm(weights, value))
    residual = tiles.residual(rows, fixed.x if fixed else None)
    y = block.out.add_forward(residual + block.out_bias, attended)
    lent = tiles.trunk_of(live_kv).flatten(2) if given.lends_trunk else None
    return y, lent, (rows, mean, rstd, query, key_value, weights)


def _attention_backward(
    dy: Tensor, d_lent_kv: Tensor | None, given: BlockInput, kept: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """Gradients of the live rows `[n_live*R W]`, and of borrowed trunk keys and values `[P R 2W]` (P may be 0)."""
    rows, mean, rstd, query, key_value, weights = kept
    block, tiles = given.block, given.tiles
    d_out = tiles.gradients_of_attended(block.out.backward(dy))
    gradients = tiles.new_key_gradients(query)
    d_key, d_value = tiles.gradients_of_tiles(gradients).unbind(0)
    key, value = key_value.unbind(0)
    d_weights = torch.bmm(d_out, value.transpose(1, 2))
    d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
    torch.bmm(d_scores.transpose(1, 2), query, out=d_key)
    torch.bmm(weights.transpose(1, 2), d_out, out=d_value)
    d_trunk_kv, d_live_kv = tiles.gradients_of_keys(gradients)
    if d_lent_kv is not None:
        trunk = tiles.trunk_of(d_live_kv)
        trunk.add_(d_lent_kv.reshape(trunk.shape))
    d_normed = block.key_value.backward(d_live_kv)
    n_live_queries = max(len(rows) - tiles.first_query * tiles.n_runs, 0)
    if n_live_queries:
        d_query = tiles.gradients_of_queries(torch.bmm(d_scores, key))
        block.query.add_backward(_from(tiles.first_query, d_normed, tiles), d_query)
    d_rows = block.ln_1.backward(d_normed, rows, mean, rstd)
    if n_live_queries:
        _from(tiles.first_query, d_rows, tiles).add_(dy if n_live_queries == len(dy) else dy[:n_live_queries])
    return d_rows, d_trunk_kv


def _mlp_forward(rows: Tensor, block: FrozenBlock) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`[n W]` with the MLP added, and what backward needs."""
    normed, mean, rstd = block.ln_2.forward(rows)
    hidden = block.c_fc.add_bias_forward(normed, block.c_fc_bias)
    y = block.c_proj.add_forward(rows + block.c_proj_bias, activate(hidden, block.activation))
    return y, (rows, mean, rstd, hidden)


def _mlp_backward(dy: Tensor, block: FrozenBlock, kept: tuple[Tensor, ...]) -> Tensor:
    """The gradient `[n W]` of the MLP branch's input."""
    rows, mean, rstd, hidden = kept
    d_activated = block.c_proj.backward(in_dtype(dy, hidden.dtype))
    d_normed = block.c_fc.backward(activate_backward(d_activated, hidden, block.activation))
    return block.ln_2.backward(in_dtype(d_normed, dy.dtype), rows, mean, rstd).add_(dy)


def _keys_and_values(normed: Tensor, trunk_kv: Tensor | None, given: BlockInput) -> tuple[Tensor, Tensor]:
    """Everything the tiles attend to, one behind the other: the constants', a borrowed trunk's, the live rows' and the
    fixed ones'; and the live rows' piece of it, `[Z n_live*R 2W/Z]`."""
    ahead = [given.constant_kv] if trunk_kv is None else [given.constant_kv, trunk_kv]
    behind = [] if given.fixed is None else [given.fixed.key_value]
    n_parts, n_columns = given.tiles.n_parts, given.constant_kv.shape[1]
    sizes = [*(part.numel() for part in ahead), len(normed) * n_columns, *(part.numel() for part in behind)]
    kv = given.constant_kv.new_empty(sum(sizes))
    pieces = list(kv.split(sizes))
    live = pieces.pop(len(ahead)).view(n_parts, len(normed), n_columns // n_parts)
    given.block.key_value.forward(normed, out=live)
    for piece, part in zip(pieces, [*ahead, *behind], strict=True):
        piece.copy_(part.flatten())
    return kv, live


def _from(first: int, rows: Tensor, tiles: HeadTiles) -> Tensor:
    """The runs' rows `[n*R W]` without the first ones."""
    return rows[first * tiles.n_runs :] if first else rows
