"""Video files -> preprocessed pixel rows, in order, from a pool of worker processes.

One worker = one process, one pipe and one ring of shared-memory slots, none of them shared with another worker. So a
worker killed at any instruction (out of memory, a crash inside a decoder) can take no lock with it: its pipe reports
end of file, its video is tried once more in a fresh process, and then recorded as failed. Pixels cross in the ring,
everything else in the pipe. A worker without a free slot waits: that is the back-pressure, and the bound on memory.

Rows come out in the order of the tasks whatever the workers' speed, because the batches formed from them must be the
same on every run. Each worker takes its tasks in increasing order, so the worker that holds the earliest undelivered
video can always go on and the pool cannot deadlock.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from vidfeat.errors import VidfeatError, explain
from vidfeat.extraction.channel import Stopped
from vidfeat.extraction.worker import (
    PixelRows,
    PoolEvent,
    RingLayout,
    VideoDone,
    VideoFailed,
    VideoLoader,
    VideoTask,
    worker_main,
)

# A worker decodes one video and has the next one at hand, so that the pipe's latency costs it nothing.
TASKS_AT_HAND = 2
POLL_SECONDS = 0.5
# A process on a loaded machine or a slow network disk takes its time to import its libraries.
START_SECONDS = 180.0
# A process may die of its neighbours' memory; a video that takes down two is itself the reason.
ATTEMPTS = 2


@dataclass
class _Worker:
    """The parent's view of one worker process."""

    process: Any
    connection: Connection
    slots: np.ndarray
    ready: bool = False
    tasks: deque[VideoTask] = field(default_factory=deque)  # handed over, outcome not yet received
    inbox: deque[tuple[VideoTask, str, Any]] = field(default_factory=deque)  # received, not yet delivered
    slots_taken: int = 0
    last_sign: float = field(default_factory=time.monotonic)
    timed_out: bool = False

    def give(self, kind: str, value: object) -> None:
        self.last_sign = time.monotonic()
        try:
            self.connection.send((kind, value))
        except (BrokenPipeError, ConnectionResetError):
            return  # its death is noticed, and dealt with, where messages are received

    def drain(self) -> bool:
        """Takes every message that has arrived; False once the process is gone."""
        try:
            while self.connection.poll():
                kind, value = self.connection.recv()
                self.last_sign = time.monotonic()
                self._note(kind, value)
        except (EOFError, ConnectionResetError):
            return False
        return True

    def _note(self, kind: str, value: Any) -> None:
        if kind == "ready":
            self.ready = True
            return
        if kind == "rows":
            slot, first_row, n_rows = value
            value = (slot, first_row, self.slots[slot, :n_rows])
            self.slots_taken += 1
        self.inbox.append((self.tasks[0], kind, value))
        if kind != "rows":
            self.tasks.popleft()

    def hangs(self, seconds: float) -> bool:
        """True when the worker could go on and has given no sign for so long."""
        could_go_on = bool(self.tasks) and self.slots_taken < len(self.slots)
        limit = seconds if self.ready else max(seconds, START_SECONDS)
        return could_go_on and time.monotonic() - self.last_sign > limit


