"""Attention of a layout's rows as one batch of small dense tiles: which row sits where, and who may see whom."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prompttune.text.engine.layout import Layout, Tile


@dataclass(frozen=True)
class Tiling:
    """Attention of the rows `[first_query, N)`; T tiles with places for Q queries and K keys each.

    Attributes:
        first_query: rows before it serve as keys and values alone.
        query_rows: int64 `[T Q]`, row minus first_query; 0 in a place nobody takes.
        key_rows: int64 `[T K]`. Keys are numbered constants, trunk, leaf rows; a place nobody takes has SOS.
            Columns come in the same order: constants, trunk (all of it, in every tile), leaf rows of the tile.
        visible: bool `[T Q K]`: the key is on the query's path, and nothing hides it. A place without a query sees SOS.
        query_places: int64 `[N - first_query]`, where in the flattened `[T Q]` each query is.
        leaf_key_places: int64 `[leaf rows]`, where in the flattened `[T K]` each leaf row's own key is.
        n_constant_columns: columns before the trunk's.
        n_visible: keys on the paths of all queries, summed; what exact attention computes.
    """

    first_query: int
    query_rows: np.ndarray
    key_rows: np.ndarray
    visible: np.ndarray
    query_places: np.ndarray
    leaf_key_places: np.ndarray
    n_constant_columns: int
    n_visible: int


@dataclass(frozen=True)
class _TileKeys:
    """Columns of one tile: `{constant: column}`, `{leaf row: column}`, and per query row the columns it sees."""

    constants: dict[int, int]
    leaves: dict[int, int]
    sight: dict[int, set[int]]


def build_tiling(layout: Layout, *, first_query: int, tile_rows: int) -> Tiling:
    """The attention of rows `[first_query, n_rows)` of a layout; `tile_rows` bounds the trunk's own tiles."""
    n_constant_columns = max(len(_constants_of(tile)) for tile in layout.tiles)
    first_leaf_column = n_constant_columns + layout.n_trunk
    constant_index = {name: index for index, name in enumerate(layout.constants)}
    tiles = [_leaf_tile(tile, constant_index, n_constant_columns, layout.n_trunk) for tile in layout.tiles]
    tiles += _trunk_tiles(range(first_query, layout.n_own_trunk), n_constant_columns, tile_rows)
    queries = [sorted(row for row in tile.sight if row >= first_query) for tile in tiles]

    n_tiles, n_queries = len(tiles), layout.n_rows - first_query
    width = max(len(rows) for rows in queries)
    n_columns = first_leaf_column + max(len(tile.leaves) for tile in tiles)
    query_rows = np.zeros((n_tiles, width), dtype=np.int64)
    key_rows = np.zeros((n_tiles, n_columns), dtype=np.int64)
    key_rows[:, n_constant_columns:first_leaf_column] = len(layout.constants) + np.arange(layout.n_trunk)
    visible = np.zeros((n_tiles, width, n_columns), dtype=bool)
    query_places = np.empty(n_queries, dtype=np.int64)
    leaf_key_places = np.empty(layout.n_rows - layout.n_own_trunk, dtype=np.int64)
    n_visible = 0
    for t, (tile, rows) in enumerate(zip(tiles, queries, strict=True)):
        query_rows[t, : len(rows)] = np.array(rows) - first_query
        query_places[np.array(rows) - first_query] = t * width + np.arange(len(rows))
        for constant, column in tile.constants.items():
            key_rows[t, column] = constant
        for row, column in tile.leaves.items():
            leaf = row - layout.n_own_trunk
            key_rows[t, column] = len(layout.constants) + layout.n_trunk + leaf
            leaf_key_places[leaf] = t * n_columns + column
        for place, row in enumerate(rows):
            visible[t, place, list(tile.sight[row])] = True
            n_visible += len(tile.sight[row])
        visible[t, len(rows) :, 0] = True
    return Tiling(
        first_query=first_query,
        query_rows=query_rows,
        key_rows=key_rows,
        visible=visible,
        query_places=query_places,
        leaf_key_places=leaf_key_places,
        n_constant_columns=n_constant_columns,
        n_visible=n_visible,
    )


def _constants_of(tile: Tile) -> dict[tuple[int, ...], None]:
    return dict.fromkeys(name for path in tile.paths for name in path.constants)


def _leaf_tile(
    tile: Tile, constant_index: dict[tuple[int, ...], int], n_constant_columns: int, n_trunk: int
) -> _TileKeys:
    constants = {constant_index[name]: column for column, name in enumerate(_constants_of(tile))}
    leaf_rows = sorted({row for rows in tile.leaf_rows for row in rows})
    leaves = {row: n_constant_columns + n_trunk + column for column, row in enumerate(leaf_rows)}
    sight: dict[int, set[int]] = {}
    for path, rows in zip(tile.paths, tile.leaf_rows, strict=True):
        on_path = zip(path.constants, path.hidden_constants, strict=True)
        seen = {constants[constant_index[name]] for name, hidden in on_path if not hidden}
        seen.update(range(n_constant_columns, n_constant_columns + path.n_trunk))
        for row, hidden in zip(rows, path.hidden_leaves, strict=True):
            seen = seen if hidden else seen | {leaves[row]}
            sight[row] = seen
    return _TileKeys(constants=constants, leaves=leaves, sight=sight)


def _trunk_tiles(rows: range, n_constant_columns: int, tile_rows: int) -> list[_TileKeys]:
    """The trunk's own rows as queries: each sees SOS and the trunk up to itself."""
    sight = {row: {0, *range(n_constant_columns, n_constant_columns + row + 1)} for row in rows}
    groups = [rows[start : start + tile_rows] for start in range(0, len(rows), tile_rows)]
    return [_TileKeys(constants={0: 0}, leaves={}, sight={row: sight[row] for row in group}) for group in groups]
