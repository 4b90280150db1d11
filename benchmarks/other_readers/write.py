"""Writes a small store of every tap dtype, and what it must read as: `python -m benchmarks.other_readers.write DIR`.

Then, with any other installation, `python benchmarks/other_readers/read.py DIR` and, where zarrita is,
`node benchmarks/other_readers/read.mjs DIR`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from vidfeat.store import StoreSpec, StoreWriter, TapSpec, VideoRow, open_store

TAPS = {"pooled": ((8,), "float16"), "tokens/02": ((3, 8), "float32"), "tokens/05": ((3, 8), "int8")}


def main(folder: Path) -> None:
    """The store `X.zarr`, a copy with an empty shard, one without it, and what each row must read as."""
    folder.mkdir(parents=True)
    videos = [VideoRow(f"run/{i}.mp4", "run", "test", n_frames=4) for i in range(6)]
    spec = StoreSpec(
        taps=tuple(TapSpec(name, shape, dtype) for name, (shape, dtype) in TAPS.items()),
        n_frames=4,
        classes=("run",),
        max_unit_videos=3,
    )
    rng = np.random.default_rng(0)
    for name in ("X.zarr", "empty.zarr", "missing.zarr"):
        writer = StoreWriter.create(folder / name, spec, videos)
        for unit in writer.pending_units():
            own = [videos[index] for index in unit.video_indices]
            n_rows = 4 * len(own)
            rows = {tap: rng.standard_normal((n_rows, *shape)).astype(np.float32) for tap, (shape, _) in TAPS.items()}
            writer.commit(unit, rows, own)
        writer.finalize()
    shard = "pooled/c.1.0"
    (folder / "empty.zarr" / shard).write_bytes(b"")
    (folder / "missing.zarr" / shard).unlink()
    reader = open_store(folder / "X.zarr")
    starts = {tap: reader.index_column("row_start")[:, 0, place] for place, tap in enumerate(reader.taps)}
    expected = {
        tap: {
            "rows": [int(start) + frame for start in starts[tap] for frame in range(4)],
            "values": reader.stored_rows(tap, np.arange(6)).values.astype(float).tolist(),
        }
        for tap in TAPS
    }
    (folder / "expected.json").write_text(json.dumps(expected))
    print(f"wrote {folder}/X.zarr, empty.zarr, missing.zarr (its second shard of `pooled`), expected.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
