"""The text engine: exact class features of learned prompts, each thing computed once and nothing that nobody reads."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from prompttune.base.devices import autocast_dtype, without_autocast
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine.context import TextContext
from prompttune.text.engine.encoding_plan import Flops, Plan, build_plan, count_flops, count_kept, schedule_of
from prompttune.text.engine.frozen_block import FrozenBlock
from prompttune.text.engine.prepared import PreparedChunk
from vidfeat.backbone import ResidualBlock, TextTower, Tokenizer

TILE_ROWS = 32  # leaf rows per attention tile: larger ones compute more that is masked, smaller ones share less
MAX_PREPARED = 16  # sets of prompts whose plans and constants are kept
FROZEN_BATCH = 128  # frozen texts encoded together
_FROZEN_FEATURES: WeakKeyDictionary[TextTower, dict[tuple, Tensor]] = WeakKeyDictionary()  # by tokens, device, dtype


@dataclass(frozen=True)
class _Prepared:
    """A plan and its chunks; holds the prompts, so that their identity stays theirs."""

    prompts: ClassPrompts
    plan: Plan
    chunks: tuple[PreparedChunk, ...]
    places: Tensor  # [C], where in the chunks' order each class is


class TextEngine:
    """Encodes class prompts through a frozen text tower, exactly: equal to `plain_encode` up to rounding.

    Args:
        tower: the frozen tower; its device and dtype are the engine's. Under `torch.autocast` the linear layers run in
            autocast's dtype, everything else in the tower's.
        class_chunk: classes that go through the tower together; None takes all at once.
        checkpoint: keep a chunk's features alone and recompute the rest in the backward pass, so that memory does not
            grow with the number of classes, at the price of a second forward pass.
    """

    def __init__(self, tower: TextTower, *, class_chunk: int | None = None, checkpoint: bool = False) -> None:
        if class_chunk is not None and class_chunk < 1:
            raise ValueError(f"class_chunk is a number of classes, at least 1, got {class_chunk}")
        self.tower = tower
        self.class_chunk = class_chunk
        self.checkpoint = checkpoint
        self._blocks: dict[torch.dtype, list[FrozenBlock]] = {}
        self._prepared: OrderedDict[tuple, _Prepared] = OrderedDict()

    def encode(self, prompts: ClassPrompts, context: TextContext) -> Tensor:
        """Class features `[R C E]` (kind "image": `[R B C E]`), not normalised, differentiable in the context alone.

        Raises:
            ValueError: a context that does not fit the prompts or the tower.
        """
        context.check(prompts, self.tower)
        runs = context.along_runs()
        prepared = self._prepare(prompts, runs)
        with without_autocast(self.tower.device.type):
            features = self._run_chunks(prepared.chunks, runs).index_select(0, prepared.places).transpose(0, 1)
        return features.unflatten(0, context.ctx.shape[:2]) if context.kind == "image" else features

    @torch.no_grad()
    def encode_frozen(self, texts: Sequence[str], tokenizer: Tokenizer) -> Tensor:
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
        """Which exact path these prompts take, why, and how many rows it computes instead of `C x 77`."""
        context.check(prompts, self.tower)
        runs = context.along_runs()
        plan = self._plan(prompts, runs)
        steps = plan.chunks[0]
        n_shared = sum(step.layout.n_trunk > 0 for step in steps)
        n_plain = prompts.n_classes * prompts.context_length
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
        plan = self._plan(prompts, context.along_runs())
        return count_flops(plan, width=config.width, mlp_width=config.mlp_width, embed_dim=self.tower.embed_dim)

    def kept_bytes(self, prompts: ClassPrompts, context: TextContext) -> int:
        """Bytes that `encode` keeps for the backward pass (with checkpoints: at most at a time), for planning memory.

        Under autocast it is less.
        """
        runs, config = context.along_runs(), self.tower.config
        plan = self._plan(prompts, runs)
        sizes = {"width": config.width, "mlp_width": config.mlp_width, "n_heads": config.heads}
        chunks = [count_kept(steps, **sizes) for steps in plan.chunks]
        kept = max(chunks) if self.checkpoint else sum(chunks)
        return kept * runs.n_runs * self.tower.dtype.itemsize

    def tokens_per_step(self, prompts: ClassPrompts, context: TextContext) -> int:
        """Rows that enter the tower for one run (kind "image": for one image); the plain path has `C x 77`."""
        return self._plan(prompts, context.along_runs()).n_rows

    def _run_chunks(self, chunks: Sequence[PreparedChunk], context: TextContext) -> Tensor:
        """Features `[C R E]` in the chunks' order."""
        features: list[Tensor] = []
        trunk_kv: list[Tensor | None] | None = None
        for chunk in chunks:
            if self.checkpoint and torch.is_grad_enabled():
                of_chunk, own_trunk_kv = recompute_in_backward(chunk.run, context, trunk_kv, use_reentrant=False)
            else:
                of_chunk, own_trunk_kv = chunk.run(context, trunk_kv)
            trunk_kv = own_trunk_kv if trunk_kv is None else trunk_kv
            features.append(of_chunk)
        return features[0] if len(features) == 1 else torch.cat(features)

    def _plan(self, prompts: ClassPrompts, context: TextContext) -> Plan:
        schedule = schedule_of(context, self.tower.n_layers)
        class_chunk = self.class_chunk or prompts.n_classes
        return build_plan(prompts, schedule, class_chunk=class_chunk, tile_rows=TILE_ROWS)

    def _prepare(self, prompts: ClassPrompts, context: TextContext) -> _Prepared:
        """The plan with its constants, from the last MAX_PREPARED kept."""
        dtype = self._linear_dtype()
        key = (id(prompts), context.kind, len(context.deep), tuple(sorted(context.class_tokens)), dtype)
        if key not in self._prepared:
            plan = self._plan(prompts, context)
            chunks = tuple(
                PreparedChunk(
                    self.tower,
                    self._frozen_blocks(dtype),
                    steps,
                    lends_trunk=index == 0 and len(plan.chunks) > 1,
                    sot_id=prompts.sot_id,
                )
                for index, steps in enumerate(plan.chunks)
            )
            places = torch.tensor(plan.class_order, device=self.tower.device).argsort()
            self._prepared[key] = _Prepared(prompts=prompts, plan=plan, chunks=chunks, places=places)
            if len(self._prepared) > MAX_PREPARED:
                self._prepared.popitem(last=False)
        self._prepared.move_to_end(key)
        return self._prepared[key]

    def _linear_dtype(self) -> torch.dtype:
        return autocast_dtype(self.tower.device.type) or self.tower.dtype

    def _frozen_blocks(self, dtype: torch.dtype) -> list[FrozenBlock]:
        if dtype not in self._blocks:
            config = self.tower.config
            is_quick = config.activation == "quick_gelu"
            blocks = cast("Iterable[ResidualBlock]", self.tower.blocks)
            self._blocks[dtype] = [
                FrozenBlock.of(block, n_heads=config.heads, is_quick=is_quick, dtype=dtype) for block in blocks
            ]
        return self._blocks[dtype]
