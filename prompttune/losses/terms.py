"""Loss terms over one training step: small frozen callables, one signature `(StepTensors) -> Tensor [R]`.

A term is a frozen dataclass, its fields the options that a configuration may set; `config.methods.LOSS_TERMS` names it.
It returns one value per run, a mean over the run's own batch, so that `values.sum().backward()` gives every run the
gradient it would have alone. Terms are unweighted; `WeightedTerm` carries the weight. Anchor terms: `anchors.py`.

Notation: v video feature, t class feature, both unit; s the logit scale; p(c|v) = softmax_c(s v.t_c); a bar marks what
the frozen CLIP gives. Half precision is refused here: the towers may run in it, losses do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from prompttune.base.devices import one_hot
from prompttune.base.shapes import AxisCheck
from prompttune.errors import ConfigError, explain


@dataclass(frozen=True, kw_only=True)
class AnchorTensors:
    """The irrelevant videos and negative prompts of one step; checks its axes at birth.

    Attributes:
        anchor_features: `[R A E]` unit; through the visual prompts if there are any, else the frozen features.
        frozen_anchor_features: `[R A E]` unit; the frozen CLIP's.
        frozen_negative_features: `[Q E]` unit; negative prompts as written, through the frozen text tower.
        negative_features: `[R Q E]` unit or None; the same negatives with the learned context in front.
        class_features: `[R A C E]` unit or None; only where the classes depend on the video (CoCoOp).
    """

    anchor_features: Tensor
    frozen_anchor_features: Tensor
    frozen_negative_features: Tensor
    negative_features: Tensor | None = None
    class_features: Tensor | None = None

    def __post_init__(self) -> None:
        check = AxisCheck("AnchorTensors")
        check.floating("anchor_features", self.anchor_features, "R A E", unit=True)
        check.floating("frozen_anchor_features", self.frozen_anchor_features, "R A E", unit=True)
        check.floating("frozen_negative_features", self.frozen_negative_features, "Q E", unit=True)
        check.floating("negative_features", self.negative_features, "R Q E", unit=True)
        check.floating("class_features", self.class_features, "R A C E", unit=True)
        check.raise_problems()

    def prompted_negatives(self) -> Tensor:
        """Negative features `[R Q E]`: with the learned context where they are given, else the frozen ones."""
        if self.negative_features is not None:
            return self.negative_features
        return self.frozen_negative_features.expand(len(self.anchor_features), -1, -1)


@dataclass(frozen=True, kw_only=True)
class StepTensors:
    """All that the loss terms of one step may look at; checks its axes at birth.

    Attributes:
        logits: `[R B C]`, scale included.
        labels: int64 `[R B]` in `[0, C)`.
        video_features: `[R B E]` unit. Where the head weighs frames per class (concept spotting), the mean over frames.
        class_features: `[R C E]` unit; `[R B C E]` where the classes depend on the video (CoCoOp).
        frozen_class_features: `[C E]` unit, of the hand-crafted template(s).
        frozen_logits: `[R B C]`, the zero-shot prediction, scale included; None where no term reads anything frozen.
        logit_scale: s, already exponentiated.
        frozen_video_features: `[R B E]` unit or None; needed where the videos pass through visual prompts.
        targets: `[R B C]` or None; soft labels (feature mix-up), rows summing to 1. They take the place of `labels`.
        anchors: the step's irrelevant videos, or None.
    """

    logits: Tensor
    labels: Tensor
    video_features: Tensor
    class_features: Tensor
    frozen_class_features: Tensor
    frozen_logits: Tensor | None
    logit_scale: float
    frozen_video_features: Tensor | None = None
    targets: Tensor | None = None
    anchors: AnchorTensors | None = None

    def __post_init__(self) -> None:
        check = AxisCheck("StepTensors")
        check.floating("logits", self.logits, "R B C")
        check.labels("labels", self.labels, "R B", n_classes="C")
        check.floating("video_features", self.video_features, "R B E", unit=True)
        check.floating("class_features", self.class_features, ("R C E", "R B C E"), unit=True)
        check.floating("frozen_class_features", self.frozen_class_features, "C E", unit=True)
        check.floating("frozen_logits", self.frozen_logits, "R B C")
        check.floating("frozen_video_features", self.frozen_video_features, "R B E", unit=True)
        check.floating("targets", self.targets, "R B C", sums_to_one=True)
        if self.anchors is not None:
            check.floating("anchors.anchor_features", self.anchors.anchor_features, "R A E")
            check.floating("anchors.class_features", self.anchors.class_features, "R A C E")
        if not self.logit_scale > 0:
            check.problem(f"logit_scale: expected a positive number (already exponentiated), got {self.logit_scale}")
        check.raise_problems()

    @property
    def n_runs(self) -> int:
        return self.logits.shape[0]

    @property
    def n_classes(self) -> int:
        return self.logits.shape[2]

    def needed_frozen_logits(self) -> Tensor:
        """The zero-shot logits `[R B C]`.

        Raises:
            ValueError: this step has none.
        """
        if self.frozen_logits is None:
            raise ValueError("the term needs frozen_logits; a step has them unless no term reads anything frozen")
        return self.frozen_logits

    def soft_targets(self, smoothing: float = 0.0) -> Tensor:
        """Target distributions `[R B C]`: the given ones, else one-hot labels; then smoothed towards uniform."""
        if self.targets is not None:
            targets = self.targets
        else:
            targets = one_hot(self.labels, self.n_classes, self.logits.dtype)
        return targets * (1.0 - smoothing) + smoothing / self.n_classes if smoothing else targets


class LossTerm(Protocol):
    """One value per run `[R]` of one step.

    A term whose class says `reads_frozen = False` looks at no frozen logits or video features: where all terms of a
    training say so, they are not computed.
    """

    def __call__(self, step: StepTensors) -> Tensor: ...


def with_options(kind: type, what: str, options: Mapping[str, object]) -> LossTerm:
    """The term of that class with these options; `what` names it in messages.

    Raises:
        ConfigError: an option that the term does not have, with those it has.
    """
    known = [option.name for option in fields(kind)]
    if unknown := sorted(set(options) - set(known)):
        expected = f"one of {', '.join(known)}" if known else "no option"
        raise ConfigError(explain(f"{what} has no such option", expected=expected, got=", ".join(unknown)))
    return kind(**options)


@dataclass(frozen=True)
class CrossEntropy:
    """`mean_b -sum_c y_bc log p(c|v_b)`, with `y` smoothed: `(1 - e) onehot + e / C`.

    Attributes:
        label_smoothing: e in `[0, 1)`. ViFi-CLIP trains with 0.1, the CoOp line with 0.

    Source: Szegedy et al. 2016, section 7 (label smoothing); the convention is torch.nn.functional.cross_entropy's.
    """

    label_smoothing: float = 0.0
    reads_frozen: ClassVar[bool] = False

    def __call__(self, step: StepTensors) -> Tensor:
        if step.targets is None and not self.label_smoothing:
            n_runs, n_videos, n_classes = step.logits.shape
            each = F.cross_entropy(step.logits.reshape(-1, n_classes), step.labels.reshape(-1), reduction="none")
            return each.view(n_runs, n_videos).mean(dim=1)
        targets = step.soft_targets(self.label_smoothing)
        return -(targets * step.logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1)


@dataclass(frozen=True)
class KnowledgeGuided:
    """`mean_c (1 - cos(t_c, t_c-bar))`: learned class features stay near those of the hand-crafted prompt.

    Weight 8 in the paper. With video-dependent classes the mean is over videos too.

    Source: Yao et al. 2023 (KgCoOp), htyao89/KgCoOp trainers/kgcoop.py: `1 - mean(cos(text_features, ..._old))`.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        cosine = (step.class_features * step.frozen_class_features).sum(dim=-1)
        return (1.0 - cosine).flatten(1).mean(dim=1)


