"""Video files -> preprocessed pixel rows, in order, from a pool of worker processes.

One worker = one process, one pipe and one ring of shared-memory slots, none of them shared with another worker. So a
worker killed at any instruction (out of memory, a crash inside a decoder) can take no lock with it: its pipe reports
end of file, and its video is tried again: in a fresh process, then in one that has the machine to itself, before it is
recorded as failed by the machine (`trouble`). Pixels cross in the ring, everything else in the pipe. A worker without a
free slot waits: that is the back-pressure, and the bound on memory.

Rows come out in the order of the tasks whatever the workers' speed, because the batches formed from them must be the
same on every run. Each worker takes its tasks in increasing order, so the worker that holds the earliest undelivered
video can always go on and the pool cannot deadlock: a video to be tried alone waits until it is that earliest one.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from vidfeat.errors import VidfeatError, explain
from vidfeat.extraction.channel import Stopped
from vidfeat.extraction.ring import RingLayout, RingMemory, place_for
from vidfeat.extraction.trouble import ATTEMPTS, InARow, Trouble, limit_reached
from vidfeat.extraction.worker import (
    PixelRows,
    PoolEvent,
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
# A machine at its limit may have room for another process a moment later.
START_ATTEMPTS = 3
START_PAUSE_SECONDS = 1.0


@dataclass(eq=False)
class _Worker:
    """One seat of the pool: its tasks, what has arrived of them, and the process that works on them, if any."""

    process: Any = None
    connection: Connection | None = None
    slots: np.ndarray = field(default_factory=lambda: np.empty(0))
    ready: bool = False
    tasks: deque[VideoTask] = field(default_factory=deque)  # handed over, outcome not yet received
    inbox: deque[tuple[VideoTask, str, Any]] = field(default_factory=deque)  # received, not yet delivered
    slots_taken: int = 0
    last_sign: float = 0.0
    trouble: Trouble | None = None
    failed_starts: int = 0

    def start(self, context: Any, loader: VideoLoader, layout: RingLayout) -> None:
        """A fresh process, without anything to do yet.

        Raises:
            OSError: the system has none to give.
        """
        ring = RingMemory(layout.n_bytes)
        try:
            connection, far_end = context.Pipe()
            arguments = (far_end, ring, layout, loader)
            self.process = context.Process(target=worker_main, args=arguments, name="vidfeat-decode", daemon=True)
            with far_end:
                self.process.start()
            self.connection = connection
        finally:
            ring.close_file()
        self.slots = layout.over(ring.memory)
        self.ready, self.slots_taken, self.trouble, self.last_sign = False, 0, None, time.monotonic()

    def stop(self) -> None:
        """Ends the process; what it had not finished is to be done again, what it had stays deliverable."""
        if self.connection is None:
            return
        self.process.kill()
        self.process.join()
        self.connection.close()
        self.connection = None
        half_done = self.tasks[0].position if self.tasks else None
        kept = [(task, kind, value) for task, kind, value in self.inbox if task.position != half_done]
        # The memory of a slot lives as long as its rows; there is nobody any more to give it back to.
        self.inbox = deque((task, kind, (None, *value[1:]) if kind == "rows" else value) for task, kind, value in kept)
        self.slots_taken = 0

    def give(self, kind: str, value: object) -> None:
        """A task or a slot, if there is a process to give it to."""
        self.last_sign = time.monotonic()
        if self.connection is not None:
            with suppress(OSError):  # its death is noticed, and dealt with, where messages are received
                self.connection.send((kind, value))

    def drain(self) -> bool:
        """Takes every message that has arrived; False once the process is gone or in trouble."""
        assert self.connection is not None
        try:
            while self.trouble is None and self.connection.poll():
                kind, value = self.connection.recv()
                self.last_sign = time.monotonic()
                self._note(kind, value)
        except (EOFError, OSError):
            return False
        return self.trouble is None

    def _note(self, kind: str, value: Any) -> None:
        if kind == "ready":
            self.ready = True
            self.failed_starts = 0
        elif kind == "trouble":
            self.trouble = value
        elif kind == "rows":
            slot, first_row, shape, framing = value
            self.slots_taken += 1
            self.inbox.append((self.tasks[0], kind, (slot, first_row, place_for(self.slots[slot], shape), framing)))
        else:
            self.inbox.append((self.tasks.popleft(), kind, value))

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
        self._attempts: Counter[int] = Counter()  # by task position: attempts that ended in trouble
        self._given_up: dict[int, Trouble] = {}
        self._in_a_row = InARow()
        self._alone: _Worker | None = None  # the only one that works, on this task
        self._tried_alone: VideoTask | None = None
        self._any_ready = False
        self.max_slots_taken = 0
        self._workers = [_Worker() for _ in range(n_workers)]
        try:
            for worker in self._workers:
                self._start(worker)
        except BaseException:
            self.close()
            raise

    def _start(self, worker: _Worker) -> None:
        """A fresh process for the worker's tasks.

        Raises:
            VidfeatError: the system does not give one.
        """
        for attempt in range(START_ATTEMPTS):
            try:
                worker.start(self._context, self._loader, self._layout)
            except OSError as error:
                if attempt == START_ATTEMPTS - 1:
                    what = f"decoding process {self._workers.index(worker) + 1} of {len(self._workers)} cannot start"
                    raise limit_reached(what, Trouble.of_error(error)) from error
                time.sleep(START_PAUSE_SECONDS)
            else:
                break
        for task in list(worker.tasks)[: 1 if worker is self._alone else None]:
            worker.give("task", task)

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
                earliest = self._workers[owners[0][1]]
                if self._alone is None and self._waits(earliest):
                    self._leave_alone(earliest)
                self._receive()

    def _hand_out(self, waiting: Iterator[VideoTask], owners: deque[tuple[VideoTask, int]]) -> None:
        if self._alone is not None:
            return
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
            if kind != "rows":
                self._in_a_row.note(self._given_up.pop(task.position, None))
                yield VideoDone(task, value) if kind == "done" else VideoFailed(task, *value)
            else:
                slot, first_row, pixels, framing = value
                if first_row >= delivered:  # else: a second attempt is repeating what the first one delivered
                    yield PixelRows(task, first_row, pixels, framing)
                if slot is not None:
                    worker.slots_taken -= 1
                    worker.give("slot", slot)

    def _receive(self) -> None:
        working = [worker for worker in self._workers if worker.connection is not None]
        wait([worker.connection for worker in working], timeout=POLL_SECONDS)  # type: ignore[misc]
        for worker in working:
            if worker.drain():
                if not worker.hangs(self._timeout_seconds):
                    continue
                detail = f"no frame for {self._timeout_seconds:g} s"
                worker.trouble = Trouble(detail, detail, reason="timeout")
            self._deal_with(worker)
        self.max_slots_taken = max(self.max_slots_taken, sum(worker.slots_taken for worker in self._workers))
        self._any_ready |= any(worker.ready for worker in working)
        if self._alone is not None and not (self._alone.tasks and self._alone.tasks[0] is self._tried_alone):
            self._work_on()

    def _deal_with(self, worker: _Worker) -> None:
        """What is to become of a worker in trouble, or gone, and of its first task."""
        was_ready = worker.ready
        if worker.trouble is None:
            worker.process.join()  # its end of the pipe is closed: it is about to end by itself
            worker.trouble = Trouble.of_exit(worker.process.exitcode)
        trouble = worker.trouble
        worker.stop()
        if not was_ready and trouble.reason == "machine":
            self._start_again(worker, trouble)
            return
        if worker.tasks:
            task = worker.tasks[0]
            self._attempts[task.position] += 1
            if self._waits(worker):
                return  # it is tried once more when it is the earliest, without a neighbour
            if self._attempts[task.position] >= ATTEMPTS:
                self._given_up[task.position] = trouble
                detail = f"{trouble.detail}\n{ATTEMPTS} attempts, the last one with no other worker running"
                worker.inbox.append((task, "failed", (trouble.reason, detail)))
                worker.tasks.popleft()
                return  # `_work_on` starts it, with all the others
        self._start(worker)

    def _start_again(self, worker: _Worker, trouble: Trouble) -> None:
        """Another process for one that ended before it could start.

        Raises:
            VidfeatError: none ever started, or this one did not again and again.
        """
        worker.failed_starts += 1
        if not self._any_ready:
            raise VidfeatError(
                explain(
                    "a decoding process ended before it could start",
                    got=trouble.kind,
                    fix="in a script of your own, call extract() under `if __name__ == '__main__':`; "
                    "else run `vidfeat doctor`, or `--workers 0` to see the error in this process",
                )
            )
        if worker.failed_starts >= START_ATTEMPTS:
            raise limit_reached("a decoding process ended again and again before it could start", trouble)
        time.sleep(START_PAUSE_SECONDS)
        self._start(worker)

    def _leave_alone(self, worker: _Worker) -> None:
        """Stops all other workers and lets this one try its first task; what they had half done, they will do again."""
        self._alone, self._tried_alone = worker, worker.tasks[0]
        for other in self._workers:
            other.stop()
        self._start(worker)

    def _work_on(self) -> None:
        """The video that was tried alone has its outcome: everybody goes on who is not waiting to be alone next."""
        was_alone, self._alone = self._alone, None
        for worker in self._workers:
            if worker.connection is None and not self._waits(worker):
                self._start(worker)
            elif worker is was_alone:
                for task in worker.tasks:
                    worker.give("task", task)

    def _waits(self, worker: _Worker) -> bool:
        return bool(worker.tasks) and self._attempts[worker.tasks[0].position] == ATTEMPTS - 1

    def close(self) -> None:
        """Ends the workers; whatever they still had is dropped."""
        for worker in self._workers:
            if worker.connection is not None:
                worker.process.kill()
        for worker in self._workers:
            worker.stop()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
