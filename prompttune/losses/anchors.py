"""Generic attribute anchors: irrelevant videos and negative prompts that hold the joint space during training.

Notation: a an anchor's feature (an irrelevant video), v a training video's, t_c a class', n_q a negative prompt's, all
unit; a bar marks what the frozen CLIP gives; s the logit scale; C classes, Q negatives; mean over the step's A anchors.

| loss              | what it asks                                                    | acts on                     |
|-------------------|-----------------------------------------------------------------|-----------------------------|
| `additive`        | (released) shifts the logits by s alpha a.n; inert for Q = 1    | nothing, unless Q = C       |
| `margin-softplus` | an anchor is nearer to a negative than to any class, softly     | classes, negatives, anchors |
| `margin-hinge`    | the same, only while the margin is not met                      | classes, negatives, anchors |
| `extra-class`     | negatives are further classes; anchors are their videos         | classes, negatives, anchors |
| `distill`         | frozen CLIP's prediction over classes and negatives is kept     | classes, negatives, anchors |
| `feature`         | anchors' prompted visual features stay near the frozen ones     | visual prompts alone        |
| `text-anchor`     | prompted encodings of the negatives stay near the frozen ones   | text prompts                |

"classes" and "negatives" are acted on through the learned context (negatives only when they are encoded with it),
"anchors" through visual prompts only. Each loss is a term like those in `terms.py`; several may act on the same
anchors, each with its weight (`[anchors] loss`, `weight`, `also`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from prompttune.errors import ConfigError, explain
from prompttune.losses.terms import AnchorTensors, LossTerm, StepTensors, with_options


@dataclass(frozen=True)
class NegativePrompts:
    """Negative prompts: words that name no class, and the template that makes prompts of them.

    Attributes:
        words: what stands where a class name would stand, with the learned context or in the template.
        template: holds `{}` once.
    """

    words: tuple[str, ...]
    template: str = "a video of {}."

    def __post_init__(self) -> None:
        empty = [word for word in self.words if not word.strip()]
        if not self.words or empty or len(set(self.words)) != len(self.words) or self.template.count("{}") != 1:
            raise ValueError(
                explain(
                    "negative prompts that cannot be used",
                    expected="at least one word, none empty or twice, and a template with {} once",
                    got=f"words {list(self.words)}, template {self.template!r}",
                )
            )

    def texts(self) -> list[str]:
        """The prompts as written, in the order of `words`."""
        return [self.template.format(word) for word in self.words]


# The one negative prompt of the released code. Source: BBYL9413/GA2-CLIP@29762ec modules/text_prompt.py with the label
# "else" of lists/labels/gaa_base_labels_n.csv.
RELEASED_NEGATIVES = NegativePrompts(words=("else",), template="a video of a person {}.")

# What videos have in common whatever is done in them: place, light, view, camera, picture, things. Ours; no class of
# Kinetics, HMDB-51, UCF-101 or SSv2 is among them.
GENERIC_NEGATIVES = NegativePrompts(
    words=(
        "something else",
        "an empty scene",
        "a plain background",
        "an indoor scene",
        "an outdoor scene",
        "daylight",
        "a dark scene",
        "a landscape",
        "a city street",
        "a room",
        "trees and grass",
        "the sky",
        "water",
        "an animal",
        "a vehicle",
        "furniture",
        "an object on a table",
        "a crowd",
        "a person standing still",
        "a close-up",
        "a wide shot",
        "a moving camera",
        "a static camera",
        "a blurred picture",
        "text on a screen",
    ),
)

NEGATIVE_PROMPT_LISTS: Mapping[str, NegativePrompts] = {"generic": GENERIC_NEGATIVES, "released": RELEASED_NEGATIVES}


def _anchors(step: StepTensors, loss: str) -> AnchorTensors:
    if step.anchors is None:
        raise ValueError(
            explain(
                f"the anchor loss {loss!r} got a step without anchors",
                expected="StepTensors.anchors",
                fix="give the configuration an [anchors] section with a store of irrelevant videos",
            )
        )
    return step.anchors


def _similarity(features: Tensor, classes: Tensor) -> Tensor:
    """Cosines `[R A C]` of unit `[R A E]` and `[R C E]`, or `[R A C E]` where classes depend on the video."""
    if classes.dim() == 4:
        return torch.einsum("rae,race->rac", features, classes)
    return torch.einsum("rae,rce->rac", features, classes)


def _classes_for_anchors(step: StepTensors, anchors: AnchorTensors) -> Tensor:
    if anchors.class_features is not None:
        return anchors.class_features
    if step.class_features.dim() == 4:
        raise ValueError("classes depend on the video here: AnchorTensors.class_features [R A C E] must be given")
    return step.class_features


def _scores(step: StepTensors, anchors: AnchorTensors) -> Tensor:
    """Cosines `[R A C+Q]` of anchors with classes, then with negatives."""
    to_classes = _similarity(anchors.anchor_features, _classes_for_anchors(step, anchors))
    to_negatives = _similarity(anchors.anchor_features, anchors.prompted_negatives())
    return torch.cat([to_classes, to_negatives], dim=-1)


def _frozen_scores(step: StepTensors, anchors: AnchorTensors) -> Tensor:
    """Frozen CLIP's cosines `[R A C+Q]` of anchors with hand-crafted class prompts, then with negatives as written."""
    frozen = torch.cat([step.frozen_class_features, anchors.frozen_negative_features])
    return torch.einsum("rae,ke->rak", anchors.frozen_anchor_features, frozen)


