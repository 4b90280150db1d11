"""The text engine: exact class features of learned prompts, each thing computed once and nothing that nobody reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from prompttune.base.devices import autocast_dtype, launches_cost, without_autocast
from prompttune.base.recompute import recomputed
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.encoding_plan import (
    Flops,
    Plan,
    build_plan,
    count_buffers,
    count_flops,
    count_kept,
    schedule_of,
)
from prompttune.text.engine.frozen_block import FrozenBlock
from prompttune.text.engine.full_length import CHUNK_ROWS, FullLengthChunk, FullLengthSize, full_length_chunks
from prompttune.text.engine.fused_pass import UNITS_OF_BIAS, FusedBlock
from prompttune.text.engine.layout import Appended
from prompttune.text.engine.prepared import FusedChunk, PreparedChunk, TiledChunk
from vidfeat.backbone import AnyTokenizer, FrozenText, PromptableText, ResidualBlock

TILE_ROWS = 32  # leaf rows per attention tile: larger ones compute more that is masked, smaller ones share less
MAX_PREPARED = 16  # sets of prompts whose plans and constants are kept
FROZEN_BATCH = 128  # frozen texts encoded together
_FROZEN_FEATURES: WeakKeyDictionary[FrozenText, dict[tuple, Tensor]] = WeakKeyDictionary()  # by tokens, device, dtype
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Prepared:
    """A plan's chunks; holds the prompts, so that their identity stays theirs."""

    prompts: ClassPrompts
    chunks: Sequence[PreparedChunk]
    places: Tensor  # [C], where in the chunks' order each class is
    order: Tensor  # [C], its inverse


