"""A tiling for R runs and H heads on a device: rows to batches of small matrices and back, one gather each way."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prompttune.text.engine.layout import Layout
from prompttune.text.engine.tiling import Tiling


@dataclass(frozen=True)
class Heads:
    """How rows fall apart into vectors of one head, d numbers each.

    Attributes:
        n_runs, n_heads, n_parts: R, H, and the Z parts, of H/Z heads each, in which products leave their columns.
        width: d.
    """

    n_runs: int
    n_heads: int
    n_parts: int
    width: int

    def of_rows(self, rows: Tensor, *, n_rows: int, n_columns: int) -> Tensor:
        """Where in `[Z n_rows R n_columns/Z]` the vectors of `rows`, a tensor of int64, are: `[*rows R n_columns]`."""
        run = torch.arange(self.n_runs).view(-1, 1)
        column = torch.arange(n_columns)
        per_part = n_columns // self.n_parts
        part = column // per_part
        rows = rows[..., None, None]
        return ((part * n_rows + rows) * self.n_runs + run) * per_part + column % per_part

    def of_constants(self, rows: Tensor, *, n_columns: int) -> Tensor:
        """Where in `[rows n_columns]`, the same for every run, they are: `[*rows R n_columns]`."""
        return (rows[..., None, None] * n_columns + torch.arange(n_columns)).expand(*rows.shape, self.n_runs, -1)

    def in_tiles(self, places: Tensor, *, n_places: int, n_columns: int) -> Tensor:
        """For a gather out of tiles, laid out flat as `[T R n_columns n_places]`: the indices `[n R n_columns]` of the
        vectors that every run and column has at each of n `places`.

        Args:
            places: `[n]`, each `tile * n_places + place in the tile`.
        """
        tile, place = (places // n_places).view(-1, 1, 1), (places % n_places).view(-1, 1, 1)
        run = torch.arange(self.n_runs).view(-1, 1)
        return ((tile * self.n_runs + run) * n_columns + torch.arange(n_columns)) * n_places + place

    def whole(self) -> Heads:
        """The same in one part."""
        return replace(self, n_parts=1)

    def in_parts(self, index: Tensor) -> Tensor:
        """`[n R columns]` in the order of rows in parts, `[Z n R columns/Z]`."""
        return index.unflatten(2, (self.n_parts, -1)).permute(2, 0, 1, 3)


@dataclass(frozen=True)
class HeadTiles:
    """Gathers between rows in parts `[Z n*R W/Z]` and tiles of one head each, `[G Q d]`; G = T*R*H, d = W / H.

    Every gather is between flat vectors of d numbers, so that parts (see `frozen_block.py`) cost nothing here. Places
    of a tile that no query takes repeat row 0 and see SOS alone: a softmax over one key passes no gradient on, and
    SOS's own is dropped, so nothing need mask them on the way back.

    Attributes:
        n_live, n_queries, first_query: rows that carry gradients; how many rows are queries, and the first of them.
        n_trunk, n_own_trunk: P trunk columns; trunk rows among the live ones.
        first_trunk_column: where in a tile's K columns the trunk's P start.
        n_tiles, n_columns: T, K.
        heads: R, H, Z and d.
        query_index: into queries, the live `[Z live queries R H/Z]` and the fixed `[F H]`, for tiles: `[G Q]`.
        key_value_index: into the constants' keys and values `[constants 2 H]`, a borrowed trunk's `[P R 2 H]`, the live
            rows' `[Z n_live R 2H/Z]` and the fixed ones' `[F 2 H]`, for tiles: `[2 G K]`.
        attended_index: into tiles `[T R H Q]`, for `[Z n_queries R H/Z]`.
        attended_gradient_index: into `[Z n_queries R H/Z]`, for tiles `[T R H Q]`.
        query_gradient_index: into tiles `[T R H Q]`, for `[Z live queries R H/Z]`.
        key_gradient_index: into `[2 T R H K]` and, behind it, the trunk's sums `[2 R H P]`, for a borrowed trunk's
            `[P R 2 H]` and the live rows' `[Z n_live R 2H/Z]`.
        hidden: `[T 1 Q K]`, 0 where a query sees a key, minus infinity elsewhere.
    """

    n_live: int
    n_queries: int
    first_query: int
    n_trunk: int
    n_own_trunk: int
    first_trunk_column: int
    n_tiles: int
    n_columns: int
    heads: Heads
    query_index: Tensor
    key_value_index: Tensor
    attended_index: Tensor
    attended_gradient_index: Tensor
    query_gradient_index: Tensor
    key_gradient_index: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, layout: Layout, tiling: Tiling, *, heads: Heads, n_live: int, like: Tensor) -> HeadTiles:
        """The gathers of a tiling whose first `n_live` rows carry gradients; device and dtype are those of `like`."""
        hidden = torch.zeros(tiling.visible.shape, dtype=like.dtype)
        hidden = hidden.masked_fill_(~torch.from_numpy(tiling.visible), float("-inf")).unsqueeze(1).to(like.device)
        n_tiles, n_columns = tiling.key_rows.shape
        n_queries = layout.n_rows - tiling.first_query
        indices = {
            **_query_indices(tiling, heads, n_live=n_live, n_queries=n_queries),
            **_key_indices(layout, tiling, heads, n_live),
        }
        return cls(
            n_live=n_live,
            n_queries=n_queries,
            first_query=tiling.first_query,
            n_trunk=layout.n_trunk,
            n_own_trunk=layout.n_own_trunk,
            first_trunk_column=tiling.n_constant_columns,
            n_tiles=n_tiles,
            n_columns=n_columns,
            heads=heads,
            hidden=hidden,
            **{name: index.to(like.device) for name, index in indices.items()},
        )

    @property
    def n_runs(self) -> int:
        """R."""
        return self.heads.n_runs

    @property
    def n_parts(self) -> int:
        """Z."""
        return self.heads.n_parts

    def queries(self, live: Tensor, fixed: Tensor | None) -> Tensor:
        """Queries of the live rows `[Z live queries*R W/Z]` and of fixed ones `[F W]` -> `[G Q d]`."""
        vectors = self._vectors(live) if fixed is None else torch.cat([self._vectors(live), self._vectors(fixed)])
        return torch.embedding(vectors, self.query_index)

    def keys_and_values(self, kv: Tensor) -> Tensor:
        """The four pieces of `key_value_index`, one behind the other -> keys and values `[2 G K d]`."""
        return torch.embedding(self._vectors(kv), self.key_value_index)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Scores `[G Q K]` of `query [G Q d]` and `key [G K d]`, minus infinity where a query does not see a key."""
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.view(self.n_tiles, -1, scores.shape[1], self.n_columns).add_(self.hidden)
        return scores

    def residual(self, rows: Tensor, fixed: Tensor | None) -> Tensor:
        """The queries' rows `[n_queries*R W]`: of the live `rows`, then the last of the fixed `[F W]`, alike for every
        run."""
        live = rows[self.first_query * self.n_runs :]
        if fixed is None:
            return live
        n_fixed = self.n_queries - len(live) // self.n_runs
        last = fixed[len(fixed) - n_fixed :].unsqueeze(1).expand(-1, self.n_runs, -1)
        return torch.cat([live, last.reshape(-1, rows.shape[1])])

    def attended(self, tiled: Tensor) -> Tensor:
        """`[G Q d]` -> `[Z n_queries*R W/Z]`."""
        return self._rows(tiled, self.attended_index)

    def gradients_of_attended(self, gradients: Tensor) -> Tensor:
        """`[Z n_queries*R W/Z]` -> `[G Q d]`."""
        return torch.embedding(self._vectors(gradients), self.attended_gradient_index)

    def gradients_of_queries(self, gradients: Tensor) -> Tensor:
        """`[G Q d]` -> the live queries' `[Z live queries*R W/Z]`."""
        return self._rows(gradients, self.query_gradient_index)

    def new_key_gradients(self, like: Tensor) -> Tensor:
        """Uninitialised `[2 T*R*H*K + 2 R*H*P, d]`: `gradients_of_tiles`, and room for the trunk's sums behind them."""
        n_sums = self.heads.n_runs * self.heads.n_heads * self.n_trunk
        return like.new_empty(2 * (self._n_matrices * self.n_columns + n_sums), self.heads.width)

    def gradients_of_tiles(self, gradients: Tensor) -> Tensor:
        """The part `[2 G K d]` of `new_key_gradients` for the tiles' keys and values."""
        n_tiled = 2 * self._n_matrices * self.n_columns
        return gradients[:n_tiled].view(2, self._n_matrices, self.n_columns, -1)

    def gradients_of_keys(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Of keys and values: the borrowed trunk's `[P R 2W]` (P 0 where it is not borrowed), the live rows'
        `[Z n_live*R 2W/Z]`."""
        n_tiled, width = 2 * self._n_matrices * self.n_columns, self.heads.width
        if self.n_trunk:
            tiled = gradients[:n_tiled].view(2, self.n_tiles, -1, self.n_columns, width)
            first = self.first_trunk_column
            sums = gradients[n_tiled:].view(2, -1, self.n_trunk, width)
            torch.sum(tiled[:, :, :, first : first + self.n_trunk], 1, out=sums)
        found = gradients.index_select(0, self.key_gradient_index)
        n_borrowed, columns = self.n_trunk - self.n_own_trunk, 2 * self.heads.n_heads
        n_first = n_borrowed * self.n_runs * columns
        borrowed = found[:n_first].view(n_borrowed, self.n_runs, columns * width)
        return borrowed, found[n_first:].view(self.n_parts, self.n_live * self.n_runs, columns // self.n_parts * width)

    def trunk_of(self, kv: Tensor) -> Tensor:
        """The own trunk's rows of keys and values `[Z n_live*R 2W/Z]`, a view `[P R Z 2W/Z]`."""
        rows = kv.view(self.n_parts, self.n_live, self.n_runs, kv.shape[2])
        return rows[:, : self.n_own_trunk].permute(1, 2, 0, 3)

    @property
    def _n_matrices(self) -> int:
        return self.n_tiles * self.heads.n_runs * self.heads.n_heads

    def _vectors(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.heads.width)

    def _rows(self, tiled: Tensor, index: Tensor) -> Tensor:
        rows = self._vectors(tiled).index_select(0, index)
        return rows.view(self.n_parts, -1, self.heads.n_heads // self.n_parts * self.heads.width)


def _query_indices(tiling: Tiling, heads: Heads, *, n_live: int, n_queries: int) -> dict[str, Tensor]:
    """The gathers of queries and of what they attended to; `n_live` rows carry gradients."""
    n_live_queries = max(n_live - tiling.first_query, 0)
    rows = torch.from_numpy(tiling.query_rows)  # [T Q]
    live = heads.of_rows(rows, n_rows=n_live_queries, n_columns=heads.n_heads)
    fixed = heads.of_constants(rows + tiling.first_query - n_live, n_columns=heads.n_heads)
    first_fixed = n_live_queries * heads.n_runs * heads.n_heads
    queries = torch.where(rows[..., None, None] < n_live_queries, live, fixed + first_fixed)
    attended_gradients = heads.of_rows(rows, n_rows=n_queries, n_columns=heads.n_heads)
    attended = heads.in_tiles(torch.from_numpy(tiling.query_places), n_places=rows.shape[1], n_columns=heads.n_heads)
    return {
        "query_index": queries.permute(0, 2, 3, 1).flatten(0, 2),
        "attended_index": heads.in_parts(attended).flatten(),
        "attended_gradient_index": attended_gradients.permute(0, 2, 3, 1).flatten(0, 2),
        "query_gradient_index": heads.in_parts(attended[:n_live_queries]).flatten(),
    }


def _key_indices(layout: Layout, tiling: Tiling, heads: Heads, n_live: int) -> dict[str, Tensor]:
    """The gathers of keys and values, and of their gradients; `n_live` rows carry gradients."""
    n_columns, n_constants = 2 * heads.n_heads, len(layout.constants)
    n_ahead = n_constants + layout.n_trunk - layout.n_own_trunk  # keys that are no rows of the layout
    rows = torch.from_numpy(tiling.key_rows)  # [T K]
    constants = heads.of_constants(rows, n_columns=n_columns)
    start = n_constants * n_columns
    borrowed = heads.whole().of_rows(rows - n_constants, n_rows=layout.n_trunk, n_columns=n_columns) + start
    start += (n_ahead - n_constants) * heads.n_runs * n_columns
    live = heads.of_rows(rows - n_ahead, n_rows=n_live, n_columns=n_columns) + start
    start += n_live * heads.n_runs * n_columns
    fixed = heads.of_constants(rows - n_ahead - n_live, n_columns=n_columns) + start
    kind = rows[..., None, None]
    keys = torch.where(kind < n_ahead + n_live, live, fixed)
    keys = torch.where(kind < n_ahead, borrowed, keys)
    keys = torch.where(kind < n_constants, constants, keys)  # [T K R 2H]

    n_keys = tiling.key_rows.size * heads.n_runs * heads.n_heads
    places = torch.from_numpy(tiling.leaf_key_places)
    leaves = heads.in_tiles(places, n_places=rows.shape[1], n_columns=heads.n_heads)  # [leaf rows R H]
    trunk = torch.arange(layout.n_trunk).view(-1, 1, 1)
    of_head = torch.arange(heads.n_runs * heads.n_heads).view(heads.n_runs, heads.n_heads)
    sums = of_head * layout.n_trunk + trunk  # [P R H]
    n_sums = layout.n_trunk * heads.n_runs * heads.n_heads
    gradients = torch.cat(
        [torch.cat([sums, sums + n_sums], dim=2) + 2 * n_keys, torch.cat([leaves, leaves + n_keys], dim=2)]
    )
    n_borrowed = n_ahead - n_constants
    of_live = heads.in_parts(gradients[n_borrowed : n_borrowed + n_live])
    return {
        "key_value_index": keys.unflatten(3, (2, -1)).permute(3, 0, 2, 4, 1).flatten(1, 3),
        "key_gradient_index": torch.cat([gradients[:n_borrowed].flatten(), of_live.flatten()]),
    }
