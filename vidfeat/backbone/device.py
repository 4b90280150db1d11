"""Which device computes: a name as people give it -> what this machine has, and what half precision costs there."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

import torch

from vidfeat.errors import explain

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_WORTH_SAYING = 1.5


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


def slow_half_precision(precision: str, device: torch.device) -> str | None:
    """What to say where products take longer in half precision than in float32; None where they do not.

    A CPU without arithmetic for it (AVX2, most laptops) converts number by number, and PyTorch then has no library's
    product for it: forward products take several times as long, those of the backward pass fifty times.
    """
    if device.type != "cpu" or precision not in HALVES:
        return None
    forward, backward = half_precision_price(HALVES[precision])
    if max(forward, backward) < _WORTH_SAYING:
        return None
    return (
        f"products in {precision} take {forward:.2g} times as long as in float32 on this CPU "
        f"({torch.backends.cpu.get_cpu_capability()}), those of a backward pass {backward:.2g} times: "
        "precision fp32 is faster here"
    )


def half_precision_price(dtype: torch.dtype) -> tuple[float, float]:
    """The time of a layer's product in `dtype` over that in float32, forward and backward; measured here, 0.1 s."""
    forward, backward = (
        _product_seconds(dtype, transposed) / _product_seconds(torch.float32, transposed)
        for transposed in (True, False)
    )
    return forward, backward


def _product_seconds(dtype: torch.dtype, forward: bool) -> float:
    """Of 128 rows with a 256 x 256 weight, the least of several: others may run on this machine."""
    rows, weight = torch.ones(128, 256, dtype=dtype), torch.ones(256, 256, dtype=dtype)
    seconds: list[float] = []
    while len(seconds) < 3 or (len(seconds) < 50 and sum(seconds) < 0.02):
        started = time.perf_counter()
        rows @ (weight.T if forward else weight)
        seconds.append(time.perf_counter() - started)
    return min(seconds)
