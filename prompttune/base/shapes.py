"""Checks of named axes: the tensors of one step agree on R, B, C, E, or one message says all that disagrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

# Unit features that went through bfloat16 are off by up to 2^-8 in norm; anything beyond was never normalised.
UNIT_NORM_TOLERANCE = 1e-2
_LOOKS_AT_VALUES: ContextVar[bool] = ContextVar("_LOOKS_AT_VALUES", default=True)


@contextmanager
def without_values() -> Iterator[None]:
    """Checks shapes and dtypes alone in what follows, as on a device."""
    token = _LOOKS_AT_VALUES.set(False)
    try:
        yield
    finally:
        _LOOKS_AT_VALUES.reset(token)


def _may_look(tensor: Tensor) -> bool:
    # Looking at values would make an accelerator wait at every step.
    return tensor.device.type == "cpu" and tensor.numel() > 0 and _LOOKS_AT_VALUES.get()


class AxisCheck:
    """Collects what is wrong with a group of tensors, binding each axis name to the first size it is seen with."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.sizes: dict[str, tuple[int, str]] = {}
        self.problems: list[str] = []

    def problem(self, text: str) -> None:
        self.problems.append(text)

    def floating(
        self,
        name: str,
        tensor: Tensor | None,
        axes: str | Sequence[str],
        *,
        unit: bool = False,
        sums_to_one: bool = False,
    ) -> None:
        """Notes a tensor that is not float32 or float64, not of one of the `axes`, or not as promised; None passes."""
        if tensor is None:
            return
        if tensor.dtype not in (torch.float32, torch.float64):
            self.problem(f"{name}: expected float32 or float64, got {tensor.dtype}")
        self._axes(name, tensor, (axes,) if isinstance(axes, str) else tuple(axes))
        if not _may_look(tensor):
            return
        if unit:
            worst = (tensor.detach().norm(dim=-1) - 1.0).abs().max().item()
            if worst > UNIT_NORM_TOLERANCE:
                self.problem(f"{name}: expected unit length along the last axis, got a norm off by {worst:.3g}")
        if sums_to_one:
            worst = (tensor.detach().sum(dim=-1) - 1.0).abs().max().item()
            if worst > 1e-4:
                self.problem(f"{name}: expected rows that sum to 1, got a sum off by {worst:.3g}")

    def labels(self, name: str, tensor: Tensor, axes: str, *, n_classes: str) -> None:
        """Notes labels that are not int64 of `axes`, or outside `[0, size of axis n_classes)`."""
        if tensor.dtype != torch.int64:
            self.problem(f"{name}: expected int64, got {tensor.dtype}")
            return
        self._axes(name, tensor, (axes,))
        if _may_look(tensor) and n_classes in self.sizes:
            low, high = int(tensor.min()), int(tensor.max())
            if low < 0 or high >= self.sizes[n_classes][0]:
                self.problem(f"{name}: expected values in [0, {self.sizes[n_classes][0]}), got {low}..{high}")

    def _axes(self, name: str, tensor: Tensor, choices: tuple[str, ...]) -> None:
        fitting = [choice.split() for choice in choices if len(choice.split()) == tensor.dim()]
        if not fitting:
            wanted = " or ".join(f"[{choice}]" for choice in choices)
            self.problem(f"{name}: expected {wanted}, got shape {list(tensor.shape)}")
            return
        for axis, size in zip(fitting[0], tensor.shape, strict=True):
            bound = self.sizes.setdefault(axis, (size, name))
            if bound[0] != size:
                self.problem(f"{name}: axis {axis} is {size}, but {bound[0]} in {bound[1]}")

    def raise_problems(self) -> None:
        """
        Raises:
            ValueError: anything was noted; one line each.
        """
        if self.problems:
            raise ValueError("\n".join([f"{self.owner} does not fit together:", *(f"  {p}" for p in self.problems)]))
