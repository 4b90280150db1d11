"""What is asked of a device: tensors sent to it without waiting, and half precision, which `meta` has to be told apart.

On `meta` nothing is computed, but everything is dispatched as it would be on a GPU: there tests count a step's kernels
(tests/prompttune/training/test_launches.py). PyTorch refuses `torch.autocast("meta")`, so its half precision is kept
here; the text engine asks for it, PyTorch's own operations do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

import torch
from torch import Tensor

CPU = torch.device("cpu")
_META_DTYPE: ContextVar[torch.dtype | None] = ContextVar("_META_DTYPE", default=None)


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on the device; nobody waits until it is there."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Half precision for what follows, by device; a no-op for fp32."""
    if precision == "fp32":
        return nullcontext()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    return _on_meta(dtype) if device.type == "meta" else torch.autocast(device.type, dtype=dtype)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """Full precision for what follows; at no cost where that is so already."""
    if autocast_dtype(device_type) is None:
        return nullcontext()
    return _on_meta(None) if device_type == "meta" else torch.autocast(device_type, enabled=False)


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """What half precision computes in here and now; None where it is off."""
    if device_type == "meta":
        return _META_DTYPE.get()
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


@contextmanager
def _on_meta(dtype: torch.dtype | None) -> Iterator[None]:
    token = _META_DTYPE.set(dtype)
    try:
        yield
    finally:
        _META_DTYPE.reset(token)
