"""Anchor losses: values against plain loops, gradients against finite differences, the direction each one claims."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from step_factory import A, C, E, R, RawStep, make_step
from torch import Tensor
from torch.nn import functional as F

from prompttune.losses.anchors import (
    ANCHOR_LOSSES,
    GENERIC_NEGATIVES,
    NEGATIVE_PROMPT_LISTS,
    RELEASED_NEGATIVES,
    Additive,
    Distill,
    ExtraClass,
    MarginHinge,
    MarginSoftplus,
    NegativePrompts,
    anchor_term,
)
from prompttune.losses.terms import CrossEntropy, StepTensors
from prompttune.training.gradients import gradient_norms, inert_terms

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def softmax(scores: list[float]) -> list[float]:
    top = max(scores)
    powers = [math.exp(x - top) for x in scores]
    return [p / sum(powers) for p in powers]


def plain(name: str, step: StepTensors, r: int) -> float:
    """The equation of the docstring with Python floats and loops; options at their defaults, margin 0.1."""
    anchors = step.anchors
    a, frozen_a = anchors.anchor_features[r], anchors.frozen_anchor_features[r]
    n, frozen_n = anchors.negative_features[r], anchors.frozen_negative_features
    t, frozen_t, s = step.class_features[r], step.frozen_class_features, step.logit_scale

    def cosine(x: Tensor, y: Tensor) -> float:
        return float(sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True)))

    values = []
    for i in range(A):
        violation = max(cosine(frozen_a[i], x) for x in t) - max(cosine(a[i], x) for x in n) + 0.1
        scores = [s * cosine(a[i], x) for x in [*t, *n]]
        match name:
            case "margin-softplus":
                values.append(math.log1p(math.exp(violation)))
            case "margin-hinge":
                values.append(max(0.0, violation))
            case "extra-class":
                values.append(-math.log(sum(softmax(scores)[C:])))
            case "distill":
                teacher = softmax([s * cosine(frozen_a[i], x) for x in [*frozen_t, *frozen_n]])
                student = softmax(scores)
                values.append(sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True)))
            case "feature":
                values.append(1.0 - cosine(a[i], frozen_a[i]))
            case "text-anchor":
                values.append(sum(1.0 - cosine(x, y) for x, y in zip(n, frozen_n, strict=True)) / len(n))
    value = sum(values) / A
    if name == "extra-class":
        gains = []
        for b, v in enumerate(step.video_features[r]):
            scores = [s * cosine(v, x) for x in [*t, *n]]
            label = int(step.labels[r, b])
            gains.append(-math.log(softmax(scores)[label]) + math.log(softmax(scores[:C])[label]))
        value += sum(gains) / len(gains)
    return value


ACTING = [name for name in ANCHOR_LOSSES if name != "additive"]


@pytest.mark.parametrize("name", ACTING)
def test_value_is_the_equation(name: str) -> None:
    step = make_step().build()
    wanted = torch.tensor([plain(name, step, r) for r in range(R)], dtype=torch.float64)
    torch.testing.assert_close(anchor_term(name)(step), wanted, rtol=1e-10, atol=1e-12)


# What the table in anchors.py says each loss acts on.
ACTS_ON = {
    "margin-softplus": {"classes", "negatives", "anchors"},
    "margin-hinge": {"classes", "negatives", "anchors"},
    "extra-class": {"classes", "negatives", "anchors", "videos"},
    "distill": {"classes", "negatives", "anchors"},
    "feature": {"anchors"},
    "text-anchor": {"negatives"},
}


@pytest.mark.parametrize("name", ACTING)
@pytest.mark.parametrize("leaf", ["classes", "negatives", "anchors", "videos"])
def test_gradient_is_there_where_the_table_says_and_is_that_of_finite_differences(name: str, leaf: str) -> None:
    raw = make_step()

    def value(x: Tensor) -> Tensor:
        return anchor_term(name)(dataclasses.replace(raw, **{leaf: x}).build())

    x = getattr(raw, leaf).requires_grad_()
    result = value(x)
    if leaf not in ACTS_ON[name]:
        assert not result.requires_grad or torch.autograd.grad(result.sum(), x, allow_unused=True)[0] is None
        return
    assert torch.autograd.gradcheck(value, (x,), atol=1e-7)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-3


def descend(name: str, raw: RawStep, leaf: str, rate: float = 0.02) -> RawStep:
    x = getattr(raw, leaf).detach().clone().requires_grad_()
    value = anchor_term(name)(dataclasses.replace(raw, **{leaf: x}).build())
    (gradient,) = torch.autograd.grad(value.sum(), x)
    return dataclasses.replace(raw, **{leaf: (x - rate * gradient).detach()})


def nearest_class(raw: RawStep) -> Tensor:
    step = raw.build()
    return torch.einsum("rae,rce->rac", step.anchors.frozen_anchor_features, step.class_features).amax(-1).mean(1)


def nearest_negative(raw: RawStep) -> Tensor:
    held = raw.build().anchors
    return torch.einsum("rae,rqe->raq", held.anchor_features, held.negative_features).amax(-1).mean(1)


def anchors_called_negative(raw: RawStep) -> Tensor:
    step = raw.build()
    rows = torch.cat([step.class_features, step.anchors.negative_features], dim=1)
    scores = step.logit_scale * torch.einsum("rae,rke->rak", step.anchors.anchor_features, rows)
    return scores.softmax(-1)[..., C:].sum(-1).log().mean(1)


def distance_to_frozen_prediction(raw: RawStep) -> Tensor:
    step = raw.build()
    held = step.anchors
    learned = torch.cat([step.class_features, held.negative_features], dim=1)
    frozen = torch.cat([step.frozen_class_features, held.frozen_negative_features])
    p = (step.logit_scale * torch.einsum("rae,rke->rak", held.anchor_features, learned)).log_softmax(-1)
    q = (step.logit_scale * held.frozen_anchor_features @ frozen.T).log_softmax(-1)
    return F.kl_div(p, q, reduction="none", log_target=True).sum(-1).mean(1)


def drift_of_anchors(raw: RawStep) -> Tensor:
    held = raw.build().anchors
    return (held.anchor_features - held.frozen_anchor_features).norm(dim=-1).mean(1)


def drift_of_negatives(raw: RawStep) -> Tensor:
    held = raw.build().anchors
    return (held.negative_features - held.frozen_negative_features).norm(dim=-1).mean(1)


@pytest.mark.parametrize(
    ("name", "leaf", "quantity", "sign"),
    [
        ("margin-softplus", "classes", nearest_class, -1),
        ("margin-softplus", "negatives", nearest_negative, +1),
        ("margin-hinge", "classes", nearest_class, -1),
        ("margin-hinge", "anchors", nearest_negative, +1),
        ("extra-class", "negatives", anchors_called_negative, +1),
        ("extra-class", "classes", anchors_called_negative, +1),
        ("distill", "classes", distance_to_frozen_prediction, -1),
        ("distill", "anchors", distance_to_frozen_prediction, -1),
        ("feature", "anchors", drift_of_anchors, -1),
        ("text-anchor", "negatives", drift_of_negatives, -1),
    ],
)
def test_one_step_downhill_does_what_is_claimed(name: str, leaf: str, quantity, sign: int) -> None:
    raw = make_step()
    change = quantity(descend(name, raw, leaf)) - quantity(raw)
    assert (sign * change > 1e-6).all(), change


@pytest.mark.parametrize("n_negatives", [1, C])
def test_additive_and_cross_entropy_are_the_released_loss(n_negatives: int) -> None:
    raw = make_step(n_negatives=n_negatives)
    step = raw.build()
    for r in range(R):
        # As in get_logits: cosines of the batch, plus alpha times that of anchor and negative, then the scale.
        forward = step.video_features[r] @ step.class_features[r].T
        shift = (step.anchors.anchor_features[r] @ step.anchors.frozen_negative_features.T).mean(0, keepdim=True)
        released = F.cross_entropy(step.logit_scale * (forward + 1.0 * shift), step.labels[r])
        ours = (CrossEntropy()(step) + Additive()(step))[r]
        torch.testing.assert_close(ours, released, **EXACT)


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_additive_with_one_negative_has_no_gradient(dtype: torch.dtype, rounding: float) -> None:
    """Up to rounding: relative to cross-entropy's own gradient, for every trainable leaf."""
    raw = make_step(n_negatives=1, dtype=dtype)
    leaves = raw.leaves()
    step = raw.build()
    for leaf in leaves.values():
        (inert,) = torch.autograd.grad(Additive()(step).sum(), leaf, retain_graph=True, allow_unused=True)
        (main,) = torch.autograd.grad(CrossEntropy()(step).sum(), leaves["classes"], retain_graph=True)
        assert inert is None or inert.norm() <= rounding * main.norm()


