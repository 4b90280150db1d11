"""The exact path through towers in which every position changes the feature: no row is left out, none computed twice.

Where tokens attend to those behind them too, or the last position is read, padding acts like any word, and what a class
shares with another ends with the first block's input. What is left to save, exactly:

- Block 0 knows its words beforehand: their norm, queries, keys and values are computed once per set of prompts, and
  once for equal tokens at equal positions (padding above all). Context rows pass once per run, not once per class.
- In the last block the row that is read alone has a query, an output and an MLP.
- Where new context rows enter a block, nobody computes what the block before would have put there.
- Runs go through the blocks side by side, classes in chunks that stay in the caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.encoding_plan import Flops
from prompttune.text.engine.full_rows import FullRows
from vidfeat.backbone import PromptableText, ResidualBlock

CHUNK_ROWS = 2048  # rows of all runs that go through a block together; more gain nothing (docs/log.md, 2026-11-28)


@dataclass(frozen=True)
class FixedWords:
    """Block 0's word rows: U different ones, and where each stands.

    Attributes:
        x: `[U W]`, what enters block 0.
        qkv: `[U 3W]`, their queries, keys and values.
        row_of: int64 `[C P]`, which of them stands at a position; 0 where a context vector does.
    """

    x: Tensor
    qkv: Tensor
    row_of: Tensor

    @classmethod
    def of(cls, tower: PromptableText, rows: FullRows) -> FixedWords:
        """The words of some prompts."""
        places = torch.arange(rows.token_ids.shape[1], device=rows.token_ids.device).expand_as(rows.token_ids)
        pairs = torch.stack([rows.token_ids, places], dim=-1).flatten(0, 1)
        unique, row_of = pairs.unique(dim=0, return_inverse=True)
        x = tower.embed(unique[:, 0]) + tower.positional_embedding[unique[:, 1]]
        block = next(iter(tower.blocks))
        qkv = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
        return cls(x.detach(), qkv.detach(), row_of.view_as(rows.token_ids))


class FullLengthChunk:
    """Some classes, ready to run: everything that does not depend on the prompts' values.

    Args:
        tower: the frozen tower.
        prompts: of these classes.
        classes: int64 `[K]`, which of the context's classes they are.
    """

    @torch.no_grad()
    def __init__(self, tower: PromptableText, prompts: ClassPrompts, classes: Tensor) -> None:
        self.tower, self.classes = tower, classes
        self.rows = FullRows.of(prompts, tower)
        self.n_classes, self.n_positions = self.rows.token_ids.shape
        self.words = FixedWords.of(tower, self.rows)
        is_ctx = self.rows.ctx_index >= 0
        # Which context vector stands at each of the K*M places among the K*P, in order of the places.
        self.places = is_ctx.flatten().nonzero().squeeze(1)
        self.vectors = self.rows.ctx_index.flatten()[self.places]
        self.positions = self.places % self.n_positions
        self.class_of = self.places // self.n_positions

    def run(self, context: TextContext) -> Tensor:
        """Features `[K R E]` of these classes; context of kind "shared" or "class"."""
        blocks = list(self.tower.blocks)
        x: Tensor | None = None
        for index, block in enumerate(blocks):
            entering = self._entering(context, index)
            qkv = None
            if x is None:
                assert entering is not None  # ctx enters block 0
                x, qkv = self._first_input(block, entering)
            elif entering is not None:
                x = self._with_context(x, entering)
            x = self._block(block, x, qkv, is_last=index + 1 == len(blocks))
        assert x is not None  # a tower has blocks
        return self.tower.read(x).view(context.n_runs, self.n_classes, -1).transpose(0, 1)

    def _entering(self, context: TextContext, block: int) -> Tensor | None:
        """New context rows at a block's input: `[R n W]` in order of the places, or `[R M W]` alike for all classes."""
        if block == 0:
            rows, per_class = context.ctx, context.kind == "class"
        elif block in context.replaced_blocks:
            per_class = block > len(context.deep)
            rows = context.class_tokens[block] if per_class else context.deep[block - 1]
        else:
            return None
        rows = rows.to(self.tower.dtype)
        if per_class:
            rows = rows.index_select(1, self.classes).flatten(1, 2)
            return rows.index_select(1, self.class_of * context.n_ctx + self.vectors)
        return rows

    def _first_input(self, block: ResidualBlock, ctx: Tensor) -> tuple[Tensor, Tensor]:
        """What enters block 0, `[R*K P W]`, and its queries, keys and values `[R*K P 3W]`."""
        n_runs = ctx.shape[0]
        if ctx.shape[1] == len(self.places):
            pairs, back = None, None
            ctx = ctx + self.tower.positional_embedding[self.positions]
        else:
            # Equal vectors at equal positions are one row.
            pairs, back = torch.stack([self.vectors, self.positions], dim=1).unique(dim=0, return_inverse=True)
            ctx = ctx.index_select(1, pairs[:, 0]) + self.tower.positional_embedding[pairs[:, 1]]
        qkv = F.linear(block.ln_1(ctx), block.attn.in_proj_weight, block.attn.in_proj_bias)
        if back is not None:
            ctx, qkv = ctx.index_select(1, back), qkv.index_select(1, back)
        index = self.words.row_of.flatten()
        filled = []
        for words, rows in ((self.words.x, ctx), (self.words.qkv, qkv)):
            whole = words[index].expand(n_runs, -1, -1).index_copy(1, self.places, rows.to(words.dtype))
            filled.append(whole.view(n_runs * self.n_classes, self.n_positions, -1))
        return filled[0], filled[1]

    def _with_context(self, x: Tensor, entering: Tensor) -> Tensor:
        """`[R*K P W]` with new rows in the context's places."""
        if entering.shape[1] != len(self.places):
            entering = entering.index_select(1, self.vectors)
        rows = x.view(entering.shape[0], -1, x.shape[-1])
        return rows.index_copy(1, self.places, entering).view_as(x)

    def _block(self, block: ResidualBlock, x: Tensor, qkv: Tensor | None, *, is_last: bool) -> Tensor:
        """`[R*K P W]` after a block; `[R*K W]` of the rows that are read after the last."""
        attn = block.attn
        n_runs = len(x) // self.n_classes
        if qkv is None:
            normed = block.ln_1(x)
            if is_last:
                return self._last_block(block, x, normed)
            qkv = F.linear(normed, attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = (attn.split_heads(part) for part in qkv.chunk(3, dim=-1))
        visible = None if self.rows.visible is None else self.rows.visible.repeat(n_runs, 1, 1, 1)
        attended = F.scaled_dot_product_attention(query, key, value, visible, is_causal=self.rows.is_causal)
        x = x + attn.output(attended)
        x = x if not is_last else self._read_rows(x)
        return block.add_mlp(x)

    def _last_block(self, block: ResidualBlock, x: Tensor, normed: Tensor) -> Tensor:
        n_runs = len(x) // self.n_classes
        key, value = block.attn.project_key_value(normed)
        query = block.attn.project_query(self._read_rows(normed).unsqueeze(1))
        visible = self._read_visible(n_runs)
        attended = F.scaled_dot_product_attention(query, key, value, visible)
        return block.add_mlp(self._read_rows(x) + block.attn.output(attended).squeeze(1))

    def _read_visible(self, n_runs: int) -> Tensor | None:
        """What the rows that are read see, bool `[R*K 1 1 P]`; None for everything."""
        rows, index = self.rows, self.rows.read_index
        if rows.visible is not None:
            seen = rows.visible[torch.arange(len(index), device=index.device), 0, index]
        elif rows.is_causal:
            seen = torch.arange(self.n_positions, device=index.device) <= index.unsqueeze(1)
        else:
            return None
        return seen.repeat(n_runs, 1)[:, None, None]

    def _read_rows(self, x: Tensor) -> Tensor:
        """`[R*K W]` of `[R*K P W]`."""
        index = self.rows.read_index.repeat(len(x) // self.n_classes)
        return x[torch.arange(len(x), device=x.device), index]


@dataclass(frozen=True)
class FullLengthSize:
    """What the exact computation of some prompts takes at full length, for one run.

    Attributes:
        n_classes, n_positions: C and P.
        n_ctx_rows: different context rows that enter block 0.
    """

    n_classes: int
    n_positions: int
    n_ctx_rows: int

    @classmethod
    def of(cls, prompts: ClassPrompts, context: TextContext, tower: PromptableText) -> FullLengthSize:
        """That of prompts with a context."""
        n_ctx_rows = prompts.n_classes * prompts.n_ctx
        if context.kind != "class":
            ctx_index = prompts.plain_layout().ctx_index
            places = (ctx_index >= 0).nonzero()
            n_ctx_rows = len({(int(ctx_index[c, p]), int(p)) for c, p in places})
        return cls(prompts.n_classes, tower.config.n_positions, n_ctx_rows)

    @property
    def n_rows(self) -> int:
        """C * P."""
        return self.n_classes * self.n_positions

    def flops(self, tower: PromptableText) -> Flops:
        """Operations of the products; attention with no masked place left out."""
        width, hidden, n_blocks = tower.config.width, tower.config.mlp_width, len(tower.blocks)
        update = 2 * width * width + 4 * width * hidden  # output projection and MLP, per row
        attention = 4 * width * self.n_positions  # scores and weighted sums, per query
        first = 6 * width * width * self.n_ctx_rows
        inner = 6 * width * width * self.n_rows * max(n_blocks - 2, 0)
        last = (4 * self.n_rows + 2 * self.n_classes) * width * width if n_blocks > 1 else 0
        n_updated = self.n_rows * (n_blocks - 1) + self.n_classes
        n_queries = self.n_rows * max(n_blocks - 1, 1) + (self.n_classes if n_blocks > 1 else 0)
        joint = 0 if tower.config.projection is None else 2 * width * tower.embed_dim * self.n_classes
        linear = first + inner + last + update * n_updated + joint
        return Flops(forward=linear + attention * n_queries, backward=linear + 2 * attention * n_queries)

    def kept(self, tower: PromptableText) -> int:
        """Numbers kept for the backward pass: per row and block the inputs of both norms, queries, keys, values, what
        was attended to, and the MLP's hidden row; in the last block the first norm's input, keys and values."""
        width, hidden, n_blocks = tower.config.width, tower.config.mlp_width, len(tower.blocks)
        return self.n_rows * ((n_blocks - 1) * (6 * width + hidden) + 3 * width)


def full_length_chunks(tower: PromptableText, prompts: ClassPrompts, *, class_chunk: int) -> Sequence[FullLengthChunk]:
    """All classes, ready to run, `class_chunk` at a time."""
    pieces = torch.arange(prompts.n_classes).split(class_chunk)
    return [FullLengthChunk(tower, prompts.subset(piece.tolist()), piece.to(tower.device)) for piece in pieces]
