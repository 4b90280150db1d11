"""The extraction's progress on the terminal: frames/s, time left, and the stage the others wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vidfeat.extraction.meter import Meter, Reading
from vidfeat.terminal import say

if TYPE_CHECKING:
    from rich.console import Console

REFRESH_SECONDS = 0.5
# In a job's log file a line a minute is enough to see that it lives.
LOG_SECONDS = 60.0


def plain_console(*, stderr: bool = False) -> Console:
    """The one console of this package: what it prints is text. A name such as `[red]` or `:cat:` is never markup."""
    from rich.console import Console

    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)


def tell(notes: Sequence[str], *, quiet: bool) -> None:
    """Says on standard error what a person should know before the work starts."""
    for note in () if quiet else notes:
        say(f"note: {note}", err=True)


def describe(reading: Reading) -> str:
    """One line: rate and bottleneck, with the share of the encoder's time it takes."""
    if not reading.bottleneck:
        return "starting"
    share = reading.shares[reading.bottleneck]
    return f"{reading.frames_per_second:,.0f} frames/s, bottleneck: {reading.bottleneck} ({share:.0%})"


@contextmanager
def shown(meter: Meter, *, n_videos: int, n_rows: int | None, quiet: bool = False) -> Iterator[None]:
    """Shows the meter while the block runs: a bar on a terminal, a line a minute elsewhere, nothing when quiet.

    Args:
        n_videos: videos to extract.
        n_rows: frames x views to encode, or None when videos differ in length; then the bar counts videos.
    """
    if quiet:
        yield
        return
    console = plain_console(stderr=True)
    stop = threading.Event()
    body = _bar if console.is_terminal else _log
    thread = threading.Thread(target=body, args=(console, meter, stop, n_videos, n_rows), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _bar(console, meter: Meter, stop: threading.Event, n_videos: int, n_rows: int | None) -> None:  # type: ignore[no-untyped-def]
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[videos]}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("starting", total=n_rows or n_videos, videos=f"0/{n_videos} videos")
        while True:
            last = stop.wait(REFRESH_SECONDS)
            reading = meter.read()
            finished = reading.n_videos + reading.n_failures
            progress.update(
                bar,
                completed=reading.n_frames if n_rows else finished,
                description=describe(reading),
                videos=f"{finished}/{n_videos} videos",
            )
            if last:
                return


def _log(console, meter: Meter, stop: threading.Event, n_videos: int, n_rows: int | None) -> None:  # type: ignore[no-untyped-def]
    next_line = time.monotonic() + LOG_SECONDS
    while not stop.wait(REFRESH_SECONDS):
        reading = meter.read()
        if time.monotonic() < next_line:
            continue
        next_line += LOG_SECONDS
        finished = reading.n_videos + reading.n_failures
        left = _seconds_left(reading, n_videos, n_rows)
        console.print(f"{finished}/{n_videos} videos, {describe(reading)}, {left} left")


def _seconds_left(reading: Reading, n_videos: int, n_rows: int | None) -> str:
    done, total = (reading.n_frames, n_rows) if n_rows else (reading.n_videos + reading.n_failures, n_videos)
    if not done:
        return "unknown time"
    return as_time(reading.seconds * (total - done) / done)


def as_time(seconds: float) -> str:
    """Seconds as a person writes them: `48 s`, `12 min`, `3.4 h`, `2.1 days`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def as_bytes(n_bytes: float) -> str:
    """Bytes in decimal units: `812 B`, `3.1 GB`."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(n_bytes) < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    raise AssertionError("unreachable")
