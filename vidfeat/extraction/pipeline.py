"""Pixel rows -> batches -> encoder -> whole units -> commits, each stage in a thread of its own.

    decode pool --rows--> [batcher] --batches--> encoder --taps--> [assembler] --units--> [committer]

The encoder runs in the calling thread; the stages in brackets have one thread each. Every channel holds a fixed number
of items, so a slow disk stops the encoder and a slow encoder stops the decoders: memory depends on the batch and the
unit, never on the number of videos.

Batches are cut from a unit's rows in their order and never span two units. So the numbers of a unit depend on the unit
alone: not on the workers' speed, nor on what was committed before an interruption.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vidfeat.extraction.channel import Channel, Stopped
from vidfeat.extraction.meter import Meter
from vidfeat.extraction.worker import PixelRows, PoolEvent, VideoDone, VideoFailed, VideoTask
from vidfeat.store import TapSpec, feature_problem

# Batches inside the encoder: while one is computed, the next one's pixels are on their way to the device.
N_IN_FLIGHT = 2
# One batch being filled, one waiting, and those inside the encoder.
N_STAGING = 2 + N_IN_FLIGHT
N_ENCODED = 2
N_ASSEMBLED = 1


class PixelStream(Protocol):
    """Where pixel rows come from: a DecodePool or an InlineDecoder."""

    def stream(self, tasks: Iterable[VideoTask], stop: threading.Event) -> Iterator[PoolEvent]:
        """The tasks' rows and outcomes, in the order of the tasks."""
        ...


@dataclass(frozen=True)
class UnitWork:
    """One unit to extract: its tasks in row order, the taps wanted of it, and at most how many rows it can have.

    `unit` is the store's own description; this module only hands it on.
    """

    unit: Any
    tasks: tuple[VideoTask, ...]
    taps: tuple[TapSpec, ...]
    max_rows: int


@dataclass(frozen=True)
class UnitResult:
    """A unit ready to be committed: taps[name] [rows ...] of its good videos in order, and every outcome in order.

    `n_rows` counts what was encoded, rows of videos that failed afterwards (non_finite) included.
    """

    work: UnitWork
    taps: Mapping[str, np.ndarray]
    outcomes: tuple[VideoDone | VideoFailed, ...]
    n_rows: int


@dataclass(frozen=True)
class Stages:
    """What the pipeline does with pixels and with units.

    Attributes:
        begin: pixels [n 3 H W] -> what waits for {tap name: float array [n ...]} of them; called in the caller's
            thread, for a batch or two before the taps of the first are asked for.
        commit: makes a unit durable; called in the committer's thread, one unit at a time, in order.
        batch_frames: n of every batch but a unit's last.
        row_shape: (3, H, W).
        row_dtype: of the pixels, as the stream delivers them.
        staging: shape and dtype -> an array that batches are gathered in.
    """

    begin: Callable[[np.ndarray], Callable[[], Mapping[str, np.ndarray]]]
    commit: Callable[[UnitResult], None]
    batch_frames: int
    row_shape: tuple[int, ...]
    row_dtype: str
    staging: Callable[[tuple[int, ...], str], np.ndarray] = np.empty


@dataclass(frozen=True)
class _Batch:
    """The first len(target) rows of a staging buffer, bound for the rows `target` of a unit."""

    work: UnitWork
    staging: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class _Encoded:
    work: UnitWork
    taps: Mapping[str, np.ndarray]
    target: np.ndarray


@dataclass(frozen=True)
class _UnitEnd:
    """All rows of the unit have been sent on; outcome i owns the rows ranges[i], half-open."""

    work: UnitWork
    outcomes: tuple[VideoDone | VideoFailed, ...]
    ranges: tuple[tuple[int, int], ...]


@dataclass
class _Filling:
    """The unit being filled, and its current batch: the first len(target) rows of `staging`."""

    work: UnitWork
    staging: np.ndarray | None = None
    target: list[int] = field(default_factory=list)
    outcomes: list[VideoDone | VideoFailed] = field(default_factory=list)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    video_start: int = 0
    n_rows: int = 0
    overflow: int = 0  # rows of the present video that the unit had no room for


