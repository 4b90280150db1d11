"""Which rows the text tower computes for some classes: index arithmetic, no floating point.

A CLIP text token depends on the tokens before it alone. So two classes whose prompts begin alike share the rows of that
beginning, and a set of prompts is a tree: SOS is the root, every class is a path, and the row that is read, its EOT, is
a leaf. A row attends to its path. What stands on the path makes three kinds of rows:

- *constant* rows have no context vector on their path (SOS; the whole name when it stands in front). Their keys and
  values never change, so they are no rows of a training step at all.
- *trunk* rows have nothing but shared context vectors behind SOS: every class attends to them.
- *leaf* rows are the rest. They are packed without padding and grouped in *tiles*: a few classes that share rows with
  each other, and with nobody outside but for constants and trunk. Attention runs tile by tile (`tiling.py`).

CoCa's paths go on behind EOT (`Appended`): to the one padding token that is seen, and to the class embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prompttune.text.class_prompts import ClassPrompts
from vidfeat.backbone import TextConfig

SOS: tuple[int, ...] = ()  # a constant row is named by the token ids that lead to it from SOS


@dataclass(frozen=True)
class Sharing:
    """What is the same for all classes at the input of a block.

    Attributes:
        ctx: the rows in the context's place.
        words: rows that equal tokens lead to; no longer once they have attended to rows of a single class.
    """

    ctx: bool
    words: bool


@dataclass(frozen=True)
class Appended:
    """The class embedding behind every text of CoCa's, which is read there, and the mask that comes with it.

    The row behind a padding token is hidden from every row, itself included (see `TextTower`). So of the padding behind
    EOT the first token alone is seen, and the class embedding sees itself where the text leaves no place for padding.

    Attributes:
        class_id, position: its id and position.
        pad_id: the id of padding.
    """

    class_id: int
    position: int
    pad_id: int

    @classmethod
    def of(cls, config: TextConfig) -> Appended | None:
        """That of a tower; None where a text ends with its own tokens."""
        if config.pooling != "class":
            return None
        return cls(class_id=config.vocab_size, position=config.n_positions - 1, pad_id=config.pad_id)

    def behind(self, slots: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """`slots` from position 1 on, with what is seen or read behind them; and all their positions."""
        padding = (self.pad_id,) if len(slots) + 1 < self.position else ()
        ending = (*padding, self.class_id)
        return (*slots, *ending), (*range(1, len(slots) + len(ending)), self.position)

    def hidden(self, slots: tuple[int, ...]) -> tuple[bool, ...]:
        """Which of the rows behind SOS nobody sees."""
        return (False, *(slot == self.pad_id for slot in slots[:-1]))


@dataclass(frozen=True)
class Path:
    """One class's way from SOS to the row that is read.

    Attributes:
        constants: names of the constant rows on it, SOS included.
        n_trunk: trunk rows on it.
        leaf_keys: names of its leaf rows in order; equal names are one row.
        leaf_slots: what stands there, see `ClassPrompts.slots`.
        leaf_positions: where, in the text.
        hidden_constants, hidden_leaves: which of them nobody sees; see `Appended`.
    """

    constants: tuple[tuple[int, ...], ...]
    n_trunk: int
    leaf_keys: tuple[tuple[int, ...], ...]
    leaf_slots: tuple[int, ...]
    leaf_positions: tuple[int, ...]
    hidden_constants: tuple[bool, ...]
    hidden_leaves: tuple[bool, ...]


@dataclass(frozen=True)
class Tile:
    """Some classes' paths, and the row number of every leaf row on them, in the order of the paths."""

    paths: tuple[Path, ...]
    leaf_rows: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Layout:
    """The rows computed for some classes, numbered `[trunk | other context rows | words | one read row per class]`.

    Attributes:
        classes: class indices in the order of the rows that are read.
        constants: names of the constant rows; SOS is the first.
        n_trunk: trunk rows these classes attend to.
        owns_trunk: the trunk's rows are computed here, not with another chunk of classes.
        ctx_sources: int64 `[n_ctx_rows]`: j for context vector j when the context is shared, class * M + j otherwise.
        ctx_positions: int64 `[n_ctx_rows]`, positions in the text.
        word_ids, word_positions: int64 `[N - n_ctx_rows]`, token ids and positions of the other rows.
        word_row_of: `{(class, position): index into word_ids}`.
    """

    classes: tuple[int, ...]
    constants: tuple[tuple[int, ...], ...]
    n_trunk: int
    owns_trunk: bool
    ctx_sources: np.ndarray
    ctx_positions: np.ndarray
    word_ids: np.ndarray
    word_positions: np.ndarray
    word_row_of: dict[tuple[int, int], int]
    tiles: tuple[Tile, ...]

    @property
    def n_ctx_rows(self) -> int:
        """Rows made from context vectors, the trunk's included; they come first."""
        return len(self.ctx_sources)

    @property
    def n_rows(self) -> int:
        """N, rows computed."""
        return len(self.ctx_sources) + len(self.word_ids)

    @property
    def n_own_trunk(self) -> int:
        """Trunk rows among the N rows."""
        return self.n_trunk if self.owns_trunk else 0

    @property
    def first_read(self) -> int:
        """The first row that is read."""
        return self.n_rows - len(self.classes)

    def words_from(self, previous: Layout) -> np.ndarray | None:
        """Which word row of `previous` each word row continues, int64; None when each continues its own."""
        index = np.empty(len(self.word_ids), dtype=np.int64)
        for place, row in self.word_row_of.items():
            index[row] = previous.word_row_of[place]
        unmoved = len(index) == len(previous.word_ids) and np.array_equal(index, np.arange(len(index)))
        return None if unmoved else index


