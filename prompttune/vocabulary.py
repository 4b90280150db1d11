"""Classes as the model meets them: names, the words that stand for them in prompts, their frozen features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from prompttune.class_prompts import ClassPrompts


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
