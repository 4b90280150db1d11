"""A tiling for R runs and H heads on a device: rows to batches of small matrices and back, one gather each way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.text_engine.layout import Layout
from prompttune.text_engine.tiling import Tiling


@dataclass(frozen=True)
class HeadTiles:
    """Gathers between packed rows `[n R W]` and head tiles `[T*R*H places W/H]`, and what the tiles hide.

    Every index is int64 into rows of one head's width. Places of a tile that no query takes repeat row 0 and see SOS
    alone: a softmax over one key passes no gradient on, and SOS's own is dropped, so they need no masking on the way back.

    Attributes:
        n_rows, n_queries, first_query: N; rows that are queries; the first of them.
        n_own_trunk: trunk rows among the N.
        n_trunk: P, trunk columns, which start at `first_trunk_column`.
        query_index: `[T R H Q]` into queries `[n_queries R H]`.
        key_index: `[T R H K]` into keys and values `[constants + trunk + leaf rows, R, 2, H]`, its keys.
        output_index: `[n_queries R H]` into tiles `[T R H Q]`.
        gradient_index: `[P + leaf rows, R, 2, H]` into the concatenation of tiled key gradients `[T R H K]`, value
            gradients, and the trunk's `[R H P]` of both, summed over tiles.
        hidden: `[T 1 Q K]`, 0 where a query sees a key, minus infinity elsewhere.
    """

    n_rows: int
    n_queries: int
    first_query: int
    n_own_trunk: int
    n_trunk: int
    first_trunk_column: int
    query_index: Tensor
    key_index: Tensor
    output_index: Tensor
    gradient_index: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, layout: Layout, tiling: Tiling, *, n_runs: int, n_heads: int, like: Tensor) -> HeadTiles:
        """The gathers of a tiling, on the device and in the dtype of `like`."""
        runs = torch.arange(n_runs).view(1, -1, 1, 1)
        heads = torch.arange(n_heads).view(1, 1, -1, 1)
        n_tiles, width = tiling.query_rows.shape
        n_columns, n_trunk = tiling.key_rows.shape[1], layout.n_trunk

        def places_in_tiles(places: Tensor, n_places: int) -> Tensor:
            tile, place = (places // n_places).view(-1, 1, 1, 1), (places % n_places).view(-1, 1, 1, 1)
            return ((tile * n_runs + runs) * n_heads + heads) * n_places + place  # [rows R H 1]

        query_rows = torch.from_numpy(tiling.query_rows).view(n_tiles, 1, 1, width)
        key_rows = torch.from_numpy(tiling.key_rows).view(n_tiles, 1, 1, n_columns)
        n_tiled_keys = n_tiles * n_runs * n_heads * n_columns
        leaf_keys = places_in_tiles(torch.from_numpy(tiling.leaf_key_places), n_columns).transpose(2, 3)
        trunk_keys = ((runs * n_heads + heads) * n_trunk + torch.arange(n_trunk).view(-1, 1, 1, 1)).transpose(2, 3)
        gradient_index = torch.cat(
            [
                2 * n_tiled_keys + torch.cat([trunk_keys, trunk_keys + n_runs * n_heads * n_trunk], dim=2),
                torch.cat([leaf_keys, leaf_keys + n_tiled_keys], dim=2),
            ]
        )
        hidden = torch.zeros(tiling.visible.shape, dtype=like.dtype)
        hidden.masked_fill_(~torch.from_numpy(tiling.visible), float("-inf"))
        return cls(
            n_rows=layout.n_rows,
            n_queries=layout.n_rows - tiling.first_query,
            first_query=tiling.first_query,
            n_own_trunk=layout.n_own_trunk,
            n_trunk=n_trunk,
            first_trunk_column=tiling.n_constant_columns,
            query_index=((query_rows * n_runs + runs) * n_heads + heads).to(like.device),
            key_index=((key_rows * n_runs + runs) * 2 * n_heads + heads).to(like.device),
            output_index=places_in_tiles(torch.from_numpy(tiling.query_places), width).to(like.device),
            gradient_index=gradient_index.to(like.device),
            hidden=hidden.unsqueeze(1).to(like.device),
        )

    def queries(self, rows: Tensor) -> Tensor:
        """`[n_queries R W]` -> `[T*R*H Q W/H]`."""
        return self._tiled(rows.reshape(-1, rows.shape[-1] // self._n_heads), self.query_index)

    def keys_and_values(self, kv: Tensor) -> tuple[Tensor, Tensor]:
        """`[constants + trunk + leaf rows, R, 2W]` -> keys and values, both `[T*R*H K W/H]`."""
        heads = kv.view(-1, kv.shape[-1] // (2 * self._n_heads))
        # The value of a key lies H heads behind it.
        return self._tiled(heads, self.key_index), self._tiled(heads[self._n_heads :], self.key_index)

    def hide(self, scores: Tensor) -> None:
        """Puts minus infinity where a query in `scores [T*R*H Q K]` does not see a key, in place."""
        n_tiles, _, n_queries, n_columns = self.hidden.shape
        scores.view(n_tiles, -1, n_queries, n_columns).add_(self.hidden)

    def rows_of_queries(self, tiled: Tensor) -> Tensor:
        """`[T*R*H Q W/H]` -> `[n_queries R W]`."""
        rows = tiled.view(-1, tiled.shape[-1]).index_select(0, self.output_index.view(-1))
        return rows.view(self.n_queries, self.output_index.shape[1], -1)

    def rows_of_keys(self, d_key: Tensor, d_value: Tensor, *, n_rows: int) -> Tensor:
        """Gradients `[n_rows R 2W]` of the keys and values of the first trunk and leaf rows, from both `[T*R*H K W/H]`."""
        n_tiles, n_runs, n_heads, n_columns = self.key_index.shape
        first, width = self.first_trunk_column, d_key.shape[-1]
        tables = [d_key.view(-1, width), d_value.view(-1, width)]
        for table in tuple(tables) if self.n_trunk else ():
            columns = table.view(n_tiles, n_runs * n_heads, n_columns, width)[:, :, first : first + self.n_trunk]
            tables.append(columns.sum(0).view(-1, width))
        index = self.gradient_index[:n_rows].view(-1)
        return torch.cat(tables).index_select(0, index).view(n_rows, n_runs, -1)

    @property
    def _n_heads(self) -> int:
        return self.query_index.shape[2]

    @staticmethod
    def _tiled(heads: Tensor, index: Tensor) -> Tensor:
        return heads.index_select(0, index.view(-1)).view(-1, index.shape[-1], heads.shape[-1])
