"""Gaussian prompt aggregation: the prompts used at the end are a weighted mean of those after every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from prompttune.base.run_axis import named_run_parameters
from prompttune.errors import CheckpointError, explain


def gaussian_weights(n_epochs: int, *, mean: float, std: float) -> np.ndarray:
    """The weight of each epoch, float64 `[n_epochs]`, summing to 1: `N(e; mean, std^2)` at `e = 1 ... n_epochs`.

    Epochs count from 1 here, as in the paper: mean 15 of 20 epochs puts most weight on the 15th.

    Raises:
        ValueError: fewer than 1 epoch, `std` not above 0, or a mean so far off that no epoch has weight.

    Source: Khattak et al. 2023 (PromptSRC), equation 6; muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py
    `get_gauss`: N(15, 1) of 20 epochs base-to-new, N(30, 30) of 50 few-shot, N(6, 10) of 20 cross-dataset.
    """
    if n_epochs < 1 or not std > 0:
        raise ValueError(f"expected at least 1 epoch and std > 0, got {n_epochs} epochs, std {std}")
    epochs = np.arange(1, n_epochs + 1, dtype=np.float64)
    weights = np.exp(-0.5 * ((epochs - mean) / std) ** 2)
    if not weights.sum() > 0:
        raise ValueError(
            explain(
                "no epoch has weight in the aggregation",
                expected=f"a mean within a few std of 1 ... {n_epochs}",
                got=f"mean {mean}, std {std}",
                fix="set aggregation.mean to about three quarters of optim.epochs",
            )
        )
    return weights / weights.sum()


def doubt_about(n_epochs: int, *, mean: float, std: float) -> str | None:
    """What a person should know of weights that leave epochs out: `N(15, 1)` is made for 20 epochs, not 4 or 100."""
    given = f"aggregation N({mean:g}, {std:g})"
    like_the_paper = max(1, round(0.75 * n_epochs)), max(std, math.ceil(n_epochs / 15))
    better = "aggregation.mean = {:g} and aggregation.std = {:g} do not".format(*like_the_paper)
    if mean > n_epochs:
        return f"{given} lies behind the last of {n_epochs} epochs: little is averaged; {better}"
    last = math.floor(mean + 6 * std)  # 1e-8 of the weight in the middle
    return f"{given} leaves what is learned after epoch {last} of {n_epochs} out; {better}" if last < n_epochs else None


class PromptAggregation:
    """Keeps the weighted sum of every run's parameters and puts it in their place when training ends.

    The sum and the number of epochs in it are in `state`: a resumed run ends with the same prompts as an uninterrupted
    one. (In the released PromptSRC neither is saved, so a resumed run never aggregates.)
    """

    def __init__(self, model: nn.Module, *, n_epochs: int, mean: float, std: float) -> None:
        """Takes the model whose `RunParameter`s are aggregated; weights as `gaussian_weights`.

        Raises:
            ValueError: as `gaussian_weights`.
        """
        self.weights = gaussian_weights(n_epochs, mean=mean, std=std)
        self.n_epochs_seen = 0
        self.sums = {name: torch.zeros_like(p.detach()) for name, p in _parameters(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module, epoch: int) -> None:
        """Adds the parameters at the end of `epoch`, counted from 0, with that epoch's weight.

        Raises:
            ValueError: an epoch out of order; a weight would be used twice or left out.
        """
        if epoch != self.n_epochs_seen or epoch >= len(self.weights):
            raise ValueError(
                explain(
                    "epochs are aggregated once each, in order",
                    expected=f"epoch {self.n_epochs_seen} of {len(self.weights)}",
                    got=epoch,
                )
            )
        for name, parameter in _parameters(model).items():
            self.sums[name] += float(self.weights[epoch]) * parameter
        self.n_epochs_seen += 1

    @torch.no_grad()
    def apply(self, model: nn.Module) -> None:
        """Puts the aggregated parameters into the model.

        Raises:
            ValueError: before the last epoch; the weights so far do not sum to 1.
        """
        if self.n_epochs_seen != len(self.weights):
            raise ValueError(f"aggregation holds {self.n_epochs_seen} of {len(self.weights)} epochs")
        for name, parameter in _parameters(model).items():
            parameter.copy_(self.sums[name])

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the sums by parameter name, and how many epochs are in them."""
        return {"n_epochs_seen": torch.tensor(self.n_epochs_seen), **self.sums}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from `state`.

        Raises:
            CheckpointError: the sums of other parameters.
        """
        given = {(name, value.shape) for name, value in state.items() if name != "n_epochs_seen"}
        own = {(name, value.shape) for name, value in self.sums.items()}
        wrong = sorted(f"{name} {list(shape)}" for name, shape in given ^ own)
        if wrong:
            raise CheckpointError(explain("aggregated prompts of another model", got=", ".join(wrong)))
        self.n_epochs_seen = int(state["n_epochs_seen"])
        for name, held in self.sums.items():
            self.sums[name] = state[name].to(held).clone()


def _parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: held.values for name, held in named_run_parameters(model)}
