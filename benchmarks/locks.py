"""Locks on folders, which the system takes back when their holder dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prompttune.errors import RunFolderError, explain


@contextmanager
def held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the folder's lock inside the block. Where a file system or Windows knows no locks, nothing is held.

    Args:
        wait: for another holder to let go.

    Raises:
        RunFolderError: another process holds it, and `wait` is off.
    """
    if os.name == "nt":
        yield  # Windows cannot open a directory.
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(
                explain(
                    "another process is running a suite into this folder",
                    where=folder,
                    fix="wait for it, stop it, or take another --out",
                )
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