def test_additive_with_one_negative_is_reported_as_inert_and_the_others_are_not() -> None:
    raw = make_step(n_negatives=1, dtype=torch.float32)
    leaves = raw.leaves()
    step = raw.build()
    terms = {"cross-entropy": CrossEntropy()(step), **{name: anchor_term(name)(step) for name in ANCHOR_LOSSES}}
    norms = gradient_norms(terms, list(leaves.values()))
    logged = {name: value.unsqueeze(0) for name, value in norms.items()}
    found = inert_terms(logged)
    assert [term.name for term in found] == ["additive"]
    assert "had no gradient" in found[0].message()
    assert inert_terms(logged, accepted={"additive"}) == ()


def test_additive_with_a_negative_per_class_acts() -> None:
    raw = make_step(n_negatives=C)
    anchors = raw.anchors.requires_grad_()
    (gradient,) = torch.autograd.grad(Additive()(raw.build()).sum(), anchors)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-2


def test_additive_refuses_what_the_released_code_cannot_broadcast() -> None:
    with pytest.raises(ValueError, match="number of negative prompts") as caught:
        Additive()(make_step(n_negatives=3).build())
    assert f"1, or one per class ({C})" in str(caught.value)


def test_hinge_rests_when_the_margin_is_met_and_softplus_does_not() -> None:
    raw = make_step()
    # Anchors on the first negative, classes opposite: every margin is met.
    raw.negatives = raw.frozen_negatives.expand(R, -1, -1).clone()
    raw.anchors = raw.negatives[:, :1].expand(R, A, E).clone()
    raw.frozen_anchors = raw.anchors.clone()
    raw.classes = (-raw.anchors[:, :1]).expand(R, C, E).clone().requires_grad_()
    step = raw.build()
    hinge, soft = MarginHinge()(step), MarginSoftplus()(step)
    assert torch.equal(hinge, torch.zeros_like(hinge))
    assert torch.autograd.grad(hinge.sum(), raw.classes, retain_graph=True)[0].norm() == 0
    assert (soft > 0.1).all()
    sharp = MarginSoftplus(sharpness=200.0)(step)
    torch.testing.assert_close(sharp, hinge, rtol=0, atol=1e-6)