@dataclass(frozen=True)
class ZeroShotConsistency:
    """`mean_b KL(p-bar(.|v_b) || p(.|v_b))`: the prediction stays near the zero-shot one.

    Its gradient is ProGrad's knowledge gradient.

    Source: Zhu et al. 2023 (ProGrad), trainers/prograd.py `ProGradLoss`, which leaves out a constant (the teacher's
    entropy).
    """

    def __call__(self, step: StepTensors) -> Tensor:
        return prediction_divergence(step.logits, step.needed_frozen_logits())


@dataclass(frozen=True)
class TextL1:
    """`mean_ce |t_ce - t-bar_ce|`, over classes and channels. Weight 25; the teacher is a mean over 60 templates.

    Source: Khattak et al. 2023 (PromptSRC), muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py `loss_scl_text`.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        return (step.class_features - step.frozen_class_features).abs().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class ImageL1:
    """`mean_be |v_be - v-bar_be|`, over videos and channels. Weight 10. It acts only through visual prompts or heads.

    Source: Khattak et al. 2023 (PromptSRC), muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py `loss_scl_image`.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        if step.frozen_video_features is None:
            raise ValueError("the image term needs frozen_video_features; the pooled tap of the store holds them")
        return (step.video_features - step.frozen_video_features).abs().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class LogitKL:
    """`1/(B C) sum_bc p-bar(c|v_b) (log p-bar(c|v_b) - log p(c|v_b))`: PromptSRC's logit term as its code has it.

    The sum is divided by the number of logits, not by the number of videos, so it is 1/C of the usual KL. Weight 1.

    Source: Khattak et al. 2023 (PromptSRC), muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py `L_SCL_logits`.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        return prediction_divergence(step.logits, step.needed_frozen_logits()) / step.n_classes


def prediction_divergence(logits: Tensor, frozen_logits: Tensor) -> Tensor:
    """`mean_b KL(softmax(frozen_logits_b) || softmax(logits_b))` per run `[R]`, of two `[R B C]`."""
    log_teacher = frozen_logits.log_softmax(dim=-1)
    log_student = logits.log_softmax(dim=-1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1).mean(dim=1)


@dataclass(frozen=True)
class WeightedTerm:
    """A term under the name it is logged by, and its weight: one number, or one per run `[R]`."""

    name: str
    term: LossTerm
    weight: float | tuple[float, ...] = 1.0

    @property
    def reads_frozen(self) -> bool:
        """Whether it may look at frozen logits or video features."""
        return getattr(self.term, "reads_frozen", True)

    def __call__(self, step: StepTensors) -> Tensor:
        """Weighted value per run `[R]`."""
        value = self.term(step)
        if isinstance(self.weight, tuple):
            if len(self.weight) != step.n_runs:
                raise ValueError(f"term {self.name!r} has {len(self.weight)} weights for {step.n_runs} runs")
            weight: float | Tensor = _on_device(self.weight, value.dtype, value.device)
        else:
            weight = self.weight
        return value if isinstance(weight, float) and weight == 1.0 else value * weight


@lru_cache(maxsize=64)
def _on_device(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor | float:
    """Weights `[R]`, sent once; one number where all runs have the same."""
    return weights[0] if len(set(weights)) == 1 else torch.tensor(weights, dtype=dtype, device=device)


@dataclass(frozen=True)
class StepLosses:
    """The weighted terms of one step.

    Attributes:
        terms: name -> weighted value `[R]`, in the order of the method.
        total: their sum `[R]`; `total.sum().backward()` trains every run as if alone.
    """

    terms: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        values = tuple(self.terms.values())
        return values[0] if len(values) == 1 else torch.stack(values).sum(dim=0)

    def scaled(self, factors: Mapping[str, Tensor]) -> StepLosses:
        """The same with some terms times a factor of each run `[R]`."""
        return StepLosses({name: value * factors.get(name, 1.0) for name, value in self.terms.items()})


def compute_losses(step: StepTensors, terms: Sequence[WeightedTerm]) -> StepLosses:
    """The weighted value of each term on this step.

    Raises:
        ValueError: no term, or two of one name.
    """
    names = [term.name for term in terms]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"loss terms need distinct names, at least one; got {names}")
    return StepLosses(terms={term.name: term(step) for term in terms})
