"""The gathers of a fused pass: those of `head_tiles.py`, where queries, keys and values are one row of 3W numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

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
        index: into a `Space`, for the tiles' queries `[G Q]` and keys and values `[2 G K]` behind them.
        attended_index: into a vector (1, 0, ..) and tiles `[T R H Q]` behind it, for `[n_queries R H + 1]`.
        gradient_index: into the tiles' `[G Q]` and `[2 G K]`, the trunk's sums `[2 R H P]`, and a zero behind them, for
            a borrowed trunk's `[P R 2H]` and the live rows' `[n_live R 3H]`.
        hidden: `[G Q K]`, 0 where a query sees a key, minus infinity elsewhere.
    """

    heads: HeadTiles
    index: Tensor
    attended_index: Tensor
    gradient_index: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, tiles: HeadTiles, places: Places, *, dtype: torch.dtype, like: FusedTiles | None = None) -> FusedTiles:
        """The gathers of tiles in one part; attention runs in `dtype`.

        like: another block's, of the same tiles.
        """
        index = torch.cat([_queries_in_space(tiles, places), _keys_in_space(tiles, places)])
        if like is not None:
            return replace(like, index=index)
        n_runs, n_heads = tiles.n_runs, tiles.heads.n_heads
        n_of_tile = n_runs * n_heads
        hidden = tiles.hidden.to(dtype).expand(-1, n_of_tile, -1, -1).flatten(0, 1)
        attended = tiles.attended_index.view(-1, n_heads) + 1
        return cls(
            heads=tiles,
            index=index,
            attended_index=torch.cat([attended, torch.zeros_like(attended[:, :1])], dim=1).flatten(),
            gradient_index=_gradients(tiles),
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

    def tiled(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[G Q d]`, keys and values `[G K d]`, out of a `Space`."""
        return self.split(vectors.index_select(0, self.index))

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The tiles' queries `[G Q d]`, keys and values `[G K d]` at the beginning of `vectors`, views."""
        n_matrices, n_queries, n_keys = self.hidden.shape
        width, first = vectors.shape[1], n_matrices * n_queries
        keys_values = vectors[first : first + 2 * n_matrices * n_keys].view(2, n_matrices, n_keys, width)
        return vectors[:first].view(n_matrices, n_queries, width), keys_values[0], keys_values[1]

    def gradients_of_attended(self, gradients: Tensor) -> Tensor:
        """`[n_queries*R W]` -> `[G Q d]`."""
        vectors = gradients.view(-1, self.heads.heads.width)
        return vectors.index_select(0, self.heads.attended_gradient_index.flatten()).view(*self.hidden.shape[:2], -1)

    def new_gradients(self, like: Tensor) -> Tensor:
        """What `gradient_index` is for, `[n d]`, to be filled; its zero is one already."""
        n_matrices, n_queries, n_keys = self.hidden.shape
        n_sums = self.n_runs * self.heads.heads.n_heads * self.heads.n_trunk
        n_tiled = n_matrices * (n_queries + 2 * n_keys)
        has_zero = min(self.heads.first_query, self.heads.n_live) > 0
        found = like.new_empty(n_tiled + 2 * n_sums + has_zero, self.heads.heads.width)
        if has_zero:
            found[-1].zero_()
        return found

    def gradients_of_rows(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """Of `new_gradients`: the borrowed trunk's `[P R 2W]` (P 0 where it is not borrowed), the live rows'
        `[n_live*R 3W]`."""
        tiles, width = self.heads, self.heads.heads.width
        tiles.sum_trunk(found[self.n_queries_in_tiles :])
        rows = found.index_select(0, self.gradient_index)
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


def _gradients(tiles: HeadTiles) -> Tensor:
    n_heads, n_runs = tiles.heads.n_heads, tiles.n_runs
    n_places = tiles.n_tiles * n_runs * n_heads
    n_queries = tiles.query_index.numel()
    n_sums = n_runs * n_heads * tiles.n_trunk
    zero = n_queries + 2 * n_places * tiles.n_columns + 2 * n_sums
    n_borrowed = (tiles.n_trunk - tiles.n_own_trunk) * n_runs * 2 * n_heads
    keys = tiles.key_gradient_index + n_queries
    n_without = min(tiles.first_query, tiles.n_live)
    queries = tiles.query_gradient_index.view(max(tiles.n_live - tiles.first_query, 0), n_runs, n_heads)
    queries = torch.cat([queries.new_full((n_without, n_runs, n_heads), zero), queries])
    live = torch.cat([queries, keys[n_borrowed:].view(tiles.n_live, n_runs, 2 * n_heads)], dim=2)
    return torch.cat([keys[:n_borrowed], live.flatten()])
