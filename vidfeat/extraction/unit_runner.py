"""Units of a store -> commits: what one process does, whichever engine hands it the units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from vidfeat.extraction.meter import Meter
from vidfeat.extraction.options import Machine
from vidfeat.extraction.pipeline import N_STAGING, PixelStream, Stages, UnitResult, UnitWork, run_pipeline
from vidfeat.extraction.pool import DecodePool
from vidfeat.extraction.recipe import ROW_DTYPE, SLOT_ROWS, Recipe, stat_facts
from vidfeat.extraction.ring import RingLayout
from vidfeat.extraction.worker import InlineDecoder, VideoDone, VideoFacts, VideoFailed, VideoTask
from vidfeat.store import StoreWriter, Unit, VideoRow, token_layers

if TYPE_CHECKING:
    import torch

    from vidfeat.clip.encode import Encoder

# Slots enough for two batches, so that decoding goes on while one batch is encoded; two per worker at the least.
BATCHES_AHEAD = 2
MIN_SLOTS = 2
# Where frames cross as they were decoded: one of 1920x1080, 7 of 832x480, 36 of 320x240. Larger ones are resized first.
FRAME_SLOT_BYTES = 8 * 2**20
# One being assembled, one waiting, one being committed, and its encoded bytes.
N_UNITS_IN_MEMORY = 4


@contextmanager
def pixel_stream(
    recipe: Recipe, machine: Machine, *, device: torch.device, batch_frames: int, n_videos: int
) -> Iterator[PixelStream]:
    """Decoding processes as the machine options ask for, ended on leaving; `workers=0` decodes in this process.

    Args:
        device: the encoder's, which makes the pictures if the options say so.
    """
    n_workers = min(machine.n_workers, n_videos)
    with ExitStack() as stack:
        layout = _layout(recipe, machine, n_workers=n_workers, batch_frames=batch_frames)
        if machine.resize == "device":
            recipe = replace(recipe, frame_bytes=FRAME_SLOT_BYTES)
        pixels: PixelStream = InlineDecoder(recipe)
        if n_workers > 0:
            pool = DecodePool(recipe, layout, n_workers=n_workers, timeout_seconds=machine.timeout_seconds)
            pixels = stack.enter_context(pool)
        yield _resized_on(device, pixels) if machine.resize == "device" else pixels


def _resized_on(device: torch.device, pixels: PixelStream) -> PixelStream:
    from vidfeat.extraction.resized import ResizedStream

    return ResizedStream(pixels, device)


def _layout(recipe: Recipe, machine: Machine, *, n_workers: int, batch_frames: int) -> RingLayout:
    n_slots = max(MIN_SLOTS, math.ceil(BATCHES_AHEAD * batch_frames / (max(n_workers, 1) * SLOT_ROWS)))
    if machine.resize == "device":
        return RingLayout(n_slots=n_slots, slot_rows=1, row_shape=(FRAME_SLOT_BYTES,), dtype=ROW_DTYPE)
    return RingLayout(n_slots=n_slots, slot_rows=SLOT_ROWS, row_shape=recipe.row_shape, dtype=ROW_DTYPE)


def pixel_bytes(recipe: Recipe, machine: Machine, batch_frames: int) -> int:
    """Memory of the pixels under way: the workers' rings and the staging batches."""
    staging = N_STAGING * batch_frames * math.prod(recipe.row_shape) * np.dtype(ROW_DTYPE).itemsize
    layout = _layout(recipe, machine, n_workers=machine.n_workers, batch_frames=batch_frames)
    return staging + layout.n_bytes * machine.n_workers


def layers_of(units: Iterable[Unit]) -> tuple[int, ...]:
    """Every layer that some unit wants, sorted."""
    return tuple(sorted(token_layers(tap for unit in units for tap in unit.taps)))


