"""What an extraction has done so far, how fast, and which stage the others wait for."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

STAGES = ("decode", "encode", "write")
# Rate and bottleneck are those of the last few seconds, so that the bar answers "what is it doing now".
WINDOW_SECONDS = 15.0


@dataclass(frozen=True)
class Reading:
    """The state of an extraction at one moment.

    Attributes:
        n_videos, n_failures: committed, in this run.
        n_frames: encoded rows (frames x views), in this run.
        frames_per_second: over the last WINDOW_SECONDS.
        bottleneck: the stage the encoder's thread spent most of that time on or waiting for; "" before the first batch.
        shares: that time by stage, summing to 1.
        seconds: since the start.
    """

    n_videos: int
    n_failures: int
    n_frames: int
    frames_per_second: float
    bottleneck: str
    shares: dict[str, float]
    seconds: float


@dataclass
class _Counts:
    n_videos: int = 0
    n_failures: int = 0
    n_frames: int = 0
    in_flight: int = 0
    max_in_flight: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))


class Meter:
    """Counters of one extraction; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = _Counts()
        self._start = time.monotonic()
        self._history: deque[tuple[float, int, dict[str, float]]] = deque()
        self._timing: tuple[str, float] | None = None

    @contextmanager
    def timing(self, stage: str) -> Iterator[None]:
        """Counts the time inside as the encoder's thread working on, or waiting for, `stage`."""
        start = time.monotonic()
        with self._lock:
            self._timing = (stage, start)
        try:
            yield
        finally:
            with self._lock:
                self._counts.seconds[stage] += time.monotonic() - start
                self._timing = None

    def arrived(self, n_rows: int) -> None:
        """Rows that came from a decoder."""
        with self._lock:
            self._counts.in_flight += n_rows
            self._counts.max_in_flight = max(self._counts.max_in_flight, self._counts.in_flight)

    def dropped(self, n_rows: int) -> None:
        """Rows whose video failed after they had come."""
        with self._lock:
            self._counts.in_flight -= n_rows

    def encoded(self, n_rows: int) -> None:
        """Rows that left the encoder."""
        with self._lock:
            self._counts.n_frames += n_rows

    def committed(self, n_rows: int, *, videos: int, failures: int) -> None:
        """A unit that is durable."""
        with self._lock:
            self._counts.in_flight -= n_rows
            self._counts.n_videos += videos
            self._counts.n_failures += failures

    @property
    def max_frames_in_flight(self) -> int:
        """The most rows that were decoded and not yet committed at any one time."""
        return self._counts.max_in_flight

    def seconds_by_stage(self) -> dict[str, float]:
        """Time of the encoder's thread by the stage it worked on or waited for, since the start."""
        with self._lock:
            return self._seconds_now(time.monotonic())

    def _seconds_now(self, now: float) -> dict[str, float]:
        seconds = dict(self._counts.seconds)
        if self._timing is not None:  # a wait that has not ended yet counts too
            seconds[self._timing[0]] += now - self._timing[1]
        return seconds

    def read(self) -> Reading:
        """The present state; call it regularly, the window is made of earlier calls."""
        now = time.monotonic()
        with self._lock:
            seconds = self._seconds_now(now)
            counts = self._counts
            self._history.append((now, counts.n_frames, seconds))
            while len(self._history) > 2 and now - self._history[1][0] > WINDOW_SECONDS:
                self._history.popleft()
            then, frames_then, seconds_then = self._history[0]
            if len(self._history) == 1:
                then, frames_then, seconds_then = self._start, 0, dict.fromkeys(STAGES, 0.0)
            spent = {stage: seconds[stage] - seconds_then[stage] for stage in STAGES}
            total = sum(spent.values())
            return Reading(
                n_videos=counts.n_videos,
                n_failures=counts.n_failures,
                n_frames=counts.n_frames,
                frames_per_second=(counts.n_frames - frames_then) / max(now - then, 1e-9),
                bottleneck=max(spent, key=lambda stage: spent[stage]) if counts.n_frames and total else "",
                shares={stage: value / total if total else 0.0 for stage, value in spent.items()},
                seconds=now - self._start,
            )
