"""One chunk of classes, ready to run: its constants computed, its indices on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prompttune.text.engine.block_pass import BlockInput, BlockPass, FixedRows
from prompttune.text.engine.constants import constant_rows
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.encoding_plan import BlockStep, n_live_rows
from prompttune.text.engine.frozen_block import FrozenBlock, choose_parts, in_dtype
from prompttune.text.engine.fused_pass import FusedBlock, FusedInput, FusedPass, Space
from prompttune.text.engine.fused_tiles import FusedTiles, Places
from prompttune.text.engine.head_tiles import Heads, HeadTiles
from vidfeat.backbone import PromptableText


class PreparedChunk(ABC):
    """Everything about a chunk that does not depend on the prompts' values, and the pass through the blocks.

    Args:
        tower: the frozen tower.
        steps: the chunk's plan.
        lends_trunk: other chunks attend to this one's trunk rows.
        sot_id: the token in front of every text.
    """

    @torch.no_grad()
    def __init__(
        self,
        tower: PromptableText,
        steps: Sequence[BlockStep],
        *,
        lends_trunk: bool,
        sot_id: int,
    ) -> None:
        self.tower = tower
        self.steps = steps
        self.lends_trunk = lends_trunk
        sources = [step.layout.ctx_sources for step in steps]
        self._is_prefix = [np.array_equal(rows, np.arange(len(rows))) for rows in sources]
        self._words_from = [
            None if step.words_from is None else torch.from_numpy(step.words_from).to(tower.positional_embedding.device)
            for step in steps
        ]
        layout = steps[0].layout
        positions = tower.positional_embedding.detach()
        device = positions.device
        self._ctx_sources = [torch.from_numpy(rows).to(device) for rows in sources]
        self._ctx_positions = positions[torch.from_numpy(layout.ctx_positions).to(device)].unsqueeze(1)
        word_ids = torch.from_numpy(layout.word_ids).to(device)
        self._words = tower.embed(word_ids) + positions[torch.from_numpy(layout.word_positions).to(device)]
        self._constants = constant_rows(tower, layout.constants, sot_id=sot_id)

    def run(self, context: TextContext, trunk_kv: Sequence[Tensor | None] | None) -> tuple[Tensor, list[Tensor | None]]:
        """Features `[classes of the chunk, R, E]`, and per block the keys and values `[P R 2W]` of trunk rows it lends.

        Args:
            context: of kind "shared" or "class".
            trunk_kv: what the chunk that computes the trunk gave; None for that chunk itself.
        """
        x: Tensor | None = None
        own_trunk_kv = []
        for index, step in enumerate(self.steps):
            x = self._entering_rows(index, context, x) if step.enter else x
            borrowed = None if trunk_kv is None or step.layout.n_trunk == 0 else trunk_kv[index]
            x, own = self._run_block(index, x, borrowed, context.n_runs)
            own_trunk_kv.append(own)
        assert x is not None  # a tower has blocks
        return self.tower.read(x), own_trunk_kv

    def _entering_rows(self, index: int, context: TextContext, words: Tensor | None) -> Tensor:
        """Block `index`'s live rows: the context rows that enter there, then the words that left the block before."""
        rows = context.entering(index)
        assert rows is not None  # the plan says that rows enter here
        rows = in_dtype(rows, self._words.dtype)
        sources = self._ctx_sources[index]
        if not self._is_prefix[index]:
            rows = rows.index_select(0, sources)
        elif len(rows) > len(sources):
            rows = rows[: len(sources)]
        if words is None:
            return rows + self._ctx_positions
        words_from = self._words_from[index]
        if words_from is not None:
            words = words.index_select(0, words_from)
        return torch.cat([rows, words])

    @abstractmethod
    def _run_block(
        self, index: int, x: Tensor | None, trunk_kv: Tensor | None, n_runs: int
    ) -> tuple[Tensor, Tensor | None]:
        """What `BlockPass` gives for block `index`."""

    def _heads(self, n_runs: int, n_parts: int) -> Heads:
        n_heads = self.tower.config.heads
        return Heads(n_runs=n_runs, n_heads=n_heads, n_parts=n_parts, width=self.tower.config.width // n_heads)

    def _new_tiles(self, index: int, heads: Heads) -> HeadTiles:
        layout, tiling = self.steps[index].layout, self.steps[index].tiling
        n_live = n_live_rows(index, layout)
        return HeadTiles.of(layout, tiling, heads=heads, n_live=n_live, like=self.tower.positional_embedding)


class TiledChunk(PreparedChunk):
    """A chunk in products of a CPU's kind.

    Args:
        blocks: the blocks' weights, as the linear layers are to use them.
    """

    @torch.no_grad()
    def __init__(
        self, tower: PromptableText, steps: Sequence[BlockStep], blocks: Sequence[FrozenBlock], **options: Any
    ) -> None:
        super().__init__(tower, steps, **options)
        self._blocks = blocks
        self._given: dict[tuple[int, int, int], BlockInput] = {}
        self._fixed = FixedRows.of(blocks[0], self._words)
        self._constant_kv = [block.keys_and_values(x) for block, x in zip(blocks, self._constants, strict=True)]

    def _run_block(
        self, index: int, x: Tensor | None, trunk_kv: Tensor | None, n_runs: int
    ) -> tuple[Tensor, Tensor | None]:
        return BlockPass.apply(x, trunk_kv, self._block_input(index, n_runs))

    def _block_input(self, index: int, n_runs: int) -> BlockInput:
        n_rows, config = self.steps[index].layout.n_rows * n_runs, self.tower.config
        like = self._constant_kv[index]
        n_parts = choose_parts(n_rows, width=config.width, n_heads=config.heads, like=like)
        key = (index, n_runs, n_parts)
        if key not in self._given:
            self._given[key] = BlockInput(
                block=self._blocks[index].in_parts(n_parts),
                tiles=self._head_tiles(index, n_runs, n_parts),
                constant_kv=self._constant_kv[index],
                fixed=self._fixed if index == 0 else None,
                lends_trunk=self.lends_trunk,
            )
        return self._given[key]

    def _head_tiles(self, index: int, n_runs: int, n_parts: int) -> HeadTiles:
        """The block's tiles; blocks of one tiling share them, but for block 0, whose words carry no gradients."""
        tiling = self.steps[index].tiling
        for (other, *others_key), given in self._given.items():
            if others_key == [n_runs, n_parts] and 0 not in (index, other) and self.steps[other].tiling is tiling:
                return given.tiles
        return self._new_tiles(index, self._heads(n_runs, n_parts))


class FusedChunk(PreparedChunk):
    """A chunk in as few kernels as there are.

    Args:
        blocks: the blocks' weights, as they are to be used.
    """

    @torch.no_grad()
    def __init__(
        self, tower: PromptableText, steps: Sequence[BlockStep], blocks: Sequence[FusedBlock], **options: Any
    ) -> None:
        super().__init__(tower, steps, **options)
        self._blocks = blocks
        self._given: dict[tuple[int, int], FusedInput] = {}

    def _run_block(
        self, index: int, x: Tensor | None, trunk_kv: Tensor | None, n_runs: int
    ) -> tuple[Tensor, Tensor | None]:
        if (index, n_runs) not in self._given:
            self._given |= self._inputs(n_runs)
        return FusedPass.apply(x, trunk_kv, self._given[index, n_runs])

    @torch.no_grad()
    def _inputs(self, n_runs: int) -> dict[tuple[int, int], FusedInput]:
        """Of all blocks, which share one space, and their gathers where they share a tiling."""
        heads = self._heads(n_runs, 1)
        firsts = [self._first_alike(index) for index in range(len(self.steps))]
        tiles = {index: self._new_tiles(index, heads) for index in set(firsts)}
        of_blocks = [tiles[first] for first in firsts]
        space = Space(
            [block.projections(x) for block, x in zip(self._blocks, self._constants, strict=True)],
            self._blocks[0].projections(self._words),
            n_borrowed=max((of.n_trunk - of.n_own_trunk) * n_runs * 2 * heads.n_heads for of in of_blocks),
            n_live=max(of.n_live * n_runs * 3 * heads.n_heads for of in of_blocks),
            n_queries=max(of.query_index.numel() for of in of_blocks),
            width=heads.width,
        )
        dtype = self._blocks[0].qkv.dtype
        found, fused = {}, dict[int, FusedTiles]()
        for index, first in enumerate(firsts):
            places = Places(
                constants=index * space.n_constants,
                fixed=space.first_fixed,
                borrowed=space.first_borrowed,
                live=space.first_live,
                n_constants=len(self._constants[index]),
            )
            fused[index] = FusedTiles.of(tiles[first], places, dtype=dtype, like=fused.get(first))
            found[index, n_runs] = FusedInput(
                block=self._blocks[index],
                tiles=fused[index],
                space=space,
                fixed=self._words if index == 0 else None,
                lends_trunk=self.lends_trunk,
            )
        return found

    def _first_alike(self, index: int) -> int:
        """The first block of this one's tiling; block 0, whose words carry no gradients, is alone."""
        alike = (i for i in range(1, index) if self.steps[i].tiling is self.steps[index].tiling)
        return next(alike, index) if index else 0
