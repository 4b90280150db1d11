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
from vidfeat.extraction.ring import RingLayout, place_for
from vidfeat.extraction.trouble import InARow, Trouble
from vidfeat.video.framing import Framing

# Without a process of its own, a video in trouble can only be tried once more.
INLINE_ATTEMPTS = 2


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
    """Consecutive pixel rows `pixels` [n 3 H W] of a task, from its row `first_row`; with a `framing` they are parts of
    frames [n h w 3] that are still to be made into pictures.

    The memory belongs to the pool: it is valid until the next item is asked for.
    """

    task: VideoTask
    first_row: int
    pixels: np.ndarray
    framing: Framing | None = None


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
class FrameParts:
    """Parts [n h w 3] of frames as they were decoded, and what becomes of them."""

    parts: np.ndarray
    framing: Framing


Piece = np.ndarray | FrameParts


@dataclass(frozen=True)
class LoadedVideo:
    """A decoded video: its facts, and its rows in (view, frame) order as pieces that fit into a slot: [n 3 H W], or
    parts of frames."""

    facts: VideoFacts
    pieces: Iterator[Piece]

    def arrays(self) -> Iterator[np.ndarray]:
        """The rows of each piece."""
        return (rows_of(piece)[0] for piece in self.pieces)


def rows_of(piece: Piece) -> tuple[np.ndarray, Framing | None]:
    """A piece's array, and what its rows are to become if they are no pictures yet."""
    return (piece.parts, piece.framing) if isinstance(piece, FrameParts) else (piece, None)


class VideoLoader(Protocol):
    """Decodes and preprocesses one video; travels to the workers by pickle."""

    def load(self, task: VideoTask) -> LoadedVideo:
        """The video's facts and rows.

        Raises:
            DecodeError: the video cannot be used.
        """
        ...


class InlineDecoder:
    """The pool's stream without any process, for debugging and for `--workers 0`."""

    def __init__(self, loader: VideoLoader) -> None:
        self._loader = loader

    def stream(self, tasks: Iterable[VideoTask], stop: threading.Event) -> Iterator[PoolEvent]:
        """The tasks' rows and outcomes, in the order of the tasks.

        Raises:
            Stopped: the stop event is set.
        """
        in_a_row = InARow()
        for task in tasks:
            delivered = 0
            outcome: VideoDone | VideoFailed
            for _ in range(INLINE_ATTEMPTS):
                first_row, trouble = 0, None
                try:
                    video = self._loader.load(task)
                    for piece in video.pieces:
                        if stop.is_set():
                            raise Stopped
                        rows, framing = rows_of(piece)
                        if first_row >= delivered:  # else: a second attempt repeats what the first one delivered
                            delivered = first_row + len(rows)
                            yield PixelRows(task, first_row, rows, framing)
                        first_row += len(rows)
                    outcome = VideoDone(task, video.facts)
                    break
                except Stopped:
                    raise
                except Exception as error:
                    outcome, trouble = failed(task, error)
                    if trouble is None:
                        break
            in_a_row.note(trouble)
            yield outcome


def failed(task: VideoTask, error: Exception) -> tuple[VideoFailed, Trouble | None]:
    """What an exception says of a video, and the trouble behind it where it says nothing of the file."""
    if isinstance(error, DecodeError) and error.reason != "machine":
        return VideoFailed(task, error.reason, str(error)), None
    trouble = Trouble.of_error(error)
    return VideoFailed(task, trouble.reason, trouble.detail), trouble


class _ParentGone(Exception):
    """The other end of the pipe is closed."""


class _Mailbox:
    """The worker's end of the pipe: tasks and freed slots arrive on it in any order."""

    def __init__(self, connection: Connection, n_slots: int) -> None:
        self._connection = connection
        self._free_slots = deque(range(n_slots))
        self._tasks: deque[VideoTask] = deque()

    def send(self, kind: str, value: object) -> None:
        try:
            self._connection.send((kind, value))
        except OSError as error:
            raise _ParentGone from error

    def _receive(self) -> None:
        try:
            kind, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise _ParentGone from error
        (self._tasks if kind == "task" else self._free_slots).append(value)

    def next_task(self) -> VideoTask:
        while not self._tasks:
            self._receive()
        return self._tasks.popleft()

    def free_slot(self) -> int:
        while not self._free_slots or self._connection.poll():
            self._receive()
        return self._free_slots.popleft()


def worker_main(connection: Connection, ring: Any, layout: RingLayout, loader: VideoLoader) -> None:
    """Decodes tasks from the pipe until the parent is gone."""
    # Ctrl-C reaches the whole process group; the parent decides, and its end of the pipe closing ends this loop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    slots = layout.over(ring)
    mailbox = _Mailbox(connection, layout.n_slots)
    try:
        mailbox.send("ready", None)
        while True:
            mailbox.send(*_work(mailbox.next_task(), loader, mailbox, slots))
    except _ParentGone:
        return


def _work(task: VideoTask, loader: VideoLoader, mailbox: _Mailbox, slots: np.ndarray) -> tuple[str, object]:
    first_row = 0
    try:
        video = loader.load(task)
        for piece in video.pieces:
            slot = mailbox.free_slot()
            rows, framing = rows_of(piece)
            place_for(slots[slot], rows.shape)[:] = rows
            mailbox.send("rows", (slot, first_row, rows.shape, framing))
            first_row += len(rows)
    except _ParentGone:
        raise
    except Exception as error:
        outcome, trouble = failed(task, error)
        return ("failed", (outcome.reason, outcome.detail)) if trouble is None else ("trouble", trouble)
    return "done", video.facts
