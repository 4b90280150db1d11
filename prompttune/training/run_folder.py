"""The run folder: who owns it, what each run leaves in it, and the result of all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from prompttune.base.tensor_files import require_writable, write_bytes
from prompttune.config.record import fingerprint_tables
from prompttune.config.runs import Run, flat
from prompttune.config.train_config import TrainConfig
from prompttune.data.protocols import split_file_hashes
from prompttune.errors import RunFolderError, explain, some
from prompttune.evaluation import evaluate
from prompttune.evaluation.evaluate import Predictions
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
from prompttune.parts.visual_prompts import placement
from prompttune.prompts.file import PromptFile, write_prompt_file
from prompttune.prompts.registry import overlap_with
from prompttune.splits.recordings import split_notes
from prompttune.training.checkpoint import NOT_TRAINING
from prompttune.training.run_group import RunGroup
from prompttune.training.trainer import Trainer


def run_folder_name(config: TrainConfig) -> Path:
    """The run folder of a configuration: `out` with the method's and the store's name filled in."""
    return Path(config.out.format(method=config.method, store=Path(config.store.rstrip("/")).stem))


CLAIM, CHECKPOINTS = "runs.json", "checkpoints"


def claim_content(runs: Sequence[Run]) -> bytes:
    """What `runs.json` says of a folder: whose it is, and with which settings."""
    described: dict[str, Any] = {
        "runs": {run.name: fingerprint_tables(run.config, exclude=NOT_TRAINING) for run in runs}
    }
    if hashes := split_file_hashes(runs[0].config.protocol):
        described["split_files"] = hashes
    return json.dumps(described, indent=1, sort_keys=True).encode()


def finished_result(folder: Path, runs: Sequence[Run], *, overwrite: bool) -> Result | None:
    """The finished result of just these runs, None when there is work to do.

    Raises:
        RunFolderError: the folder holds another run, and `overwrite` is not asked for.
    """
    claimed, content = folder / CLAIM, claim_content(runs)
    if claimed.exists() and not overwrite:
        if claimed.read_bytes() != content:
            raise RunFolderError(
                explain(
                    "the folder holds another run",
                    where=folder,
                    expected="the same method, store, seeds, settings and split files",
                    got="".join(f"\n    - {line}" for line in _differences(claimed.read_bytes(), content)),
                    fix="another --out, or --overwrite",
                )
            )
        if (folder / RESULT).exists():
            return Result.read(folder)
    return None


def claim(folder: Path, runs: Sequence[Run], *, overwrite: bool) -> None:
    """Makes the folder that of these runs; with `overwrite` what another command left there goes.

    Raises:
        RunFolderError: a folder that cannot be written.
    """
    claimed, content = folder / CLAIM, claim_content(runs)
    with _written(folder):
        if claimed.exists() and overwrite:
            _clear(folder, json.loads(claimed.read_bytes())["runs"])
        write_bytes(claimed, content)


def require_place(folder: Path) -> None:
    """Refuses a folder that cannot be written before anything is read. Raises: RunFolderError."""
    with _written(folder):
        require_writable(folder / CLAIM)


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            explain("the run folder cannot be written", where=folder, got=error.strerror or error, fix="another --out")
        ) from None


def release(folder: Path, runs: Sequence[Run]) -> None:
    """Takes back a claim on which nothing was trained: a corrected command may have the folder."""
    if (folder / CHECKPOINTS).exists():
        return
    _clear(folder, [run.name for run in runs])
    (folder / CLAIM).unlink(missing_ok=True)
    with suppress(OSError):  # other files lie there
        folder.rmdir()


def _differences(before: bytes, now: bytes) -> list[str]:
    """What is another in two claims: a split file's content first, then runs, then settings by their dotted keys."""
    old, new = json.loads(before), json.loads(now)
    files, own = old.get("split_files", {}), new.get("split_files", {})
    lines = [
        f"the split file {path} was changed: sha256 {files[path][:12]} there, {own[path][:12]} now"
        for path in files
        if files[path] != own.get(path, files[path])
    ]
    if set(old["runs"]) != set(new["runs"]):
        lines.append(f"runs there: {some(old['runs'])}; now: {some(new['runs'])}")
    settings: dict[str, str] = {}
    for name in old["runs"]:
        one, other = flat(old["runs"][name]), flat(new["runs"].get(name, {}))
        for key in dict.fromkeys((*one, *other)) if other else ():
            if one.get(key) != other.get(key):
                settings.setdefault(key, f"{key}: {one.get(key)} there, {other.get(key)} now")
    return [*lines, *list(settings.values())[:8]]


def _clear(folder: Path, names: Iterable[str]) -> None:
    """Takes away what an earlier command left: its result, its checkpoints, the folders of its runs."""
    (folder / RESULT).unlink(missing_ok=True)
    remove_checkpoints(folder)
    for name in names:
        shutil.rmtree(folder / name, ignore_errors=True)


