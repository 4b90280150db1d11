"""What goes wrong with a video and says nothing about its file: tried again, counted, and told with its limit.

A video in trouble is tried again in a fresh process, then alone, with every other worker stopped. If the trouble stays,
the video has failed for the reason `machine` and is tried at the next run; if many in a row are alike, the machine has
reached a limit and the run stops.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

from vidfeat.errors import DecodeError, VidfeatError, explain

# As it comes, in a fresh process, alone.
ATTEMPTS = 3
# Videos in a row that failed alike: by then it is not the videos.
MAX_ALIKE = 5

_TASKS = "processes and threads: `ulimit -u`, pids.max of a container, kernel.pid_max"
_MEMORY = "memory, of the machine or of this container or job"
_FEWER = "fewer --workers, or raise the limit"
# What a trouble's kind holds -> the limit behind it, and the way out.
_LIMITS = {
    "EAGAIN": (_TASKS, _FEWER),
    "start new thread": (_TASKS, _FEWER),
    "EMFILE": ("open files of a process: `ulimit -n`", _FEWER),
    "ENFILE": ("open files of this machine: fs.file-max", _FEWER),
    "ENOMEM": (_MEMORY, _FEWER),
    "MemoryError": (_MEMORY, _FEWER),
    "SIGKILL": (f"{_MEMORY} (the kernel kills who takes the last of it)", _FEWER),
    "ENOSPC": ("space on the disk, in /dev/shm or in the temporary folder", "make room there"),
    "SIGBUS": ("space on the disk, in /dev/shm or in the temporary folder", "make room there"),
    "EIO": ("the disk or the network file system that holds the videos", "look at it and at `dmesg`"),
    "ESTALE": ("the network file system that holds the videos", "mount it again"),
    "ETIMEDOUT": ("the network file system that holds the videos", "look at the network"),
}


@dataclass(frozen=True)
class Trouble:
    """One fault.

    Attributes:
        kind: what makes two faults alike: "BlockingIOError EAGAIN", "signal SIGSEGV", "exit code 1".
        detail: for the video's row: the error with its traceback, or how the process ended.
        reason: "machine", or "timeout" for a process that gave no sign.
    """

    kind: str
    detail: str
    reason: str = "machine"

    @classmethod
    def of_error(cls, error: BaseException) -> Trouble:
        """Of an exception that is no verdict on a file."""
        from vidfeat.video.decode.failures import machine_detail

        cause = error.__cause__ if isinstance(error, DecodeError) and error.__cause__ is not None else error
        name = errno.errorcode.get(getattr(cause, "errno", None) or 0, "")
        if isinstance(cause, RuntimeError):
            name = str(cause)
        return cls(f"{type(cause).__name__} {name}".strip(), machine_detail(cause))

    @classmethod
    def of_exit(cls, code: int | None) -> Trouble:
        """Of a process that ended while it worked on a video."""
        kind = f"exit code {code}" if code is None or code >= 0 else f"signal {signal.Signals(-code).name}"
        return cls(kind, f"its decoding process died: {kind}")


class InARow:
    """Counts the videos that the machine failed alike, one after the other."""

    def __init__(self) -> None:
        self._kind = ""
        self._count = 0

    def note(self, trouble: Trouble | None) -> None:
        """The next video's trouble, or None when it was read or has a verdict.

        Raises:
            VidfeatError: MAX_ALIKE in a row.
        """
        kind = trouble.kind if trouble is not None and trouble.reason == "machine" else ""
        self._count = self._count + 1 if kind and kind == self._kind else int(bool(kind))
        self._kind = kind
        if trouble is not None and self._count >= MAX_ALIKE:
            raise limit_reached(f"{MAX_ALIKE} videos in a row could not be read, by no fault of theirs", trouble)


def limit_reached(what: str, trouble: Trouble) -> VidfeatError:
    """The error that ends a run, with the limit and the way out where they are known."""
    unknown = (None, "`--workers 0` decodes in one process, where the error can be looked at")
    limit, fix = next((said for sign, said in _LIMITS.items() if sign in trouble.kind), unknown)
    got = f"{trouble.kind}, each time\n{trouble.detail}"
    return VidfeatError(explain(what, where=limit, got=got, fix=f"{fix}; the same command goes on from here"))
