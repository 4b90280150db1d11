"""Class sub-sampling in training: each step takes the batch's classes and some others, not all of them.

With many classes the text tower is most of a step, and few of the classes are in the batch. With `[classes]
sample = "random"` or `"hard"` a step's text encoding, softmax and loss terms run over K of the C training classes, each
run's own K:

    K = min(C, B + n_negatives)      the classes of the run's B videos, and others in all places these leave free

K depends on the batch size alone, so that runs that go together have equally many and each has those it has alone. The
loss over a sample is not an unbiased estimate of the loss over all classes: its softmax has fewer competitors, and it
is a step towards the full loss's minimum only as far as the classes left out hardly compete. With K = C it is the full
loss, exactly. Evaluation and validation always take all classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

import torch
from torch import Tensor

from prompttune.base.run_axis import RunGenerators
from prompttune.config.train_config import ClassesConfig
from prompttune.losses.terms import AnchorTensors, StepLosses, StepTensors, WeightedTerm, compute_losses
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine

EVERY_RUN = slice(None)


def classes_per_step(options: ClassesConfig, *, n_classes: int, batch_size: int) -> int:
    """K: how many of the training classes one step of one run takes."""
    return n_classes if options.sample == "all" else min(n_classes, batch_size + options.n_negatives)


class ClassSampler:
    """Draws each run's classes of a step, each run from its own generator; resumable through `state`.

    `random` negatives are drawn without replacement, each class as likely as any other; `hard` ones are those whose
    hand-written prompt is nearest (cosine) to that of a class in the batch, and nothing is drawn.

    Args:
        options: which negatives and how many; not "all".
        frozen: unit features of the hand-written prompts, [C E].
        seeds: one per run.
    """

    def __init__(self, options: ClassesConfig, *, frozen: Tensor, seeds: Sequence[int]) -> None:
        self.options, self.n_classes = options, len(frozen)
        self.generators = RunGenerators(seeds, "classes")
        self.similarity = (frozen @ frozen.T).cpu() if options.sample == "hard" else None

    def draw(self, labels: Tensor) -> Tensor | None:
        """The classes of the next step, ascending, int64 [R K] on the CPU; None where it takes all of them.

        Args:
            labels: of the whole batch, before it is cut for accumulation; int64 [R B] in [0, C).
        """
        n_taken = classes_per_step(self.options, n_classes=self.n_classes, batch_size=labels.shape[1])
        if n_taken == self.n_classes:
            return None
        labels = labels.cpu()
        if self.similarity is None:
            distance = self.generators.permutation(self.n_classes).float()
        else:
            distance = -self.similarity[labels].amax(dim=1)
        distance = distance.scatter(1, labels, -torch.inf)
        # Stable: of equally near classes the first ones, on every machine.
        return distance.argsort(dim=1, stable=True)[:, :n_taken].sort(dim=1).values

    def state(self) -> Tensor:
        """The generators' states, uint8 [R n_bytes]: what a checkpoint keeps."""
        return self.generators.state()

    def load_state(self, state: Tensor) -> None:
        """Continues where `state` was taken."""
        self.generators.load_state(state)


def places_of(labels: Tensor, classes: Tensor) -> Tensor:
    """Where each label stands among its run's ascending `classes`, int64 [R B] of [R B] and [R K].

    Raises:
        ValueError: a label that is not among them.
    """
    places = torch.searchsorted(classes.contiguous(), labels.contiguous()).clamp(max=classes.shape[1] - 1)
    if labels.device.type == "cpu" and not torch.equal(classes.gather(1, places), labels):
        raise ValueError("a batch holds classes that were not drawn for it")
    return places


def with_negatives(classes: Tensor | None, *, n_classes: int, n_all: int) -> Tensor | None:
    """Each run's `classes` [R K], followed by all places in [n_classes, n_all): the negative prompts'."""
    if classes is None:
        return None
    negatives = torch.arange(n_classes, n_all, device=classes.device).expand(len(classes), -1)
    return torch.cat([classes, negatives], dim=1)


def encode_sampled(engine: TextEngine, prompts: ClassPrompts, context: TextContext, classes: Tensor) -> Tensor:
    """Class features [R K E] (kind "image": [R B K E]), not normalised: run r's of its own `classes[r]`.

    The runs go through the tower one after the other, as no two have the same classes.

    Args:
        prompts: of all C classes.
        context: made for all C classes, so that a run's dropout masks are those it has without sub-sampling.
        classes: int64 [R K].
    """
    features = [
        engine.encode(prompts.subset(chosen.tolist()), _of_run(context, run, chosen))
        for run, chosen in enumerate(classes)
    ]
    return torch.cat(features)


def _of_run(context: TextContext, run: int, classes: Tensor) -> TextContext:
    classes = classes.to(context.ctx.device)
    own = slice(run, run + 1)
    ctx = context.ctx[own]
    return TextContext(
        ctx[:, classes] if context.kind == "class" else ctx,
        kind=context.kind,
        deep=tuple(deep[own] for deep in context.deep),
        class_tokens={block: tokens[own][:, classes] for block, tokens in context.class_tokens.items()},
    )


@overload
def of_run(values: Tensor, run: slice) -> Tensor: ...
@overload
def of_run(values: Tensor | None, run: slice) -> Tensor | None: ...
def of_run(values: Tensor | None, run: slice) -> Tensor | None:
    """Those of some of the runs; `values` itself for EVERY_RUN, as a slice costs a copy in the backward pass."""
    return values if values is None or run == EVERY_RUN else values[run]


def anchors_of_run(anchors: AnchorTensors | None, run: slice) -> AnchorTensors | None:
    """The anchors of some of the runs."""
    if anchors is None:
        return None
    return AnchorTensors(
        anchor_features=of_run(anchors.anchor_features, run),
        frozen_anchor_features=of_run(anchors.frozen_anchor_features, run),
        frozen_negative_features=anchors.frozen_negative_features,
        negative_features=of_run(anchors.negative_features, run),
        class_features=of_run(anchors.class_features, run),
    )


def step_losses(steps: Sequence[StepTensors], terms: Sequence[WeightedTerm]) -> StepLosses:
    """The weighted terms [R] of a step that came as one for all runs, or as one per run, each with its own classes."""
    if len(steps) == 1:
        return compute_losses(steps[0], terms)
    alone = [
        compute_losses(step, [replace(term, weight=_weight_of_run(term, run)) for term in terms])
        for run, step in enumerate(steps)
    ]
    return StepLosses({term.name: torch.cat([losses.terms[term.name] for losses in alone]) for term in terms})


def _weight_of_run(term: WeightedTerm, run: int) -> float:
    return term.weight[run] if isinstance(term.weight, tuple) else term.weight


def step_accuracy(steps: Sequence[StepTensors]) -> Tensor:
    """Share of each run's batch that is predicted right among the step's classes, [R]."""
    found = [(step.logits.detach().argmax(dim=-1) == step.labels).float().mean(dim=1) for step in steps]
    return found[0] if len(found) == 1 else torch.cat(found)
