"""Learned prompts (or none) on a store: evaluation without training."""

from __future__ import annotations

import re
import time
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prompttune.base.machine import note_slow_precision, training_device
from prompttune.base.tensor_files import require_writable
from prompttune.config.train_config import NONE, TrainConfig, merge, resolve
from prompttune.data.features import FeatureSource, open_source, read_features
from prompttune.data.frames import token_reader
from prompttune.data.protocols import split_file_hashes, split_table
from prompttune.data.store_needs import require_served
from prompttune.errors import PromptFileError, RunFolderError, explain, some
from prompttune.evaluation import evaluate
from prompttune.evaluation.evaluate import Classifiers, Predictions, TestVideos, predict
from prompttune.evaluation.results import (
    RESULT,
    SCHEMA_VERSION,
    CellResult,
    Result,
    RunResult,
    Summary,
    package_versions,
    store_facts,
    test_result,
)
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.heads import frame_reduction
from prompttune.parts.visual_prompts import placement
from prompttune.prompts.file import PromptFile, read_prompt_file
from prompttune.prompts.registry import prompt_files
from prompttune.splits.of_file import FileSplits
from prompttune.splits.recordings import missing_videos
from prompttune.splits.split import TestSet, VideoTable, base_and_new, zero_shot
from prompttune.training.run_folder import CLAIM


def apply_prompts(
    paths: Sequence[str | Path],
    *,
    given: Mapping[str, Any],
    base_to_new: bool = False,
    average: bool = False,
    out: str | Path | None = None,
) -> Result:
    """The result of prompt files (of the bare zero-shot classifier where there are none) on a store's test videos.

    Args:
        paths: prompt files, one run each; folders and patterns of them (`prompts.registry.prompt_files`), whose runs of
            several seeds are one cell.
        given: tables as a TOML file has them; `store`, `device`, `templates` and `protocol.split_file` act, a prompt
            file's own configuration decides the rest.
        base_to_new: tests base and new classes each among their own, as the training protocol does; else one test set
            among all of the store's classes.
        average: adds, for each row of several prompt files, what the mean of their logits predicts.
        out: a run folder to write: `result.json`, and each prompt file's predictions as a training leaves them, so that
            the report counts them in.

    Raises:
        PromptFileError: prompts of another backbone than the store's.
        SplitError: a store that has no such test videos.
        RunFolderError: `out` holds a training run.
    """
    started = time.perf_counter()
    if out is not None:
        _require_place(Path(out))
    source = open_source(str(given["store"]))
    named = prompt_files(paths)
    prompts = [read_prompt_file(path, pack_hash=source.pack.hash) for path, _ in named]
    applied = _apply_each(source, named, prompts, given=given, base_to_new=base_to_new)
    if average:
        for run, mean in _averages(applied.runs, applied.predictions):
            applied.runs.append(run)
            applied.predictions[run.name] = mean
    method = " ".join(dict.fromkeys(prompt.method for prompt in prompts)) or "zero-shot"
    protocol = "base-to-new" if base_to_new or "new" in applied.classes else "zero-shot"
    seconds = round(time.perf_counter() - started, 3)
    result = _result(applied, source, method=method, protocol=protocol, seconds=seconds)
    if out is not None:
        _write(Path(out), result, applied.predictions)
    return result


@dataclass(frozen=True)
class _Applied:
    """What each prompt file came to, by the run's name; model and classes of test sets are the last one's."""

    model: PromptModel
    classes: dict[str, list[str]]
    runs: list[RunResult]
    predictions: dict[str, Mapping[str, Predictions]]


def _apply_each(
    source: FeatureSource,
    named: Sequence[tuple[Path, str]],
    prompts: Sequence[PromptFile],
    *,
    given: Mapping[str, Any],
    base_to_new: bool,
) -> _Applied:
    runs: list[RunResult] = []
    predictions: dict[str, Mapping[str, Predictions]] = {}
    rows: list[tuple[Path | None, str]] = [*named] or [(None, "")]
    held: list[PromptFile | None] = [*prompts] or [None]
    for (path, row), prompt in zip(rows, held, strict=True):
        config = config_of_prompt(prompt, given)
        require_served(config, [source], trains=False)
        model, tests = _prepare(config, source, prompt, base_to_new)
        classifiers = Classifiers(model)
        found = {name: predict(classifiers, videos)[0] for name, videos in tests.items()}
        name = _run_name(path, taken=predictions)
        runs.append(_run_result(prompt, path, row, tests, found, model).model_copy(update={"name": name}))
        predictions[name] = found
    classes = {name: list(videos.test.classes) for name, videos in tests.items()}
    return _Applied(model, classes, runs, predictions)