class UnitRunner:
    """Extracts and commits units: one store, one recipe, one encoder, one source of pixels.

    Args:
        paths: file of each video id of the units to come.
        known: facts of earlier commits by video index; a file that is no longer the same is a failure, not a mixture.
        before_commit: called before every commit; may wait, and may raise what then ends the run.
    """

    def __init__(
        self,
        writer: StoreWriter,
        *,
        recipe: Recipe,
        encoder: Encoder,
        batch_frames: int,
        paths: Mapping[str, str],
        known: Mapping[int, VideoRow] | None = None,
        before_commit: Callable[[], object] = lambda: None,
    ) -> None:
        self._writer = writer
        self._videos = writer.plan.videos
        self._taps = {name: tap.spec for name, tap in writer.plan.taps.items()}
        self._recipe = recipe
        self._encoder = encoder
        self._batch_frames = batch_frames
        self._paths = paths
        self._known = known or {}
        self._before_commit = before_commit

    def run(self, units: Iterable[Unit], pixels: PixelStream, meter: Meter) -> None:
        """Returns when every unit is committed."""
        stages = Stages(
            begin=self._begin,
            commit=self._commit,
            batch_frames=self._batch_frames,
            row_shape=self._recipe.row_shape,
            row_dtype=ROW_DTYPE,
            staging=self._encoder.staging,
        )
        run_pipeline(self._works(units), pixels, stages, meter)

    def _works(self, units: Iterable[Unit]) -> Iterator[UnitWork]:
        position = 0
        for unit in units:
            tasks = []
            for index in unit.video_indices:
                video_id = self._videos[index].id
                views = (unit.view_start, unit.view_stop)
                tasks.append(VideoTask(position, index, video_id, self._paths[video_id], views))
                position += 1
            yield UnitWork(unit, tuple(tasks), tuple(self._taps[name] for name in unit.taps), unit.n_rows)

    def _begin(self, pixels: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
        taps = self._encoder.begin(pixels)
        return lambda: taps().by_name()

    def _commit(self, result: UnitResult) -> None:
        unit: Unit = result.work.unit
        rows, keep = [], []
        for outcome in result.outcomes:
            row = self._row(outcome)
            if isinstance(outcome, VideoDone):
                keep.append(np.full(outcome.facts.n_frames * unit.n_views, row.ok))
            rows.append(row)
        kept = np.concatenate(keep) if keep else np.zeros(0, dtype=bool)
        taps = result.taps if kept.all() else {name: values[kept] for name, values in result.taps.items()}
        self._before_commit()
        self._writer.commit(unit, taps, rows)

    def _row(self, outcome: VideoDone | VideoFailed) -> VideoRow:
        video = self._videos[outcome.task.video_index]
        if isinstance(outcome, VideoFailed):
            source = stat_facts(outcome.task.path)
            return VideoRow.failed(video, reason=outcome.reason, detail=outcome.detail, **source)
        facts = outcome.facts
        row = VideoRow(video.id, video.label, video.split, video.group, **_stored_facts(facts))
        before = self._known.get(outcome.task.video_index)
        changed = [] if before is None else _differences(before, row)
        if changed:
            detail = f"not the file that was extracted before: another {', '.join(changed)}"
            return VideoRow.failed(video, reason="invalid_data", detail=detail)
        return row


def _stored_facts(facts: VideoFacts) -> dict[str, Any]:
    return {
        "n_frames": facts.n_frames,
        "n_source_frames": facts.n_source_frames,
        "fps": facts.fps,
        "pts_seconds": facts.pts_seconds,
        "content_sha256": facts.content_sha256,
        "decoder": facts.decoder,
        "n_source_bytes": facts.n_source_bytes,
        "source_mtime_ns": facts.source_mtime_ns,
    }


def _differences(before: VideoRow, now: VideoRow) -> list[str]:
    names = ("content_sha256", "n_frames", "pts_seconds", "decoder")
    return [name for name in names if getattr(before, name) != getattr(now, name)]
