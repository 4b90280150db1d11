"""Results folders for the report's tests, written by prompttune's own writers: chosen answers, real files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prompttune.evaluation.evaluate import Predictions, metrics, save_predictions, summarise
from prompttune.evaluation.results import (
    SCHEMA_VERSION,
    CellResult,
    Result,
    RunResult,
    StoreFacts,
    Summary,
    package_versions,
)
from prompttune.training.run_folder import test_result as result_of_test

BASE, NEW = ("run", "jump", "swim"), ("climb", "throw", "ride")
VIDEOS_PER_CLASS = 20


def predictions(right: Mapping[str, int], *, classes: Sequence[str], name: str, order: int = 0) -> Predictions:
    """A test set where `right[class]` of each class's videos are told right; the others are taken for the next class.

    Args:
        order: shuffles the videos, as another run may list them; 0 for as they are.
    """
    ids, labels, logits = [], [], []
    for label, class_name in enumerate(classes):
        for number in range(VIDEOS_PER_CLASS):
            taken_for = label if number < right[class_name] else (label + 1) % len(classes)
            row = np.zeros(len(classes), dtype=np.float32)
            row[taken_for] = 4.0
            ids.append(f"{class_name}/{number:03d}.mp4")
            labels.append(label)
            logits.append(row)
    places = np.random.default_rng(order).permutation(len(ids)) if order else np.arange(len(ids))
    return Predictions(
        name,
        tuple(ids[place] for place in places),
        tuple(classes),
        torch.tensor(labels)[places],
        torch.from_numpy(np.stack(logits))[places],
    )


def write_entry(
    folder: Path,
    method: str,
    runs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    seeds: Sequence[int] = (1, 2, 3, 4, 5),
    store: str = "stores/target.zarr",
    split: str = "split",
    log: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run folder.

    Args:
        runs: per run, how many videos of each base class and of each new class are told right.
        seeds: of the runs, in order.
        config: the whole configuration; by default four shots and nothing else.
        split: what the splits' hashes begin with: equal for runs that trained on the same videos.
    """
    trains = method != "zero-shot"
    written = []
    for (base, new), seed in zip(runs, seeds, strict=False):
        found = {
            "base": predictions(dict(zip(BASE, base, strict=True)), classes=BASE, name="base", order=seed),
            "new": predictions(dict(zip(NEW, new, strict=True)), classes=NEW, name="new", order=seed),
        }
        (folder / f"seed{seed}").mkdir(parents=True)
        save_predictions(str(folder / f"seed{seed}" / "predictions.npz"), found)
        if log:
            _write_log(folder / f"seed{seed}" / "log.jsonl", seed)
        written.append(_run(found, seed, f"{split}-{seed}", trains))
    result = _result(method, written, store)
    result.model_copy(update={"config": config or result.config}).write(folder)
    return folder


def _run(found: Mapping[str, Predictions], seed: int, split: str, trains: bool) -> RunResult:
    return RunResult(
        name=f"seed{seed}",
        seed=seed,
        overrides={},
        split_sha256=split,
        n_train=12 if trains else 0,
        n_val=0,
        metrics=metrics(found),
        tests={
            name: result_of_test(one).model_copy(update={"videos_sha256": _videos(one)}) for name, one in found.items()
        },
        n_parameters=128 if trains else 0,
        n_steps=10 if trains else 0,
        selected_epoch=None,
        val_accuracy=None,
        train_accuracy=None,
        train_seconds=3.0 if trains else 0.0,
        runs_together=3,
        inert_terms=[],
    )


def _videos(one: Predictions) -> str:
    """A hash over the videos in one order, as runs have them all in the store's, however `one` lists them."""
    return hashlib.sha256(json.dumps([one.name, one.classes, sorted(one.ids)]).encode()).hexdigest()


def _result(method: str, runs: Sequence[RunResult], store: str) -> Result:
    summary = summarise([run.metrics for run in runs])
    return Result(
        schema_version=SCHEMA_VERSION,
        method=method,
        protocol="base-to-new",
        config={"protocol": {"shots": 4}},
        axes={},
        store=StoreFacts(path=store, fingerprint="f" * 64, pack_hash="p" * 64, model="tiny (random)", failed_videos=[]),
        other_stores={},
        classes={"base": list(BASE), "new": list(NEW)},
        prompts={},
        hard_prompts=[],
        runs=list(runs),
        cells=[
            CellResult(
                overrides={},
                metrics={name: Summary(mean=one.mean, std=one.std, n=one.n) for name, one in summary.items()},
            )
        ],
        versions=package_versions(),
        seconds=1.0,
    )


def _write_log(path: Path, seed: int) -> None:
    lines = [
        {
            "step": step,
            "epoch": step,
            "lr": 0.1,
            "loss": 2.0 / (step + seed),
            "terms": {"cross-entropy": 2.0 / (step + seed)},
            "gradient_norm": 1.0,
            "term_gradient_norms": {"cross-entropy": 1.0, "anchor-distill": 0.1} if step % 2 == 0 else {},
            "accuracy": step / 10,
        }
        for step in range(6)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