def _require_place(out: Path) -> None:
    """Refuses, before anything is read, a folder of a training run and one that cannot be written."""
    if (out / CLAIM).exists():
        raise RunFolderError(explain("the folder holds a training run", where=out, fix="another --out"))
    require_writable(out / RESULT)


def _write(out: Path, result: Result, predictions: Mapping[str, Mapping[str, Predictions]]) -> None:
    for name, kept in predictions.items():
        (out / name).mkdir(parents=True, exist_ok=True)
        evaluate.save_predictions(str(out / name / "predictions.npz"), kept)
    result.write(out)


def _result(applied: _Applied, source: FeatureSource, *, method: str, protocol: str, seconds: float) -> Result:
    config, prompt_texts = applied.model.config, applied.model.prompt_texts
    return Result(
        schema_version=SCHEMA_VERSION,
        method=method,
        protocol=protocol,
        visual_prompts=None if config.visual is None else placement(config.visual.first_block),
        config=config.model_dump(mode="json"),
        axes={},
        store=store_facts(source),
        other_stores={},
        split_files=split_file_hashes(config.protocol),
        classes=applied.classes,
        prompts={k: text for names in applied.classes.values() for k, text in prompt_texts(names).items()},
        hard_prompts=[],
        runs=applied.runs,
        cells=_cells(applied.runs),
        versions=package_versions(),
        seconds=seconds,
    )


def _averages(
    runs: Sequence[RunResult], predictions: Mapping[str, Mapping[str, Predictions]]
) -> list[tuple[RunResult, dict[str, Predictions]]]:
    """For each row of several runs, the mean of their logits as a run of its own.

    Raises:
        PromptFileError: not one row has several runs.
    """
    rows: dict[str, list[RunResult]] = {}
    for run in runs:
        rows.setdefault(repr(run.overrides), []).append(run)
    found = []
    for of_row in (own for own in rows.values() if len(own) > 1):
        sets = [predictions[run.name] for run in of_row]
        mean = {
            name: replace(one, logits=torch.stack([own[name].logits for own in sets]).mean(dim=0))
            for name, one in sets[0].items()
        }
        row = f"{of_row[0].overrides['prompts']}, logits of {len(of_row)} averaged"
        update = {
            "name": _run_name(f"{of_row[0].name}-average", taken=predictions),
            "overrides": {"prompts": row},
            "metrics": evaluate.metrics(mean),
            "tests": {name: test_result(one) for name, one in mean.items()},
            "n_parameters": sum(run.n_parameters for run in of_row),
        }
        found.append((of_row[0].model_copy(update=update), mean))
    if not found:
        got = "no two prompt files in one row" if runs else "no prompt file"
        fix = "a run folder with several seeds, or a pattern in quotes: --prompts 'runs/coop/seed*/prompt.safetensors'"
        raise PromptFileError(explain("there is nothing to average", got=got, fix=fix))
    return found