class _Reordered(torch.autograd.Function):
    """`x[places]`, where `order` is the inverse of the permutation `places`: the gradient is a gather too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, places: Tensor, order: Tensor) -> Tensor:
        ctx.save_for_backward(order)
        return x.index_select(0, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None, None]:
        (order,) = ctx.saved_tensors
        return dy.index_select(0, order), None, None


def takes_full_length(tower: PromptableText, prompts: ClassPrompts) -> bool:
    """Whether all positions of every class are computed; see `TextConfig.path`.

    So they are too where no start of text makes the first row alike, and where a class embedding sees all of the
    padding, as the tokenizer fills texts up with another token than the one whose followers are hidden.
    """
    config = tower.config
    sees_padding = config.pooling == "class" and config.pad_id != prompts.pad_id
    return config.path == "full-length" or sees_padding or prompts.sot_id is None


class TextEngine:
    """Encodes class prompts through a frozen text tower, exactly: equal to `plain_encode` up to rounding.

    Args:
        tower: the frozen tower; its device and dtype are the engine's. Under `torch.autocast` the linear layers run in
            autocast's dtype, everything else in the tower's.
        class_chunk: classes that go through the tower together; None takes all at once.
        checkpoint: keep a chunk's features alone and recompute the rest in the backward pass, so that memory does not
            grow with the number of classes, at the price of a second forward pass.
    """

    def __init__(self, tower: PromptableText, *, class_chunk: int | None = None, checkpoint: bool = False) -> None:
        if class_chunk is not None and class_chunk < 1:
            raise ValueError(f"class_chunk is a number of classes, at least 1, got {class_chunk}")
        self.tower = tower
        self.class_chunk = class_chunk
        self.checkpoint = checkpoint
        self._blocks: dict[torch.dtype, list[FrozenBlock | FusedBlock]] = {}
        self._prepared: OrderedDict[tuple, _Prepared] = OrderedDict()
        self._full_length: OrderedDict[tuple, tuple[ClassPrompts, Sequence[FullLengthChunk]]] = OrderedDict()

    def encode(self, prompts: ClassPrompts, context: TextContext) -> Tensor:
        """Class features `[R C E]` (kind "image": `[R B C E]`), not normalised, differentiable in the context alone.

        Raises:
            ValueError: a context that does not fit the prompts or the tower.
        """
        context.check(prompts, self.tower)
        runs = context.along_runs()
        if takes_full_length(self.tower, prompts):
            features = self._run_full_length(prompts, runs)
            return features.unflatten(0, context.ctx.shape[:2]) if context.kind == "image" else features
        prepared = self._prepare(prompts, runs)
        with without_autocast(self.tower.device.type):
            features = _Reordered.apply(self._run_chunks(prepared.chunks, runs), prepared.places, prepared.order)
            features = features.transpose(0, 1)
        return features.unflatten(0, context.ctx.shape[:2]) if context.kind == "image" else features

    @torch.no_grad()
    def encode_frozen(self, texts: Sequence[str], tokenizer: AnyTokenizer) -> Tensor:
        """Features `[C E]` of texts without learned context, not normalised, no gradient.

        Computed once per tower, whichever engine asks: models that are made to plan memory, or because not all runs fit
        at once, encode nothing again.

        Raises:
            ValueError: texts that do not fit the context length.
        """
        device, dtype = self.tower.device, self.tower.dtype
        token_ids = tokenizer.tokenize(list(texts))
        known = _FROZEN_FEATURES.setdefault(self.tower, {})
        key = (token_ids.numpy().tobytes(), device, dtype)
        if key not in known:
            known[key] = self._encode_tokens(token_ids).to(device)
        return known[key]

    def _encode_tokens(self, token_ids: Tensor) -> Tensor:
        """Features `[C E]` of the host's `token_ids [C S]`: texts of like length together, cut behind what acts."""
        n_needed = self.tower.n_needed(token_ids)
        order = n_needed.argsort()
        features = [
            self.tower(token_ids[places, : int(n_needed[places].max())].to(self.tower.device))
            for places in order.split(FROZEN_BATCH)
        ]
        return torch.cat(features)[order.argsort().to(self.tower.device)]

    def path(self, prompts: ClassPrompts, context: TextContext) -> str:
        """Which exact path these prompts take, why, and how many rows it computes instead of all `C x S`."""
        context.check(prompts, self.tower)
        runs = context.along_runs()
        if takes_full_length(self.tower, prompts):
            size = FullLengthSize.of(prompts, runs, self.tower)
            why = "all positions of a text change its feature, padding included"
            return (
                f"full-length: {why}; {size.n_rows} rows per run, {size.n_ctx_rows} context rows enter the first block"
            )
        plan = self._plan(prompts, runs)
        steps = plan.chunks[0]
        n_shared = sum(step.layout.n_trunk > 0 for step in steps)
        n_plain = prompts.n_classes * self.tower.config.n_positions
        if n_shared == len(steps):
            name, why = "shared-prefix", f"SOS and {steps[0].layout.n_trunk} context rows run once for all classes"
        elif n_shared:
            name, why = (
                "partly-shared-prefix",
                f"the context is the same for all classes in {n_shared} of {len(steps)} blocks",
            )
        elif prompts.n_ctx_before == 0:
            name, why = "packed", "the name stands in front: it is constant, what follows it differs by class"
        else:
            name, why = "packed", "every class has its own context, so that SOS alone is shared"
        per_image = ", one prefix per image" if context.kind == "image" else ""
        return f"{name}: {why}{per_image}; {plan.n_rows} rows per run instead of {n_plain}, {len(plan.chunks)} chunk(s)"

    def flops(self, prompts: ClassPrompts, context: TextContext) -> Flops:
        """Floating-point operations of the exact computation, of one run (kind "image": of one image)."""
        config = self.tower.config
        if takes_full_length(self.tower, prompts):
            return FullLengthSize.of(prompts, context.along_runs(), self.tower).flops(self.tower)
        plan = self._plan(prompts, context.along_runs())
        return count_flops(plan, width=config.width, mlp_width=config.mlp_width, embed_dim=self.tower.embed_dim)

    def kept_bytes(self, prompts: ClassPrompts, context: TextContext) -> int:
        """Bytes that `encode` keeps for the backward pass (with checkpoints: at most at a time), for planning memory;
        on a device with the buffers that it keeps besides, of every chunk (`Space`).

        Under autocast it is less.
        """
        runs, config = context.along_runs(), self.tower.config
        if takes_full_length(self.tower, prompts):
            kept = FullLengthSize.of(prompts, runs, self.tower).kept(self.tower)
            kept = kept * self._full_length_chunk(prompts, runs) // prompts.n_classes if self.checkpoint else kept
            return kept * runs.n_runs * self.tower.dtype.itemsize
        plan = self._plan(prompts, runs)
        mlp_width = config.mlp_width + (UNITS_OF_BIAS if self._is_fused else 0)
        sizes = {"width": config.width, "mlp_width": mlp_width, "n_heads": config.heads}
        chunks = [count_kept(steps, **sizes, fused=self._is_fused) for steps in plan.chunks]
        kept = max(chunks) if self.checkpoint else sum(chunks)
        if self._is_fused:
            kept += sum(count_buffers(steps, width=config.width) for steps in plan.chunks)
        return kept * runs.n_runs * self.tower.dtype.itemsize

    def tokens_per_step(self, prompts: ClassPrompts, context: TextContext) -> int:
        """Rows that enter the tower for one run (kind "image": for one image); the plain path has `C x S`."""
        if takes_full_length(self.tower, prompts):
            return prompts.n_classes * self.tower.config.n_positions
        return self._plan(prompts, context.along_runs()).n_rows

    def kept(self) -> tuple[object, ...]:
        """Plans and constants of the prompts that were encoded last."""
        return (*self._prepared.values(), *self._full_length.values())

    def _run_full_length(self, prompts: ClassPrompts, context: TextContext) -> Tensor:
        """Features `[R C E]`; under autocast PyTorch's own rules hold."""
        features = []
        for chunk in self._prepare_full_length(prompts, context):
            features.append(self._run(chunk.run, context))
        return torch.cat(features).transpose(0, 1)

    def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        return recomputed(function, *args, device_type=self.tower.device.type) if self.checkpoint else function(*args)

    def _full_length_chunk(self, prompts: ClassPrompts, context: TextContext) -> int:
        """How many classes go through the tower together."""
        size = self.class_chunk or max(1, CHUNK_ROWS // (self.tower.config.n_positions * context.n_runs))
        return min(size, prompts.n_classes)

    def _prepare_full_length(self, prompts: ClassPrompts, context: TextContext) -> Sequence[FullLengthChunk]:
        """All classes in chunks, from the last MAX_PREPARED sets of prompts kept."""
        size = self._full_length_chunk(prompts, context)
        key = (id(prompts), size)
        if key not in self._full_length:
            self._full_length[key] = (prompts, full_length_chunks(self.tower, prompts, class_chunk=size))
            if len(self._full_length) > MAX_PREPARED:
                self._full_length.popitem(last=False)
        self._full_length.move_to_end(key)
        return self._full_length[key][1]

    def _run_chunks(self, chunks: Sequence[PreparedChunk], context: TextContext) -> Tensor:
        """Features `[C R E]` in the chunks' order."""
        features: list[Tensor] = []
        trunk_kv: list[Tensor | None] | None = None
        for chunk in chunks:
            of_chunk, own_trunk_kv = self._run(chunk.run, context, trunk_kv)
            trunk_kv = own_trunk_kv if trunk_kv is None else trunk_kv
            features.append(of_chunk)
        return features[0] if len(features) == 1 else torch.cat(features)

    def _plan(self, prompts: ClassPrompts, context: TextContext) -> Plan:
        schedule = schedule_of(context, len(self.tower.blocks))
        class_chunk = self.class_chunk or prompts.n_classes
        appended = Appended.of(self.tower.config)
        return build_plan(prompts, schedule, appended=appended, class_chunk=class_chunk, tile_rows=TILE_ROWS)

    def _prepare(self, prompts: ClassPrompts, context: TextContext) -> _Prepared:
        """The plan with its constants, from the last MAX_PREPARED kept."""
        assert prompts.sot_id is not None  # `takes_full_length` otherwise
        dtype = self._linear_dtype()
        key = (id(prompts), context.kind, len(context.deep), tuple(sorted(context.class_tokens)), dtype)
        if key not in self._prepared:
            plan = self._plan(prompts, context)
            blocks: Any = self._frozen_blocks(dtype)
            kind: Any = FusedChunk if self._is_fused else TiledChunk
            chunks = tuple(
                kind(
                    self.tower,
                    steps,
                    blocks,
                    lends_trunk=index == 0 and len(plan.chunks) > 1,
                    sot_id=prompts.sot_id,
                )
                for index, steps in enumerate(plan.chunks)
            )
            order = torch.tensor(plan.class_order)
            places, order = order.argsort().to(self.tower.device), order.to(self.tower.device)
            self._prepared[key] = _Prepared(prompts=prompts, chunks=chunks, places=places, order=order)
            if len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    @property
    def _is_fused(self) -> bool:
        """Whether blocks run in the form for devices (`fused_pass.py`) or in that for CPUs (`block_pass.py`)."""
        return launches_cost(self.tower.positional_embedding)

    def _linear_dtype(self) -> torch.dtype:
        return autocast_dtype(self.tower.device.type) or self.tower.dtype

    def _frozen_blocks(self, dtype: torch.dtype) -> list[FrozenBlock | FusedBlock]:
        if dtype not in self._blocks:
            self._blocks[dtype] = [self._frozen_block(block, dtype) for block in self.tower.blocks]
        return self._blocks[dtype]

    def _frozen_block(self, block: ResidualBlock, dtype: torch.dtype) -> FrozenBlock | FusedBlock:
        config = self.tower.config
        frozen = FrozenBlock.of(block, n_heads=config.heads, activation=config.activation, dtype=dtype)
        return FusedBlock.of(frozen, head_width=config.width // config.heads) if self._is_fused else frozen