def remove_checkpoints(folder: Path) -> None:
    """Takes away the checkpoints of a finished command."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


@dataclass(frozen=True)
class Trained:
    """What the training of a group left besides its prompts.

    Attributes:
        trainer: None where nothing was trained by gradient.
        inert: each run's terms whose gradient stayed at zero.
        accuracy: of each run on its own training videos [R]; None where there are none.
    """

    trainer: Trainer | None
    inert: Sequence[list[str]]
    accuracy: Tensor | None


def run_result(group: RunGroup, place: int, predictions: Mapping[str, Predictions], trained: Trained) -> RunResult:
    """One run's record."""
    run, split, trainer = group.runs[place], group.splits[place], trained.trainer
    selected = trainer is not None and trainer.inputs.validate is not None
    return RunResult(
        name=run.name,
        seed=run.seed,
        overrides=dict(run.overrides),
        split_sha256=split.sha256,
        n_train=len(split.train),
        n_val=len(split.val),
        metrics=evaluate.metrics(predictions),
        tests={name: test_result(one) for name, one in predictions.items()},
        n_parameters=group.model.n_parameters,
        n_steps=trainer.step_index if trainer is not None else 0,
        selected_epoch=int(trainer.selection.epoch[place]) if trainer is not None and selected else None,
        val_accuracy=float(trainer.selection.accuracy[place]) if trainer is not None and selected else None,
        train_accuracy=float(trained.accuracy[place]) if trained.accuracy is not None else None,
        train_seconds=round(trainer.seconds, 3) if trainer is not None else 0.0,
        runs_together=len(group.runs),
        notes=_notes(group, place),
        inert_terms=trained.inert[place],
    )


def _notes(group: RunGroup, place: int) -> list[str]:
    protocol = group.runs[place].config.protocol
    tests = [videos.test for videos in group.test_videos(place).values()]
    return split_notes(group.splits[place], tests, shots=protocol.shots if protocol.up_to else None)


def write_run(folder: Path, group: RunGroup, place: int, predictions: Mapping[str, Predictions]) -> None:
    run, model = group.runs[place], group.model
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(run.config.to_toml(), encoding="utf-8")
    evaluate.save_predictions(str(folder / "predictions.npz"), predictions)
    if model.n_parameters == 0:
        return
    write_prompt_file(folder / "prompt.safetensors", prompt_file_of(group, place))


def prompt_file_of(group: RunGroup, place: int) -> PromptFile:
    """What run number `place` of a group learned, with where it comes from."""
    run, split, model = group.runs[place], group.splits[place], group.model
    ctx = model.exported_context(place)
    return PromptFile(
        method=run.config.method,
        seed=run.seed,
        config=run.config.model_dump(mode="json"),
        classes=split.classes,
        split_sha256=split.sha256,
        store_fingerprint=group.sources.train.fingerprint,
        pack_hash=group.sources.train.pack.hash,
        n_ctx=0 if ctx is None else ctx.shape[0],
        width=0 if ctx is None else ctx.shape[1],
        ctx=ctx,
        learned=model.run_tensors(place),
        versions=package_versions(),
    )


def command_result(
    runs: Sequence[Run], group: RunGroup, found: Mapping[str, RunResult], axes: Mapping[str, Sequence[Any]]
) -> Result:
    config = runs[0].config
    tests = group.test_videos(0)
    others = dict(group.sources.tests) | ({"anchors": group.sources.anchors} if group.sources.anchors else {})
    classes = {name: list(videos.test.classes) for name, videos in tests.items()}
    prompts: dict[str, str] = {}
    for names in classes.values():
        prompts |= group.model.prompt_texts(names)
    seeds = tuple(dict.fromkeys(run.seed for run in runs))
    return Result(
        schema_version=SCHEMA_VERSION,
        method=config.method,
        protocol=config.protocol.name,
        visual_prompts=None if config.visual is None else placement(config.visual.first_block),
        config=config.model_copy(update={"seeds": seeds, "device": str(group.model.device)}).model_dump(mode="json"),
        axes={key: list(values) for key, values in axes.items()},
        store=store_facts(group.sources.train),
        other_stores={name: store_facts(source) for name, source in others.items() if source is not None},
        split_files=split_file_hashes(config.protocol),
        classes=classes,
        prompts=prompts,
        hard_prompts=[
            *(_provenance(prompt, group, classes.get("new", [])) for prompt in group.hard_prompts),
            *(_provenance(p, group, classes.get("new", [])) | {"used_as": "context.init"} for p in group.started_from),
        ],
        runs=[found[run.name] for run in runs],
        cells=_cells(runs, found),
        versions=package_versions(),
        seconds=0.0,
    )


def _provenance(prompt: PromptFile, group: RunGroup, new_classes: Sequence[str]) -> dict[str, Any]:
    """Where a hard prompt comes from, and which of the target's new classes it was in fact trained on."""
    names = ("method", "seed", "n_ctx", "split_sha256", "store_fingerprint", "pack_hash")
    known = {name: getattr(prompt, name) for name in names} | {"classes": list(prompt.classes)}
    report = overlap_with(group.model, source=prompt.classes, target=new_classes)
    return known | {"overlap": report.summary(), "overlapping": [asdict(pair) for pair in report.overlaps]}


def _cells(runs: Sequence[Run], found: Mapping[str, RunResult]) -> list[CellResult]:
    members: dict[str, list[Run]] = {}
    for run in runs:
        members.setdefault(run.cell, []).append(run)
    cells = []
    for cell in members.values():
        summary = evaluate.summarise([found[run.name].metrics for run in cell])
        metrics = {name: Summary(mean=s.mean, std=s.std, n=s.n) for name, s in summary.items()}
        cells.append(CellResult(overrides=dict(cell[0].overrides), metrics=metrics))
    return cells
