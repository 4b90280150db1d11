"""A directory of files that is there whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

PARTIAL_SUFFIX = ".partial"
Content = Iterable[bytes | memoryview]  # a file's bytes in pieces


def write_directory(directory: Path, contents: Mapping[str, Content]) -> bool:
    """True when the directory with these files has appeared, False when another writer was first.

    Files go into a temporary directory beside it, each fsynced; one rename, then an fsync of the parent, make them
    appear. One process at a time writes, so that what it finds half-written belongs to nobody alive, and is removed.

    Raises:
        OSError: the disk is full, the parent cannot be written; nothing is left behind.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    with _alone(directory) as alone:
        if alone:
            for partial in directory.parent.glob(f".{directory.name}.*{PARTIAL_SUFFIX}"):
                shutil.rmtree(partial, ignore_errors=True)
        if directory.exists():
            return False
        temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=PARTIAL_SUFFIX, dir=directory.parent))
        try:
            temporary.chmod(0o755)
            for name, pieces in contents.items():
                with open(temporary / name, "wb") as file:
                    for piece in pieces:
                        file.write(piece)
                    file.flush()
                    os.fsync(file.fileno())
            _fsync_directory(temporary)
            os.rename(temporary, directory)
        except BaseException as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and directory.exists():
                return False  # where there are no locks, another writer can be first
            raise
        _fsync_directory(directory.parent)
    return True


@contextmanager
def _alone(directory: Path) -> Iterator[bool]:
    """Whether no other process writes this directory inside the block; False where a file system knows no locks.

    The lock's file goes while it is held: who waits for it finds it gone, and makes a new one.
    """
    lock = FileLock(directory.parent / f".{directory.name}.lock", fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        if os.name != "nt":  # Windows removes no open file
            Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()


def _fsync_directory(directory: Path) -> None:
    if os.name == "nt":
        return  # Windows cannot open a directory for fsync; its rename is journalled.
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
