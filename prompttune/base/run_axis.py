"""The run axis R: several trainings in one process, each with exactly the arithmetic it would have alone.

A run owns its parameters and its random numbers. `RunParameter` keeps R tensors in one, [R ...]; the gradient of the
sum over runs of a loss [R] is at each run's place that of its own loss only, and an optimiser that works element by
element does to it what it would do alone. `RunGenerators` draws for every run from that run's own generator, on the
CPU, so that a run's numbers depend on its seed and neither on its neighbours nor on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class RunParameter(nn.Module):
    """R trainable tensors of one shape in one, [R ...]; calling it gives that tensor.

    Args:
        values: the initial values [R ...], one slice per run; copied.

    Attributes:
        values: the one trained parameter.
    """

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        if values.dim() < 1 or values.shape[0] < 1:
            raise ValueError(f"a RunParameter needs a leading run axis, got shape {tuple(values.shape)}")
        self.values = nn.Parameter(values.detach().clone())

    @property
    def n_runs(self) -> int:
        return len(self.values)

    @property
    def runs(self) -> tuple[Tensor, ...]:
        """Each run's tensor, without gradient; writing to it writes to the parameter."""
        return self.values.detach().unbind()

    def forward(self) -> Tensor:
        return self.values.view_as(self.values)

    def extra_repr(self) -> str:
        return f"n_runs={self.n_runs}, shape={tuple(self.values.shape[1:])}"


def named_run_parameters(module: nn.Module) -> Iterator[tuple[str, RunParameter]]:
    """Every RunParameter below `module` with its dotted name, in the order of registration."""
    for name, child in module.named_modules():
        if isinstance(child, RunParameter):
            yield name, child


def parameters_of_run(module: nn.Module, run: int) -> dict[str, Tensor]:
    """What run `run` trains, by the dotted name of its RunParameter; views, without gradient."""
    return {name: parameter.runs[run] for name, parameter in named_run_parameters(module)}


def n_parameters_per_run(module: nn.Module) -> int:
    """How many numbers one run trains."""
    return sum(parameter.values[0].numel() for _, parameter in named_run_parameters(module))


def generator_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for one purpose of one run; hashed, so that neighbouring seeds are unrelated streams."""
    digest = hashlib.sha256(f"prompttune/{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class RunGenerators:
    """One random generator per run for one purpose ("init", "order", "dropout", "anchors", ...).

    Two runs with the same seed draw the same numbers, whatever else is in the batch of runs; so do a run alone and the
    same run among others.

    Args:
        seeds: one seed per run.
        purpose: names the stream; streams of different purposes are independent.
    """

    def __init__(self, seeds: Sequence[int], purpose: str) -> None:
        self.purpose = purpose
        self.generators = [torch.Generator().manual_seed(generator_seed(seed, purpose)) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        """Normal numbers [R *shape], float32, mean 0."""
        return torch.stack([torch.randn(*shape, generator=generator) * std for generator in self.generators])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers [R *shape], float32, in [0, 1)."""
        return torch.stack([torch.rand(*shape, generator=generator) for generator in self.generators])

    def permutation(self, n: int) -> Tensor:
        """Permutations of range(n), int64 [R n]."""
        return torch.stack([torch.randperm(n, generator=generator) for generator in self.generators])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers [R *shape], int64, in [0, high)."""
        return torch.stack([torch.randint(high, shape, generator=generator) for generator in self.generators])

    def state(self) -> Tensor:
        """The generators' states, uint8 [R n_bytes]: what a checkpoint keeps."""
        return torch.stack([generator.get_state() for generator in self.generators])

    def load_state(self, state: Tensor) -> None:
        """Sets the generators to a state that `state` gave."""
        if state.shape[0] != len(self.generators):
            raise ValueError(f"state of {state.shape[0]} generators for {len(self.generators)} runs")
        for generator, value in zip(self.generators, state, strict=True):
            generator.set_state(value.contiguous().clone())
