"""The gathers of a fused pass: those of `head_tiles.py`, where queries, keys and values are one row of 3W numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from prompttune.text.engine.head_tiles import HeadTiles


@dataclass(frozen=True)
class Places:
    """Where in a `Space`, counted in vectors of d numbers, a block finds its own.

    Attributes:
        constants, fixed, borrowed, live: the first of each.
        n_constants: C, constant rows.
    """

    constants: int
    fixed: int
    borrowed: int
    live: int
    n_constants: int


@dataclass(frozen=True)
class FusedTiles:
    """See `HeadTiles`, whose letters these are; Z is 1.

    Attributes:
        heads: the same gathers for queries, keys and values apart.
        index: into a `Space`, for the tiles' keys and values `[2 G K]` and queries `[G Q]` behind them.
        attended_index: into a vector (1, 0, ..) and tiles `[T R H Q]` behind it, for `[n_queries R H + 1]`.
        gradient_index: into the tiles' `[2 G K]` and `[G Q]`, what is added up for each vector of a borrowed trunk's
            `[P R 2H]` and of the live rows' `[n_live R 3H]`, one behind the other: a trunk's have one in every tile,
            queries that no tile has none.
        gradient_offsets: where in `gradient_index` each begins, and its end.
        hidden: `[G Q K]`, 0 where a query sees a key, minus infinity elsewhere.
    """

    heads: HeadTiles
    index: Tensor
    attended_index: Tensor
    gradient_index: Tensor
    gradient_offsets: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, tiles: HeadTiles, places: Places, *, dtype: torch.dtype, like: FusedTiles | None = None) -> FusedTiles:
        """The gathers of tiles in one part; attention runs in `dtype`.

        like: another block's, of the same tiles.
        """
        index = torch.cat([_keys_in_space(tiles, places), _queries_in_space(tiles, places)])
        if like is not None:
            return replace(like, index=index)
        n_runs, n_heads = tiles.n_runs, tiles.heads.n_heads
        n_of_tile = n_runs * n_heads
        hidden = tiles.hidden.to(dtype).expand(-1, n_of_tile, -1, -1).flatten(0, 1)
        attended = tiles.attended_index.view(-1, n_heads) + 1
        gradient_index, gradient_offsets = _gradients(tiles)
        return cls(
            heads=tiles,
            index=index,
            attended_index=torch.cat([attended, torch.zeros_like(attended[:, :1])], dim=1).flatten(),
            gradient_index=gradient_index,
            gradient_offsets=gradient_offsets,
            hidden=hidden,
        )

    @property
    def n_runs(self) -> int:
        """R."""
        return self.heads.n_runs

    @property
    def n_queries_in_tiles(self) -> int:
        """G Q."""
        return self.hidden.shape[0] * self.hidden.shape[1]

    def live(self, vectors: Tensor, first: int) -> Tensor:
        """The live rows' place in a `Space`, `[n_live*R 3W]`."""
        n_rows = self.heads.n_live * self.n_runs
        columns = 3 * self.heads.heads.n_heads
        return vectors[first : first + n_rows * columns].view(n_rows, columns * vectors.shape[1])

    def borrowed(self, vectors: Tensor, first: int) -> Tensor:
        """The borrowed trunk's, `[P R*2W]`."""
        n_rows = self.heads.n_trunk - self.heads.n_own_trunk
        columns = 2 * self.heads.heads.n_heads * self.n_runs
        return vectors[first : first + n_rows * columns].view(n_rows, columns * vectors.shape[1])

    def own_trunk_kv(self, live: Tensor) -> Tensor:
        """The own trunk's keys and values `[P R 2W]` in live rows `[n_live*R 3W]`, a view."""
        rows = live.view(self.heads.n_live, self.n_runs, live.shape[1])
        return rows[: self.heads.n_own_trunk, :, rows.shape[-1] // 3 :]

    def tiled(self, vectors: Tensor) -> Tensor:
        """The tiles' vectors out of a `Space`, and room behind them for as many as queries: `[2 G K + 2 G Q, d]`."""
        n_found = len(self.index)
        tiled = vectors.new_empty(n_found + self.n_queries_in_tiles, vectors.shape[1])
        torch.index_select(vectors, 0, self.index, out=tiled[:n_found])
        return tiled

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values `[2 G K d]` in `vectors`, and the n times `[G Q d]` behind them, `[n G Q d]`; views."""
        n_matrices, n_queries, n_keys = self.hidden.shape
        width, first = vectors.shape[1], 2 * n_matrices * n_keys
        key_value = vectors[:first].view(2, n_matrices, n_keys, width)
        return key_value, vectors[first:].view(-1, n_matrices, n_queries, width)

    def gradients_of_attended(self, gradients: Tensor, *, out: Tensor) -> None:
        """`[n_queries*R W]` -> `[G Q d]`."""
        width = self.heads.heads.width
        index = self.heads.attended_gradient_index.flatten()
        torch.index_select(gradients.view(-1, width), 0, index, out=out.view(-1, width))

    def new_gradients(self, like: Tensor) -> Tensor:
        """What `gradient_index` is for, to be filled: `[2 G K + G Q, d]`."""
        return like.new_empty(len(self.index), self.heads.heads.width)

    def gradients_of_rows(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Of `new_gradients`: the borrowed trunk's `[P R 2W]` (P 0 where it is not borrowed), the live rows'
        `[n_live*R 3W]`."""
        tiles, width = self.heads, self.heads.heads.width
        rows = F.embedding_bag(self.gradient_index, found, self.gradient_offsets, mode="sum", include_last_offset=True)
        n_borrowed = (tiles.n_trunk - tiles.n_own_trunk) * self.n_runs * 2 * tiles.heads.n_heads
        return rows[:n_borrowed], rows[n_borrowed:].view(tiles.n_live * self.n_runs, 3 * tiles.heads.n_heads * width)

    def add_to_queries(self, d_rows: Tensor, dy: Tensor) -> Tensor:
        """Adds `dy [n_queries*R W]` to those of the live rows `[n_live*R W]` that are queries, in place."""
        own = d_rows[self.heads.first_query * self.n_runs :]
        if len(own):
            own.add_(dy[: len(own)])
        return d_rows


def _queries_in_space(tiles: HeadTiles, places: Places) -> Tensor:
    n_heads, index = tiles.heads.n_heads, tiles.query_index.flatten()
    n_live = max(tiles.n_live - tiles.first_query, 0) * tiles.n_runs * n_heads

    def wide(vector: Tensor) -> Tensor:
        return vector // n_heads * (3 * n_heads) + vector % n_heads

    first = places.live + tiles.first_query * tiles.n_runs * 3 * n_heads
    return torch.where(index < n_live, first + wide(index), places.fixed + wide(index - n_live))


def _keys_in_space(tiles: HeadTiles, places: Places) -> Tensor:
    n_heads, index = tiles.heads.n_heads, tiles.key_value_index.flatten()
    columns = 2 * n_heads
    borrowed = places.n_constants * columns
    live = borrowed + (tiles.n_trunk - tiles.n_own_trunk) * tiles.n_runs * columns
    fixed = live + tiles.n_live * tiles.n_runs * columns

    def wide(vector: Tensor) -> Tensor:
        return vector // columns * (3 * n_heads) + n_heads + vector % columns

    found = torch.where(index < fixed, places.live + wide(index - live), places.fixed + wide(index - fixed))
    found = torch.where(index < live, places.borrowed + index - borrowed, found)
    return torch.where(index < borrowed, places.constants + wide(index), found)


def _gradients(tiles: HeadTiles) -> tuple[Tensor, Tensor]:
    """`gradient_index` and `gradient_offsets` of `FusedTiles`."""
    n_heads, n_runs, n_live = tiles.heads.n_heads, tiles.n_runs, tiles.n_live
    n_of_tile, n_trunk = n_runs * n_heads, tiles.n_trunk
    n_keys = 2 * tiles.n_tiles * n_of_tile * tiles.n_columns
    n_borrowed = (n_trunk - tiles.n_own_trunk) * n_runs * 2 * n_heads
    keys = tiles.key_gradient_index
    n_without, none = min(tiles.first_query, n_live), -1
    queries = (tiles.query_gradient_index + n_keys).view(n_live - n_without, n_runs, n_heads)
    queries = torch.cat([queries.new_full((n_without, n_runs, n_heads), none), queries])
    live = torch.cat([queries, keys[n_borrowed:].view(n_live, n_runs, 2 * n_heads)], dim=2)
    index = torch.cat([keys[:n_borrowed], live.flatten()])
    # What `HeadTiles` finds behind the keys are the trunk's sums over all tiles, `[2 R H P]`.
    is_query = torch.zeros_like(index, dtype=torch.bool)
    is_query[n_borrowed:].view(n_live * n_runs, 3 * n_heads)[:, :n_heads] = True
    is_sum = ~is_query & (index >= n_keys)
    counts = torch.ones_like(index).masked_fill_(is_sum, tiles.n_tiles).masked_fill_(index == none, 0)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    n_all = len(index) - n_without * n_of_tile + (tiles.n_tiles - 1) * n_trunk * 2 * n_of_tile
    index, is_sum, first = (one.repeat_interleave(counts, output_size=n_all) for one in (index, is_sum, offsets[:-1]))
    tile = torch.arange(n_all, device=index.device) - first
    place = index - n_keys
    which, column = place.div(max(n_trunk, 1), rounding_mode="floor"), place % max(n_trunk, 1)
    kind = which.div(n_of_tile, rounding_mode="floor")
    matrix = (kind * tiles.n_tiles + tile) * n_of_tile + which % n_of_tile
    of_sum = matrix * tiles.n_columns + tiles.first_trunk_column + column
    return torch.where(is_sum, of_sum, index), offsets
