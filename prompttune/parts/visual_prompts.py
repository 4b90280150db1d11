"""Visual prompts: learned rows that join a frame's tokens at block k, and the tower rerun from there.

A prompted block sees `[CLS, patches, prompts]`. At the next prompted block the prompt rows are dropped and that block's
own rows stand in their place (VPT deep); behind the last prompted block they stay and are carried along as any other
row. The first rows join at block k = `first_block`; the tokens they join are read from the store, so blocks [0, k)
never run. k = 0 is the published recipe of VPT, IVLP, MaPLe, PromptSRC, ViFi-CLIP and GA2-CLIP; k > 0 is another method
and is called `late(k)`. How rows join is decided in docs/decisions/0001-where-visual-prompts-join.md.

What is skipped, exactly (tests/prompttune/parts/test_visual_prompts.py holds it against the plain computation):
- block k's norm, queries, keys and values of the stored tokens are the same for all runs and need no gradient: they are
  computed once;
- prompt rows are the same for all frames where they join: their norm, keys and values are computed once per run.
  On a GPU, from the second prompted block on, they are computed with every frame's tokens: fewer kernels;
- where the next block replaces the prompt rows, this block computes neither their queries nor their output;
- the last block computes the rows alone that the head reads: the class token's, or those of all stored tokens. Prompt
  rows are not read by any head (docs/decisions/0004-heads-and-prompt-rows.md), and have no rotary position.

Source: Jia et al. 2022 (VPT); muzairkhattak/multimodal-prompt-learning, clip/model.py, ResidualAttentionBlock_IVLP and
VisionTransformer.forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prompttune.base.compiling import compile_function
from prompttune.base.devices import launches_cost
from prompttune.base.recompute import recomputed
from prompttune.base.run_axis import RunGenerators, RunParameter
from prompttune.config.sections import VisualConfig
from prompttune.errors import explain
from prompttune.parts.frozen_blocks import frozen_blocks
from vidfeat.backbone import ResidualBlock, VisionTower
from vidfeat.backbone.rotary import RotaryTable, rotate

# Source: multimodal-prompt-learning and PromptSRC, clip/model.py: nn.init.normal_(ctx_vectors, std=0.02).
INIT_STD = 0.02


def placement(first_block: int) -> str:
    """What a result calls visual prompts that join at that block: `published` at 0, `late(k)` behind it."""
    return "published" if first_block == 0 else f"late({first_block})"


@dataclass(frozen=True)
class VisualPrompts:
    """Prompt rows of every prompted block, for R runs.

    Attributes:
        rows: one [R M D] per prompted block, block `first_block` first; M may differ from block to block.
        first_block: k, the block whose input the first rows join.
    """

    rows: tuple[Tensor, ...]
    first_block: int = 0

    def __post_init__(self) -> None:
        shapes = [tuple(rows.shape) for rows in self.rows]
        if not shapes or any(len(shape) != 3 or 0 in shape for shape in shapes):
            raise ValueError(f"visual prompts need one [R M D] per prompted block, nothing empty; got {shapes}")
        if len({(runs, width) for runs, _, width in shapes}) > 1:
            raise ValueError(f"visual prompts of one method share R and D, got {shapes}")
        if self.first_block < 0:
            raise ValueError(f"first_block must be at least 0, got {self.first_block}")

    @property
    def n_runs(self) -> int:
        """R."""
        return self.rows[0].shape[0]

    @property
    def last_block(self) -> int:
        """The last prompted block."""
        return self.first_block + len(self.rows) - 1

    @property
    def placement(self) -> str:
        """`published` or `late(k)`; part of the method's name in every result."""
        return placement(self.first_block)


class VisualContext(nn.Module):
    """The trainable rows of R runs; calling it gives the VisualPrompts of this step.

    Args:
        tower: gives D and the number of blocks.
        config: how many rows, and where.
        seeds: one per run; a run's initial rows depend on its seed alone. N(0, 0.02^2), as published.

    Raises:
        ValueError: prompted blocks that the tower does not have.
    """

    def __init__(self, tower: VisionTower, *, config: VisualConfig, seeds: Sequence[int]) -> None:
        super().__init__()
        self.first_block = config.first_block
        _check_blocks(tower, first_block=config.first_block, depth=config.depth)
        self.blocks = nn.ModuleList(
            RunParameter(
                RunGenerators(seeds, f"visual.{block}").normal(config.n_prompts, tower.config.width, std=INIT_STD)
            )
            for block in range(config.first_block, config.first_block + config.depth)
        )

    def forward(self) -> VisualPrompts:
        return VisualPrompts(rows=tuple(rows() for rows in self.blocks), first_block=self.first_block)


