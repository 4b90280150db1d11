"""One video -> its facts and preprocessed pixel rows: in this process, or in a worker at the other end of a pipe."""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

import numpy as np

from vidfeat.errors import DecodeError
from vidfeat.extraction.channel import Stopped


@dataclass(frozen=True)
class VideoTask:
    """One video to decode: `views` is the half-open range of the views wanted, `position` counts tasks from 0."""

    position: int
    video_index: int
    video_id: str
    path: str
    views: tuple[int, int]


@dataclass(frozen=True)
class VideoFacts:
    """What decoding established about a video; pts_seconds has one entry per sampled frame.

    n_source_bytes and source_mtime_ns are the file's before it was read, 0 and 0 when unknown.
    """

    n_frames: int
    n_source_frames: int
    fps: float
    pts_seconds: tuple[float, ...]
    content_sha256: str
    decoder: str
    n_source_bytes: int = 0
    source_mtime_ns: int = 0


@dataclass(frozen=True)
class PixelRows:
    """Consecutive pixel rows `pixels` [n 3 H W] of a task, from its row `first_row`.

    The memory belongs to the pool: it is valid until the next item is asked for.
    """

    task: VideoTask
    first_row: int
    pixels: np.ndarray


@dataclass(frozen=True)
class VideoDone:
    """A task of which every row has been delivered."""

    task: VideoTask
    facts: VideoFacts


@dataclass(frozen=True)
class VideoFailed:
    """A task that failed, perhaps after some of its rows; reason is one of FAILURE_REASONS."""

    task: VideoTask
    reason: str
    detail: str


PoolEvent = PixelRows | VideoDone | VideoFailed


@dataclass(frozen=True)
class LoadedVideo:
    """A decoded video: its facts, and its rows in (view, frame) order as pieces [n 3 H W] of at most a slot's rows."""

    facts: VideoFacts
    pieces: Iterator[np.ndarray]


class VideoLoader(Protocol):
    """Decodes and preprocesses one video; travels to the workers by pickle."""

    def load(self, task: VideoTask) -> LoadedVideo:
        """The video's facts and rows.

        Raises:
            DecodeError: the video cannot be used.
        """
        ...


@dataclass(frozen=True)
class RingLayout:
    """Shape of one worker's shared memory: n_slots slots of slot_rows rows [3 H W]."""

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


def describe_unexpected(error: BaseException) -> tuple[str, str]:
    """(reason, detail) of a failure that is not a DecodeError: one video's surprise must not end a week-long job."""
    from vidfeat.video.decode.failures import machine_detail

    return "machine", machine_detail(error)


class InlineDecoder:
    """The pool's stream without any process, for debugging and for `--workers 0`."""

    def __init__(self, loader: VideoLoader) -> None:
        self._loader = loader

    def stream(self, tasks: Iterable[VideoTask], stop: threading.Event) -> Iterator[PoolEvent]:
        """The tasks' rows and outcomes, in the order of the tasks.

        Raises:
            Stopped: the stop event is set.
        """
        for task in tasks:
            if stop.is_set():
                raise Stopped
            first_row = 0
            try:
                video = self._loader.load(task)
                for piece in video.pieces:
                    yield PixelRows(task, first_row, piece)
                    first_row += len(piece)
            except DecodeError as error:
                yield VideoFailed(task, error.reason, str(error))
            except Exception as error:
                yield VideoFailed(task, *describe_unexpected(error))
            else:
                yield VideoDone(task, video.facts)


class _Mailbox:
    """The worker's end of the pipe: tasks and freed slots arrive on it in any order."""

    def __init__(self, connection: Connection, n_slots: int) -> None:
        self.connection = connection
        self.free_slots = deque(range(n_slots))
        self.tasks: deque[VideoTask | None] = deque()

    def _receive(self) -> None:
        kind, value = self.connection.recv()
        (self.tasks if kind == "task" else self.free_slots).append(value)

    def next_task(self) -> VideoTask | None:
        while not self.tasks:
            self._receive()
        return self.tasks.popleft()

    def free_slot(self) -> int:
        while not self.free_slots or self.connection.poll():
            self._receive()
        return self.free_slots.popleft()


def worker_main(connection: Connection, memory: Any, layout: RingLayout, loader: VideoLoader) -> None:
    """Decodes tasks from the pipe until None arrives or the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides, and its end of the pipe closing ends this loop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slots = layout.over(memory)
    mailbox = _Mailbox(connection, layout.n_slots)
    try:
        connection.send(("ready", None))
        while (task := mailbox.next_task()) is not None:
            connection.send(_work(task, loader, mailbox, slots))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _work(task: VideoTask, loader: VideoLoader, mailbox: _Mailbox, slots: np.ndarray) -> tuple[str, object]:
    first_row = 0
    try:
        video = loader.load(task)
        for piece in video.pieces:
            slot = mailbox.free_slot()
            slots[slot, : len(piece)] = piece
            mailbox.connection.send(("rows", (slot, first_row, len(piece))))
            first_row += len(piece)
    except DecodeError as error:
        return "failed", (error.reason, str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise
    except Exception as error:
        return "failed", describe_unexpected(error)
    return "done", video.facts
