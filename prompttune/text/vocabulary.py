"""Classes as the model meets them: names, the words that stand for them in prompts, their frozen features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one training or test set, as the model meets them.

    Attributes:
        names: class names as the store has them.
        texts: the words that stand for them in prompts.
        prompts: their token ids behind, before or around the learned context; None where no context is learned.
        frozen: unit features of the hand-written prompts, float32 [C E].
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    prompts: ClassPrompts | None
    frozen: Tensor

    def __len__(self) -> int:
        return len(self.names)

    def frozen_of(self, classes: Tensor | None, *, n_runs: int) -> Tensor:
        """`frozen` for every run [R C E], or of each run's `classes` [R K] alone [R K E]."""
        return self.frozen.expand(n_runs, -1, -1) if classes is None else self.frozen[classes]


@dataclass(frozen=True)
class TextPass:
    """What a training step sends through the text tower, for counting and measuring it beforehand.

    Attributes:
        engine: over the frozen tower.
        prompts: of the classes.
        context: of all runs; of one video where every video has its own.
        n_images: how many videos have class features of their own in a step of one run; 1 where classes are shared.
    """

    engine: TextEngine
    prompts: ClassPrompts
    context: TextContext
    n_images: int = 1

    def of_first(self, n_classes: int) -> TextPass:
        """The same of the first classes alone."""
        if n_classes >= self.prompts.n_classes:
            return self
        given = self.context
        ctx = given.ctx[:, :n_classes] if given.kind == "class" else given.ctx
        tokens = {block: value[:, :n_classes] for block, value in given.class_tokens.items()}
        context = TextContext(ctx, kind=given.kind, deep=given.deep, class_tokens=tokens)
        return TextPass(self.engine, self.prompts.subset(list(range(n_classes))), context, self.n_images)

    @property
    def n_rows(self) -> int:
        """Rows that one run's step sends through the tower."""
        return self.n_images * self.engine.tokens_per_step(self.prompts, self.context)

    @property
    def flops(self) -> int:
        """Operations of one run's step, forward and backward."""
        return self.n_images * self.engine.flops(self.prompts, self.context).total

    @property
    def kept_bytes(self) -> int:
        """Bytes that one run's step keeps between the passes."""
        return self.n_images * self.engine.kept_bytes(self.prompts, self.context) // self.context.ctx.shape[0]
