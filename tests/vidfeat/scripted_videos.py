"""Videos that exist in a script alone: a loader that is told when to be slow, to fail, to crash or to hang."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vidfeat.errors import DecodeError
from vidfeat.extraction.ring import RingLayout
from vidfeat.extraction.worker import LoadedVideo, VideoFacts, VideoTask

SLOT_ROWS = 4
ROW_SHAPE = (3, 2, 2)
LAYOUT = RingLayout(n_slots=2, slot_rows=SLOT_ROWS, row_shape=ROW_SHAPE, dtype="float32")


def n_rows_of(position: int) -> int:
    """Videos of 1 to 11 rows, so that none of the sizes around is a multiple of the others."""
    return position % 11 + 1


def expected_rows(position: int) -> np.ndarray:
    """What every pixel of each row of that video is."""
    return 1000 * position + np.arange(n_rows_of(position))


def tasks(n: int, trouble: dict[int, str] | None = None) -> list[VideoTask]:
    """Tasks 0 .. n - 1; `trouble` says which go wrong, and how."""
    trouble = trouble or {}
    return [VideoTask(i, i, f"v{i}", trouble.get(i, "fine"), (0, 1)) for i in range(n)]


@dataclass(frozen=True)
class ScriptedLoader:
    """Rows filled with 1000 x position + row; the task's path says what goes wrong."""

    scratch: str = ""

    def load(self, task: VideoTask) -> LoadedVideo:
        if task.path == "slow":
            time.sleep(0.2)
        if task.path == "bad":
            raise DecodeError("not a video", reason="invalid_data")
        if task.path == "surprise":
            raise KeyError("a bug in a decoder")
        if task.path == "no threads":
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        if task.path == "twice" and self._tries(task) < 3:
            raise OSError(errno.EMFILE, "Too many open files")
        n_rows = n_rows_of(task.position)
        facts = VideoFacts(n_rows, 100, 25.0, tuple(range(n_rows)), "", "scripted")
        return LoadedVideo(facts=facts, pieces=self._pieces(task, n_rows))

    def _pieces(self, task: VideoTask, n_rows: int) -> Iterator[np.ndarray]:
        for start in range(0, n_rows, SLOT_ROWS):
            if start and task.path in ("killed", "killed once"):
                self._die(task)
            if start and task.path.startswith("signal "):
                os.kill(os.getpid(), int(task.path.removeprefix("signal ")))
            if start and task.path == "exits":
                os._exit(0)
            if start and task.path == "hangs":
                time.sleep(3600)
            if start and task.path == "bad later":
                raise DecodeError("the rest is missing", reason="truncated")
            rows = np.arange(start, min(start + SLOT_ROWS, n_rows), dtype="float32")
            yield np.broadcast_to((1000 * task.position + rows)[:, None, None, None], (len(rows), *ROW_SHAPE))

    def _tries(self, task: VideoTask) -> int:
        """How often it was tried, this time included."""
        with open(os.path.join(self.scratch, f"tries-{task.position}"), "a") as file:
            file.write("x")
            return file.tell()

    def _die(self, task: VideoTask) -> None:
        mark = os.path.join(self.scratch, f"died-{task.position}")
        if task.path == "killed once" and os.path.exists(mark):
            return
        with open(mark, "w"):
            pass
        time.sleep(0.2)  # what was sent before is with the consumer by now, and must not come twice
        os.kill(os.getpid(), signal.SIGKILL)
