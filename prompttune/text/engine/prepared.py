"""One chunk of classes, ready to run: its constants computed, its indices on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prompttune.text.engine.block_pass import BlockInput, BlockPass, FixedRows
from prompttune.text.engine.constants import constant_rows
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.encoding_plan import BlockStep
from prompttune.text.engine.frozen_block import FrozenBlock, choose_parts, in_dtype
from prompttune.text.engine.head_tiles import Heads, HeadTiles
from vidfeat.backbone import PromptableText


class PreparedChunk:
    """Everything about a chunk that does not depend on the prompts' values, and the pass through the blocks.

    Args:
        tower: the frozen tower.
        blocks: its blocks' weights, as the linear layers are to use them.
        steps: the chunk's plan.
        lends_trunk: other chunks attend to this one's trunk rows.
        sot_id: the token in front of every text.
    """

    @torch.no_grad()
    def __init__(
        self,
        tower: PromptableText,
        blocks: Sequence[FrozenBlock],
        steps: Sequence[BlockStep],
        *,
        lends_trunk: bool,
        sot_id: int,
    ) -> None:
        self.tower = tower
        self.blocks = blocks
        self.steps = steps
        self.lends_trunk = lends_trunk
        self._given: dict[tuple[int, int, int], BlockInput] = {}
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
        words = tower.embed(word_ids) + positions[torch.from_numpy(layout.word_positions).to(device)]
        self._fixed = FixedRows.of(blocks[0], words)
        constants = constant_rows(tower, layout.constants, sot_id=sot_id)
        self._constant_kv = [block.keys_and_values(rows) for block, rows in zip(blocks, constants, strict=True)]

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
            x, own = BlockPass.apply(x, borrowed, self._block_input(index, context.n_runs))
            own_trunk_kv.append(own)
        assert x is not None  # a tower has blocks
        return self.tower.read(x), own_trunk_kv

    def _entering_rows(self, index: int, context: TextContext, words: Tensor | None) -> Tensor:
        """Block `index`'s live rows: the context rows that enter there, then the words that left the block before."""
        rows = context.entering(index)
        assert rows is not None  # the plan says that rows enter here
        rows = in_dtype(rows, self._fixed.x.dtype)
        sources = self._ctx_sources[index]
        rows = rows[: len(sources)] if self._is_prefix[index] else rows.index_select(0, sources)
        if words is None:
            return rows + self._ctx_positions
        words_from = self._words_from[index]
        if words_from is not None:
            words = words.index_select(0, words_from)
        return torch.cat([rows, words])

    def _block_input(self, index: int, n_runs: int) -> BlockInput:
        n_rows, config = self.steps[index].layout.n_rows * n_runs, self.tower.config
        like = self._constant_kv[index]
        n_parts = choose_parts(n_rows, width=config.width, n_heads=config.heads, like=like)
        key = (index, n_runs, n_parts)
        if key not in self._given:
            self._given[key] = BlockInput(
                block=self.blocks[index].in_parts(n_parts),
                tiles=self._head_tiles(index, n_runs, n_parts),
                constant_kv=self._constant_kv[index],
                fixed=self._fixed if index == 0 else None,
                lends_trunk=self.lends_trunk,
            )
        return self._given[key]

    def _head_tiles(self, index: int, n_runs: int, n_parts: int) -> HeadTiles:
        """The block's tiles; blocks of one tiling share them, but for block 0, whose words carry no gradients."""
        layout, tiling = self.steps[index].layout, self.steps[index].tiling
        for (other, *others_key), given in self._given.items():
            if others_key == [n_runs, n_parts] and 0 not in (index, other) and self.steps[other].tiling is tiling:
                return given.tiles
        like, n_heads = self.tower.positional_embedding, self.tower.config.heads
        heads = Heads(n_runs=n_runs, n_heads=n_heads, n_parts=n_parts, width=like.shape[1] // n_heads)
        n_live = layout.n_ctx_rows if index == 0 else layout.n_rows
        return HeadTiles.of(layout, tiling, heads=heads, n_live=n_live, like=like)
