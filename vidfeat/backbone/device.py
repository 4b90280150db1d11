"""Which device computes: a name as people give it -> what this machine has."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from vidfeat.errors import explain


def choose_device(device: str = "auto", *, auto: Sequence[str] = ("cuda", "mps", "cpu")) -> torch.device:
    """The device of that name.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        auto: what `auto` takes the first of that there is.

    Raises:
        ValueError: no such name, or a device that this machine (or this build of torch) does not have.
    """
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name in auto if available[name]))
    known = re.fullmatch(r"cpu|mps|cuda(:\d+)?", device)
    if known and available[torch.device(device).type] and (known[1] is None or int(known[1][1:]) < n_cuda):
        return torch.device(device)
    present = [*(f"cuda:{index}" for index in range(n_cuda)), *(name for name in ("mps", "cpu") if available[name])]
    raise ValueError(
        explain(
            f"device {device!r} is not available here",
            expected=f"auto, {', '.join(present)}",
            got=f"{n_cuda} CUDA devices; torch {torch.__version__}" if known else "a name that torch does not know",
            fix="--device auto",
        )
    )
