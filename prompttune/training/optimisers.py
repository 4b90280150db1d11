"""One optimiser for all runs: a few operations on one tensor [R P].

Every number that R runs train is in `FlatParameters.values`; what differs between runs and steps (learning rates,
Adam's corrections) is a table that the host computes once, in double precision, and sends once. So a step's update is
as many kernels for 32 runs as for one, and needs nothing from the host. Bit for bit it is what `torch.optim` does to
each run alone (a test says so); torch.optim's own classes would import torch._dynamo, half of a short training's time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prompttune.base.devices import send
from prompttune.config.sections import OptimConfig


class FlatParameters:
    """All trained numbers of R runs in one tensor; the parameters become views of it.

    Args:
        parameters: by name, each `[R ...]`.

    Attributes:
        values: `[R P]`.
    """

    @torch.no_grad()
    def __init__(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.named = dict(parameters)
        self.leaves = list(self.named.values())
        self.sizes = [leaf[0].numel() for leaf in self.leaves]
        self.values = torch.cat([leaf.flatten(1) for leaf in self.leaves], dim=1)
        for leaf, own in zip(self.leaves, self.values.split(self.sizes, dim=1), strict=True):
            leaf.data = own.view(leaf.shape)
        self._missing: list[bool] = []
        self._reached: Tensor | None = None

    def flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Gradients of the leaves as one tensor `[R P]`, zero where there is none."""
        missing = [gradient is None for gradient in gradients]
        if missing != self._missing:
            self._missing = missing
            sizes = torch.tensor(self.sizes)
            reached = torch.tensor([not one for one in missing]).repeat_interleave(sizes)
            self._reached = send(reached, self.values.device) if any(missing) else None
        found = [
            torch.zeros_like(leaf).flatten(1) if gradient is None else gradient.flatten(1)
            for leaf, gradient in zip(self.leaves, gradients, strict=True)
        ]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def may_move(self, ok: Tensor) -> Tensor:
        """Where an update may act: where `ok` is true, on parameters that the last gradients reached."""
        return ok if self._reached is None else ok & self._reached

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """A tensor like `values` by the parameters' names, each `[R ...]`."""
        pieces = flat.split(self.sizes, dim=1)
        return {name: own.view(leaf.shape) for (name, leaf), own in zip(self.named.items(), pieces, strict=True)}


