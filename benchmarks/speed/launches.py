"""Kernels of a piece of PyTorch counted without a GPU, and what would make the host wait for one.

On `device="meta"` nothing is computed, but every operation is dispatched as on a GPU, backward passes included.
Counted is what would launch something: not views, not new memory; PyTorch's attention, which `meta` takes apart, as
one kernel each way, as it is on a GPU. A GPU's queue runs dry where the host reads a value
or sends one (`Offence`): `.item()`, `if tensor`, copies between devices, tensors made of Python numbers, CPU tensors.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parents[2]
_NO_KERNEL = {
    "_unsafe_view",
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "alias",
    "lift_fresh",
}
_READS, _COPIES = {"_local_scalar_dense", "lift_fresh"}, {"_to_copy", "copy_"}


@dataclass(frozen=True)
class Offence:
    """One read or transfer.

    Attributes:
        operation: PyTorch's name of it.
        where: `file:line` of ours that asked for it.
    """

    operation: str
    where: str


class Launches(TorchDispatchMode):
    """Counts what is dispatched inside; a context manager.

    Attributes:
        counts: by operation, of what would launch.
        engine: how many of them the text engine's blocks launch, forward and backward.
        offences: what reads from the device or sends to it.
    """

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.counts: Counter[str] = Counter()
        self.engine = 0
        self.offences: list[Offence] = []

    def __enter__(self) -> Launches:
        self._attention = F.scaled_dot_product_attention

        def attention(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
            return _Attention.apply(query, key, value, self.counts)

        F.scaled_dot_product_attention = attention  # type: ignore[assignment]
        super().__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        F.scaled_dot_product_attention = self._attention

    @property
    def total(self) -> int:
        """How many kernels."""
        return sum(self.counts.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name in _READS:
            self.offences.append(Offence(name, _ours()))
        result = func(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor)}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # A tensor of no axes on the host is a number, which travels with the launch.
        crosses = len(devices) > 1 and (name in _COPIES or any(one.dim() and one.device.type == "cpu" for one in given))
        if crosses:
            self.offences.append(Offence(name, _ours()))
        if self.device in devices and name not in _NO_KERNEL and not _is_view(func):
            self.counts[name] += 1
            self.engine += "prompttune/text/engine/" in _ours()
        return result


class _Attention(torch.autograd.Function):
    """Shapes alone."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, counts: Counter[str]) -> Tensor:
        counts["scaled_dot_product_attention"] += 1
        ctx.counts = counts
        ctx.save_for_backward(query, key, value)
        return torch.empty_like(query)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Any:
        ctx.counts["scaled_dot_product_attention_backward"] += 1
        given = zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        return *(torch.empty_like(one) if needed else None for one, needed in given), None


def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _ours() -> str:
    """The innermost line of ours on the stack; of PyTorch's own backward passes, where they were asked for."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(str(ROOT)) and path != __file__ and ".venv" not in path:
            return f"{Path(path).relative_to(ROOT)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"
