"""Loss terms against torch's own functions, run by run, in float64 (1e-12: only the order of sums differs)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from step_factory import B, C, E, R, make_step, unit
from torch.nn import functional as F

from prompttune.config.methods import LOSS_TERMS
from prompttune.losses.of_runs import loss_term
from prompttune.losses.terms import (
    CrossEntropy,
    ImageL1,
    StepTensors,
    WeightedTerm,
    ZeroShotConsistency,
    compute_losses,
)

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def expected(name: str, step: StepTensors, r: int) -> torch.Tensor:
    """The term of run r through torch's own losses."""
    logits, frozen = step.logits[r], step.frozen_logits[r]
    classes, teacher = step.class_features[r], step.frozen_class_features
    match name:
        case "cross-entropy":
            return F.cross_entropy(logits, step.labels[r])
        case "knowledge-guided":
            return 1.0 - F.cosine_similarity(classes, teacher, dim=1).mean()
        case "zero-shot-consistency":
            return F.kl_div(logits.log_softmax(1), frozen.softmax(1), reduction="batchmean")
        case "text-l1":
            return F.l1_loss(classes, teacher)
        case "image-l1":
            return F.l1_loss(step.video_features[r], step.frozen_video_features[r])
        case "logit-kl":
            summed = F.kl_div(logits.log_softmax(1), frozen.log_softmax(1), reduction="sum", log_target=True)
            return summed / logits.numel()
    raise AssertionError(f"no expectation for {name}")


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_value_is_that_of_torch(name: str) -> None:
    step = make_step().build()
    values = loss_term(name)(step)
    assert values.shape == (R,)
    torch.testing.assert_close(values, torch.stack([expected(name, step, r) for r in range(R)]), **EXACT)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_runs_together_are_runs_alone(name: str) -> None:
    raw = make_step()
    leaves = raw.leaves()
    together = torch.autograd.grad(loss_term(name)(raw.build()).sum(), leaves.values(), allow_unused=True)
    for r in range(R):
        own = raw.run(r)
        own_leaves = own.leaves()
        value = loss_term(name)(own.build())
        torch.testing.assert_close(value[0], loss_term(name)(raw.build())[r], **EXACT)
        alone = torch.autograd.grad(value.sum(), own_leaves.values(), allow_unused=True)
        for both, one in zip(together, alone, strict=True):
            assert (both is None) == (one is None)
            if both is not None:
                torch.testing.assert_close(both[r : r + 1], one, **EXACT)


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    raw = make_step()
    leaf = "videos" if name == "image-l1" else "classes"

    def value(x: torch.Tensor) -> torch.Tensor:
        return loss_term(name)(dataclasses.replace(raw, **{leaf: x}).build())

    x = getattr(raw, leaf).requires_grad_()
    assert torch.autograd.gradcheck(value, (x,), atol=1e-7)
    (gradient,) = torch.autograd.grad(value(x).sum(), x)
    assert gradient.flatten(1).norm(dim=1).min() > 1e-4


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_torch_convention(smoothing: float) -> None:
    step = make_step().build()
    values = CrossEntropy(label_smoothing=smoothing)(step)
    wanted = [F.cross_entropy(step.logits[r], step.labels[r], label_smoothing=smoothing) for r in range(R)]
    torch.testing.assert_close(values, torch.stack(wanted), **EXACT)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_targets_take_the_place_of_labels(smoothing: float) -> None:
    raw = make_step()
    raw.extra["targets"] = torch.rand(R, B, C, dtype=torch.float64).softmax(-1)
    step = raw.build()
    values = CrossEntropy(label_smoothing=smoothing)(step)
    wanted = [F.cross_entropy(step.logits[r], step.targets[r], label_smoothing=smoothing) for r in range(R)]
    torch.testing.assert_close(values, torch.stack(wanted), **EXACT)


def test_consistency_is_zero_at_the_teacher() -> None:
    step = make_step().build()
    at_teacher = dataclasses.replace(step, logits=step.frozen_logits)
    torch.testing.assert_close(ZeroShotConsistency()(at_teacher), torch.zeros(R, dtype=torch.float64), **EXACT)


def test_classes_that_depend_on_the_video_are_averaged_over_videos() -> None:
    step = make_step().build()
    per_video = step.class_features.unsqueeze(1).expand(R, B, C, E)
    conditional = dataclasses.replace(step, class_features=per_video)
    for name in ("knowledge-guided", "text-l1"):
        torch.testing.assert_close(loss_term(name)(conditional), loss_term(name)(step), **EXACT)


def test_weights_may_differ_between_runs() -> None:
    step = make_step().build()
    losses = compute_losses(
        step,
        [
            WeightedTerm("cross-entropy", CrossEntropy()),
            WeightedTerm("knowledge-guided", loss_term("knowledge-guided"), weight=(0.0, 8.0, 2.0)),
        ],
    )
    kg = loss_term("knowledge-guided")(step)
    torch.testing.assert_close(losses.terms["knowledge-guided"], kg * torch.tensor([0.0, 8.0, 2.0]), **EXACT)
    torch.testing.assert_close(losses.total, sum(losses.terms.values()), **EXACT)
    with pytest.raises(ValueError, match="2 weights for 3 runs"):
        WeightedTerm("text-l1", loss_term("text-l1"), weight=(1.0, 2.0))(step)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_terms_need_distinct_names(names: list[str]) -> None:
    with pytest.raises(ValueError, match="distinct names"):
        compute_losses(make_step().build(), [WeightedTerm(name, CrossEntropy()) for name in names])


def test_step_reports_all_that_does_not_fit_at_once() -> None:
    step = make_step().build()
    with pytest.raises(ValueError) as caught:
        dataclasses.replace(
            step,
            labels=step.labels + C,
            video_features=step.video_features[:, :-1] * 2,
            frozen_logits=step.frozen_logits.half(),
            frozen_class_features=step.frozen_class_features[:-1],
            logit_scale=-1.0,
        )
    message = str(caught.value)
    for part in (
        f"labels: expected values in [0, {C})",
        f"video_features: axis B is {B - 1}, but {B} in logits",
        "video_features: expected unit length",
        "frozen_logits: expected float32 or float64",
        f"frozen_class_features: axis C is {C - 1}",
        "logit_scale: expected a positive number",
    ):
        assert part in message


def test_anchors_of_other_runs_are_refused() -> None:
    raw = make_step()
    step = raw.build()
    with pytest.raises(ValueError, match=r"anchors.anchor_features: axis R is 1, but 3 in logits"):
        dataclasses.replace(step, anchors=raw.run(0).build().anchors)


def test_image_term_without_frozen_features_says_where_they_are() -> None:
    step = dataclasses.replace(make_step().build(), frozen_video_features=None)
    with pytest.raises(ValueError, match="pooled tap"):
        ImageL1()(step)


def test_unit_check_accepts_what_bfloat16_towers_give() -> None:
    raw = make_step(dtype=torch.float32)
    step = raw.build()
    rounded = unit(raw.videos).bfloat16().float()
    dataclasses.replace(step, video_features=rounded)
