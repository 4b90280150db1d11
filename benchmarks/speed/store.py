"""What it costs to read random whole videos: a store beside raw numpy.memmap, zarr-python and h5py, in one run.

`python -m benchmarks speed store` writes the same random numbers four ways, then reads batches of random videos from
each in turn, round after round. Ratios are medians over the ratios within one round, so that what slows the machine
down for a while hits both sides. Every reader has read every video before the first round, so that all bytes are in the
page cache and mapped: what is compared is the way from there into one fresh float16 array of the same shape.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np

from vidfeat.store import POOLED, Fingerprint, StoreSpec, StoreWriter, Tap, TapSpec, VideoRow, open_store

RESULT = Path(__file__).parents[1] / "results" / "speed_store.json"
GOAL_MEMMAP = 0.9
GOAL_ZARR = 8.0
TOKENS = Tap(6).name
TAPS_IN_STORE = (POOLED, TOKENS)
Read = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """What is read.

    Attributes:
        n_videos, n_frames: videos in the store (N), frames of each (F).
        n_tokens, width, embed_dim: a frame's tokens [S D] and pooled features [E]; ViT-B/16's by default.
        batch_size: videos per read (B).
        n_rounds: batches timed for every reader; a fifth where a batch is the whole store.
    """

    n_videos: int = 256
    n_frames: int = 8
    n_tokens: int = 197
    width: int = 768
    embed_dim: int = 512
    batch_size: int = 8
    n_rounds: int = 150


class Cell(NamedTuple):
    """One column of the table: videos of which tap, how many at a time."""

    tap: str
    n_videos: int
    title: str


def cells_of(setting: Setting) -> dict[str, Cell]:
    """What is measured: whole videos of tokens, and of pooled features few at a time and all at once."""
    few = setting.batch_size
    return {
        "tokens": Cell(TOKENS, few, f"tokens, {few} videos"),
        "pooled": Cell(POOLED, few, f"pooled, {few} videos"),
        "pooled, all": Cell(POOLED, setting.n_videos, f"pooled, all {setting.n_videos}"),
    }


class Video(NamedTuple):
    id: str
    label: str = ""
    split: str = ""
    group: str = ""


def _row_shape(setting: Setting, tap: str) -> tuple[int, ...]:
    return (setting.embed_dim,) if tap == POOLED else (setting.n_tokens, setting.width)


def rows_of(setting: Setting, tap: str, index: int) -> np.ndarray:
    """float32 [F ...] of one video."""
    shape = _row_shape(setting, tap)
    rng = np.random.default_rng([index, len(tap)])
    return rng.standard_normal((setting.n_frames, *shape), dtype=np.float32)


def write_all(setting: Setting, folder: Path) -> None:
    """The same numbers as a store, as raw files, and as one HDF5 file with contiguous and chunked datasets."""
    import h5py

    taps = tuple(TapSpec(tap, _row_shape(setting, tap)) for tap in TAPS_IN_STORE)
    videos = [Video(f"{index:05d}.mp4") for index in range(setting.n_videos)]
    spec = StoreSpec(taps, setting.n_frames, fingerprint=Fingerprint({"benchmark": "speed store"}))
    writer = StoreWriter.create(folder / "store.zarr", spec, videos)
    pts = tuple(map(float, range(setting.n_frames)))
    with h5py.File(folder / "all.h5", "w") as h5:
        for tap in taps:
            shape = (setting.n_videos, setting.n_frames, *tap.row_shape)
            raw = np.lib.format.open_memmap(_raw_path(folder, tap.name), mode="w+", dtype=np.float16, shape=shape)
            contiguous = h5.create_dataset(f"contiguous/{tap.name}", shape, np.float16)
            chunked = h5.create_dataset(f"chunked/{tap.name}", shape, np.float16, chunks=(1, *shape[1:]))
            for index in range(setting.n_videos):
                raw[index] = contiguous[index] = chunked[index] = rows_of(setting, tap.name, index)
            raw.flush()
    for unit in writer.plan_units():
        arrays = {tap.name: [rows_of(setting, tap.name, index) for index in unit.video_indices] for tap in taps}
        facts = [VideoRow(*videos[index], n_frames=setting.n_frames, pts_seconds=pts) for index in unit.video_indices]
        writer.commit(unit, arrays, facts)
    writer.finalize()


def _raw_path(folder: Path, tap: str) -> Path:
    return folder / f"{tap.replace('/', '-')}.npy"


def readers(setting: Setting, folder: Path, tap: str) -> dict[str, Read]:
    """name -> what turns video indices [B] into values [B F ...]."""
    import h5py
    import zarr

    path = folder / "store.zarr"
    # A plain array over the mapping: memmap's own subclass costs a microsecond more at every call.
    raw = np.asarray(np.load(_raw_path(folder, tap), mmap_mode="r"))
    array = zarr.open_array(path, path=tap, mode="r")
    starts = open_store(path).index_column("row_start")[:, 0, list(TAPS_IN_STORE).index(tap)]
    h5 = h5py.File(folder / "all.h5", "r")
    touched, unchecked, always = (open_store(path, check=check) for check in ("first-touch", "never", "always"))

    def into(read_one: Callable[[int], Any]) -> Read:
        def read(indices: np.ndarray) -> np.ndarray:
            out = np.empty((len(indices), setting.n_frames, *raw.shape[2:]), np.float16)
            for position, index in enumerate(indices.tolist()):
                out[position] = read_one(index)
            return out

        return read

    return {
        "memmap, fancy index": lambda indices: raw[indices],
        "memmap, video by video": into(lambda index: raw[index]),
        "store": lambda indices: touched.rows(tap, indices).stacked(),
        "store, checksum at every read": lambda indices: always.rows(tap, indices).stacked(),
        "store, no checksums": lambda indices: unchecked.rows(tap, indices).stacked(),
        "store, first touch": lambda indices: open_store(path).rows(tap, indices).stacked(),
        "zarr-python, same files": into(lambda index: array[starts[index] : starts[index] + setting.n_frames]),
        "h5py, contiguous": into(lambda index: h5["contiguous"][tap][index]),
        "h5py, chunk per video": into(lambda index: h5["chunked"][tap][index]),
    }


def measure(setting: Setting, folder: Path, cell: Cell) -> dict[str, list[float]]:
    """Seconds of every round by reader, after all readers were seen to give the same numbers for every video."""
    ways = readers(setting, folder, cell.tap)
    rng = np.random.default_rng(0)
    # Reading everything takes the slow readers a second each time: fewer rounds will do.
    n_rounds = setting.n_rounds if cell.n_videos <= setting.batch_size else max(3, setting.n_rounds // 5)
    batches = [rng.permutation(setting.n_videos)[: cell.n_videos] for _ in range(n_rounds)]
    for start in range(0, setting.n_videos, cell.n_videos):
        some = np.arange(start, min(start + cell.n_videos, setting.n_videos))
        expected = ways["memmap, fancy index"](some)
        for name, read in ways.items():
            if not np.array_equal(read(some), expected):
                raise AssertionError(f"{name} gives other numbers")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for batch in batches:
        for name in rng.permutation(list(ways)).tolist():  # no reader always finds the caches its neighbour left
            started = time.perf_counter()
            ways[name](batch)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def summary(setting: Setting, seconds: dict[str, dict[str, list[float]]], command: str) -> dict[str, Any]:
    """The result file: setting, machine, milliseconds and ratios of every cell, and the README's table."""
    import h5py
    import zarr

    cells = cells_of(setting)
    measured = {name: _ratios(setting, cells[name], rounds) for name, rounds in seconds.items()}
    return {
        "schema_version": 2,
        "command": command,
        "setting": vars(setting),
        "machine": {
            "cpus": os.cpu_count(),
            "machine": platform.machine(),
            "system": platform.system(),
            "load_average": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "zarr": zarr.__version__,
            "h5py": h5py.__version__,
        },
        "goal": {
            "speed_over_memmap_at_least": GOAL_MEMMAP,
            "speed_over_zarr_at_least": GOAL_ZARR,
            "met": {
                name: {
                    "memmap": one["speed_over_memmap"] >= GOAL_MEMMAP,
                    "zarr": one["speed_over_zarr"] >= GOAL_ZARR,
                }
                for name, one in measured.items()
            },
        },
        "cells": measured,
        "readme": _readme(setting, measured),
    }


