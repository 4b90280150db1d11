"""What the engine will compute for given prompts: the rows of every block, chunk by chunk, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.layout import Appended, Layout, Sharing, build_layout, tree_order
from prompttune.text.engine.tiling import Tiling, build_tiling


@dataclass(frozen=True)
class ContextRows:
    """What stands in the context's place at the input of one block.

    Attributes:
        enter: new rows take the place here, instead of what the block before made of it.
        shared: they are the same for every class.
    """

    enter: bool
    shared: bool


Schedule = tuple[ContextRows, ...]


def schedule_of(context: TextContext, n_layers: int) -> Schedule:
    """The context's rows at every block of a tower."""
    return tuple(
        ContextRows(enter=block == 0 or block in context.replaced_blocks, shared=context.is_shared_at(block))
        for block in range(n_layers)
    )


@dataclass(frozen=True)
class BlockStep:
    """One block of one chunk.

    Attributes:
        layout: the rows that enter it.
        tiling: its attention; rows before `tiling.first_query` are keys alone, as nobody reads their output.
        enter: context rows enter here; all other rows are words.
        words_from: int64, which of the block before's outputs each word row is; None when each is its own.
    """

    layout: Layout
    tiling: Tiling
    enter: bool
    words_from: np.ndarray | None


@dataclass(frozen=True)
class Plan:
    """Chunks of classes, each the steps of all blocks; the first chunk computes the trunk for the others."""

    chunks: tuple[tuple[BlockStep, ...], ...]
    n_classes: int

    @property
    def class_order(self) -> list[int]:
        """Class indices in the order in which the chunks give features."""
        return [c for steps in self.chunks for c in steps[-1].layout.classes]

    def steps(self) -> Iterator[tuple[int, BlockStep]]:
        """Every `(block, step)`."""
        for steps in self.chunks:
            yield from enumerate(steps)

    @property
    def n_rows(self) -> int:
        """Rows in the widest block of each chunk, summed; the plain path has `C x 77`."""
        return sum(max(step.layout.n_rows for step in steps) for steps in self.chunks)


def build_plan(
    prompts: ClassPrompts, schedule: Schedule, *, appended: Appended | None, class_chunk: int, tile_rows: int
) -> Plan:
    """The plan for all classes of the prompts, at most `class_chunk` at a time; `appended` is the tower's."""
    order = tree_order(prompts)
    chunks = [order[start : start + class_chunk] for start in range(0, len(order), class_chunk)]
    return Plan(
        chunks=tuple(
            _plan_chunk(prompts, schedule, classes, appended=appended, owns_trunk=index == 0, tile_rows=tile_rows)
            for index, classes in enumerate(chunks)
        ),
        n_classes=len(order),
    )


def _plan_chunk(
    prompts: ClassPrompts,
    schedule: Schedule,
    classes: list[int],
    *,
    appended: Appended | None,
    owns_trunk: bool,
    tile_rows: int,
) -> tuple[BlockStep, ...]:
    layouts: dict[Sharing, Layout] = {}
    tilings: dict[tuple[Sharing, int], Tiling] = {}
    steps: list[BlockStep] = []
    for block, rows in enumerate(schedule):
        sharing = Sharing(ctx=rows.shared, words=all(earlier.shared for earlier in schedule[: block + 1]))
        if sharing not in layouts:
            layouts[sharing] = build_layout(
                prompts, classes, sharing=sharing, appended=appended, owns_trunk=owns_trunk, tile_rows=tile_rows
            )
        layout = layouts[sharing]
        if block + 1 == len(schedule):
            first_query = layout.first_read
        else:
            first_query = layout.n_ctx_rows if schedule[block + 1].enter else 0
        if (sharing, first_query) not in tilings:
            tilings[sharing, first_query] = build_tiling(layout, first_query=first_query, tile_rows=tile_rows)
        words_from = layout.words_from(steps[-1].layout) if steps else None
        steps.append(BlockStep(layout, tilings[sharing, first_query], enter=rows.enter, words_from=words_from))
    return tuple(steps)


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one run's exact computation: two per multiply-add, products alone.

    Attributes:
        forward, backward: of the linear layers and of attention, with no masked or padded place counted.
    """

    forward: int
    backward: int

    @property
    def total(self) -> int:
        """Both."""
        return self.forward + self.backward


def n_live_rows(block: int, layout: Layout) -> int:
    """Rows of a block that carry gradients: all of them but for block 0's words, which no prompt reaches."""
    return layout.n_ctx_rows if block == 0 else layout.n_rows


def count_kept(steps: Sequence[BlockStep], *, width: int, mlp_width: int, n_heads: int, fused: bool) -> int:
    """How many numbers one run of a chunk keeps for the backward pass; `fused` as `fused_pass.py` does, with room for
    the gradients of scores and of what was attended to beside the weights and the queries."""
    kept, n_times = 0, 2 if fused else 1
    for block, step in enumerate(steps):
        layout, tiling = step.layout, step.tiling
        n_live = n_live_rows(block, layout)
        n_queries = layout.n_rows - tiling.first_query
        n_tiles, n_places, n_columns = tiling.visible.shape
        rows = n_live * (width + 2) + n_queries * (width + 2 + mlp_width)
        kept += rows + 2 * n_tiles * n_columns * width
        kept += n_times * n_tiles * n_places * (width + n_heads * n_columns)
    return kept


def count_buffers(steps: Sequence[BlockStep], *, width: int) -> int:
    """How many numbers of one run the buffers hold that a device keeps for a chunk, see `fused_pass.Space`."""
    n_live = max(n_live_rows(block, step.layout) for block, step in enumerate(steps))
    n_borrowed = max(step.layout.n_trunk - step.layout.n_own_trunk for step in steps)
    n_attended = max(step.tiling.query_rows.size for step in steps)
    return (3 * n_live + 2 * n_borrowed + n_attended) * width


def count_flops(plan: Plan, *, width: int, mlp_width: int, embed_dim: int) -> Flops:
    """The operations that a plan's computation needs for one run."""
    forward = backward = 0
    for block, step in plan.steps():
        layout, tiling = step.layout, step.tiling
        n_live = n_live_rows(block, layout)
        n_live_queries = max(n_live - tiling.first_query, 0)
        n_queries = layout.n_rows - tiling.first_query
        projections = 2 * width * width * (2 * n_live + n_live_queries)
        per_query = n_queries * (2 * width * width + 4 * width * mlp_width)
        attention = 4 * width * tiling.n_visible
        forward += projections + per_query + attention
        backward += projections + per_query + 2 * attention
    joint = 2 * width * embed_dim * plan.n_classes
    return Flops(forward=forward + joint, backward=backward + joint)