@dataclass(frozen=True)
class Additive:
    """`CE(s (v.t_c + alpha a.n-bar_q)) - CE(s v.t_c)`: what the released shift of the logits adds to the cross-entropy.

    The released forward adds `alpha a.n-bar` to the cosines of every video, as `[1 Q]` broadcast against `[B C]`.
    With one negative prompt that is one number for all classes; softmax does not see it, so value and gradient are
    zero up to rounding: **the term does nothing**. With Q = C it is a bias per class. No other Q broadcasts.
    Cross-entropy plus this term (weight 1) is the released loss, exactly. With several anchors the mean of their
    shifts is taken (released: one).

    Source: BBYL9413/GA2-CLIP@29762ec modules/video_clip.py `get_logits`, interaction `DPS`; alpha = 1.
    """

    alpha: float = 1.0

    def __call__(self, step: StepTensors) -> Tensor:
        anchors = _anchors(step, "additive")
        n_negatives = len(anchors.frozen_negative_features)
        if n_negatives not in (1, step.n_classes):
            raise ConfigError(
                explain(
                    "the released additive anchor cannot use this number of negative prompts",
                    expected=f"1, or one per class ({step.n_classes})",
                    got=n_negatives,
                    fix='another loss: "margin-softplus", "extra-class", "distill" and "text-anchor" take any number',
                )
            )
        negatives = anchors.frozen_negative_features
        shift = torch.einsum("rae,qe->raq", anchors.anchor_features, negatives).mean(dim=1, keepdim=True)
        shifted = step.logits + step.logit_scale * self.alpha * shift
        targets = step.soft_targets()
        plain = -(targets * step.logits.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1)
        return -(targets * shifted.log_softmax(dim=-1)).sum(dim=-1).mean(dim=1) - plain


@dataclass(frozen=True)
class _Margin:
    """`max_c a-bar.t_c - max_q a.n_q + margin` of each anchor: above 0, a class is nearer than a negative allows.

    The class side takes the anchor's frozen feature and the negative side the prompted one, as the authors' commented
    code does (`vid_vanilla`, `logti_neg`).
    """

    margin: float = 0.1

    def violation(self, step: StepTensors, loss: str) -> Tensor:
        anchors = _anchors(step, loss)
        classes = _classes_for_anchors(step, anchors)
        nearest_class = _similarity(anchors.frozen_anchor_features, classes).amax(dim=-1)
        nearest_negative = _similarity(anchors.anchor_features, anchors.prompted_negatives()).amax(dim=-1)
        return nearest_class - nearest_negative + self.margin


@dataclass(frozen=True)
class MarginSoftplus(_Margin):
    """`mean_a softplus(k (max_c a-bar.t_c - max_q a.n_q + margin)) / k`: anchors stay away from every class, softly.

    Attributes:
        margin: in cosine.
        sharpness: k; 1 as in the authors' commented code, where cosines keep the softplus near its linear middle, so
            that even anchors far from all classes push with about half weight. A large k nears the hinge.

    Source: BBYL9413/GA2-CLIP@29762ec modules/video_clip.py, commented "use margin loss", "softplus"; one negative
    there. Its margin is not defined in the file; 0.1 is ours.
    """

    sharpness: float = 1.0

    def __call__(self, step: StepTensors) -> Tensor:
        return F.softplus(self.violation(step, "margin-softplus"), beta=self.sharpness).mean(dim=1)


