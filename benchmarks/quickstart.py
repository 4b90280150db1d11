"""The main job on the embedded small world: videos -> stores -> hard prompts -> coupled prompts -> table."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.runner import Outcome, run_suite
from benchmarks.suite import Suite, load_suite
from benchmarks.world.clip_weights import CONFIG_PATH, WEIGHTS_PATH
from benchmarks.world.datasets import DatasetFiles, make_dataset
from benchmarks.world.plans import DATASET_NAMES
from prompttune.base.console import plain_console

QUICK_SUITE = Path(__file__).parent / "suites" / "quick.toml"
FRAMES = 8


def run(*, out: Path, seed: int, workers: int) -> None:
    """Runs the quickstart into `out` and exits with 1 when a cell failed.

    Args:
        out: gets `videos/` (mp4 files), `stores/` (one Zarr store per data set) and `results/`.
        seed: of the world.
        workers: processes that draw and decode.
    """
    import torch

    # The small CLIP's matrices are too small to share: on a busy machine two threads took 14 times as long as one.
    torch.set_num_threads(1)
    console = plain_console()
    started = time.monotonic()
    outcome = chain(load_suite(QUICK_SUITE), out=out, seed=seed, workers=workers, console=console)
    console.print(
        f"\n{time.monotonic() - started:.0f} s in all. Results: {out / 'results'} "
        f"(table.md, and a folder per cell with its configuration, prompt files, logs and predictions).\n"
        f"Next: vidfeat info {out / 'stores' / 'target.zarr'}\n      prompttune methods",
    )
    sys.exit(1 if outcome.failures else 0)


def chain(suite: Suite, *, out: Path, seed: int, workers: int, console: Console) -> Outcome:
    """From nothing to the suite's table; what is already there is not made again."""
    for name in DATASET_NAMES:
        console.print(f"{name}: drawing videos", style="bold")
        files = make_dataset(name, out / "videos", seed=seed, workers=workers)
        fill_store(files, out / "stores" / f"{name}.zarr", workers=workers, console=console)
    return run_suite(suite, out=out / "results", data=out / "stores", console=console)


def make_worlds(seeds: Sequence[int], *, out: Path, workers: int) -> None:
    """Videos and stores of several worlds, `out/worldN/NAME.zarr`, tokens included; what is finished stays."""
    import torch

    torch.set_num_threads(1)
    console = plain_console()
    for seed in seeds:
        for name in DATASET_NAMES:
            console.print(f"world {seed}, {name}", style="bold")
            files = make_dataset(name, out / "videos" / f"world{seed}", seed=seed, workers=workers)
            store = out / f"world{seed}" / f"{name}.zarr"
            fill_store(files, store, workers=workers, console=console, taps=("pooled", "tokens@0"))


def fill_store(
    files: DatasetFiles, store: Path, *, workers: int, console: Console, taps: tuple[str, ...] = ("pooled",)
) -> None:
    """The videos' features in `store`, by the small CLIP; prints the command that does the same."""
    from vidfeat.extraction.extract import extract_or_resume
    from vidfeat.extraction.options import ExtractOptions, Machine, ModelChoice
    from vidfeat.video.sampling import SamplingPolicy

    classes = f" --classes {files.classes_csv}" if files.classes_csv else ""
    source = f"{files.videos_csv}{classes} --out {store} --frames {FRAMES} --taps {','.join(taps)}"
    command = f"vidfeat extract {source} --model-config {CONFIG_PATH} --weights {WEIGHTS_PATH}"
    console.print(command, soft_wrap=True)
    extract_or_resume(
        ExtractOptions(
            source=files.videos_csv,
            out=store,
            classes=files.classes_csv,
            model=ModelChoice(model_config=CONFIG_PATH, weights=WEIGHTS_PATH),
            sampling=SamplingPolicy("uniform", n_frames=FRAMES),
            taps=taps,
            machine=Machine(workers=workers),
        )
    )
