"""Committing tokens to a store against another revision (`speed write --against`): seconds of the commits alone."""

from __future__ import annotations

from pathlib import Path

from benchmarks.speed.against import Case, command

# Runs in either tree, so it asks for nothing that a revision may not have.
_COMMITS = """
import shutil, sys, time
import numpy as np
from vidfeat.store import StoreSpec, StoreWriter, TapSpec, VideoRow
out, dtype, n_videos, shape = sys.argv[1], sys.argv[2], int(sys.argv[3]), (197, 768)
rng = np.random.default_rng(0)
rows = [rng.standard_normal((8, *shape), dtype=np.float32).astype(dtype) for _ in range(n_videos)]
videos = [VideoRow(f"{index}.mp4", "", n_frames=8) for index in range(n_videos)]
writer = StoreWriter.create(out, StoreSpec((TapSpec("tokens/00", shape),), 8), videos)
started = time.perf_counter()
for unit in writer.pending_units():
    writer.commit(unit, {"tokens/00": [rows[i] for i in unit.video_indices]}, [videos[i] for i in unit.video_indices])
print(time.perf_counter() - started)
"""


def cases(inputs: Path, other: Path, small: bool) -> list[Case]:
    """Tokens of ViT-B/16 given as the encoder's halves, and as float32 to be rounded."""
    script = inputs / "commits.py"
    script.write_text(_COMMITS, encoding="utf-8")
    n_videos = 4 if small else 104
    return [
        Case(f"commit {n_videos} x 8 frames, {dtype}", [script, "OUT", dtype, str(n_videos)], prints_seconds=True)
        for dtype in ("float16", "float32")
    ]


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return command("write", cases, arguments)
