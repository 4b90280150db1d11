"""`vidfeat plan`: bytes, files, hours and the bottleneck of an extraction before it is started, and whether it fits."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidfeat.errors import DecodeError, PlanError, explain
from vidfeat.extraction import job_store
from vidfeat.extraction.job import load_clip, machine_notes, manifest_of, recipe_of, spec_of
from vidfeat.extraction.meter import STAGES, Meter
from vidfeat.extraction.options import ExtractOptions
from vidfeat.extraction.unit_runner import N_UNITS_IN_MEMORY, UnitRunner, pixel_bytes, pixel_stream
from vidfeat.store import StoreSpec, StoreWriter, TapSpec, Unit, token_layers
from vidfeat.store.location import files_at
from vidfeat.store.passes import added_passes, first_pass
from vidfeat.store.unit_plan import Plan, read_plan
from vidfeat.video.manifest import VideoItem

if TYPE_CHECKING:
    from vidfeat.clip.encode import Encoder, Taps
    from vidfeat.clip.openclip import LoadedClip
    from vidfeat.extraction.recipe import Recipe

# One chunk's crc32c and its entry in the shard index; a commit record's fixed part, and its part per video and frame.
CHUNK_OVERHEAD_BYTES = 4 + 16
RECORD_BYTES, VIDEO_BYTES, FRAME_BYTES = 600, 740, 16
# int8 rows come with a step and a zero per channel, in float32.
SCALE_BYTES = 8
# zarr.json of groups, index columns with their metadata, plan, manifest; pack.
FIXED_FILES, FIXED_BYTES, PACK_FILES = 57, 31_000, 4
TOKENIZER_BYTES = 680_000  # with the headers and the config of the pack
# A unit of the trial run: long enough to fill batches, short enough for several of them.
TRIAL_BATCHES_PER_UNIT = 4
SPARE = 1.02


@dataclass(frozen=True)
class ProbeSummary:
    """What probing some of the files found; `failures` counts reasons."""

    n_probed: int
    failures: Mapping[str, int]
    sizes: tuple[str, ...]
    median_source_frames: int


@dataclass(frozen=True)
class Trial:
    """A short real extraction of some of the videos.

    Attributes:
        frames_per_second: between the first batch and the last.
        startup_seconds: until the first batch was encoded: model, processes, first videos.
        shares: of the encoder's thread after that, by stage.
    """

    n_frames: int
    frames_per_second: float
    startup_seconds: float
    shares: Mapping[str, float]

    @property
    def bottleneck(self) -> str:
        """The stage with the largest share."""
        return max(self.shares, key=lambda stage: self.shares[stage])


@dataclass(frozen=True)
class Prediction:
    """What an extraction will take.

    Attributes:
        n_videos, n_units, n_rows: still to be extracted.
        n_bytes, n_files: to be written.
        seconds: on this machine, with these options.
        free_bytes: on the output's file system; None for a remote store.
        memory_bytes: of the main process and the rings, model weights included.
        notes: what a person should know about the source.
    """

    out: str
    n_videos: int
    n_units: int
    n_rows: int
    n_bytes: int
    n_files: int
    memory_bytes: int
    free_bytes: int | None
    probed: ProbeSummary
    trial: Trial | None
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        if self.trial is None:
            return 0.0
        return self.trial.startup_seconds + self.n_rows / self.trial.frames_per_second


def predict(options: ExtractOptions, *, n_probed: int = 200, calibrate_seconds: float = 20.0) -> Prediction:
    """The prediction for what these options leave to be done.

    Raises:
        PlanError: it will not fit on the disk or in memory.
        VidfeatError: options, source, model or store that cannot be used.
    """
    started = time.monotonic()
    manifest = manifest_of(options)
    clip = load_clip(options)
    recipe = recipe_of(options, clip.config)
    spec = spec_of(options, manifest, clip.config, recipe)
    plan, units = _planned(options, spec, manifest.items)
    videos = plan.videos
    pending_ids = {videos[index].id for unit in units for index in unit.video_indices}
    items = [item for item in manifest.items if item.id in pending_ids]
    drawn = random.Random(0).sample(items, len(items))
    probed = _probe(drawn[:n_probed])
    n_rows = _n_rows(options, plan, units, items, probed)
    n_bytes, n_files = _size(plan, units, n_rows, clip, new=read_plan(files_at(options.out)) is None)
    free = _free_bytes(os.fspath(options.out))
    memory = _memory(options, plan, clip, recipe)
    _require_room(options, n_bytes, free, memory)
    trial = None
    if items and calibrate_seconds > 0:
        with _trial_folder(options) as folder:
            trial = _try(options, drawn, clip, replace(spec, n_views=plan.n_views), folder, calibrate_seconds, started)
    return Prediction(
        os.fspath(options.out),
        len(items),
        len(units),
        n_rows,
        n_bytes,
        n_files,
        memory,
        free,
        probed,
        trial,
        (*manifest.notes, *machine_notes(options)),
    )


def _planned(options: ExtractOptions, spec: StoreSpec, items: Sequence[VideoItem]) -> tuple[Plan, list[Unit]]:
    """The plan as the extraction would leave it, and its units without a commit."""
    files = files_at(options.out)
    job_store.require_store_or_nothing(os.fspath(options.out))
    standing = read_plan(files)
    if standing is None:
        plan = Plan(spec, (first_pass(spec, items, job_store.frame_bounds(options, [item.path for item in items])),))
        return plan, list(plan.units())
    job_store.require_same(standing, spec, os.fspath(options.out))
    spec = replace(
        spec,
        pack_hash=standing.spec.pack_hash,
        classes=tuple(dict.fromkeys((*standing.classes, *spec.classes))),
    )
    known = standing.live_videos
    bounds = job_store.frame_bounds(options, ["" if item.id in known else item.path for item in items])
    passes = added_passes(standing, spec, items, frame_bounds=bounds)
    plan = Plan(standing.spec, (*standing.passes, *passes), standing.changes)
    present = files.listing("commits")
    return plan, [unit for unit in plan.units() if unit.commit_path not in present]


def _probe(items: Sequence[VideoItem]) -> ProbeSummary:
    from vidfeat.video.decode import probe

    failures: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    lengths = []
    for item in items:
        try:
            facts = probe(item.path)
        except DecodeError as error:
            failures[error.reason] += 1
            continue
        sizes[f"{facts.width}x{facts.height} {facts.codec}"] += 1
        lengths.append(facts.n_frames_expected)
    median = sorted(lengths)[len(lengths) // 2] if lengths else 0
    return ProbeSummary(len(items), dict(failures), tuple(name for name, _ in sizes.most_common(3)), median)


def _n_rows(
    options: ExtractOptions, plan: Plan, units: Sequence[Unit], items: Sequence[VideoItem], probed: ProbeSummary
) -> int:
    n_failing = sum(probed.failures.values())
    good = 1 - n_failing / probed.n_probed if probed.n_probed else 1.0
    n_frames = plan.spec.n_frames
    if n_frames is not None:
        return round(good * n_frames * sum(unit.n_views * len(unit.video_indices) for unit in units))
    bounds = job_store.frame_bounds(options, [item.path for item in items]) or []
    by_id = {item.id: bound for item, bound in zip(items, bounds, strict=True)}
    videos = plan.videos
    return sum(by_id.get(videos[index].id, 0) * unit.n_views for unit in units for index in unit.video_indices)


def _size(plan: Plan, units: Sequence[Unit], n_rows: int, clip: LoadedClip, *, new: bool) -> tuple[int, int]:
    """Bytes and files that the units add to the store."""
    n_planned = sum(unit.n_views * len(unit.video_indices) for unit in units)
    n_bytes = n_files = 0
    taps = {name: tap.spec for name, tap in plan.taps.items()}
    for unit in units:
        share = n_rows * unit.n_views * len(unit.video_indices) / max(n_planned, 1)
        chunks = share / (plan.spec.n_frames or 1)
        for name in unit.taps:
            n_bytes += round(share * _row_bytes(taps[name]) + chunks * CHUNK_OVERHEAD_BYTES)
            n_files += 2 if taps[name].dtype == "int8" else 1
        n_bytes += RECORD_BYTES + len(unit.video_indices) * VIDEO_BYTES + round(share * FRAME_BYTES)
        n_files += 1
    if new:
        n_bytes += _pack_bytes(clip) + FIXED_BYTES
        n_files += FIXED_FILES + PACK_FILES
    return n_bytes, n_files


def _row_bytes(tap: TapSpec) -> int:
    return tap.row_bytes + (SCALE_BYTES * tap.row_shape[-1] if tap.dtype == "int8" else 0)


def _model_bytes(clip: LoadedClip) -> int:
    states = (*clip.text_state.values(), *clip.visual_state.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in states)


def _pack_bytes(clip: LoadedClip) -> int:
    """Of the backbone pack in the store: exact values in float16, zero rows of the token embedding left out."""
    from vidfeat.backbone.weights import encoded_bytes

    return encoded_bytes(clip.text_state) + encoded_bytes(clip.visual_state) + TOKENIZER_BYTES


def _memory(options: ExtractOptions, plan: Plan, clip: LoadedClip, recipe: Recipe) -> int:
    """Bytes at the peak: rings and staging, the units in hand (assembled and encoded for writing), the weights."""
    from vidfeat.backbone.device import choose_device

    batch_frames = options.machine.batch_size(choose_device(options.machine.device).type)
    unit = sum(tap.shard_rows * _row_bytes(tap.spec) for tap in plan.taps.values())
    return pixel_bytes(recipe, options.machine, batch_frames) + N_UNITS_IN_MEMORY * unit + 2 * _model_bytes(clip)


def _free_bytes(out: str) -> int | None:
    if "://" in out:
        return None
    folder = Path(out).absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _require_room(options: ExtractOptions, n_bytes: int, free: int | None, memory: int) -> None:
    from vidfeat.extraction.progress import as_bytes

    problems = []
    if free is not None and n_bytes * SPARE > free:
        problems.append(f"{as_bytes(n_bytes)} to write, {as_bytes(free)} free on the disk of {options.out}")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None
    if physical is not None and memory > physical:
        problems.append(f"{as_bytes(memory)} of memory at the peak, the machine has {as_bytes(physical)}")
    if problems:
        fix = "fewer frames, views or token taps; --dtype int8; a smaller --shard-mb or --batch-frames; another disk"
        raise PlanError(explain("this extraction will not fit", got="; ".join(problems), fix=fix))


def _trial_folder(options: ExtractOptions) -> tempfile.TemporaryDirectory[str]:
    """A folder on the output's own file system, so that the trial writes where the extraction will."""
    out = os.fspath(options.out)
    parent = Path(tempfile.gettempdir()) if "://" in out else Path(out).absolute().parent
    while not parent.exists():
        parent = parent.parent
    return tempfile.TemporaryDirectory(prefix=".vidfeat-plan-", dir=parent)


