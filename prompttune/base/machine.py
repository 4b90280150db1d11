"""How a training uses the machine it is on: how many CPU threads its products get, and what becomes of freed memory.

Threads. A product shared by several threads ends when the slowest of them has come back. For the matrices of a small
text tower that costs more than the others save, and where something else runs on the machine many times as much: on two
busy cores the small world's CoOp took 14 times as long on two threads as on one (docs/log.md). So a training whose
largest product is below `SHARED_PRODUCT_FLOP` runs on one thread.

Waiting. GNU's OpenMP has a thread that waits for others spin for milliseconds before it sleeps. On a machine that is
busy those others may not be running at all, and what spins keeps them from it: products of a 512-wide tower took three
times as long as with `SPIN_COUNT`, which is enough for the others to arrive where they do run (docs/log.md).

Memory. The C library gives the top of its heap back to the system as soon as it is free, and every step asks for it
again, page by page: 18,000 pages in a step of four runs on HMDB-51's classes, 8 % of its time. `keep_freed_memory` has
it kept, at the price of a process that stays as large as its largest step.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from prompttune.errors import ConfigError, note

if TYPE_CHECKING:
    import torch

SHARED_PRODUCT_FLOP = 100_000_000  # 1 to 2 ms on one core
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
SPIN_COUNT = 10_000  # turns of a waiting loop, a tenth of a millisecond or so; GNU's own is 300,000
WAIT_VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")

# Source: mallopt(3) of glibc: numbers of the parameters, and the largest threshold it takes on 64-bit machines.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_MMAP_THRESHOLD = 32 * 2**20


def training_device(name: str) -> torch.device:
    """The device of that name; "auto" is a CUDA device where there is one, else the CPU.

    Raises:
        ConfigError: a device that is not here.
    """
    from vidfeat.backbone.device import choose_device

    try:
        return choose_device(name, auto=("cuda", "cpu"))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def note_slow_precision(precision: str, device: str) -> None:
    """Notes where half precision, which is asked for, takes longer than float32 on this machine."""
    from vidfeat.backbone.device import slow_half_precision

    if (text := slow_half_precision(precision, training_device(device))) is not None:
        note(text)


def choose_threads(largest_product_flop: int, *, environment: Mapping[str, str] = os.environ) -> int:
    """How many CPU threads a training gets.

    Args:
        largest_product_flop: floating-point operations of the largest matrix product of a step.
        environment: where `OMP_NUM_THREADS` or `MKL_NUM_THREADS` is set, PyTorch's number, made of it, stands.
    """
    import torch

    if any(environment.get(name) for name in THREAD_VARIABLES) or largest_product_flop >= SHARED_PRODUCT_FLOP:
        return torch.get_num_threads()
    return 1


@contextmanager
def cpu_threads(n_threads: int) -> Iterator[None]:
    """PyTorch on `n_threads` CPU threads, and on as many as before afterwards."""
    import torch

    before = torch.get_num_threads()
    if n_threads != before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if n_threads != before:
            torch.set_num_threads(before)


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has OpenMP's waiting threads spin for a short time only, in this process and those it starts; what the
    environment says about waiting stands. Without effect once PyTorch is imported."""
    if not any(environment.get(name) for name in WAIT_VARIABLES):
        environment["GOMP_SPINCOUNT"] = str(SPIN_COUNT)


def peak_bytes() -> int:
    """The largest memory this process has had so far; 0 where the system does not tell (Windows)."""
    with suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 0


def keep_freed_memory() -> bool:
    """Has the C library keep memory that is freed, for the rest of the process; False where that cannot be said (only
    glibc can be told)."""
    if not sys.platform.startswith("linux"):
        return False
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        return bool(kept and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_M_TOP_PAD, 2 * _LARGEST_MMAP_THRESHOLD))
    return False
