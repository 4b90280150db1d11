"""A tiling for R runs and H heads on a device: rows to batches of small matrices and back, one gather each way."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.text_engine.layout import Layout
from prompttune.text_engine.tiling import Tiling


@dataclass(frozen=True)
class HeadTiles:
    """Gathers between packed rows `[n*R W]` and tiles of one head each, `[G Q d]`; G = T*R*H, d = W / H.

    All indices are flat int64 into rows of d numbers. Places of a tile that no query takes repeat row 0 and see SOS
    alone: a softmax over one key passes no gradient on, and SOS's own is dropped, so nothing need mask them on the way
    back.

    Attributes:
        n_rows, n_queries, first_query: N; how many of them are queries; the first of these.
        n_trunk, n_own_trunk: P trunk columns; trunk rows among the N.
        first_trunk_column: where in a tile's K columns the trunk's P start.
        n_runs, n_heads, n_tiles, n_columns: R, H, T, K.
        query_index: into queries `[n_queries R H]`, for `[T R H Q]`.
        key_value_index: into keys and values `[constants + trunk + leaf rows, R, 2, H]`, for `[2 T R H K]`.
        output_index: into tiles `[T R H Q]`, for `[n_queries R H]`.
        gradient_index: into `[2 T R H K]` and, behind it, the trunk's sums `[2 R H P]`, for
            `[trunk + leaf rows, R, 2, H]`.
        hidden: `[T 1 Q K]`, 0 where a query sees a key, minus infinity elsewhere.
    """

    n_rows: int
    n_queries: int
    first_query: int
    n_trunk: int
    n_own_trunk: int
    first_trunk_column: int
    n_runs: int
    n_heads: int
    n_tiles: int
    n_columns: int
    query_index: Tensor
    key_value_index: Tensor
    output_index: Tensor
    gradient_index: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, layout: Layout, tiling: Tiling, *, n_runs: int, n_heads: int, like: Tensor) -> HeadTiles:
        """The gathers of a tiling, on the device and in the dtype of `like`."""
        runs = torch.arange(n_runs).view(1, -1, 1, 1)
        heads = torch.arange(n_heads).view(1, 1, -1, 1)
        n_tiles, n_columns = tiling.key_rows.shape
        query_rows = torch.from_numpy(tiling.query_rows).view(n_tiles, 1, 1, -1)
        key_rows = torch.from_numpy(tiling.key_rows).view(n_tiles, 1, 1, -1)
        keys = (key_rows * n_runs + runs) * 2 * n_heads + heads  # a key's value lies H heads behind it

        def places_in_tiles(places: torch.Tensor, n_places: int) -> Tensor:
            tile, place = (places // n_places).view(-1, 1, 1, 1), (places % n_places).view(-1, 1, 1, 1)
            return ((tile * n_runs + runs) * n_heads + heads) * n_places + place  # [rows R H 1]

        leaf_keys = places_in_tiles(torch.from_numpy(tiling.leaf_key_places), n_columns).transpose(2, 3)
        trunk_sums = (
            (runs * n_heads + heads) * layout.n_trunk + torch.arange(layout.n_trunk).view(-1, 1, 1, 1)
        ).transpose(2, 3)
        n_keys, n_sums = keys.numel(), n_runs * n_heads * layout.n_trunk
        gradients = torch.cat(
            [
                torch.cat([trunk_sums, trunk_sums + n_sums], dim=2) + 2 * n_keys,
                torch.cat([leaf_keys, leaf_keys + n_keys], dim=2),
            ]
        )
        hidden = torch.zeros(tiling.visible.shape, dtype=like.dtype)
        hidden.masked_fill_(~torch.from_numpy(tiling.visible), float("-inf"))
        indices = {
            "query_index": (query_rows * n_runs + runs) * n_heads + heads,
            "key_value_index": torch.stack([keys, keys + n_heads]),
            "output_index": places_in_tiles(torch.from_numpy(tiling.query_places), query_rows.shape[-1]),
            "gradient_index": gradients,
        }
        return cls(
            n_rows=layout.n_rows,
            n_queries=layout.n_rows - tiling.first_query,
            first_query=tiling.first_query,
            n_trunk=layout.n_trunk,
            n_own_trunk=layout.n_own_trunk,
            first_trunk_column=tiling.n_constant_columns,
            n_runs=n_runs,
            n_heads=n_heads,
            n_tiles=n_tiles,
            n_columns=n_columns,
            hidden=hidden.unsqueeze(1).to(like.device),
            **{name: index.flatten().to(like.device) for name, index in indices.items()},
        )

    def queries(self, rows: Tensor) -> Tensor:
        """`[n_queries*R W]` -> `[G Q d]`."""
        width = rows.shape[1] // self.n_heads
        return rows.view(-1, width).index_select(0, self.query_index).view(self._n_matrices, -1, width)

    def keys_and_values(self, kv: Tensor) -> Tensor:
        """`[(constants + trunk + leaf rows)*R 2W]` -> keys and values `[2 G K d]`."""
        width = kv.shape[1] // (2 * self.n_heads)
        tiled = kv.view(-1, width).index_select(0, self.key_value_index)
        return tiled.view(2, self._n_matrices, self.n_columns, width)

    def hide(self, scores: Tensor) -> None:
        """Puts minus infinity where a query in `scores [G Q K]` does not see a key, in place."""
        scores.view(self.n_tiles, -1, scores.shape[1], self.n_columns).add_(self.hidden)

    def rows_of_queries(self, tiled: Tensor) -> Tensor:
        """`[G Q d]` -> `[n_queries*R W]`."""
        width = tiled.shape[-1]
        return tiled.view(-1, width).index_select(0, self.output_index).view(-1, self.n_heads * width)

    def new_key_gradients(self, like: Tensor) -> Tensor:
        """Uninitialised `[2 T*R*H*K + 2 R*H*P, d]`: `gradients_of_tiles`, and room for the trunk's sums behind them."""
        n_sums = self.n_runs * self.n_heads * self.n_trunk
        return like.new_empty(2 * (self._n_matrices * self.n_columns + n_sums), like.shape[-1])

    def gradients_of_tiles(self, gradients: Tensor) -> Tensor:
        """The part `[2 G K d]` of `new_key_gradients` for the tiles' keys and values."""
        n_tiled = 2 * self._n_matrices * self.n_columns
        return gradients[:n_tiled].view(2, self._n_matrices, self.n_columns, -1)

    def rows_of_key_gradients(self, gradients: Tensor, *, n_rows: int) -> Tensor:
        """Gradients `[n_rows*R 2W]` of the keys and values of the first trunk and leaf rows."""
        n_tiled, width = 2 * self._n_matrices * self.n_columns, gradients.shape[-1]
        if self.n_trunk:
            tiled = gradients[:n_tiled].view(2, self.n_tiles, -1, self.n_columns, width)
            first = self.first_trunk_column
            sums = gradients[n_tiled:].view(2, -1, self.n_trunk, width)
            torch.sum(tiled[:, :, :, first : first + self.n_trunk], 1, out=sums)
        index = self.gradient_index[: n_rows * self.n_runs * 2 * self.n_heads]
        return gradients.index_select(0, index).view(-1, 2 * self.n_heads * width)

    @property
    def _n_matrices(self) -> int:
        return self.n_tiles * self.n_runs * self.n_heads
