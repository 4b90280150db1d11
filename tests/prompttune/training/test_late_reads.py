"""Where the device is asked every few steps alone: what is not finite is found late, and everything is as before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.errors import NonFiniteLossError
from prompttune.losses.terms import StepLosses
from prompttune.training import device_step
from prompttune.training.micro_batch import MicroBatch

TABLES = {"targets": {"mixup_alpha": 0.4}, "optim": {"epochs": 6, "name": "adamw"}, "log": {"every": 100}}


@pytest.mark.parametrize(("failing", "read_every"), [(1, 5), (3, 5), (5, 5), (3, 1), (4, 1)])
def test_a_step_that_is_not_finite_leaves_the_state_before_it(target: str, failing: int, read_every: int) -> None:
    runs = short_runs(TABLES, method="coop", store=target, seeds=[1, 2])
    _, whole = trainer_of(runs)
    whole.train(until=failing)
    _, late = trainer_of(runs)
    late.read_every = read_every
    draw = late._draw

    def with_a_bad_batch(step: int) -> Iterator[MicroBatch]:
        for micro in draw(step):
            bad = replace(micro.batch, features=micro.batch.features * torch.nan)
            yield replace(micro, batch=bad) if step == failing else micro

    late._draw = with_a_bad_batch  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLossError, match=f"step {failing} of .*run seed1") as caught:
        late.train()
    assert caught.value.step == failing
    expected, found = whole.state(), late.state()
    for name, value in expected.items():
        assert name == "seconds" or torch.equal(value, found[name]), name
    late._draw = draw  # type: ignore[method-assign]
    late.train()
    whole.train()
    assert torch.equal(late.device_step.parameters.values, whole.device_step.parameters.values)


def test_a_sum_that_overflows_though_every_term_is_finite_is_found(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, trainer = trainer_of(short_runs({}, method="coop", store=target, seeds=[1]))
    trainer.train(until=1)
    before = trainer.device_step.parameters.values.clone()
    plain = device_step.step_losses

    def huge(*given: Any) -> StepLosses:
        (value,) = plain(*given).terms.values()
        return StepLosses({"cross-entropy": value * 0 + 3e38, "other": value * 0 + 3e38})

    monkeypatch.setattr(device_step, "step_losses", huge)
    trainer.device_step.names = ["cross-entropy", "other"]
    trainer.device_step._row = torch.zeros(5, 1)
    trainer.device_step._norms = torch.zeros(2, 1)
    with pytest.raises(NonFiniteLossError, match="the sum of the terms is not finite") as caught:
        trainer.train()
    assert (caught.value.step, caught.value.term) == (1, "the sum of the terms")
    assert torch.equal(trainer.device_step.parameters.values, before)
