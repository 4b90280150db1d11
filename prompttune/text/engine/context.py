"""What the prompts put into the text tower: context vectors, deep prompts, class tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from torch import Tensor

from prompttune.errors import explain
from prompttune.text.class_prompts import ClassPrompts
from vidfeat.backbone import PromptableText

ContextKind = Literal["shared", "class", "image"]
CONTEXT_KINDS: tuple[ContextKind, ...] = get_args(ContextKind)
_AXES = {"shared": "R M W", "class": "R C M W", "image": "R B M W"}


@dataclass(frozen=True)
class TextContext:
    """The learned inputs of the text tower for R runs, without positional embeddings.

    Attributes:
        ctx: the context vectors: `[R M W]` (kind "shared": one context for all classes), `[R C M W]` ("class": one per
            class, be it learned or made by a per-class dropout mask) or `[R B M W]` ("image": one per image, each for
            all classes).
        kind: which of the three.
        deep: `deep[i] [R M W]` replaces the context's rows at the input of block i + 1.
        class_tokens: `{block: [R C M W]}` replaces them, class by class, at the input of that block.
    """

    ctx: Tensor
    kind: ContextKind = "shared"
    deep: tuple[Tensor, ...] = ()
    class_tokens: Mapping[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: shapes that do not fit together, or two sources for the same block.
        """
        problems = []
        if self.kind not in CONTEXT_KINDS:
            raise ValueError(explain("unknown kind of context", expected=CONTEXT_KINDS, got=self.kind))
        axes = _AXES[self.kind]
        if self.ctx.dim() != len(axes.split()):
            problems.append(f"ctx: expected [{axes}] for kind {self.kind!r}, got shape {list(self.ctx.shape)}")
        else:
            run, width = self.ctx.shape[0], tuple(self.ctx.shape[-2:])
            for i, deep in enumerate(self.deep):
                if tuple(deep.shape) != (run, *width):
                    problems.append(f"deep[{i}]: expected [R M W] = {[run, *width]}, got shape {list(deep.shape)}")
            for block, tokens in self.class_tokens.items():
                if tokens.dim() != 4 or tokens.shape[0] != run or tuple(tokens.shape[-2:]) != width:
                    problems.append(
                        f"class_tokens[{block}]: expected [R C M W] with R, M, W = {[run, *width]}, "
                        f"got shape {list(tokens.shape)}"
                    )
        for block in sorted(self.class_tokens):
            if block < 1:
                problems.append(f"class_tokens[{block}]: blocks count from 0, and what enters block 0 is ctx itself")
            elif block <= len(self.deep):
                problems.append(
                    f"class_tokens[{block}] and deep[{block - 1}] both replace the context at block {block}"
                )
        if problems:
            raise ValueError(explain("the text context does not fit together", got="\n            ".join(problems)))

    @property
    def n_runs(self) -> int:
        """R."""
        return self.ctx.shape[0]

    @property
    def n_ctx(self) -> int:
        """M."""
        return self.ctx.shape[-2]

    @property
    def replaced_blocks(self) -> frozenset[int]:
        """Blocks whose input gets new rows in the context's place."""
        return frozenset(range(1, len(self.deep) + 1)) | frozenset(self.class_tokens)

    def check(self, prompts: ClassPrompts, tower: PromptableText) -> None:
        """
        Raises:
            ValueError: this context is for other prompts or another tower; every reason is named.
        """
        problems = []
        width, n_layers = tower.positional_embedding.shape[1], len(tower.blocks)
        if self.ctx.shape[-1] != width:
            problems.append(f"the tower is {width} wide, the context {self.ctx.shape[-1]}")
        if self.n_ctx != prompts.n_ctx or self.n_ctx == 0:
            problems.append(
                f"the prompts keep {prompts.n_ctx} places for context vectors, the context has {self.n_ctx}; "
                "prompts of words alone go through encode_frozen"
            )
        per_class = {"ctx": self.ctx} if self.kind == "class" else {}
        for name, tensor in {**per_class, **{f"class_tokens[{b}]": t for b, t in self.class_tokens.items()}}.items():
            if tensor.shape[1] != prompts.n_classes:
                problems.append(f"{name} is for {tensor.shape[1]} classes, the prompts have {prompts.n_classes}")
        if self.replaced_blocks and max(self.replaced_blocks) >= n_layers:
            problems.append(
                f"rows enter at block {max(self.replaced_blocks)}, the tower's last block is {n_layers - 1}"
            )
        if self.replaced_blocks and prompts.position != "end":
            problems.append(
                f"deep prompts and class tokens replace positions 1..M, where position {prompts.position!r} has the "
                'class name: use position "end"'
            )
        if problems:
            raise ValueError(explain("the text context does not fit the prompts", got="\n            ".join(problems)))

    def along_runs(self) -> TextContext:
        """The same inputs with every image a run of its own: kind "image" `[R B M W]` becomes "shared" `[R*B M W]`."""
        if self.kind != "image":
            return self
        n_images = self.ctx.shape[1]

        def per_image(tensor: Tensor) -> Tensor:
            return tensor.unsqueeze(1).expand(-1, n_images, *tensor.shape[1:]).flatten(0, 1)

        return TextContext(
            ctx=self.ctx.flatten(0, 1),
            kind="shared",
            deep=tuple(per_image(deep) for deep in self.deep),
            class_tokens={block: per_image(tokens) for block, tokens in self.class_tokens.items()},
        )

    def entering(self, block: int) -> Tensor | None:
        """What replaces the context's rows at the input of `block`: `[M R W]`, class by class `[C*M R W]`, or None."""
        if block == 0:
            rows = self.ctx
        elif block <= len(self.deep):
            rows = self.deep[block - 1]
        elif block in self.class_tokens:
            rows = self.class_tokens[block]
        else:
            return None
        return rows.flatten(1, -2).transpose(0, 1)

    def is_shared_at(self, block: int) -> bool:
        """Whether the rows that stand in the context's place at the input of `block` are the same for every class."""
        newest = max((b for b in self.replaced_blocks if b <= block), default=0)
        return self.kind != "class" if newest == 0 else newest not in self.class_tokens
