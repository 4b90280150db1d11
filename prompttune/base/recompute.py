"""Computing again in the backward pass what was not kept; values and gradients stay the same to the bit.

`torch.utils.checkpoint` does this too, but imports PyTorch's compiler: half the time of a short training. What is kept
of a call is its arguments; the first tensor that the backward pass asks for has the function run again.
Source: the hooks of https://docs.pytorch.org/docs/stable/autograd.html#torch.autograd.graph.saved_tensors_hooks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from prompttune.base.devices import autocast_dtype, with_autocast

Result = TypeVar("Result")


def recomputed(function: Callable[..., Result], *args: Any, device_type: str) -> Result:
    """`function(*args)`, of which nothing but `args` is kept for the backward pass.

    Args:
        function: always the same of the same arguments: without random numbers, and without memory of earlier calls.
        device_type: where it computes, for its precision.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    call = _Call(function, args, device_type)
    with saved_tensors_hooks(call.count, call.again):
        return function(*args)


class _Call:
    """One call: in the place of each tensor that autograd would keep stands how many were before it."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...], device_type: str) -> None:
        self.function = function
        self.precision = device_type, autocast_dtype(device_type)
        # Through autograd, so that a call around this one need not keep them either.
        tensors = [given for given in args if isinstance(given, Tensor)]
        # The result itself is held: with it PyTorch 2.6 frees what its node saved.
        self.kept: Tensor = _Kept.apply(torch.empty(0, requires_grad=True), *tensors)
        self.others = [None if isinstance(given, Tensor) else given for given in args]
        self.is_tensor = [isinstance(given, Tensor) for given in args]
        self.n_saved = 0
        self.found: dict[int, Tensor] = {}

    def count(self, tensor: Tensor) -> int:
        self.n_saved += 1
        return self.n_saved - 1

    def again(self, place: int) -> Tensor:
        # Gone when the graph is used a second time, as loss terms' gradients do.
        if place not in self.found:
            self.found = self._compute()
        return self.found.pop(place)

    def _compute(self) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> int:
            found[len(found)] = tensor.detach()
            return len(found) - 1

        node: Any = self.kept.grad_fn
        tensors = iter(node.saved_tensors)
        args = [next(tensors) if here else other for here, other in zip(self.is_tensor, self.others, strict=True)]
        with torch.enable_grad(), with_autocast(*self.precision), saved_tensors_hooks(keep, _never):
            self.function(*args)
        if len(found) != self.n_saved:
            raise RuntimeError(f"{self.function} kept {self.n_saved} tensors, and {len(found)} when computed again")
        return found


def _never(place: int) -> Tensor:
    raise RuntimeError("nothing is differentiated while it is computed again")


class _Kept(torch.autograd.Function):
    """Tensors kept as autograd keeps them, under the hooks of whoever is around."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return torch.empty(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError("nothing hangs on what is kept")