@dataclass(frozen=True)
class Recompute:
    """What is computed again in the backward pass instead of being kept; values and gradients stay the same.

    Attributes:
        per_block: keep each block's input alone; costs one more forward pass of the prompted blocks.
        frames_per_chunk: run that many frames at a time and keep nothing of a chunk but its input, so that memory does
            not grow with the number of frames; costs one more forward pass too. None is all frames at once.
    """

    per_block: bool = False
    frames_per_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.frames_per_chunk is not None and self.frames_per_chunk < 1:
            raise ValueError(f"frames_per_chunk must be at least 1, got {self.frames_per_chunk}")


KEEP_ALL = Recompute()


def prompted_forward(
    tower: VisionTower,
    tokens: Tensor,
    *,
    prompts: VisualPrompts,
    recompute: Recompute = KEEP_ALL,
    compiled: bool = False,
) -> Tensor:
    """[R N E] features, not normalised, of frames whose tokens enter block `prompts.first_block`.

    Args:
        tower: frozen; gradients flow to the prompts alone, unless `tokens` asks for one.
        tokens: [N S D], the same frames for all runs, or [R N S D]; as stored (`tokens/LL`, L = first_block), any
            float dtype, cast to the tower's.
        prompts: rows of every prompted block.
        recompute: trades time for memory.
        compiled: blocks run through torch.compile, which needs a C++ compiler (on CUDA: Triton) at the first call.

    Raises:
        ValueError: blocks that the tower does not have, or tokens and prompts that do not fit it or each other.
    """
    _check_blocks(tower, first_block=prompts.first_block, depth=len(prompts.rows))
    frames = _with_run_axis(tower, tokens, prompts)
    rows = tuple(rows.to(tower.dtype) for rows in prompts.rows)
    blocks = _compiled_blocks() if compiled else _Blocks(_joined_block, _later_block)
    features = partial(_features, tower, first_block=prompts.first_block, blocks=blocks, per_block=recompute.per_block)
    chunk = recompute.frames_per_chunk
    if chunk is None or chunk >= frames.shape[1]:
        return features(frames, *rows)
    again = partial(recomputed, features, device_type=frames.device.type)
    return torch.cat([again(part, *rows) for part in frames.split(chunk, dim=1)], dim=1)


@dataclass(frozen=True)
class _Blocks:
    """What runs a block that rows join, and a block behind the last of those."""

    joined: Callable[[ResidualBlock, Tensor, Tensor, int, RotaryTable | None], Tensor]
    later: Callable[[ResidualBlock, Tensor, int | None, RotaryTable | None], Tensor]


@cache
def _compiled_blocks() -> _Blocks:
    """One kernel for each way a block is run: with and without gradient, its rows shared or not, all, some or one asked
    for. Sizes become symbolic when they change."""
    return _Blocks(*(compile_function(block, setting="visual.compile") for block in (_joined_block, _later_block)))


def _features(
    tower: VisionTower,
    frames: Tensor,
    *prompt_rows: Tensor,
    first_block: int,
    blocks: _Blocks,
    per_block: bool,
) -> Tensor:
    """[R N E] of frames [G N S D], G = 1 or R."""

    def run(block: Callable[..., Tensor], *args: Any) -> Tensor:
        return recomputed(block, *args, device_type=frames.device.type) if per_block else block(*args)

    n_runs, n_frames, n_tokens = prompt_rows[0].shape[0], frames.shape[1], frames.shape[2]
    last_prompted, last_block = first_block + len(prompt_rows) - 1, tower.n_layers - 1
    n_read, rotary = tower.config.n_read, tower.rotary
    x, frozen = frames.to(tower.dtype), frozen_blocks(tower)
    for block_index, rows in enumerate(prompt_rows, start=first_block):
        if block_index == 0:
            rows = tower.ln_pre(rows)
        n_query = n_tokens + rows.shape[1] if block_index == last_prompted else n_tokens
        n_query = n_read if block_index == last_block else n_query
        x = run(blocks.joined, frozen[block_index], x, rows, n_query, rotary)
    x = x.flatten(0, 1)
    for block_index in range(last_prompted + 1, tower.n_layers):
        x = run(blocks.later, frozen[block_index], x, n_read if block_index == last_block else None, rotary)
    return tower.pool(x).unflatten(0, (n_runs, n_frames))


def _later_block(block: ResidualBlock, x: Tensor, n_query: int | None, rotary: RotaryTable | None) -> Tensor:
    output: Tensor = block(x, n_query=n_query, rotary=rotary)
    return output


