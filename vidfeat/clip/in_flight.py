"""A batch on its way through a device: sent, computed, brought back, while the host does something else.

On a CUDA device each of the three has a stream of its own, so that the next batch's pixels go over while this one is
computed and the last one's features come back. Elsewhere the work is done when `begin` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

# From pixels on the device to named features there; runs on the device's current stream.
Compute = Callable[[Tensor], Mapping[Any, Tensor]]
Finish = Callable[[], dict[Any, Tensor]]


class Carrier(Protocol):
    """How batches get to a device and back."""

    def staging(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """A host array to fill with pixels, from which the way to the device is fast."""
        ...

    def begin(self, pixels: Tensor, compute: Compute) -> Finish:
        """Starts a batch; what is given back waits for it and gives its features on the host.

        The pixels must stay as they are until then.
        """
        ...


class AtOnce:
    """Sends, computes and brings back before `begin` returns: for devices that share the host's memory or thread."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def staging(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """See `Carrier`."""
        return np.empty(shape, dtype=dtype)

    def begin(self, pixels: Tensor, compute: Compute) -> Finish:
        """See `Carrier`."""
        host = {name: values.cpu() for name, values in compute(pixels.to(self._device)).items()}
        return lambda: host


class InStreams:
    """One stream to the device, one back, and the current one between them; host memory is pinned.

    A stream waits for the one before it through events, never the host. What a stream still reads is kept alive until
    the batch is finished, so that its memory is not given to the next batch meanwhile.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._there, self._back = torch.cuda.Stream(device), torch.cuda.Stream(device)

    def staging(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """See `Carrier`."""
        return torch.empty(shape, dtype=getattr(torch, dtype), pin_memory=True).numpy()

    def begin(self, pixels: Tensor, compute: Compute) -> Finish:
        """See `Carrier`."""
        between = torch.cuda.current_stream(self._device)
        with torch.cuda.stream(self._there):
            arrived = pixels.to(self._device, non_blocking=True)
        between.wait_stream(self._there)
        found = compute(arrived)
        self._back.wait_stream(between)
        with torch.cuda.stream(self._back):
            host = {name: values.to("cpu", non_blocking=True) for name, values in found.items()}
            done = self._back.record_event()
        in_use = [pixels, arrived, found]

        def finish() -> dict[Any, Tensor]:
            done.synchronize()
            in_use.clear()
            return host

        return finish


def carrier_of(device: torch.device) -> Carrier:
    """The carrier for a device."""
    return InStreams(device) if device.type == "cuda" else AtOnce(device)
