"""Gaussian prompt aggregation against a plain weighted mean of saved copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from prompttune.base.run_axis import RunParameter
from prompttune.errors import CheckpointError
from prompttune.training.aggregation import PromptAggregation, doubt_about, gaussian_weights


class Prompts(nn.Module):
    def __init__(self, n_runs: int = 2) -> None:
        super().__init__()
        self.ctx = RunParameter(torch.zeros(n_runs, 3, 4))
        self.deep = nn.ModuleList([RunParameter(torch.zeros(n_runs, 2))])

    def set_to(self, seed: int) -> list[torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
        return [parameter.detach().clone() for parameter in self.parameters()]


def test_weights_are_the_normal_density_normalised() -> None:
    weights = gaussian_weights(20, mean=15.0, std=1.0)
    density = [math.exp(-((e - 15.0) ** 2) / 2) / math.sqrt(2 * math.pi) for e in range(1, 21)]
    np.testing.assert_allclose(weights, np.array(density) / sum(density), rtol=1e-12)
    assert weights.argmax() == 14
    assert weights.sum() == pytest.approx(1.0)
    for bad in ({"n_epochs": 0}, {"std": 0.0}, {"mean": 500.0}):
        with pytest.raises(ValueError):
            gaussian_weights(**{"n_epochs": 5, "mean": 3.0, "std": 1.0, **bad})


def test_applied_prompts_are_the_weighted_mean_of_all_epochs() -> None:
    model = Prompts()
    aggregation = PromptAggregation(model, n_epochs=6, mean=4.0, std=1.5)
    copies = []
    for epoch in range(6):
        copies.append(model.set_to(epoch))
        aggregation.update(model, epoch)
    aggregation.apply(model)
    for index, parameter in enumerate(model.parameters()):
        wanted = sum(w * copy[index] for w, copy in zip(gaussian_weights(6, mean=4.0, std=1.5), copies, strict=True))
        torch.testing.assert_close(parameter.detach(), wanted.float(), rtol=1e-5, atol=1e-6)


def test_resumed_aggregation_is_bit_equal_to_an_uninterrupted_one() -> None:
    whole, model = None, Prompts()
    uninterrupted = PromptAggregation(model, n_epochs=5, mean=3.0, std=2.0)
    resumed = None
    other = Prompts()
    for epoch in range(5):
        model.set_to(epoch)
        uninterrupted.update(model, epoch)
        if epoch == 2:  # a new process: new objects, only the state survives
            whole = {name: value.clone() for name, value in uninterrupted.state().items()}
            resumed = PromptAggregation(other, n_epochs=5, mean=3.0, std=2.0)
            resumed.load_state(whole)
        elif resumed is not None:
            other.set_to(epoch)
            resumed.update(other, epoch)
    assert resumed is not None
    uninterrupted.apply(model)
    resumed.apply(other)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


def test_loaded_state_is_a_copy() -> None:
    model = Prompts()
    first = PromptAggregation(model, n_epochs=2, mean=1.0, std=1.0)
    second = PromptAggregation(model, n_epochs=2, mean=1.0, std=1.0)
    second.load_state(first.state())
    model.set_to(0)
    second.update(model, 0)
    assert all(not value.any() for value in first.sums.values())


def test_epochs_count_once_in_order_and_all_of_them() -> None:
    model = Prompts()
    aggregation = PromptAggregation(model, n_epochs=2, mean=1.0, std=1.0)
    with pytest.raises(ValueError, match="in order"):
        aggregation.update(model, 1)
    aggregation.update(model, 0)
    with pytest.raises(ValueError, match="in order"):
        aggregation.update(model, 0)
    with pytest.raises(ValueError, match="1 of 2 epochs"):
        aggregation.apply(model)
    aggregation.update(model, 1)
    with pytest.raises(ValueError, match="in order"):
        aggregation.update(model, 2)


def test_state_of_another_model_is_refused() -> None:
    state = PromptAggregation(Prompts(n_runs=3), n_epochs=2, mean=1.0, std=1.0).state()
    with pytest.raises(CheckpointError, match=r"ctx \[3, "):
        PromptAggregation(Prompts(), n_epochs=2, mean=1.0, std=1.0).load_state(state)


def test_every_recipe_is_without_doubt_and_other_lengths_are_told() -> None:
    published = [(20, 15.0, 1.0), (16, 12.0, 1.0), (50, 30.0, 30.0), (20, 6.0, 10.0)]
    assert [doubt_about(n, mean=mean, std=std) for n, mean, std in published] == [None] * 4
    assert "behind the last of 4 epochs" in str(doubt_about(4, mean=15, std=1))
    told = str(doubt_about(100, mean=15, std=1))
    assert "after epoch 21 of 100" in told
    assert gaussian_weights(100, mean=15, std=1)[21:].sum() < 1e-8
    assert "aggregation.mean = 75 and aggregation.std = 7" in told
    for n in range(1, 200):  # what is advised is without doubt
        assert doubt_about(n, mean=max(1, round(0.75 * n)), std=math.ceil(n / 15)) is None, n
