"""A directory of files that is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PARTIAL_SUFFIX = ".partial"


def write_directory(directory: Path, contents: Mapping[str, bytes]) -> bool:
    """True when the directory with these files has appeared, False when another writer was first.

    Files go into a temporary directory beside it, each fsynced; one rename, then an fsync of the parent, make them
    appear. What killed writers left behind is removed first; a writer that is alive holds a lock on its own.

    Raises:
        OSError: the disk is full, the parent cannot be written; nothing is left behind.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    _sweep(directory)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=PARTIAL_SUFFIX, dir=directory.parent))
    try:
        with _owned(temporary):
            temporary.chmod(0o755)
            for name, data in contents.items():
                with open(temporary / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            _fsync_directory(temporary)
            try:
                os.rename(temporary, directory)
            except OSError:
                if not directory.exists():
                    raise
                shutil.rmtree(temporary)
                return False
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _fsync_directory(directory.parent)
    return True


def _sweep(directory: Path) -> None:
    """Removes temporary directories of this one whose writer is gone."""
    if os.name == "nt":
        return  # without locks nobody knows whether a writer is alive
    for partial in directory.parent.glob(f".{directory.name}.*{PARTIAL_SUFFIX}"):
        try:
            with _owned(partial, wait=False):
                shutil.rmtree(partial)
        except OSError:
            continue  # its writer is alive, or this file system knows no locks


@contextmanager
def _owned(directory: Path, *, wait: bool = True) -> Iterator[None]:
    """Holds the directory's lock, which the system takes back when its holder dies."""
    if os.name == "nt":
        yield  # Windows cannot open a directory.
        return
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def _fsync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a directory for fsync; its rename is journalled.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