def _ratios(setting: Setting, cell: Cell, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and medians of the ratios within one round: what slows the machine down slows both sides of a ratio."""
    seconds = {name: np.array(values) for name, values in rounds.items()}
    median = {name: float(np.median(values)) for name, values in seconds.items()}
    memmap = seconds[min(("memmap, fancy index", "memmap, video by video"), key=median.__getitem__)]
    n_bytes = cell.n_videos * rows_of(setting, cell.tap, 0).size * 2
    return {
        "tap": cell.tap,
        "videos_per_read": cell.n_videos,
        "bytes_per_read": n_bytes,
        "ms_per_read": {
            name: {
                "median": _rounded(1000 * median[name]),
                "min": _rounded(1000 * values.min()),
                "max": _rounded(1000 * values.max()),
                "relative_to_memmap": _rounded(np.median(memmap / values)),
            }
            for name, values in seconds.items()
        },
        "gigabytes_per_second": _rounded(n_bytes / median["store"] / 1e9),
        "speed_over_memmap": _rounded(np.median(memmap / seconds["store"])),
        "speed_over_zarr": _rounded(np.median(seconds["zarr-python, same files"] / seconds["store"])),
    }


def _rounded(value: float) -> float:
    """Four significant digits: more are noise."""
    return float(f"{value:.4g}")


def _readme(setting: Setting, cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    titles = {name: cell.title for name, cell in cells_of(setting).items()}
    rows = []
    for reader in cells["tokens"]["ms_per_read"]:
        row = [reader]
        for name in cells:
            one = cells[name]["ms_per_read"][reader]
            row += [f"{one['median']:.3g}", f"{one['relative_to_memmap']:.2g}"]
        rows.append(row)
    return {
        "columns": ["reader", *(text for name in cells for text in (f"{titles[name]}: ms", "of memmap"))],
        "rows": rows,
        "note": f"Random whole videos of {setting.n_frames} frames ({setting.n_tokens} x {setting.width} tokens, "
        f"{setting.embed_dim} pooled) out of {setting.n_videos} into one float16 array, page cache warm; medians per "
        "read, speed relative to the faster memmap. The store tests each checksum at its first touch and after that "
        "reads at the speed of 'store'; 'first touch' also opens it. "
        f"Goals: {GOAL_MEMMAP} of memmap where the bytes count (a few kilobytes are read in the time of the call), "
        f"{GOAL_ZARR:.0f} times zarr-python; here tokens {cells['tokens']['speed_over_memmap']:.2f} and "
        f"{cells['tokens']['speed_over_zarr']:.1f}, all pooled {cells['pooled, all']['speed_over_memmap']:.2f} and "
        f"{cells['pooled, all']['speed_over_zarr']:.0f}.",
        "command": "python -m benchmarks speed store",
    }


@click.command()
@click.option("--videos", default=Setting.n_videos, show_default=True)
@click.option("--batch-size", default=Setting.batch_size, show_default=True)
@click.option("--rounds", default=Setting.n_rounds, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where the files go.  [default: a temporary folder]")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def store(videos: int, batch_size: int, rounds: int, folder: Path | None, out: Path) -> None:
    """Time reads of random whole videos from a store, raw memmap, zarr-python and h5py."""
    from benchmarks.readme import markdown_table

    setting = Setting(n_videos=videos, batch_size=min(batch_size, videos), n_rounds=rounds)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        write_all(setting, Path(name))
        seconds = {one: measure(setting, Path(name), cell) for one, cell in cells_of(setting).items()}
    command = f"python -m benchmarks speed store --videos {videos} --batch-size {batch_size} --rounds {rounds}"
    result = summary(setting, seconds, command)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    click.echo(markdown_table(result["readme"]["columns"], result["readme"]["rows"]))
    click.echo(f"\n{result['readme']['note']}\nWritten to {out}")


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return store.main(args=arguments, prog_name="python -m benchmarks speed store", standalone_mode=False) or 0


if __name__ == "__main__":
    store(prog_name="python -m benchmarks.speed.store")