def _try(
    options: ExtractOptions,
    items: Sequence[VideoItem],
    clip: LoadedClip,
    spec: StoreSpec,
    folder: str,
    seconds: float,
    started: float,
) -> Trial:
    """Extracts videos into a throw-away store for about `seconds`, with the same code as the real thing."""
    from vidfeat.clip.encode import Encoder

    pack = clip.pack_for(Path(folder, "pack"))
    recipe = recipe_of(options, clip.config)
    precision = spec.fingerprint.fields["precision"]
    layers = token_layers(tap.name for tap in spec.taps)
    encoder = Encoder(pack, layers=layers, device=options.machine.device, precision=precision)
    batch_frames = options.machine.batch_size(encoder.device.type)
    largest = max(tap.row_bytes for tap in spec.taps)
    shard_bytes = min(spec.shard_bytes, TRIAL_BATCHES_PER_UNIT * batch_frames * largest)
    bounds = None
    if spec.n_frames is None:
        items = items[:64]  # probing them again is part of neither
        bounds = job_store.frame_bounds(options, [item.path for item in items])
    out = Path(folder, "trial.zarr")
    writer = StoreWriter.create(out, replace(spec, shard_bytes=shard_bytes), items, frame_bounds=bounds)
    clock = BatchClock()
    runner = UnitRunner(
        writer,
        recipe=recipe,
        encoder=clock.watch(encoder),
        batch_frames=batch_frames,
        paths={item.id: item.path for item in items},
    )
    meter = Meter()
    sizes = {"batch_frames": batch_frames, "n_videos": len(items)}
    with pixel_stream(recipe, options.machine, device=encoder.device, **sizes) as pixels:
        start = time.monotonic()
        runner.run(_until(writer.pending_units(), start + seconds), pixels, meter)
    spent = meter.seconds_by_stage()
    spent["decode"] -= min(clock.first - start, spent["decode"])  # waiting for the first batch is start-up
    total = sum(spent.values()) or 1.0
    return Trial(
        n_frames=clock.n_rows,
        frames_per_second=clock.rate(),
        startup_seconds=clock.first - started,
        shares={stage: spent[stage] / total for stage in STAGES},
    )


