"""What one step with visual prompts will cost, counted before anything runs: operations, and bytes kept for backward.

The counts follow `visual_prompts.prompted_forward` row by row; tests/prompttune/cost/test_visual_cost.py compares them
with what torch counts and keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prompttune.base.devices import launches_cost
from prompttune.config.sections import VisualConfig
from prompttune.parts.learned_visual import LearnedVisual
from prompttune.parts.visual_prompts import KEEP_ALL, Recompute
from vidfeat.backbone import VisionConfig

BYTES_PER_FLOAT = 4
# Flash attention computes the scores again: five matrix products where the forward pass has two.
ATTENTION_BACKWARD = 2.5


@dataclass(frozen=True)
class VisualStep:
    """One training step's shape.

    Attributes:
        n_frames: N, frames per step and run (videos x frames used, anchors included).
        n_runs: R.
        shared_frames: whether all runs see the same frames.
        recompute: as given to `prompted_forward`.
        rows_with_tokens: whether rows are computed with every frame's tokens where those need a gradient, as on a GPU.
    """

    n_frames: int
    n_runs: int = 1
    shared_frames: bool = True
    recompute: Recompute = KEEP_ALL
    rows_with_tokens: bool = False


def training_step(visual: LearnedVisual, n_frames: int, n_runs: int, *, shared_frames: bool) -> VisualStep:
    """The shape of one training step as that device takes it."""
    with_tokens = launches_cost(visual.tower.positional_embedding)
    return VisualStep(n_frames, n_runs, shared_frames, visual.recompute, rows_with_tokens=with_tokens)


@dataclass(frozen=True)
class VisualCost:
    """Cost of the vision tower's part of a step.

    Attributes:
        forward_flops: floating-point operations of the forward pass, 2 per multiply-add; matrix products alone.
        backward_flops: of the backward pass, the forward pass done again included where `recompute` asks for it.
        kept_bytes: activations kept between forward and backward, float32.
    """

    forward_flops: float
    backward_flops: float
    kept_bytes: float

    @property
    def flops(self) -> float:
        """Both passes."""
        return self.forward_flops + self.backward_flops


@dataclass(frozen=True)
class _Block:
    """Rows of one block: T in, Q out; the stored tokens' part G times and without a gradient where it is the first."""

    n_rows: int
    n_query: int
    forward_flops: float
    backward_flops: float
    kept_floats: float


def visual_step_cost(vision: VisionConfig, *, embed_dim: int, visual: VisualConfig, step: VisualStep) -> VisualCost:
    """Cost of one forward and backward pass through the prompted tower.

    Args:
        vision: the tower's sizes.
        embed_dim: E.
        visual: where how many rows join.
        step: frames and runs.
    """
    blocks = _blocks(vision, visual, step)
    images = step.n_runs * step.n_frames
    head = _head(vision, embed_dim, step)
    forward = sum(block.forward_flops for block in blocks) + head.forward_flops
    backward = sum(block.backward_flops for block in blocks) + head.backward_flops
    kept = [block.kept_floats for block in blocks]
    kept_floats = float(sum(kept)) + head.kept_floats
    chunk = step.recompute.frames_per_chunk
    chunked = chunk is not None and chunk < step.n_frames
    inputs = [images * block.n_rows * vision.width for block in blocks]
    if chunked and chunk is not None:
        # Between the passes nothing is kept but the stored tokens; the peak is one chunk's share.
        share = chunk / step.n_frames
        by_block = sum(inputs) + max(kept) + head.kept_floats
        kept_floats = share * (by_block if step.recompute.per_block else kept_floats)
    elif step.recompute.per_block:
        kept_floats = float(sum(inputs)) + max(kept) + head.kept_floats
    if chunked or step.recompute.per_block:
        backward += forward
    return VisualCost(forward, backward, kept_floats * BYTES_PER_FLOAT)


def _blocks(vision: VisionConfig, visual: VisualConfig, step: VisualStep) -> list[_Block]:
    first, last_prompted = visual.first_block, visual.first_block + visual.depth - 1
    n_tokens, n_rows = vision.n_tokens, vision.n_tokens + visual.n_prompts
    blocks = []
    for index in range(first, vision.layers):
        n_query = n_rows if index >= last_prompted else n_tokens
        n_query = vision.n_read if index == vision.layers - 1 else n_query
        if first < index <= last_prompted and step.rows_with_tokens and vision.rotary is None:
            blocks.append(replace(_carried(vision, visual, step, n_query=n_query), n_rows=n_tokens))
        elif index <= last_prompted:
            groups = 1 if index == first and step.shared_frames else step.n_runs
            blocks.append(_joined(vision, visual, step, n_query=n_query, groups=groups, is_first=index == first))
        else:
            blocks.append(_carried(vision, visual, step, n_query=n_query))
    return blocks