@dataclass(frozen=True)
class MarginHinge(_Margin):
    """`mean_a max(0, max_c a-bar.t_c - max_q a.n_q + margin)`: anchors within the margin of a class are pushed away.

    Source: BBYL9413/GA2-CLIP@29762ec modules/video_clip.py, commented "use margin loss", "clamp". Margin 0.1 is ours.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        return self.violation(step, "margin-hinge").clamp(min=0.0).mean(dim=1)


@dataclass(frozen=True)
class ExtraClass:
    """`mean_a -log sum_q p(q|a) + mean_b [CE over C+Q - CE over C]`: negatives are classes, anchors are their videos.

    `p` is the softmax of `s` times the cosines over all C + Q. The first part calls every anchor a negative,
    whichever; the second lets the negatives compete for the training videos, and vanishes as they stop doing so.
    Added to the cross-entropy, the whole is the cross-entropy of a classifier with the negatives as further classes.

    Attributes:
        compete: whether the second part is there.

    Source: ours; the usual background class of detection and of open-set recognition, with a group label.
    """

    compete: bool = True

    def __call__(self, step: StepTensors) -> Tensor:
        anchors = _anchors(step, "extra-class")
        log_all = (step.logit_scale * _scores(step, anchors)).log_softmax(dim=-1)
        loss = -log_all[..., step.n_classes :].logsumexp(dim=-1).mean(dim=1)
        if not self.compete:
            return loss
        negatives = step.logit_scale * _similarity(step.video_features, anchors.prompted_negatives())
        # CE over C+Q minus CE over C is the same for every label: log of the two partition functions' ratio.
        with_negatives = torch.cat([step.logits, negatives], dim=-1).logsumexp(dim=-1)
        return loss + (with_negatives - step.logits.logsumexp(dim=-1)).mean(dim=1)


@dataclass(frozen=True)
class Distill:
    """`T^2 mean_a KL(p-bar(.|a) || p(.|a))`: the learned prompts say of an irrelevant video what frozen CLIP says.

    `p(k|a) = softmax_k(s/T a.t_k)` over classes and negatives together, over the classes alone or over the negatives
    alone; p-bar takes the frozen anchors, the hand-crafted class prompts and the negatives as written.

    Attributes:
        temperature: T.
        over: what the prediction ranges over. `negatives` acts only if the negatives are encoded with the learned
            context or the anchors with visual prompts.

    Source: Hinton et al. 2015; against forgetting as in Li & Hoiem 2016 and FROSTER, here on foreign videos.
    """

    temperature: float = 1.0
    over: Literal["both", "classes", "negatives"] = "both"

    def __call__(self, step: StepTensors) -> Tensor:
        anchors = _anchors(step, "distill")
        n_classes = step.n_classes
        part = {"both": slice(None), "classes": slice(n_classes), "negatives": slice(n_classes, None)}[self.over]
        scale = step.logit_scale / self.temperature
        log_student = (scale * _scores(step, anchors)[..., part]).log_softmax(dim=-1)
        log_teacher = (scale * _frozen_scores(step, anchors)[..., part]).log_softmax(dim=-1)
        divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(dim=-1)
        return divergence.mean(dim=1) * self.temperature**2


@dataclass(frozen=True)
class FeatureAnchor:
    """`mean_a (1 - a.a-bar)`: visual prompts leave the features of irrelevant videos where they were.

    Without visual prompts `a = a-bar`: value and gradient are zero, and the run reports it.

    Source: ours; PromptSRC's image term with a cosine, on foreign videos.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        anchors = _anchors(step, "feature")
        return (1.0 - (anchors.anchor_features * anchors.frozen_anchor_features).sum(dim=-1)).mean(dim=1)


@dataclass(frozen=True)
class TextAnchor:
    """`mean_q (1 - n_q.n_q-bar)`: the learned context does to words that name no class what the template does.

    Source: ours; KgCoOp's term on negatives instead of classes.
    """

    def __call__(self, step: StepTensors) -> Tensor:
        anchors = _anchors(step, "text-anchor")
        if anchors.negative_features is None:
            raise ConfigError(
                explain(
                    "text-anchor needs the negatives encoded with the learned context",
                    expected="AnchorTensors.negative_features [R Q E]",
                    fix='anchors.prompted_negatives = true and context.kind = "shared"',
                )
            )
        return (1.0 - (anchors.negative_features * anchors.frozen_negative_features).sum(dim=-1)).mean(dim=1)


@dataclass(frozen=True)
class AnchorLoss:
    """One row of the table of anchor losses.

    Attributes:
        term: the class of the term.
        prompts_negatives: whether negatives should be encoded with the learned context.
        needs_visual_prompts: whether it is inert without visual prompts.
    """

    term: type
    prompts_negatives: bool = False
    needs_visual_prompts: bool = False


ANCHOR_LOSSES: Mapping[str, AnchorLoss] = {
    "additive": AnchorLoss(Additive),
    "margin-softplus": AnchorLoss(MarginSoftplus, prompts_negatives=True),
    "margin-hinge": AnchorLoss(MarginHinge, prompts_negatives=True),
    "extra-class": AnchorLoss(ExtraClass, prompts_negatives=True),
    "distill": AnchorLoss(Distill, prompts_negatives=True),
    "feature": AnchorLoss(FeatureAnchor, needs_visual_prompts=True),
    "text-anchor": AnchorLoss(TextAnchor, prompts_negatives=True),
}


def anchor_term(name: str, **options: object) -> LossTerm:
    """The anchor loss of that name with the options of its class.

    Raises:
        ConfigError: options that the loss does not have.
    """
    return with_options(ANCHOR_LOSSES[name].term, f"the anchor loss {name!r}", options)
