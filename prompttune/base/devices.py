"""What is asked of a device: tensors sent to it without waiting, and half precision, which `meta` has to be told apart.

On `meta` nothing is computed, but everything is dispatched as it would be on a GPU: there tests count a step's kernels
(tests/prompttune/training/test_launches.py). PyTorch refuses `torch.autocast("meta")`, so its half precision is kept
here, with autocast's rule for products and norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
_META_DTYPE: ContextVar[torch.dtype | None] = ContextVar("_META_DTYPE", default=None)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; nobody waits until it is there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def one_hot(labels: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """`[... C]` of labels `[...]`; PyTorch's own looks at them on a CPU, which nothing that is compiled may."""
    rows = torch.zeros(*labels.shape, n_classes, dtype=dtype, device=labels.device)
    return rows.scatter(-1, labels.unsqueeze(-1), 1.0)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Half precision for what follows, by device; a no-op for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return _on_meta(dtype) if device.type == "meta" else torch.autocast(device.type, dtype=dtype)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Full precision for what follows; at no cost where that is so already."""
    return with_autocast(device_type, None)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What half precision computes in here and now; None where it is off."""
    if device_type == "meta":
        return _META_DTYPE.get()
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def with_autocast(device_type: str, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """What `autocast_dtype` said somewhere else, for what follows; None is full precision."""
    if dtype == autocast_dtype(device_type):
        return nullcontext()
    if device_type == "meta":
        return _on_meta(dtype)
    return torch.autocast(device_type, dtype=dtype, enabled=dtype is not None)


def launches_cost(like: Tensor) -> bool:
    """Whether every operation is a kernel to launch, which costs more than what it computes on a few rows."""
    return like.device.type != "cpu"


@contextmanager
def _on_meta(dtype: torch.dtype | None) -> Iterator[None]:
    token = _META_DTYPE.set(dtype)
    try:
        with nullcontext() if dtype is None else _MetaAutocast():
            yield
    finally:
        _META_DTYPE.reset(token)


class _MetaAutocast(TorchFunctionMode):
    """What autocast does to the operations of models here: products in half precision, layer norms in float32."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        half = _META_DTYPE.get()
        if half is not None and (func in _PRODUCTS or func is F.layer_norm):
            dtype = half if func in _PRODUCTS else torch.float32
            args = tuple(_in_dtype(one, dtype) for one in args)
            kwargs = {name: _in_dtype(one, dtype) for name, one in (kwargs or {}).items()}
        return func(*args, **(kwargs or {}))


_PRODUCTS = {
    F.linear,
    F.scaled_dot_product_attention,
    torch.matmul,
    torch.mm,
    torch.bmm,
    torch.addmm,
    torch.baddbmm,
    torch.einsum,
    Tensor.matmul,
    Tensor.__matmul__,
}


def _in_dtype(given: Any, dtype: torch.dtype) -> Any:
    return given.to(dtype) if isinstance(given, Tensor) and given.is_floating_point() else given
