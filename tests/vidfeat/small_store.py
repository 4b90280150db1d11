"""A small store of known numbers, for the store's tests; run as a program it is the writer that the crash matrix kills.

python small_store.py PATH '{"n_frames": 4}' STEP N     SIGKILLs itself at the N-th STEP; "" lets it finish
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vidfeat.store import Fingerprint, StoreReader, StoreSpec, StoreWriter, TapSpec, Unit, VideoRow

FAILED_VIDEO = 4


class Video(NamedTuple):
    id: str
    label: str
    split: str = ""
    group: str = ""


@dataclass(frozen=True)
class SmallStore:
    """What to put into a small store; `n_frames` None gives videos of 1 to 7 frames."""

    n_videos: int = 11
    n_frames: int | None = 4
    n_views: int = 2
    dtype: str = "float16"
    layers: Sequence[int] = (2,)
    compressor: str | None = None
    max_unit_videos: int = 3
    fields: dict[str, object] = field(default_factory=lambda: {"model": {"weights": "ab"}, "size": 224})

    @property
    def spec(self) -> StoreSpec:
        tokens = [TapSpec(f"tokens/{layer:02d}", (5, 6), self.dtype) for layer in self.layers]
        return StoreSpec(
            taps=(TapSpec("pooled", (8,)), *tokens),
            n_frames=self.n_frames,
            max_frames=None if self.n_frames else 7,
            n_views=self.n_views,
            classes=("walk", "süß"),
            fingerprint=Fingerprint(self.fields),
            pack_hash="cd" * 32,
            compressor=self.compressor,
            max_unit_videos=self.max_unit_videos,
        )

    @property
    def videos(self) -> list[Video]:
        names = [f"{'walk' if i % 2 else 'süß'}/clip {i}.mp4" for i in range(self.n_videos)]
        return [Video(name, name.partition("/")[0], ("train", "test")[i % 3 == 0]) for i, name in enumerate(names)]

    def facts(self, index: int) -> VideoRow:
        video = self.videos[index]
        if index == FAILED_VIDEO:
            return VideoRow.failed(video, reason="truncated", detail="148 of 250 frames", n_source_frames=148)
        n_frames = self.n_frames or 1 + (3 * index) % 7
        return VideoRow(
            *video,
            n_frames=n_frames,
            n_source_frames=100 + index,
            fps=30000 / 1001,
            pts_seconds=tuple(k / 3 for k in range(n_frames)),
            content_sha256=hashlib.sha256(video.id.encode()).hexdigest(),
            decoder="pyav 18",
        )

    def rows(self, tap: str, index: int, view: int) -> np.ndarray:
        """float32 [F ...] that any process makes alike."""
        shape = next(spec.row_shape for spec in self.spec.taps if spec.name == tap)
        rng = np.random.default_rng([index, view, zlib.crc32(tap.encode())])
        return rng.standard_normal((self.facts(index).n_frames, *shape)).astype(np.float32)

    def commit(self, writer: StoreWriter, unit: Unit) -> None:
        facts = [self.facts(index) for index in unit.video_indices]
        views = range(unit.view_start, unit.view_stop)
        ok = [index for index, one in zip(unit.video_indices, facts, strict=True) if one.ok]
        arrays = {tap: [self.rows(tap, index, view) for index in ok for view in views] for tap in unit.taps}
        writer.commit(unit, arrays, facts)

    def extract(self, path: Path | str, *, on_step: Callable[[str], None] | None = None) -> StoreWriter:
        """What `vidfeat extract` does with a store: open or create, commit what is pending, finalize."""
        writer = StoreWriter.open_or_create(path, self.spec, self.videos, on_step=on_step)
        for unit in writer.pending_units():
            self.commit(writer, unit)
        writer.finalize()
        return writer


def pooled_of_video_3(reader: StoreReader) -> np.ndarray:
    """For processes that are to read without importing a test's libraries."""
    return reader.rows("pooled", [3]).values


def tree(path: Path) -> dict[str, bytes]:
    """Every file below a directory."""
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def kill_at(step: str, count: int) -> Callable[[str], None]:
    """A step callback that ends the process as a power cut would, at the count-th time `step` is reached."""
    seen = 0

    def on_step(name: str) -> None:
        nonlocal seen
        seen += name == step
        if name == step and seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    return on_step


if __name__ == "__main__":
    where, options, killing_step, nth = sys.argv[1:5]
    SmallStore(**json.loads(options)).extract(where, on_step=kill_at(killing_step, int(nth)))
