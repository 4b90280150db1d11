"""Optimisers by name, and their states as named tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from prompttune.config.sections import OptimConfig


def make_optimiser(optim: OptimConfig, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimiser of one run."""
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


def below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """What is under `prefix` in a state, named without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def optimiser_state(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], prefix: str
) -> dict[str, Tensor]:
    """Every tensor the optimiser keeps, by parameter name and its own."""
    return {
        f"{prefix}{name}#{key}": torch.as_tensor(value)
        for name, parameter in parameters.items()
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def load_optimiser_state(
    optimiser: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Sets what `optimiser_state` gave, its prefix taken off."""
    optimiser.state.clear()
    for name, parameter in parameters.items():
        found = below(state, f"{name}#")
        # Adam counts its steps on the CPU whatever the device of its moments.
        moved = {key: v.clone() if key == "step" else v.to(parameter.device).clone() for key, v in found.items()}
        if moved:
            optimiser.state[parameter].update(moved)