def _behind_projection(vision: VisionConfig, step: VisualStep, *, n_rows: int, n_query: int) -> tuple[float, float]:
    """Operations of attention, and of output projection and MLP, for N frames of R runs."""
    images, width = step.n_runs * step.n_frames, vision.width
    attention = 4.0 * images * n_query * n_rows * width
    linear = 2.0 * images * n_query * width * (width + (3 if vision.gated_mlp else 2) * vision.mlp_width)
    return attention, linear


def _kept_behind_projection(vision: VisionConfig, step: VisualStep, *, n_query: int) -> float:
    """Floats kept for attention's output and its log-sums, the second norm and the activation.

    With norm order `post` both norms keep an update instead of a residual row, of which nothing else is kept.
    """
    images = step.n_runs * step.n_frames
    # A gate keeps its input, its value and what it is multiplied with.
    of_mlp = vision.mlp_width * ((3.0 if vision.gated_mlp else 1.0) + vision.mlp_norm)
    n_norms = 2 if vision.norm_order == "post" else 1
    return images * n_query * (vision.width * (1.0 + n_norms + vision.attention_norm) + vision.heads + of_mlp)


def _head(vision: VisionConfig, embed_dim: int, step: VisualStep) -> _Block:
    """Pooling and projection of N frames of R runs; only an attention pool keeps much."""
    images, pooled = step.n_runs * step.n_frames, vision.pooled_width
    linear = 2.0 * images * pooled * embed_dim if vision.projection else 0.0
    pool, attention, of_query, kept = vision.attention_pool, 0.0, 0.0, 0.0
    if pool is not None:
        n_rows, hidden = vision.n_tokens, pool.mlp_width or 0
        linear += 2.0 * images * (2 * n_rows * vision.width * pooled + pooled * pooled + 2 * pooled * hidden)
        attention, of_query = 4.0 * images * n_rows * pooled, 2.0 * pooled * pooled
        kept = images * (2.0 * n_rows * pooled + 3.0 * pooled + hidden + pool.norms * n_rows * vision.width)
    if vision.pool != "class" and not vision.norm_after_pool:
        kept += float(images * vision.n_tokens * vision.width)
    return _Block(
        n_rows=vision.n_read,
        n_query=1,
        forward_flops=linear + attention + of_query,
        backward_flops=linear + ATTENTION_BACKWARD * attention,
        kept_floats=kept,
    )


def _joined(
    vision: VisionConfig,
    visual: VisualConfig,
    step: VisualStep,
    *,
    n_query: int,
    groups: int,
    is_first: bool,
) -> _Block:
    """A prompted block: tokens projected once per group, rows once per run."""
    width, n_tokens, n_prompts = vision.width, vision.n_tokens, visual.n_prompts
    n_rows, token_queries = n_tokens + n_prompts, min(n_query, n_tokens)
    of_tokens = 2.0 * groups * step.n_frames * width * width * (token_queries + 2 * n_tokens)
    of_rows = 2.0 * step.n_runs * width * width * (max(n_query - n_tokens, 0) + 2 * n_prompts)
    attention, linear = _behind_projection(vision, step, n_rows=n_rows, n_query=n_query)
    images = step.n_runs * step.n_frames
    kept = images * width * (n_query + 2.0 * n_rows) + _kept_behind_projection(vision, step, n_query=n_query)
    if not is_first and vision.norm_order == "pre":
        kept += images * n_tokens * width
    return _Block(
        n_rows=n_tokens,
        n_query=n_query,
        forward_flops=of_tokens + of_rows + attention + linear,
        backward_flops=(0.0 if is_first else of_tokens) + of_rows + ATTENTION_BACKWARD * attention + linear,
        kept_floats=kept,
    )


def _carried(vision: VisionConfig, visual: VisualConfig, step: VisualStep, *, n_query: int) -> _Block:
    """A block behind the last prompted one: prompt rows are rows like any other."""
    width, n_rows = vision.width, vision.n_tokens + visual.n_prompts
    images = step.n_runs * step.n_frames
    projection = 2.0 * images * width * width * (n_query + 2 * n_rows)
    attention, linear = _behind_projection(vision, step, n_rows=n_rows, n_query=n_query)
    of_norm = n_rows if vision.norm_order == "pre" else 0
    kept = images * width * (2.0 * n_rows + of_norm + n_query)
    kept += _kept_behind_projection(vision, step, n_query=n_query)
    return _Block(
        n_rows=n_rows,
        n_query=n_query,
        forward_flops=projection + attention + linear,
        backward_flops=projection + ATTENTION_BACKWARD * attention + linear,
        kept_floats=kept,
    )
