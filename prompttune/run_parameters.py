"""The run axis R: several trainings in one process, each with exactly the arithmetic it would have alone.

A run owns its parameters and its random numbers. `RunParameter` keeps R separate parameters and stacks them when it is
called; the sum over runs of a loss `[R]` then gives each parameter the gradient of its own run only, and one optimiser
with one parameter group per run gives every run its own learning rate. `RunGenerators` draws for every run from that
run's own generator, on the CPU: a run's numbers depend on its seed, and neither on its neighbours nor on the device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from prompttune.errors import explain


class RunParameter(nn.Module):
    """R trainable tensors of one shape; calling it gives them stacked, `[R ...]`.

    Attributes:
        runs: the R parameters; the optimiser's group r holds `runs[r]`.
    """

    def __init__(self, values: Tensor | Sequence[Tensor]) -> None:
        """Takes the initial values of each run: `[R ...]`, or R tensors of one shape; copied.

        Raises:
            ValueError: no run, or values of unequal shapes.
        """
        super().__init__()
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) != 1:
            raise ValueError(
                explain(
                    "the runs of one parameter must have one shape",
                    expected="at least one run, all of equal shape",
                    got=f"{len(values)} tensors of shapes {sorted(shapes)}",
                    fix="runs that differ in a shape (n_ctx, depth, width) belong in separate groups of runs",
                )
            )
        self.runs = nn.ParameterList([nn.Parameter(value.detach().clone()) for value in values])

    @classmethod
    def normal(cls, shape: Sequence[int], *, std: float, generators: RunGenerators) -> RunParameter:
        """A parameter of `shape`, each run drawn from N(0, std^2) by its own generator."""
        return cls(generators.normal(*shape, std=std))

    @property
    def n_runs(self) -> int:
        return len(self.runs)

    def stacked(self) -> Tensor:
        """The tensors of all runs `[R ...]`; gradients flow back to each run's own parameter."""
        return torch.stack(tuple(self.runs))

    def forward(self) -> Tensor:
        return self.stacked()

    def extra_repr(self) -> str:
        return f"n_runs={self.n_runs}, shape={tuple(self.runs[0].shape)}"


def named_run_parameters(module: nn.Module) -> Iterator[tuple[str, RunParameter]]:
    """Every RunParameter below `module` with its dotted name, in the order of registration."""
    for name, child in module.named_modules():
        if isinstance(child, RunParameter):
            yield name, child


def parameters_of_run(module: nn.Module, run: int) -> dict[str, nn.Parameter]:
    """The parameters that run `run` trains, by the dotted name of their RunParameter."""
    return {name: parameter.runs[run] for name, parameter in named_run_parameters(module)}


def n_parameters_per_run(module: nn.Module) -> int:
    """How many numbers one run trains."""
    return sum(parameter.runs[0].numel() for _, parameter in named_run_parameters(module))


def generator_seed(seed: int, stream: str) -> int:
    """A 63-bit seed for one stream of one run; hashed, so that neighbouring seeds are unrelated."""
    digest = hashlib.sha256(f"prompttune/{stream}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


class RunGenerators:
    """One random generator per run for one stream ("ctx", "order", "coupling.dropout.0", ...).

    Two runs with the same seed draw the same numbers, whatever else is in the batch of runs; so do a run alone and the
    same run among others. Streams of different names are independent: adding a part to a method leaves what the other
    parts draw as it was.
    """

    def __init__(self, seeds: Sequence[int], stream: str) -> None:
        self.stream = stream
        self.generators = [torch.Generator().manual_seed(generator_seed(seed, stream)) for seed in seeds]

    def __len__(self) -> int:
        return len(self.generators)

    def __iter__(self) -> Iterator[torch.Generator]:
        return iter(self.generators)

    def normal(self, *shape: int, std: float = 1.0) -> Tensor:
        """Normal numbers `[R *shape]`, float32, mean 0."""
        return torch.stack([torch.randn(*shape, generator=generator) * std for generator in self])

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers `[R *shape]`, float32, in `[0, 1)`."""
        return torch.stack([torch.rand(*shape, generator=generator) for generator in self])

    def permutation(self, n: int) -> Tensor:
        """Permutations of `range(n)`, int64 `[R n]`."""
        return torch.stack([torch.randperm(n, generator=generator) for generator in self])

    def integers(self, high: int, *shape: int) -> Tensor:
        """Integers `[R *shape]`, int64, in `[0, high)`."""
        return torch.stack([torch.randint(high, shape, generator=generator) for generator in self])

    def state(self) -> Tensor:
        """The generators' states, uint8 `[R n_bytes]`: what a checkpoint keeps."""
        return torch.stack([generator.get_state() for generator in self])

    def load_state(self, state: Tensor) -> None:
        """Sets the generators to a state that `state` gave.

        Raises:
            ValueError: the state of another number of runs.
        """
        if len(state) != len(self):
            raise ValueError(
                explain(
                    f"random state {self.stream!r} of other runs",
                    expected=f"{len(self)} runs",
                    got=len(state),
                    fix="resume with the seeds and cells the checkpoint was written with",
                )
            )
        for generator, value in zip(self, state, strict=True):
            generator.set_state(value.cpu().contiguous().clone())


def run_generators(seeds: Sequence[int], *, stream: str) -> RunGenerators:
    """One generator per run, in the order of `seeds` [R], for one stream."""
    return RunGenerators(seeds, stream)