class _Pipeline:
    def __init__(self, stages: Stages, meter: Meter) -> None:
        self.stages = stages
        self.meter = meter
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.staging: Channel[np.ndarray] = Channel(N_STAGING, self.stop)
        for _ in range(N_STAGING):
            self.staging.put(stages.staging((stages.batch_frames, *stages.row_shape), stages.row_dtype))
        self.batches: Channel[_Batch | _UnitEnd | None] = Channel(N_STAGING, self.stop)
        self.encoded: Channel[_Encoded | _UnitEnd | None] = Channel(N_ENCODED, self.stop)
        self.units: Channel[UnitResult | None] = Channel(N_ASSEMBLED, self.stop)

    def run(self, works: Iterable[UnitWork], pixels: PixelStream) -> None:
        threads = [
            threading.Thread(target=self._guarded, args=(body, *arguments), name=f"vidfeat{body.__name__}", daemon=True)
            for body, *arguments in ((self._batch, works, pixels), (self._assemble,), (self._commit,))
        ]
        for thread in threads:
            thread.start()
        try:
            self._encode()
        except Stopped:
            pass  # a stage failed; its own error is raised below
        except BaseException:
            self.stop.set()
            raise
        finally:
            # A commit that is under way is finished, never torn.
            for thread in threads:
                thread.join()
        if self.errors:
            raise self.errors[0]

    def _guarded(self, body: Callable[..., None], *arguments: Any) -> None:
        try:
            body(*arguments)
        except Stopped:
            return
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()

    # ------------------------------------------------------------ batcher

    def _batch(self, works: Iterable[UnitWork], pixels: PixelStream) -> None:
        """Cuts the stream of rows into batches, unit by unit."""
        order: list[UnitWork] = []  # units whose tasks have been handed out, the first one being filled

        def tasks() -> Iterator[VideoTask]:
            for work in works:
                order.append(work)
                yield from work.tasks

        filling: _Filling | None = None
        for event in pixels.stream(tasks(), self.stop):
            filling = filling or _Filling(order[0])
            if isinstance(event, PixelRows):
                self._stage(filling, event.pixels)
                continue
            self._note_outcome(filling, event)
            if len(filling.outcomes) == len(filling.work.tasks):
                self._flush(filling)
                self.batches.put(_UnitEnd(filling.work, tuple(filling.outcomes), tuple(filling.ranges)))
                order.pop(0)
                filling = None
        self.batches.put(None)

    def _stage(self, filling: _Filling, rows: np.ndarray) -> None:
        self.meter.arrived(len(rows))
        if filling.overflow or filling.n_rows + len(rows) > filling.work.max_rows:
            filling.overflow += len(rows)
            return
        while len(rows):
            if filling.staging is None:
                filling.staging = self.staging.get()
            at = len(filling.target)
            n = min(len(rows), self.stages.batch_frames - at)
            filling.staging[at : at + n] = rows[:n]
            filling.target.extend(range(filling.n_rows, filling.n_rows + n))
            filling.n_rows += n
            rows = rows[n:]
            if at + n == self.stages.batch_frames:
                self._flush(filling)

    def _note_outcome(self, filling: _Filling, outcome: VideoDone | VideoFailed) -> None:
        if filling.overflow and isinstance(outcome, VideoDone):
            detail = f"{outcome.facts.n_frames} frames sampled, more than its container's index promised to the plan"
            outcome = VideoFailed(outcome.task, "invalid_data", detail)
        if isinstance(outcome, VideoFailed):
            # Rows that came before the failure are overwritten by the next video's.
            self.meter.dropped(filling.n_rows - filling.video_start + filling.overflow)
            filling.n_rows = filling.video_start
        filling.overflow = 0
        filling.outcomes.append(outcome)
        filling.ranges.append((filling.video_start, filling.n_rows))
        filling.video_start = filling.n_rows

    def _flush(self, filling: _Filling) -> None:
        if filling.staging is not None:
            self.batches.put(_Batch(filling.work, filling.staging, np.asarray(filling.target)))
            filling.staging, filling.target = None, []

    # ------------------------------------------------------------ encoder

    def _encode(self) -> None:
        """Up to N_IN_FLIGHT batches are inside the encoder; everything goes on in the order it came in."""
        in_flight: deque[tuple[_Batch, Callable[[], Mapping[str, np.ndarray]]]] = deque()
        try:
            while True:
                with self.meter.timing("decode"):
                    item = self.batches.get()
                if isinstance(item, _Batch):
                    with self.meter.timing("encode"):
                        in_flight.append((item, self.stages.begin(item.staging[: len(item.target)])))
                n_may_stay = N_IN_FLIGHT - 1 if isinstance(item, _Batch) else 0
                while len(in_flight) > n_may_stay:
                    self._bring_back(*in_flight.popleft())
                if not isinstance(item, _Batch):
                    self._send_on(item)
                if item is None:
                    return
        finally:
            for _, finish in in_flight:  # after an error: nothing reads the staging arrays any more
                with suppress(Exception):
                    finish()

    def _bring_back(self, batch: _Batch, finish: Callable[[], Mapping[str, np.ndarray]]) -> None:
        with self.meter.timing("encode"):
            taps = finish()
        self.staging.put(batch.staging)
        self.meter.encoded(len(batch.target))
        self._send_on(_Encoded(batch.work, taps, batch.target))

    def _send_on(self, item: _Encoded | _UnitEnd | None) -> None:
        with self.meter.timing("write"):
            self.encoded.put(item)

    # ------------------------------------------------------------ assembler

    def _assemble(self) -> None:
        unit: _Assembly | None = None
        while (item := self.encoded.get()) is not None:
            unit = unit or _Assembly(item.work)
            if isinstance(item, _Encoded):
                unit.place(item)
                continue
            self.units.put(unit.finish(item))
            unit = None
        self.units.put(None)

    # ------------------------------------------------------------ committer

    def _commit(self) -> None:
        while (result := self.units.get()) is not None:
            self.stages.commit(result)
            n_done = sum(isinstance(outcome, VideoDone) for outcome in result.outcomes)
            self.meter.committed(result.n_rows, videos=n_done, failures=len(result.outcomes) - n_done)


