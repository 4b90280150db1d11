"""Videos -> store, in this process and its decoding workers: resumable, and a no-op when nothing is missing."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from vidfeat.extraction import progress
from vidfeat.extraction.job import Job, open_job
from vidfeat.extraction.meter import Meter
from vidfeat.extraction.options import ExtractOptions, Machine
from vidfeat.extraction.unit_runner import UnitRunner, layers_of, pixel_stream
from vidfeat.store import Unit, open_store


@dataclass(frozen=True)
class ExtractSummary:
    """What an extraction did, and how the store stands now.

    Attributes:
        n_videos, n_failed: of the finished store; of this run alone while units are left.
        failures: number of failed videos by reason, once the store is finished.
        n_units_done, n_units_left: units committed by this run; units the store still lacks (another job's share).
        n_frames: rows encoded by this run (frames x views).
        seconds: of the whole run; `seconds_by_stage`: of the encoder's thread, by what it did or waited for.
        max_frames_in_flight: most rows decoded and not yet committed at any one time.
        n_changed: files of the source that are not those in the store, and were not refreshed.
    """

    out: str
    n_videos: int
    n_failed: int
    failures: Mapping[str, int]
    n_units_done: int
    n_units_left: int
    n_frames: int
    seconds: float
    seconds_by_stage: Mapping[str, float]
    max_frames_in_flight: int
    n_changed: int = 0

    @property
    def nothing_to_do(self) -> bool:
        """The store held everything before this run."""
        return self.n_units_done == 0 and self.n_units_left == 0


def extract_or_resume(options: ExtractOptions, *, quiet: bool = False) -> ExtractSummary:
    """The store at `options.out`, brought to what the options ask for; the summary says what that took.

    Committed units are never redone: an interrupted run resumes, a finished store gets what it lacks (videos, taps,
    views), and nothing missing means nothing is done. SIGTERM ends it as Ctrl-C does.

    Raises:
        VidfeatError: a source, model, store or option that cannot be used; FingerprintMismatchError lists the fields.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was committed stays.
    """
    started = time.monotonic()
    with sigterm_as_interrupt():
        job = open_job(options)
        progress.tell(job.notes, quiet=quiet)
        units = job.share(options.units)
        meter = Meter()
        if units:
            _run(job, units, options.machine, meter, quiet=quiet)
        return finish(job, n_units_done=len(units), meter=meter, started=started)


def _run(job: Job, units: Sequence[Unit], machine: Machine, meter: Meter, *, quiet: bool) -> None:
    from vidfeat.clip.encode import Encoder

    # The pack is written beside the first decoding; no unit is committed before it is there.
    with ThreadPoolExecutor(1, thread_name_prefix="vidfeat-pack") as beside:
        saved = beside.submit(job.pack.save)
        encoder = Encoder(job.pack, layers=layers_of(units), device=machine.device, precision=job.precision)
        batch_frames = machine.batch_size(encoder.device.type)
        n_videos = len({index for unit in units for index in unit.video_indices})
        runner = UnitRunner(
            job.writer,
            recipe=job.recipe,
            encoder=encoder,
            batch_frames=batch_frames,
            paths=job.paths,
            known=job.known_facts(units),
            before_commit=saved.result,
        )
        n_rows = job.expected_rows(units)
        with (
            pixel_stream(
                job.recipe, machine, device=encoder.device, batch_frames=batch_frames, n_videos=n_videos
            ) as pixels,
            progress.shown(meter, n_videos=sum(len(unit.video_indices) for unit in units), n_rows=n_rows, quiet=quiet),
        ):
            runner.run(units, pixels, meter)


def finish(job: Job, *, n_units_done: int, meter: Meter, started: float) -> ExtractSummary:
    """The summary of a run, after the store has been sealed if nothing is missing any more."""
    job.pack.save()  # where no unit was left to do; else it is there
    n_left = len(job.writer.pending_units())
    if n_left == 0 and (job.rebuild or not job.writer.is_finished):
        job.writer.finalize(seen=job.pack_records())
    reading = meter.read()
    if n_left == 0:
        # The index answers at once; the commit records of a million videos would take minutes to read.
        store = open_store(job.out, check="never")
        n_videos, n_failed = len(store), int((~store.ok).sum())
        failures = Counter(row.reason for row in store.videos() if not row.ok) if n_failed else Counter()
    else:
        n_videos, n_failed, failures = reading.n_videos + reading.n_failures, reading.n_failures, Counter()
    return ExtractSummary(
        out=job.out,
        n_videos=n_videos,
        n_failed=n_failed,
        failures=dict(failures.most_common()),
        n_units_done=n_units_done,
        n_units_left=n_left,
        n_frames=reading.n_frames,
        seconds=time.monotonic() - started,
        seconds_by_stage=meter.seconds_by_stage(),
        max_frames_in_flight=meter.max_frames_in_flight,
        n_changed=job.n_changed,
    )


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM (a scheduler's goodbye) raises KeyboardInterrupt inside the block, when it runs in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
