"""Learning rates and epochs as the releases have them: against torch's and timm's own schedulers."""

from __future__ import annotations

import math

import pytest
import torch

from prompttune.config.methods import METHODS
from prompttune.config.sections import OptimConfig
from prompttune.training.schedules import learning_rate, steps_per_epoch

STEPS = 7  # of an epoch


def ours(optim: OptimConfig) -> list[float]:
    n_steps = STEPS * optim.epochs
    return [learning_rate(optim, step, n_steps=n_steps, steps_per_epoch=STEPS) for step in range(n_steps)]


def an_optimiser(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 1), (5, 1), (50, 1), (20, 3), (6, 0)])
def test_dassl_is_a_constant_warm_up_before_torch_own_cosine_over_all_epochs(epochs: int, warmup: int) -> None:
    from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, SequentialLR

    optimiser = an_optimiser(2e-3)
    # T_max is every epoch and not what the warm-up leaves of them, so the rate never comes near 0.
    cosine = CosineAnnealingLR(optimiser, T_max=epochs)
    scheduler: LRScheduler = cosine
    if warmup:
        constant = ConstantLR(optimiser, factor=1e-5 / 2e-3, total_iters=epochs + 1)
        scheduler = SequentialLR(optimiser, [constant, cosine], milestones=[warmup])
    expected = []
    for _ in range(epochs):
        expected += STEPS * [optimiser.param_groups[0]["lr"]]
        optimiser.step()
        scheduler.step()
    optim = OptimConfig(schedule="dassl", lr=2e-3, epochs=epochs, warmup_epochs=warmup, warmup_lr=1e-5)
    assert ours(optim) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("warmup", [5, 0])
def test_vifi_is_timm_s_cosine_a_micro_batch_late(accumulate: int, warmup: int) -> None:
    from timm.scheduler.cosine_lr import CosineLRScheduler

    optimiser, expected = an_optimiser(4e-2), []
    n_micro = STEPS * accumulate
    scheduler = CosineLRScheduler(
        optimiser, t_initial=11 * n_micro, lr_min=4e-4, warmup_t=warmup * n_micro, cycle_limit=1, t_in_epochs=False
    )
    for micro in range(11 * n_micro):
        if (micro + 1) % accumulate == 0:  # gradients of enough micro-batches: an update, and then the schedule moves
            expected.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            scheduler.step_update(micro)
    optim = OptimConfig(schedule="vifi", lr=4e-2, epochs=11, warmup_epochs=warmup, warmup_lr=0.0, accumulate=accumulate)
    found = ours(optim)
    assert found == pytest.approx(expected, rel=1e-9)
    if warmup:
        # Where the warm-up ends the cosine has fallen already: 0.58 of the peak that the warm-up was about to reach.
        assert max(found) == pytest.approx(4e-2 * (1 - 1 / n_micro / warmup), rel=1e-6)
        assert found[5 * STEPS + 1] < 0.6 * 4e-2


def test_sums_of_rates_against_one_cosine_per_step() -> None:
    """What a cosine per step gave MaPLe and ViFi-CLIP, as shares of the releases' (issue 16)."""

    def total(name: str, **changed: object) -> float:
        optim = OptimConfig(**{**METHODS[name].defaults["optim"], **changed})
        n_steps = 100 * optim.epochs
        return sum(learning_rate(optim, step, n_steps=n_steps, steps_per_epoch=100) for step in range(n_steps))

    assert total("maple", schedule="cosine") / total("maple") == pytest.approx(0.86, abs=0.01)
    assert total("vifi-vl", schedule="cosine") / total("vifi-vl") == pytest.approx(1.46, abs=0.03)


@pytest.mark.parametrize(("n_videos", "whole", "dropped"), [(416, 7, 6), (384, 6, 6), (40, 1, 1), (0, 0, 0)])
def test_the_last_batch_is_dropped_unless_it_is_the_only_one(n_videos: int, whole: int, dropped: int) -> None:
    assert steps_per_epoch(OptimConfig(batch_size=64), n_videos) == whole == math.ceil(n_videos / 64)
    assert steps_per_epoch(OptimConfig(batch_size=64, drop_last=True), n_videos) == dropped