class FlatOptimiser(ABC):
    """An optimiser of R runs. Where `may` is false in `update`, values and moments stay as they were.

    Args:
        parameters: what it moves.
        optims: one per run, equal in all but learning rate, momentum and weight decay.
        rates: learning rates `[n_steps R]`, float64.
    """

    moments: tuple[str, ...] = ()

    def __init__(self, parameters: FlatParameters, optims: Sequence[OptimConfig], rates: Tensor) -> None:
        self.parameters, self.optim = parameters, optims[0]
        self.device = parameters.values.device
        self.state = {name: torch.zeros_like(parameters.values) for name in self.moments}
        decays = [optim.weight_decay for optim in optims]
        self.decay = self._column(decays) if any(decays) else None
        self._table = send(self._coefficients(rates, torch.tensor(decays, dtype=torch.float64)), self.device)

    def coefficients(self, step: int) -> Tensor:
        """What the update of step `step` takes, `[k R 1]` on the device."""
        return self._table[step]

    @torch.no_grad()
    def update(self, gradients: Tensor, coefficients: Tensor, may: Tensor) -> None:
        """Moves the parameters by `gradients [R P]`; see `coefficients`."""
        values, moments = self._moved(gradients, coefficients.unbind(0))
        torch.where(may, values, self.parameters.values, out=self.parameters.values)
        for name, moment in moments.items():
            torch.where(may, moment, self.state[name], out=self.state[name])

    def named_state(self) -> dict[str, Tensor]:
        """Moments by name of the parameter and their own."""
        return {
            f"{name}#{moment}": value
            for moment, flat in self.state.items()
            for name, value in self.parameters.split(flat).items()
        }

    @torch.no_grad()
    def load_named_state(self, state: Mapping[str, Tensor]) -> None:
        """Sets what `named_state` gave, in place."""
        for name, held in self.named_state().items():
            held.copy_(state[name])

    @abstractmethod
    def _coefficients(self, rates: Tensor, decays: Tensor) -> Tensor:
        """`[n_steps k R 1]` float32 of learning rates `[n_steps R]` and weight decays `[R]`, both float64."""

    @abstractmethod
    def _moved(self, gradients: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Values and moments after the step; nothing is written."""

    def _column(self, values: Sequence[float]) -> Tensor:
        return send(torch.tensor(values, dtype=torch.float32).view(-1, 1), self.device)

    def _with_decay(self, gradients: Tensor) -> Tensor:
        if self.decay is None:
            return gradients
        return torch.addcmul(gradients, self.parameters.values, self.decay)


class FlatSGD(FlatOptimiser):
    """`torch.optim.SGD` with momentum and L2 weight decay."""

    moments = ("momentum_buffer",)

    def __init__(self, parameters: FlatParameters, optims: Sequence[OptimConfig], rates: Tensor) -> None:
        super().__init__(parameters, optims, rates)
        momenta = [optim.momentum for optim in optims]
        self.momentum: float | Tensor = momenta[0] if len(set(momenta)) == 1 else self._column(momenta)

    def _coefficients(self, rates: Tensor, decays: Tensor) -> Tensor:
        return rates.float()[:, None, :, None]

    def _moved(self, gradients: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (rate,) = coefficients
        momentum = (self.state["momentum_buffer"] * self.momentum).add_(self._with_decay(gradients))
        values = torch.addcmul(self.parameters.values, momentum, rate, value=-1)
        return values, {"momentum_buffer": momentum}


class FlatAdam(FlatOptimiser):
    """`torch.optim.Adam`, or `AdamW`, whose weight decay is apart from the gradient."""

    moments = ("exp_avg", "exp_avg_sq")

    def _coefficients(self, rates: Tensor, decays: Tensor) -> Tensor:
        first, second = self.optim.betas
        steps = range(1, len(rates) + 1)
        # Python's own powers, as torch.optim takes them.
        corrections = torch.tensor(
            [[1 - first**step, (1 - second**step) ** 0.5] for step in steps], dtype=torch.float64
        )
        sizes, seconds = corrections.view(len(rates), 2, 1).expand(-1, -1, rates.shape[1]).unbind(1)
        return torch.stack([rates / sizes, seconds, 1 - rates * decays], dim=1).float().unsqueeze(-1)

    def _moved(self, gradients: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        size, correction, kept = coefficients
        first, second = self.optim.betas
        values = self.parameters.values
        if self.optim.name == "adam":
            gradients = self._with_decay(gradients)
        elif self.decay is not None:
            values = values * kept
        mean = self.state["exp_avg"].lerp(gradients, 1 - first)
        square = (self.state["exp_avg_sq"] * second).addcmul_(gradients, gradients, value=1 - second)
        deviation = (square.sqrt() / correction).add_(self.optim.eps)
        values = torch.addcdiv(values, mean * size, deviation, value=-1)
        return values, {"exp_avg": mean, "exp_avg_sq": square}


def make_optimiser(parameters: FlatParameters, optims: Sequence[OptimConfig], rates: Tensor) -> FlatOptimiser:
    """The optimiser that the runs' configurations name."""
    kind = FlatSGD if optims[0].name == "sgd" else FlatAdam
    return kind(parameters, optims, rates)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is under `prefix` in a state, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


class LossScale:
    """fp16's loss scaling: gradients too small for half precision are computed of a larger loss, then divided.

    A step whose gradients are not finite is left out, run by run; it reads from the device at every step.

    Source: Micikevicius et al. 2018 (Mixed Precision Training); the numbers are torch.amp.GradScaler's.
    """

    GROWTH, BACKOFF, INTERVAL = 2.0, 0.5, 2000

    def __init__(self) -> None:
        self.scale, self.n_good = 2.0**16, 0

    def unscaled(self, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients `[R P]` of the loss itself, and which runs' are finite, bool `[R 1]`; adapts the scale."""
        found = gradients * (1.0 / self.scale)
        finite = torch.isfinite(found).all(dim=1, keepdim=True)
        self.n_good = self.n_good + 1 if bool(finite.all()) else 0
        if self.n_good == 0:
            self.scale *= self.BACKOFF
        elif self.n_good == self.INTERVAL:
            self.scale, self.n_good = self.scale * self.GROWTH, 0
        return found, finite

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {"scale": torch.tensor(self.scale, dtype=torch.float64), "n_good": torch.tensor(self.n_good)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continues where `state` was taken."""
        self.scale, self.n_good = float(state["scale"]), int(state["n_good"])