class DecodePool:
    """Worker processes that turn tasks into pixel rows, in the tasks' order.

    Memory: n_workers rings; `max_slots_taken` is the most slots that were full at any one time.
    """

    def __init__(self, loader: VideoLoader, layout: RingLayout, *, n_workers: int, timeout_seconds: float) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._loader = loader
        self._layout = layout
        self._timeout_seconds = timeout_seconds
        self._deaths: dict[int, int] = {}  # task position -> processes it has taken down
        self._workers = [self._hire() for _ in range(n_workers)]
        self.max_slots_taken = 0

    def _hire(self) -> _Worker:
        # RawArray is backed by an already unlinked file: nothing stays behind in /dev/shm, however the job ends.
        memory = self._context.RawArray(ctypes.c_uint8, self._layout.n_bytes)
        connection, far_end = self._context.Pipe()
        arguments = (far_end, memory, self._layout, self._loader)
        process = self._context.Process(target=worker_main, args=arguments, name="vidfeat-decode", daemon=True)
        process.start()
        far_end.close()
        return _Worker(process=process, connection=connection, slots=self._layout.over(memory))

    def stream(self, tasks: Iterable[VideoTask], stop: threading.Event) -> Iterator[PoolEvent]:
        """The tasks' rows and outcomes, in the order of the tasks; a task's outcome follows its last row.

        Raises:
            Stopped: the stop event is set.
            VidfeatError: a worker process cannot be started at all.
        """
        waiting = iter(tasks)
        owners: deque[tuple[VideoTask, int]] = deque()
        delivered = 0  # rows of the first task in `owners`
        while True:
            self._hand_out(waiting, owners)
            if not owners:
                return
            for event in self._events_of(owners[0], delivered):
                yield event
                if isinstance(event, PixelRows):
                    delivered = event.first_row + len(event.pixels)
                else:
                    owners.popleft()
                    delivered = 0
                    break
            else:
                if stop.is_set():
                    raise Stopped
                self._receive()

    def _hand_out(self, waiting: Iterator[VideoTask], owners: deque[tuple[VideoTask, int]]) -> None:
        for at_hand in range(TASKS_AT_HAND):  # everybody gets a first task before anybody gets a second
            for number, worker in enumerate(self._workers):
                if len(worker.tasks) > at_hand:
                    continue
                task = next(waiting, None)
                if task is None:
                    return
                worker.tasks.append(task)
                worker.give("task", task)
                owners.append((task, number))

    def _events_of(self, owner: tuple[VideoTask, int], delivered: int) -> Iterator[PoolEvent]:
        """What has arrived of the earliest task; its slots are handed back as the consumer comes for more."""
        task, number = owner
        worker = self._workers[number]
        while worker.inbox and worker.inbox[0][0].position == task.position:
            _, kind, value = worker.inbox.popleft()
            if kind == "done":
                yield VideoDone(task, value)
            elif kind == "failed":
                yield VideoFailed(task, *value)
            else:
                slot, first_row, pixels = value
                if first_row >= delivered:  # else: a second attempt is repeating what the first one delivered
                    yield PixelRows(task, first_row, pixels)
                if slot is not None:
                    worker.slots_taken -= 1
                    worker.give("slot", slot)

    def _receive(self) -> None:
        wait([worker.connection for worker in self._workers], timeout=POLL_SECONDS)
        for number, worker in enumerate(self._workers):
            if not worker.drain():
                self._replace(number)
            elif worker.hangs(self._timeout_seconds):
                worker.timed_out = True
                worker.process.kill()
                worker.process.join()
                worker.drain()
                self._replace(number)
        self.max_slots_taken = max(self.max_slots_taken, sum(worker.slots_taken for worker in self._workers))

    def _replace(self, number: int) -> None:
        """Puts a fresh process in a dead one's place, with the same tasks still to do."""
        dead = self._workers[number]
        dead.process.join()
        dead.connection.close()
        if not dead.ready:
            raise VidfeatError(
                explain(
                    "a decoding process ended before it could start",
                    got=f"exit code {dead.process.exitcode}",
                    fix="in a script of your own, call extract() under `if __name__ == '__main__':`; "
                    "else run `vidfeat doctor`, or `--workers 0` to see the error in this process",
                )
            )
        fresh = self._hire()
        self._workers[number] = fresh
        # What was complete stays deliverable from the dead worker's memory; a half-done video starts again.
        culprit = dead.tasks[0] if dead.tasks else None
        for task, kind, value in dead.inbox:
            if culprit is None or task.position != culprit.position:
                fresh.inbox.append((task, kind, (None, *value[1:]) if kind == "rows" else value))
        if culprit is not None and (failure := self._verdict(culprit, dead)) is not None:
            fresh.inbox.append((culprit, "failed", failure))
            dead.tasks.popleft()
        for task in dead.tasks:
            fresh.tasks.append(task)
            fresh.give("task", task)

    def _verdict(self, task: VideoTask, dead: _Worker) -> tuple[str, str] | None:
        """(reason, detail) once a video has used up its attempts; None to try it again."""
        if dead.timed_out:
            return "timeout", f"no frame for {self._timeout_seconds:g} s"
        self._deaths[task.position] = self._deaths.get(task.position, 0) + 1
        if self._deaths[task.position] < ATTEMPTS:
            return None
        code = dead.process.exitcode
        # The kernel's out-of-memory killer sends SIGKILL; any other signal is the decoder's own crash on these bytes.
        reason = "out_of_memory" if code == -signal.SIGKILL else "invalid_data"
        return reason, f"its decoding process died {ATTEMPTS} times (exit code {code})"

    def close(self) -> None:
        """Ends the workers; whatever they still had is dropped."""
        for worker in self._workers:
            worker.process.terminate()
            worker.connection.close()
        for worker in self._workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
