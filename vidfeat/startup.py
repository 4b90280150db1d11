"""Commands that start and end at once: no garbage collection where there is nothing to collect.

Importing torch makes half a million objects that live as long as the process. Python's collector looks through them
again and again while they come, and once more when the process ends: a quarter of what `import torch` takes, and most
of what the end takes (docs/log.md). Libraries that are imported leave no garbage worth the search.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Triton's bindings (nanobind) list on stderr what is left of them at the end; `torch.compile` imports them.
COUNTS_WHAT_STAYS = "triton"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Large imports inside the block are not interrupted by the collector, which never looks at what they made.

    For commands: where something was imported, all that lives at the block's end stays for the rest of the process.
    """
    collects, n_before = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > n_before:
            gc.freeze()
        if collects:
            gc.enable()


def quick_exit() -> None:
    """Has the process end without a last search for garbage; destructors and exit handlers run as ever."""
    atexit.register(_leave_the_garbage)


def _leave_the_garbage() -> None:
    """Nothing is searched at the end, unless somebody there would call what stays a leak, by the page."""
    if COUNTS_WHAT_STAYS in sys.modules:
        gc.unfreeze()
    else:
        gc.freeze()