class _Assembly:
    """One unit's taps in their stored dtype, filled batch by batch and checked before the cast."""

    def __init__(self, work: UnitWork) -> None:
        self._work = work
        # Untouched pages of an empty array take no memory, so max_rows may be a generous bound.
        self._arrays = {
            tap.name: np.empty((work.max_rows, *tap.row_shape), dtype=_assembly_dtype(tap)) for tap in work.taps
        }
        self._problems: dict[int, str] = {}

    def place(self, encoded: _Encoded) -> None:
        for row in encoded.target:
            self._problems.pop(int(row), None)  # a failed video's row, now overwritten
        for tap in self._work.taps:
            values = encoded.taps[tap.name]
            if feature_problem(values, tap):
                self._note_problems(tap, values, encoded.target)
            with np.errstate(over="ignore"):  # a row that overflows has just been noted
                self._arrays[tap.name][encoded.target] = values

    def _note_problems(self, tap: TapSpec, values: np.ndarray, target: np.ndarray) -> None:
        for row, row_values in zip(target, values, strict=True):
            if problem := feature_problem(row_values[None], tap):
                self._problems[int(row)] = f"{tap.name}: {problem}"

    def finish(self, end: _UnitEnd) -> UnitResult:
        keep = np.ones(end.ranges[-1][1] if end.ranges else 0, dtype=bool)
        outcomes = []
        for outcome, (start, stop) in zip(end.outcomes, end.ranges, strict=True):
            problem = next((self._problems[row] for row in range(start, stop) if row in self._problems), None)
            if problem is not None and isinstance(outcome, VideoDone):
                keep[start:stop] = False
                outcome = VideoFailed(outcome.task, "non_finite", problem)
            outcomes.append(outcome)
        taps = {name: values[: len(keep)] for name, values in self._arrays.items()}
        if not keep.all():
            taps = {name: values[keep] for name, values in taps.items()}
        return UnitResult(self._work, taps, tuple(outcomes), n_rows=len(keep))


def _assembly_dtype(tap: TapSpec) -> np.dtype:
    # int8 rows are quantised by the store, which needs the floats.
    return np.dtype("float32" if tap.dtype == "int8" else tap.dtype)


def run_pipeline(works: Iterable[UnitWork], pixels: PixelStream, stages: Stages, meter: Meter) -> None:
    """Returns when every unit of `works` has been committed, in order.

    Raises:
        Whatever a stage raises, after a commit under way has been finished; units not yet committed are dropped.
    """
    _Pipeline(stages, meter).run(works, pixels)
