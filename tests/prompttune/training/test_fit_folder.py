"""The run folder: complete, documented, resumed after a kill, never mixed, and good for evaluation elsewhere."""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
import tomllib
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from training import short_runs, train_runs

from prompttune.api.apply_prompts import apply_prompts
from prompttune.base.tensor_files import write_tensors
from prompttune.config.train_config import resolve
from prompttune.errors import (
    CheckpointError,
    ConfigError,
    FeatureError,
    InertTermError,
    NonFiniteLossError,
    PromptFileError,
    RunFolderError,
)
from prompttune.evaluation.evaluate import load_predictions, metrics
from prompttune.evaluation.results import Result
from prompttune.model.prompt_model import PromptModel
from prompttune.prompts.file import read_prompt_file
from prompttune.training.device_step import DeviceStep
from prompttune.training.fit import FitOptions, fit
from prompttune.training.micro_batch import MicroBatch


def test_folder_holds_all_that_is_promised(tmp_path: Path, target: str) -> None:
    fitted = train_runs(tmp_path / "run", method="coop", store=target, seeds=[1, 2])
    result = Result.read(tmp_path / "run")
    assert result == fitted.result
    assert [run.seed for run in result.runs] == [1, 2]
    assert result.classes["base"] == ["run", "jump", "swim", "wave_hand"]
    assert result.prompts["wave_hand"] == "[16] wave hand."
    assert result.runs[0].n_parameters == 16 * 32
    assert result.runs[0].n_train == 16
    assert result.runs[0].tests["base"].n_videos == 20
    assert result.runs[0].split_sha256 != result.runs[1].split_sha256
    for run in result.runs:
        folder = tmp_path / "run" / run.name
        assert resolve(tomllib.loads((folder / "config.toml").read_text())).seeds == (run.seed,)
        logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        assert logged[0]["step"] == 0
        assert logged[-1]["step"] == run.n_steps - 1
        assert logged[0]["terms"].keys() == {"cross-entropy"}
        predictions = load_predictions(str(folder / "predictions.npz"))
        assert predictions["base"].top(1) == pytest.approx(run.metrics["base"])
        prompt = read_prompt_file(folder / "prompt.safetensors")
        assert prompt.ctx is not None
        assert prompt.ctx.shape == (16, 32)
        assert prompt.split_sha256 == run.split_sha256
        assert prompt.classes == tuple(result.classes["base"])
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))
    cell = result.cells[0].metrics
    assert cell["base"].mean == pytest.approx(sum(run.metrics["base"] for run in result.runs) / 2)
    assert cell["harmonic_mean"].n == 2