def tree_order(prompts: ClassPrompts) -> list[int]:
    """Class indices such that classes whose prompts begin alike are neighbours."""
    return sorted(range(prompts.n_classes), key=prompts.slots)


def build_layout(
    prompts: ClassPrompts,
    classes: Sequence[int],
    *,
    sharing: Sharing,
    appended: Appended | None,
    owns_trunk: bool,
    tile_rows: int,
) -> Layout:
    """The rows of `classes` (in `tree_order`), with up to `tile_rows` leaf rows per tile; one class may have more."""
    paths = {c: _path(prompts, c, sharing, appended) for c in classes}
    n_trunk = max(path.n_trunk for path in paths.values())
    first_leaf_row = n_trunk if owns_trunk else 0
    tiled_classes = _group_into_tiles(paths, tile_rows)
    rows = _number_leaf_rows(tiled_classes, paths, first_leaf_row)

    ctx_rows = [(j, j + 1) for j in range(first_leaf_row)]
    word_rows: list[tuple[int, int]] = []
    for _, slot, position, c in sorted(rows.values()):
        if slot < 0:
            ctx_rows.append((~slot if sharing.ctx else c * prompts.n_ctx + ~slot, position))
        else:
            word_rows.append((slot, position))
    tiles = tuple(
        Tile(
            paths=tuple(paths[c] for c in tile_classes),
            leaf_rows=tuple(tuple(rows[index, key][0] for key in paths[c].leaf_keys) for c in tile_classes),
        )
        for index, tile_classes in enumerate(tiled_classes)
    )
    ctx, words = np.array(ctx_rows, dtype=np.int64).reshape(-1, 2), np.array(word_rows, dtype=np.int64)
    return Layout(
        classes=tuple(classes),
        constants=tuple(dict.fromkeys(name for path in paths.values() for name in path.constants)),
        n_trunk=n_trunk,
        owns_trunk=owns_trunk,
        ctx_sources=ctx[:, 0].copy(),
        ctx_positions=ctx[:, 1].copy(),
        word_ids=words[:, 0].copy(),
        word_positions=words[:, 1].copy(),
        word_row_of=_word_rows_by_place(tiles, tiled_classes, n_ctx_rows=len(ctx_rows)),
        tiles=tiles,
    )


def _word_rows_by_place(
    tiles: Sequence[Tile], tiled_classes: list[list[int]], *, n_ctx_rows: int
) -> dict[tuple[int, int], int]:
    """`{(class, position): index among the words}`."""
    found: dict[tuple[int, int], int] = {}
    for tile, tile_classes in zip(tiles, tiled_classes, strict=True):
        for c, path, class_rows in zip(tile_classes, tile.paths, tile.leaf_rows, strict=True):
            for row, slot, position in zip(class_rows, path.leaf_slots, path.leaf_positions, strict=True):
                if slot >= 0:
                    found[c, position] = row - n_ctx_rows
    return found


def _path(prompts: ClassPrompts, c: int, sharing: Sharing, appended: Appended | None) -> Path:
    slots = prompts.slots(c)
    n_constant = next(i for i, slot in enumerate(slots) if slot < 0)
    n_trunk = next(i for i, slot in enumerate(slots) if slot >= 0) if sharing.ctx else 0
    n_inner = n_constant + n_trunk
    if appended is None:
        positions, hidden = tuple(range(1, len(slots) + 1)), (False,) * len(slots)
    else:
        slots, positions = appended.behind(slots)
        hidden = appended.hidden(slots)
    # Where single classes have come in, a row's name starts with its class, and no other class has it.
    owner = () if sharing.ctx and sharing.words else (c,)
    return Path(
        constants=tuple(slots[:i] for i in range(n_constant + 1)),
        n_trunk=n_trunk,
        leaf_keys=tuple((*owner, *slots[:end]) for end in range(n_inner + 1, len(slots) + 1)),
        leaf_slots=slots[n_inner:],
        leaf_positions=positions[n_inner:],
        hidden_constants=(False, *hidden[:n_constant]),
        hidden_leaves=hidden[n_inner:],
    )


def _group_into_tiles(paths: dict[int, Path], tile_rows: int) -> list[list[int]]:
    """Neighbouring classes together, as long as their leaf rows are no more than `tile_rows`."""
    tiles: list[list[int]] = []
    rows_of_tile: set[tuple[int, ...]] = set()
    for c, path in paths.items():
        if not tiles or len(rows_of_tile.union(path.leaf_keys)) > tile_rows:
            tiles.append([])
            rows_of_tile = set()
        tiles[-1].append(c)
        rows_of_tile.update(path.leaf_keys)
    return tiles


def _number_leaf_rows(
    tiled_classes: list[list[int]], paths: dict[int, Path], first_leaf_row: int
) -> dict[tuple[int, tuple[int, ...]], tuple[int, int, int, int]]:
    """`{(tile, name): (row, slot, position, first class)}`: context rows first, read rows last, else in tree order."""
    found: dict[tuple[int, tuple[int, ...]], tuple[int, int, int, int]] = {}
    for tile_index, classes in enumerate(tiled_classes):
        for c in classes:
            path = paths[c]
            last = len(path.leaf_keys) - 1
            rows = zip(path.leaf_keys, path.leaf_slots, path.leaf_positions, strict=True)
            for offset, (key, slot, position) in enumerate(rows):
                group = 0 if slot < 0 else 2 if offset == last else 1
                found.setdefault((tile_index, key), (group, slot, position, c))
    ordered = sorted(found.items(), key=lambda item: item[1][0])  # stable: tree order within a group
    return {name: (first_leaf_row + row, *value[1:]) for row, (name, value) in enumerate(ordered)}