def _joined_block(block: ResidualBlock, x: Tensor, rows: Tensor, n_query: int, rotary: RotaryTable | None) -> Tensor:
    """The block's output [R N Q D] for the first `n_query` of the rows [x, rows].

    Args:
        x: [G N S D], G = 1 (the same for all runs) or R.
        rows: [R M D], the same for all frames.
        n_query: Q, at most S + M.
        rotary: turns the queries and keys of the tokens; the rows have no position.
    """
    n_runs, (_, n_frames, n_tokens, _) = rows.shape[0], x.shape
    n_token_queries, n_row_queries = min(n_query, n_tokens), max(n_query - n_tokens, 0)
    alike = rows.unsqueeze(1).expand(-1, n_frames, -1, -1)
    if launches_cost(x) and x.requires_grad and rotary is None:
        attended = _attend_together(block, torch.cat([x, alike], dim=2), n_query)
    else:
        attended = _attend_apart(block, x, rows, n_query, rotary)
    update = block.after_attention(block.attn.output(attended)).unflatten(0, (n_runs, n_frames))
    kept = x[:, :, :n_token_queries].expand(n_runs, -1, -1, -1)
    if n_row_queries:
        kept = torch.cat([kept, alike[:, :, :n_row_queries]], dim=2)
    output: Tensor = block.add_mlp(kept + update)
    return output


def _attend_together(block: ResidualBlock, x: Tensor, n_query: int) -> Tensor:
    """What the heads attended to, [R*N H Q D/H], of tokens with rows behind them, [R N S+M D].

    Rows are computed for each frame, a few per cent more, in two thirds of the kernels.
    """
    attn = block.attn
    normed = block.before_attention(x).to(attn.in_proj_weight.dtype).flatten(0, 1)
    query, (key, value) = attn.project_query(normed[:, :n_query]), attn.project_key_value(normed)
    return F.scaled_dot_product_attention(query, key, value)


def _attend_apart(block: ResidualBlock, x: Tensor, rows: Tensor, n_query: int, rotary: RotaryTable | None) -> Tensor:
    """What the heads attended to, [R*N H Q D/H]; what is alike for all runs or all frames is projected once."""
    attn = block.attn
    n_runs, (_, n_frames, n_tokens, _) = rows.shape[0], x.shape
    n_token_queries, n_row_queries = min(n_query, n_tokens), max(n_query - n_tokens, 0)
    normed, normed_rows = block.before_attention(x), block.before_attention(rows.unsqueeze(1))
    # Not projected in one go: keys and values are copied beside those of the rows, and one storage for all three would
    # stay in memory for the queries' sake.
    query, (key, value) = attn.project_query(normed[:, :, :n_token_queries]), attn.project_key_value(normed)
    row_query, (row_key, row_value) = (
        attn.project_query(normed_rows[:, :, :n_row_queries]),
        attn.project_key_value(normed_rows),
    )
    if rotary is not None:
        query, key = rotate(query, rotary), rotate(key, rotary)

    def beside(of_tokens: Tensor, of_rows: Tensor) -> Tensor:
        """[R*N H ... D/H] of tokens [G N H S D/H] and rows [R 1 H M D/H]."""
        parts = [part.expand(n_runs, n_frames, *part.shape[2:]) for part in (of_tokens, of_rows) if part.shape[-2]]
        return (torch.cat(parts, dim=-2) if len(parts) > 1 else parts[0]).flatten(0, 1)

    return F.scaled_dot_product_attention(beside(query, row_query), beside(key, row_key), beside(value, row_value))


def _with_run_axis(tower: VisionTower, tokens: Tensor, prompts: VisualPrompts) -> Tensor:
    """[G N S D] in the tokens' own dtype, G = 1 or R."""
    expected = (tower.config.n_tokens, tower.config.width)
    frames = tokens.unsqueeze(0) if tokens.ndim == 3 else tokens
    problems = []
    if frames.ndim != 4 or tuple(frames.shape[2:]) != expected or not frames.is_floating_point():
        problems.append(f"tokens {tokens.dtype} {list(tokens.shape)}")
    elif frames.shape[0] not in (1, prompts.n_runs):
        problems.append(f"tokens of {frames.shape[0]} runs {list(tokens.shape)}, prompts of {prompts.n_runs}")
    if prompts.rows[0].shape[2] != tower.config.width:
        problems.append(f"prompts of width {prompts.rows[0].shape[2]}")
    if problems:
        raise ValueError(
            explain(
                "tokens, visual prompts and vision tower do not fit each other",
                expected=f"float tokens [N {expected[0]} {expected[1]}] or [R N {expected[0]} {expected[1]}], prompts "
                f"[R M {expected[1]}]",
                got="; ".join(problems),
                fix="the store, its pack and the prompt file must come from one model",
            )
        )
    return frames


def _check_blocks(tower: VisionTower, *, first_block: int, depth: int) -> None:
    if depth < 1 or first_block < 0 or first_block + depth > tower.n_layers:
        raise ValueError(
            explain(
                "there are no such blocks to prompt",
                expected=f"blocks within [0, {tower.n_layers})",
                got=f"{depth} blocks from block {first_block}",
                fix="lower the depth, or start earlier",
            )
        )
