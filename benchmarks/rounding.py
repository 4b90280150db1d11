"""What storing features in float16 changes: top-1 and logits of zero-shot CLIP, float32 features against rounded ones.

`python -m benchmarks.rounding --videos runs/quickstart/videos` extracts the small world's target in float32, rounds the
same rows to float16 as a store does, and writes benchmarks/results/fp16_rounding.json.
`--store X.zarr` does it for a float32 store of a real CLIP (`vidfeat extract ... --dtype float32`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.quickstart import FRAMES
from benchmarks.world.clip_weights import CONFIG_PATH, WEIGHTS_PATH
from benchmarks.world.datasets import make_dataset
from prompttune.api.apply_prompts import config_of_prompt, prompted_model
from prompttune.data.features import FeatureSource, open_source
from prompttune.evaluation.evaluate import Classifiers, Predictions, predict
from prompttune.splits.split import base_and_new, zero_shot
from vidfeat.store import POOLED, Rows

OUT = Path(__file__).parent / "results" / "fp16_rounding.json"


class RoundedRows:
    """The same rows, rounded to float16 and back: what a float16 store of the same features gives."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def rows(self, tap: str, video_indices: Any, **options: Any) -> Rows:
        found = self._reader.rows(tap, video_indices, **options)
        return Rows(found.values.astype(np.float16).astype(np.float32), found.offsets)


def measure(source: FeatureSource) -> dict[str, Any]:
    """Per test set: videos, top-1 before and after rounding, predictions that changed, largest change of a logit.

    Raises:
        ValueError: a store whose pooled features are not float32.
    """
    dtype = source.reader.taps[POOLED].dtype
    if dtype != "float32":
        raise ValueError(f"{source.path} holds {dtype}; extract with --dtype float32")
    exact = _predictions(source)
    rounded = _predictions(replace(source, reader=RoundedRows(source.reader)))  # type: ignore[arg-type]
    return {name: _compare(exact[name], rounded[name]) for name in exact}


def _predictions(source: FeatureSource) -> dict[str, Predictions]:
    tests = base_and_new(source.table) if any(source.table.splits) else zero_shot(source.table).tests
    config = config_of_prompt(None, {"store": source.path})
    model, videos = prompted_model(config, source, None, table=source.table, tests=tests)
    classifiers = Classifiers(model)
    return {name: predict(classifiers, one)[0] for name, one in videos.items()}


def _compare(exact: Predictions, rounded: Predictions) -> dict[str, Any]:
    changed = exact.logits.argmax(dim=1) != rounded.logits.argmax(dim=1)
    return {
        "n_videos": len(exact.ids),
        "top1_float32": exact.top(1),
        "top1_float16": rounded.top(1),
        "predictions_changed": int(changed.sum()),
        "largest_logit_change": float((exact.logits - rounded.logits).abs().max()),
    }


def extract_target(videos: Path, store: Path, *, workers: int) -> None:
    """The small world's target in float32."""
    from vidfeat.extraction.extract import extract_or_resume
    from vidfeat.extraction.options import ExtractOptions, Machine, ModelChoice
    from vidfeat.video.sampling import SamplingPolicy

    files = make_dataset("target", videos, seed=0, workers=workers)
    extract_or_resume(
        ExtractOptions(
            source=files.videos_csv,
            out=store,
            classes=files.classes_csv,
            model=ModelChoice(model_config=CONFIG_PATH, weights=WEIGHTS_PATH),
            sampling=SamplingPolicy("uniform", n_frames=FRAMES),
            dtype="float32",
            machine=Machine(workers=workers),
        )
    )


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--videos", type=click.Path(path_type=Path), default=Path("runs/quickstart/videos"), show_default=True)
@click.option(
    "--store", type=click.Path(path_type=Path), help="A float32 store.  [default: the small world's, made here]"
)
@click.option("--out", type=click.Path(path_type=Path), default=OUT, show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(videos: Path, store: Path | None, out: Path, workers: int) -> None:
    """What storing features in float16 changes in zero-shot CLIP's predictions."""
    torch.set_num_threads(1)
    if store is None:
        store = videos.parent / "stores" / "target-float32.zarr"
        extract_target(videos, store, workers=workers)
    source = open_source(store)
    backbone = source.pack.config
    found = {"model": f"{backbone.name} ({backbone.pretrained})", "tests": measure(source)}
    out.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