class BatchClock:
    """Notes when batches were encoded, so that the rate leaves out what comes before the first one.

    Attributes:
        first, last: when the first and the last batch were done, on time.monotonic's clock.
        cpu_first, cpu_last: the same on the clock of this process's CPU time, which other work does not move.
        n_rows: encoded so far.
    """

    def __init__(self) -> None:
        self.first = self.last = time.monotonic()
        self.cpu_first = self.cpu_last = time.process_time()
        self.n_rows = self._n_first = 0

    def watch(self, encoder: Encoder) -> Encoder:
        """The encoder, with its batches noted."""
        begin = encoder.begin

        def noted(pixels: np.ndarray) -> Callable[[], Taps]:
            finish = begin(pixels)
            return lambda: self._note(finish(), len(pixels))

        encoder.begin = noted  # type: ignore[method-assign, assignment]
        return encoder

    def _note(self, taps: Taps, n_rows: int) -> Taps:
        self.last, self.cpu_last = time.monotonic(), time.process_time()
        self.n_rows += n_rows
        if not self._n_first:
            self.first, self.cpu_first, self._n_first = self.last, self.cpu_last, self.n_rows
        return taps

    def rate(self) -> float:
        """Rows per second after the first batch; of the first batch itself when there was no other."""
        if self.n_rows > self._n_first:
            return (self.n_rows - self._n_first) / max(self.last - self.first, 1e-9)
        return self.n_rows / max(self.last - self.first, 1.0)

    def cpu_seconds(self) -> float:
        """CPU time of this process, all its threads, per row after the first batch."""
        return (self.cpu_last - self.cpu_first) / max(self.n_rows - self._n_first, 1)


def _until(units: Sequence[Unit], deadline: float) -> Iterator[Unit]:
    for unit in units:
        if time.monotonic() > deadline:
            return
        yield unit
