"""Locks on folders, which the system takes back when their holder dies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from prompttune.errors import RunFolderError, explain

LOCK = ".lock"


@contextmanager
def held(folder: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the folder's lock inside the block. Where a file system knows no locks, nothing is held.

    Args:
        wait: for another holder to let go.

    Raises:
        RunFolderError: another process holds it, and `wait` is off.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(FileLock(folder / LOCK, blocking=wait, fallback_to_soft=False))
        except Timeout:
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