def test_extra_class_with_cross_entropy_is_one_classifier_over_classes_and_negatives() -> None:
    step = make_step(n_negatives=1).build()
    held = step.anchors
    total = CrossEntropy()(step) + ExtraClass()(step)
    for r in range(R):
        rows = torch.cat([step.class_features[r], held.negative_features[r]])
        videos = F.cross_entropy(step.logit_scale * step.video_features[r] @ rows.T, step.labels[r])
        anchors = F.cross_entropy(step.logit_scale * held.anchor_features[r] @ rows.T, torch.full((A,), C))
        torch.testing.assert_close(total[r], videos + anchors, **EXACT)


@pytest.mark.parametrize("over", ["both", "classes", "negatives"])
def test_distill_is_zero_when_nothing_was_learned(over: str) -> None:
    raw = make_step()
    raw.classes = raw.frozen_classes.expand(R, -1, -1)
    raw.negatives = raw.frozen_negatives.expand(R, -1, -1)
    raw.anchors = raw.frozen_anchors
    term = Distill(over=over)
    torch.testing.assert_close(term(raw.build()), torch.zeros(R, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (term(make_step().build()) > 1e-3).all()


def test_frozen_negatives_serve_where_none_are_prompted() -> None:
    raw = make_step()
    raw.negatives = raw.frozen_negatives.expand(R, -1, -1)
    for name in ("margin-softplus", "margin-hinge", "extra-class", "distill"):
        term = anchor_term(name)
        torch.testing.assert_close(term(raw.build()), term(raw.build(prompted_negatives=False)), **EXACT)
    with pytest.raises(ValueError, match="learned context"):
        anchor_term("text-anchor")(raw.build(prompted_negatives=False))


@pytest.mark.parametrize("name", ANCHOR_LOSSES)
def test_runs_together_are_runs_alone(name: str) -> None:
    raw = make_step(n_negatives=1)
    together = anchor_term(name)(raw.build())
    alone = torch.cat([anchor_term(name)(raw.run(r).build()) for r in range(R)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ANCHOR_LOSSES)
def test_a_step_without_anchors_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="without anchors"):
        anchor_term(name)(make_step().build(anchors=False))


def test_classes_that_depend_on_the_video_need_their_own_for_anchors() -> None:
    step = make_step().build()
    conditional = dataclasses.replace(step, class_features=step.class_features.unsqueeze(1).expand(-1, 5, -1, -1))
    with pytest.raises(ValueError, match="depend on the video"):
        anchor_term("margin-hinge")(conditional)
    for_anchors = step.class_features.unsqueeze(1).expand(-1, A, -1, -1)
    given = dataclasses.replace(conditional, anchors=dataclasses.replace(step.anchors, class_features=for_anchors))
    for name in ("margin-softplus", "margin-hinge", "extra-class", "distill"):
        torch.testing.assert_close(anchor_term(name)(given), anchor_term(name)(step), **EXACT)


def test_unknown_options_are_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="temperature"):
        anchor_term("distill", margin=0.2)
    assert anchor_term("margin-hinge", margin=0.2) == MarginHinge(margin=0.2)


def test_negative_prompt_lists() -> None:
    assert RELEASED_NEGATIVES.texts() == ["a video of a person else."]
    assert len(GENERIC_NEGATIVES.texts()) >= 20
    assert set(NEGATIVE_PROMPT_LISTS) == {"generic", "released"}
    for words, template in (((), "{}"), (("a", "a"), "{}"), (("a", " "), "{}"), (("a",), "no place")):
        with pytest.raises(ValueError, match="negative prompts"):
            NegativePrompts(words=words, template=template)