def _run_name(path: str | Path | None, *, taken: Container[str]) -> str:
    """A folder's name for a prompt file: `coop-target-seed1` of runs/coop-target/seed1/prompt.safetensors."""
    if path is None:
        return "zero-shot"
    own = Path(path).with_suffix("")
    parts = own.parts[:-1] if own.name == "prompt" else own.parts
    name = re.sub(r"[^\w.-]+", "-", "-".join(parts[-2:])).strip("-.") or "prompt"
    numbered = (f"{name}-{number}" for number in count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def _cells(runs: Sequence[RunResult]) -> list[CellResult]:
    """One per row of the table: a file, or the seeds of one setting."""
    members: dict[str, list[RunResult]] = {}
    for run in runs:
        members.setdefault(repr(run.overrides), []).append(run)
    cells = []
    for of_cell in members.values():
        found = evaluate.summarise([run.metrics for run in of_cell])
        metrics = {name: Summary(mean=one.mean, std=one.std, n=one.n) for name, one in found.items()}
        cells.append(CellResult(overrides=of_cell[0].overrides, metrics=metrics))
    return cells


def config_of_prompt(prompt: PromptFile | None, given: Mapping[str, Any]) -> TrainConfig:
    """The configuration that evaluates a prompt (None: zero-shot), with the store and device of `given`."""
    if prompt is None:
        return resolve(merge({"method": "zero-shot"}, given))
    if left_out := prompt.config.get("left_out"):
        raise PromptFileError(
            explain(
                "this imported prompt is a part of what was trained, and the part alone would give other accuracies",
                where=prompt.config["imported_from"],
                got=f"learned beside the context: {some(left_out)}",
                fix="couple it (coupling.hard_prompts), which takes the context alone; or train the method here",
            )
        )
    kept: dict[str, Any] = {"device": "auto"} | {k: given[k] for k in ("store", "device", "precision") if k in given}
    # The split it was trained on is of the store it was trained on.
    protocol = {"split_file": NONE, "test_split_files": [], "test_stores": []} | given.get("protocol", {})
    if protocol["split_file"] != NONE:
        protocol |= {"base_classes": NONE, "test_fraction": NONE}
    kept["protocol"] = protocol
    # The coupled hard prompts are in the prompt file itself; their own files need not be there any more.
    # Of another project's file its shape alone is known, which is that of a context of ours.
    return resolve(merge(_tables(prompt.config.get("as_trained", prompt.config)), kept))


def _tables(config: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped configuration as tables: None, which TOML has no word for, as the word that stands for it."""
    return {
        key: _tables(value) if isinstance(value, Mapping) else ("none" if value is None else value)
        for key, value in config.items()
    }


def _prepare(
    config: TrainConfig, source: FeatureSource, prompt: PromptFile | None, base_to_new: bool
) -> tuple[PromptModel, dict[str, TestVideos]]:
    trained = prompt.classes if prompt is not None else ()
    split_file = config.protocol.split_file
    # The prompt's own test_fraction is for the store it was trained on; a store with splits keeps them.
    own = split_file is None and any(source.table.splits)
    table = source.table if own else split_table(config.protocol, source.table)
    if split_file is not None:
        tests: Sequence[TestSet] = FileSplits(split_file, source.table).tests()
    elif base_to_new:
        known = [name for name in trained if name in set(table.classes)]
        tests = base_and_new(table, known or config.protocol.base_classes)
    else:
        tests = zero_shot(table).tests
    return prompted_model(config, source, prompt, table=table, tests=tests)


def prompted_model(
    config: TrainConfig,
    source: FeatureSource,
    prompt: PromptFile | None,
    *,
    table: VideoTable,
    tests: Sequence[TestSet],
) -> tuple[PromptModel, dict[str, TestVideos]]:
    """A model with what a prompt file learned (None: zero-shot), and the test sets with their features.

    Raises:
        PromptFileError: learned tensors that do not fit the configuration.
    """
    trained = prompt.classes if prompt is not None else ()
    hard = _hard_prompts(prompt)
    note_slow_precision(config.precision, config.device)
    model = PromptModel(
        config,
        source.pack,
        seeds=[prompt.seed if prompt is not None else 0],
        classes=trained or table.classes,
        hard_prompts=hard,
        device=training_device(config.device),
    )
    if prompt is not None:
        model.load_run_tensors(0, prompt.learned)
    rows = np.concatenate([test.videos for test in tests])
    features = read_features(source, rows, reduce=frame_reduction(config.head)).to(model.device)
    tokens = token_reader(config.visual, source)
    return model, {test.name: TestVideos(test, table, features, tokens) for test in tests}


def _hard_prompts(prompt: PromptFile | None) -> list[Any]:
    if prompt is None:
        return []
    names = sorted(name for name in prompt.learned if name.startswith("context.coupling.hard_"))
    return [prompt.learned[name] for name in names]


def _run_result(
    prompt: PromptFile | None,
    path: Path | None,
    row: str,
    tests: Mapping[str, TestVideos],
    found: Mapping[str, Predictions],
    model: PromptModel,
) -> RunResult:
    return RunResult(
        name="",
        seed=prompt.seed if prompt is not None else 0,
        overrides={} if path is None else {"prompts": row},
        split_sha256=prompt.split_sha256 if prompt is not None else "",
        n_train=0,
        n_val=0,
        metrics=evaluate.metrics(found),
        tests={name: test_result(one) for name, one in found.items()},
        n_parameters=model.n_parameters,
        n_steps=0,
        selected_epoch=None,
        val_accuracy=None,
        train_accuracy=None,
        train_seconds=0.0,
        runs_together=1,
        notes=missing_videos(videos.test for videos in tests.values()),
        inert_terms=[],
    )
