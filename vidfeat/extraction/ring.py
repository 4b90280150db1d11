"""The shared memory through which a decoding process hands pixels over: all of it is there before it is written to."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import numpy as np

from vidfeat.errors import VidfeatError, explain

_ZEROS = bytes(1 << 20)


@dataclass(frozen=True)
class RingLayout:
    """Shape of one worker's shared memory: n_slots slots of slot_rows rows [3 H W].

    Rows of another shape lie in a slot's bytes as well (`place_for`), as many as there is room for.
    """

    n_slots: int
    slot_rows: int
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """[n_slots, slot_rows, 3, H, W]."""
        return (self.n_slots, self.slot_rows, *self.row_shape)

    @property
    def n_bytes(self) -> int:
        """Bytes of the whole ring."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize

    def over(self, memory: Any) -> np.ndarray:
        """The ring's memory as an array of `shape`."""
        return np.frombuffer(memory, dtype=self.dtype).reshape(self.shape)


def place_for(slot: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The beginning of a slot's memory as an array of that shape."""
    return slot.reshape(-1)[: math.prod(shape)].reshape(shape)


class RingMemory:
    """`n_bytes` of memory that a process about to be started can share: given to it as an argument, then `close_file`d.

    It lies in a file that is already unlinked: nothing stays behind, however the job ends. Its space is reserved first:
    a sparse file would let the process that writes to it die of SIGBUS once the disk is full.

    Raises:
        VidfeatError: neither /dev/shm nor the temporary folder has room.
        OSError: no file can be opened.
    """

    def __init__(self, n_bytes: int) -> None:
        self._fd = _reserved_file(n_bytes)
        self.memory = mmap.mmap(self._fd, n_bytes)

    def close_file(self) -> None:
        """The memory stays, until nothing refers to it any more."""
        os.close(self._fd)

    def __reduce__(self) -> tuple[object, ...]:
        return _attach, (reduction.DupFd(self._fd), len(self.memory))


def _attach(descriptor: Any, n_bytes: int) -> Any:
    fd = descriptor.detach()
    try:
        return mmap.mmap(fd, n_bytes)
    finally:
        os.close(fd)


def _reserved_file(n_bytes: int) -> int:
    """A descriptor of an unlinked file of `n_bytes`, in memory where there is room, on disk otherwise."""
    folders = [folder for folder in ("/dev/shm", tempfile.gettempdir()) if os.path.isdir(folder)]
    found = []
    for folder in folders:
        fd, path = tempfile.mkstemp(prefix="vidfeat-", dir=folder)
        os.unlink(path)
        try:
            _reserve(fd, n_bytes)
        except OSError as error:
            os.close(fd)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                raise
            found.append(f"{folder}: {error.strerror}, {shutil.disk_usage(folder).free >> 20} MB free")
        else:
            return fd
    raise VidfeatError(
        explain(
            "there is no room for a decoding process's pixels",
            where=" and ".join(folders),
            expected=f"{n_bytes >> 20} MB for each worker in one of them",
            got="; ".join(found),
            fix="fewer --workers or --batch-frames; a larger /dev/shm (docker: --shm-size); TMPDIR on another disk",
        )
    )


def _reserve(fd: int, n_bytes: int) -> None:
    try:
        os.posix_fallocate(fd, 0, n_bytes)
    except AttributeError:  # macOS
        pass
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # file systems that cannot reserve
            raise
    else:
        return
    for start in range(0, n_bytes, len(_ZEROS)):
        os.write(fd, _ZEROS[: n_bytes - start])