def test_evaluation_encodes_each_set_of_classes_once(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training videos' accuracy, too, is among the base classes."""
    asked: list[tuple[str, ...]] = []
    classifier = PromptModel.classifier

    def counted(model: PromptModel, names: Sequence[str]) -> Any:
        asked.append(tuple(names))
        return classifier(model, names)

    monkeypatch.setattr(PromptModel, "classifier", counted)
    fitted = train_runs(tmp_path / "run", method="coop", store=target, seeds=[1, 2])
    assert fitted.result.runs[0].train_accuracy is not None
    assert sorted(asked) == sorted(tuple(fitted.result.classes[part]) for part in ("base", "new"))


def test_finished_folder_is_read_back_and_another_run_is_refused(tmp_path: Path, target: str) -> None:
    first = train_runs(tmp_path / "run", method="coop", store=target, seeds=[1])
    again = train_runs(tmp_path / "run", method="coop", store=target, seeds=[1])
    assert again.result == first.result
    assert again.predictions == {}
    with pytest.raises(RunFolderError, match="overwrite"):
        train_runs(tmp_path / "run", method="coop", store=target, seeds=[2])
    other = train_runs(tmp_path / "run", method="coop", store=target, seeds=[2], overwrite=True)
    assert other.result.runs[0].seed == 2
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["result.json", "runs.json", "seed2"]


def test_an_interrupt_in_the_middle_of_a_step_loses_that_step_and_changes_nothing(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = {"log": {"checkpoint_seconds": 0.0, "every": 1}, "targets": {"mixup_alpha": 0.4}}
    runs = short_runs(tables, method="coop", store=target, seeds=[1, 2])
    fit(runs, tmp_path / "whole")
    whole_step = DeviceStep.__call__

    def cut_off(step: DeviceStep, micros: Iterable[MicroBatch], index: int, *, with_norms: bool) -> None:
        whole_step(step, micros, index, with_norms=with_norms)
        if index == 5:
            raise KeyboardInterrupt  # prompts and generators have moved, the trainer does not know it

    monkeypatch.setattr(DeviceStep, "__call__", cut_off)
    with pytest.raises(KeyboardInterrupt):
        fit(runs, tmp_path / "cut")
    monkeypatch.setattr(DeviceStep, "__call__", whole_step)
    steps: list[int] = []
    fit(runs, tmp_path / "cut", options=FitOptions(on_step=lambda _, record: steps.append(record.step)))
    assert steps[0] == 5
    for seed in ("seed1", "seed2"):
        prompts = [tmp_path / name / seed / "prompt.safetensors" for name in ("cut", "whole")]
        assert prompts[0].read_bytes() == prompts[1].read_bytes()


def test_interrupted_training_goes_on_and_ends_with_the_same_bytes(tmp_path: Path, target: str) -> None:
    tables = {"log": {"checkpoint_seconds": 0.0, "every": 1}}
    whole = train_runs(tmp_path / "whole", tables, method="kgcoop", store=target, seeds=[1, 2])

    def stop(trainer, record) -> None:
        if record.step == 3:
            raise SystemExit("killed")

    runs = short_runs(tables, method="kgcoop", store=target, seeds=[1, 2])
    with pytest.raises(SystemExit):
        fit(runs, tmp_path / "cut", options=FitOptions(on_step=stop))
    assert list((tmp_path / "cut" / "checkpoints").glob("*.safetensors"))
    steps: list[int] = []
    fit(runs, tmp_path / "cut", options=FitOptions(on_step=lambda _, record: steps.append(record.step)))
    assert steps[0] == 4
    for run in whole.result.runs:
        for name in ("prompt.safetensors", "log.jsonl"):
            assert (tmp_path / "whole" / run.name / name).read_bytes() == (
                tmp_path / "cut" / run.name / name
            ).read_bytes()


def test_kill_in_the_evaluation_costs_no_training(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prompttune.training import fit as fit_module

    def stop(*_: object, **__: object) -> None:
        raise SystemExit("killed")

    runs = short_runs(method="coop", store=target, seeds=[1])
    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "predictions_of", stop)
        with pytest.raises(SystemExit):
            fit(runs, tmp_path / "run")
    steps: list[int] = []
    fit(runs, tmp_path / "run", options=FitOptions(on_step=lambda _, record: steps.append(record.step)))
    assert steps == []
    whole = fit(runs, tmp_path / "whole")
    found, expected = (tmp_path / name / "seed1" / "prompt.safetensors" for name in ("run", "whole"))
    assert found.read_bytes() == expected.read_bytes()
    assert whole.result.runs[0].metrics == Result.read(tmp_path / "run").runs[0].metrics


def train_and_tell(tables: dict[str, Any], given: dict[str, Any], out: Path, told: Connection) -> None:
    """In a process of its own: each step is told, so that the kill comes in the middle of the training."""
    fit(short_runs(tables, **given), out, options=FitOptions(on_step=lambda _, record: told.send(record.step)))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Forked off one that has imported everything: a start takes milliseconds instead of seconds."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(["prompttune.training.fit"])
    return made


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="kills with SIGKILL")
@pytest.mark.parametrize("method", ["coop", "ga2"])
def test_killed_at_random_steps_it_ends_with_the_same_bytes(
    method: str, tmp_path: Path, processes: Any, request: pytest.FixtureRequest
) -> None:
    """Optimiser moments, data order, mix-up and aggregation go through the kills; for the whole method also dropout
    masks, visual prompts, the drawing of frames, views and anchors."""
    kind = "visual_" if method == "ga2" else ""
    target = request.getfixturevalue(f"{kind}target")
    tables: dict[str, Any] = {
        "optim": {"epochs": 14, "name": "adamw", "accumulate": 2},  # 28 steps, of which two kills leave some
        "aggregation": {"mean": 9.0, "std": 3.0},
        "log": {"checkpoint_seconds": 0.0, "every": 1},
    }
    if method == "ga2":
        anchors = str(request.getfixturevalue("visual_stores") / "irrelevant.zarr")
        tables |= {
            "context": {"prompt_depth": 3},
            "visual": {"n_prompts": 2, "depth": 2, "first_block": 2},
            "frames": {"used": 1, "views": "random"},
            "coupling": {"hard_prompts": [request.getfixturevalue("visual_hard_prompt")], "dropout": 0.3},
            "anchors": {"store": anchors, "loss": "distill", "n_anchors": 2},
        }
    else:
        tables["targets"] = {"mixup_alpha": 0.4}
    given = {"method": method, "store": target, "seeds": [1, 2]}
    kill_after = np.random.default_rng(int(time.time())).integers(1, 12, size=2)
    reached = -1
    for n_steps in kill_after.tolist():
        listening, telling = processes.Pipe(duplex=False)
        process = processes.Process(target=train_and_tell, args=(tables, given, tmp_path / "cut", telling))
        process.start()
        telling.close()
        steps = [listening.recv() for _ in range(n_steps)]
        process.kill()
        process.join()
        # The checkpoint of a step is whole before the step is told, and nothing that it holds is done again.
        assert steps == list(range(steps[0], steps[0] + n_steps))
        assert steps[0] > reached, (kill_after, steps)
        reached = steps[-1]
    runs = short_runs(tables, **given)
    fit(runs, tmp_path / "cut")
    fit(runs, tmp_path / "whole")
    for run in ("seed1", "seed2"):
        for name in ("prompt.safetensors", "log.jsonl"):
            found, expected = (tmp_path / folder / run / name for folder in ("cut", "whole"))
            assert found.read_bytes() == expected.read_bytes(), (run, name, kill_after)


def test_checkpoint_of_another_training_is_refused(tmp_path: Path, target: str) -> None:
    from prompttune.training.checkpoint import read_checkpoint, write_checkpoint

    write_checkpoint(tmp_path / "c.safetensors", {"x": torch.ones(2)}, training="one")
    assert torch.equal(read_checkpoint(tmp_path / "c.safetensors", training="one")["x"], torch.ones(2))
    with pytest.raises(CheckpointError, match="another training"):
        read_checkpoint(tmp_path / "c.safetensors", training="two")
    document = {"format": "prompttune checkpoint", "version": 1, "training": "one"}
    write_tensors(tmp_path / "c.safetensors", {"x": torch.ones(2)}, document)
    with pytest.raises(CheckpointError, match="another version"):
        read_checkpoint(tmp_path / "c.safetensors", training="one")
    (tmp_path / "c.safetensors").write_bytes(b"short")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_checkpoint(tmp_path / "c.safetensors", training="one")


def test_learned_prompts_give_the_same_accuracy_when_applied(tmp_path: Path, target: str, hard_prompt: str) -> None:
    tables = {"coupling": {"hard_prompts": [hard_prompt]}, "context": {"prompt_depth": 2}}
    fitted = train_runs(tmp_path / "run", tables, method="ga2-text", store=target, seeds=[1, 2])
    paths = [tmp_path / "run" / run.name / "prompt.safetensors" for run in fitted.result.runs]
    applied = apply_prompts(paths, given={"store": target}, base_to_new=True, out=tmp_path / "eval")
    assert [run.name for run in applied.runs] == ["run-seed1", "run-seed2"]
    kept = load_predictions(str(tmp_path / "eval" / "run-seed2" / "predictions.npz"))
    assert metrics(kept) == applied.runs[1].metrics
    assert Result.read(tmp_path / "eval") == applied
    with pytest.raises(RunFolderError, match="training run"):  # whose predictions would be written over
        apply_prompts(paths, given={"store": target}, out=tmp_path / "run")
    twice = apply_prompts([paths[0], paths[0]], given={"store": target})
    assert [run.name for run in twice.runs] == ["run-seed1", "run-seed1-2"]
    for trained, found in zip(fitted.result.runs, applied.runs, strict=True):
        assert found.metrics == pytest.approx(trained.metrics)
    assert fitted.result.hard_prompts[0]["method"] == "coop"


def test_zero_shot_alone_and_applied_agree(tmp_path: Path, target: str) -> None:
    fitted = train_runs(tmp_path / "run", method="zero-shot", store=target)
    applied = apply_prompts([], given={"store": target}, base_to_new=True)
    assert applied.runs[0].metrics == fitted.result.runs[0].metrics
    assert fitted.result.runs[0].n_parameters == 0
    assert applied.prompts["wave_hand"] == "a video of a person wave hand."


def test_prompt_files_of_other_backbones_are_refused(
    tmp_path: Path, target: str, stores: Path, hard_prompt: str
) -> None:
    given = {"store": str(stores / "foreign.zarr")}
    with pytest.raises(PromptFileError, match="another backbone"):
        apply_prompts([hard_prompt], given=given)
    with pytest.raises(PromptFileError) as caught:
        train_runs(
            tmp_path / "w",
            {"coupling": {"hard_prompts": [hard_prompt]}},
            method="ga2-text",
            store=str(stores / "wide.zarr"),
        )
    assert "width 48" in str(caught.value)
    assert "width 32" in str(caught.value)
    with pytest.raises(PromptFileError, match="no prompttune prompt here"):
        apply_prompts([tmp_path / "missing.safetensors"], given={"store": target})
    (tmp_path / "bad.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(PromptFileError, match="cannot be read"):
        apply_prompts([tmp_path / "bad.safetensors"], given={"store": target})


def test_prompt_file_is_safetensors_of_a_few_kilobytes(hard_prompt: str) -> None:
    with safe_open(hard_prompt, framework="np") as file:
        assert set(file.keys()) == {"ctx", "learned.context.ctx"}
    assert Path(hard_prompt).stat().st_size < 10_000


def test_anchors_of_another_backbone_or_of_the_task_are_refused(tmp_path: Path, target: str, stores: Path) -> None:
    with pytest.raises(FeatureError, match="another model than the training store"):
        train_runs(tmp_path / "a", {"anchors": {"store": str(stores / "foreign.zarr")}}, method="coop", store=target)
    with pytest.raises(FeatureError, match="too few irrelevant videos"):
        train_runs(
            tmp_path / "b",
            {"anchors": {"store": str(stores / "irrelevant.zarr"), "n_anchors": 99}},
            method="coop",
            store=target,
        )


def test_inert_terms_stop_the_command_unless_allowed(tmp_path: Path, target: str, stores: Path) -> None:
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "additive", "negatives": "released", "n_anchors": 2}
    with pytest.raises(InertTermError, match="anchor-additive"):
        train_runs(tmp_path / "a", {"anchors": anchors}, method="coop", store=target, seeds=[1])
    allowed = train_runs(
        tmp_path / "b", {"anchors": anchors | {"allow_inert": True}}, method="coop", store=target, seeds=[1]
    )
    assert allowed.result.runs[0].inert_terms == ["anchor-additive"]
    plain = train_runs(tmp_path / "c", method="coop", store=target, seeds=[1])
    # Inert up to rounding: the prompts end where they end without anchors.
    one, other = (read_prompt_file(tmp_path / name / "seed1" / "prompt.safetensors").ctx for name in ("b", "c"))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert plain.result.runs[0].inert_terms == []


def test_a_loss_that_explodes_stops_with_step_run_and_term(tmp_path: Path, target: str) -> None:
    tables = {"optim": {"lr": 1e30, "epochs": 20, "warmup_epochs": 0.0}}
    with pytest.raises(NonFiniteLossError) as caught:
        train_runs(tmp_path / "run", tables, method="coop", store=target, seeds=[4, 5])
    assert caught.value.run in {"seed4", "seed5"}
    assert caught.value.step > 0
    assert "step" in str(caught.value)
    checkpoint = next((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    assert str(checkpoint) in str(caught.value)
    with safe_open(checkpoint, framework="pt") as file:
        assert all(bool(torch.isfinite(file.get_tensor(name)).all()) for name in file.keys() if "ctx" in name)  # noqa: SIM118


def test_validation_selects_and_never_sees_test(tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prompttune.training import run_group

    seen: list[str] = []
    honest = run_group.predict

    def watched(classifiers, videos):
        seen.append(videos.test.name)
        return honest(classifiers, videos)

    monkeypatch.setattr(run_group, "predict", watched)
    tables = {"protocol": {"val_shots": 1}, "selection": "val"}
    fitted = train_runs(tmp_path / "run", tables, method="coop", store=target, seeds=[1])
    run = fitted.result.runs[0]
    assert run.n_val == 4
    assert run.n_train == 12
    assert run.selected_epoch is not None
    first_test = min(seen.index("base"), seen.index("new"))
    assert set(seen[:first_test]) == {"val"}
    assert seen.count("val") == 4  # once per epoch
    with pytest.raises(ConfigError):
        train_runs(tmp_path / "x", {"selection": "val"}, method="coop", store=target)


def test_other_stores_are_tested_among_their_own_classes(tmp_path: Path, target: str, stores: Path) -> None:
    tables = {"protocol": {"name": "few-shot", "test_stores": [str(stores / "other.zarr")]}}
    fitted = train_runs(tmp_path / "run", tables, method="coop", store=target, seeds=[1])
    tests = fitted.result.runs[0].tests
    assert tests["test"].n_classes == 8
    assert tests["other"].n_classes == 6
    assert tests["other"].n_videos == 30
    assert fitted.result.other_stores["other"].path.endswith("other.zarr")


def test_class_specific_context_is_refused_on_new_classes(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError, match="context per class"):
        train_runs(tmp_path / "a", {"protocol": {"name": "base-to-new"}}, method="coop-csc", store=target, seeds=[1])
    fitted = train_runs(tmp_path / "b", method="coop-csc", store=target, seeds=[1])
    assert fitted.result.runs[0].n_parameters == 8 * 16 * 32
