"""Methods with visual prompts through the ordinary loop: runs as if alone, resumed bit for bit, saved and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import short_runs, train_runs, trainer_of
from visual_tables import TABLES, tables_of

from prompttune.api.apply_prompts import apply_prompts
from prompttune.base.run_axis import parameters_of_run
from prompttune.config.runs import Run
from prompttune.config.train_config import merge
from prompttune.prompts.file import read_prompt_file
from prompttune.training.run_group import predictions_of

TOGETHER = {"rtol": 1e-5, "atol": 1e-5}
# Every kind of random number there is beside the method's own: frames, views, anchors, their frames and views.
DRAWN: dict[str, Any] = {"frames": {"used": 2, "views": "random"}}


def tables_with_everything(method: str, hard_prompt: str, stores: Path) -> dict[str, Any]:
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "feature", "n_anchors": 3}
    return merge(tables_of(method, hard_prompt), {**DRAWN, "anchors": anchors, "log": {"every": 2}})


def learned(runs: list[Run]) -> list[dict[str, torch.Tensor]]:
    group, trainer = trainer_of(runs)
    trainer.train()
    trainer.finish()
    return [
        {name: value.detach().clone() for name, value in parameters_of_run(group.model, run).items()}
        for run in range(len(runs))
    ]


@pytest.mark.parametrize("method", TABLES)
def test_runs_together_equal_each_alone(method: str, visual_stores, visual_target, visual_hard_prompt) -> None:
    """To 1e-5 of each tensor's largest entry: batched products round differently, and visual steps are long sums."""
    tables = tables_with_everything(method, visual_hard_prompt, visual_stores)
    runs = short_runs(merge(tables, {"optim": {"lr": 2e-3, "epochs": 2}}), store=visual_target, seeds=[1, 2, 3])
    together = learned(runs)
    for run, found in zip(runs, together, strict=True):
        (alone,) = learned([run])
        assert found.keys() == alone.keys()
        for name in alone:
            scale = max(1.0, float(alone[name].abs().max()))
            torch.testing.assert_close(found[name] / scale, alone[name] / scale, **TOGETHER)
    assert any(not torch.allclose(together[0][name], together[1][name], atol=1e-3) for name in together[0])


@pytest.mark.parametrize("method", ["ivlp", "maple", "promptsrc", "ga2"])
@pytest.mark.parametrize("stop", [1, 5])
def test_resumed_equals_uninterrupted_bit_for_bit(
    method: str, stop: int, visual_stores, visual_target, visual_hard_prompt
) -> None:
    tables = tables_with_everything(method, visual_hard_prompt, visual_stores)
    runs = short_runs(tables, store=visual_target, seeds=[1, 2])
    _, whole = trainer_of(runs)
    whole.train()
    _, first = trainer_of(runs)
    first.train(until=stop)
    kept = first.state()
    _, resumed = trainer_of(runs)
    resumed.train(until=2)  # what it did before loading must leave no trace
    resumed.load_state(kept)
    resumed.train()
    expected, found = whole.state(), resumed.state()
    assert {"videos.frames", "videos.views", "anchors.frames", "anchors.views"} <= expected.keys()
    assert expected.keys() == found.keys()
    for name in expected:
        if name != "seconds":
            assert torch.equal(expected[name], found[name]), name


@pytest.mark.parametrize("method", ["vpt", "ivlp", "maple", "ga2"])
def test_prompt_files_give_the_same_predictions(method: str, tmp_path: Path, visual_target, visual_hard_prompt) -> None:
    tables = tables_of(method, visual_hard_prompt)
    fitted = train_runs(tmp_path / "run", tables, store=visual_target, seeds=[1, 2])
    assert fitted.result.visual_prompts == "published"
    for run in fitted.result.runs:
        path = fitted.folder / run.name / "prompt.safetensors"
        names = set(read_prompt_file(path).learned)
        assert any(name.startswith("visual.") for name in names)
        found = apply_prompts([path], given={"store": visual_target}, base_to_new=True)
        assert found.visual_prompts == "published"
        assert found.runs[0].metrics == pytest.approx(run.metrics)
        assert found.runs[0].n_parameters == run.n_parameters


def test_late_prompts_are_another_method_in_every_result(tmp_path: Path, visual_target) -> None:
    from prompttune.evaluation.results import load

    tables = {"method": "ivlp", "context": {"prompt_depth": 2}, "visual": {"first_block": 2, "depth": 2}}
    fitted = train_runs(tmp_path / "run", tables, store=visual_target, seeds=[1])
    assert fitted.result.visual_prompts == "late(2)"
    assert fitted.result.method_name == "ivlp late(2)"
    assert list(load(tmp_path)["method"]) == ["ivlp late(2)"]
    path = fitted.folder / "seed1" / "prompt.safetensors"
    assert apply_prompts([path], given={"store": visual_target}).visual_prompts == "late(2)"


def test_recomputing_and_chunks_change_nothing_but_rounding(visual_target) -> None:
    plain = tables_of("ivlp", "")
    again = merge(plain, {"visual": {"recompute": True, "frames_per_chunk": 5}})
    (one,), (other,) = (learned(short_runs(tables, store=visual_target, seeds=[1])) for tables in (plain, again))
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_text_prompts_made_of_visual_ones(tmp_path: Path, visual_target) -> None:
    tables = {
        "method": "ivlp",
        "context": {"init": "random", "prompt_depth": 3},
        "visual": {"depth": 3, "source": "to-text"},
    }
    fitted = train_runs(tmp_path / "run", tables, store=visual_target, seeds=[1])
    learned_tensors = read_prompt_file(fitted.folder / "seed1" / "prompt.safetensors").learned
    assert {name.split(".")[0] for name in learned_tensors} == {"visual", "context"}
    assert not [name for name in learned_tensors if name in ("context.ctx", "context.deep.0")]
    assert [name for name in learned_tensors if name.startswith("context.from_visual.maps.2")]
    group, trainer = trainer_of(short_runs(tables, store=visual_target, seeds=[1]))
    trainer.step()
    gradient_free = trainer_of(short_runs(tables, store=visual_target, seeds=[1]))[0]
    moved = parameters_of_run(group.model, 0)
    for name, start in parameters_of_run(gradient_free.model, 0).items():
        assert moved[name].shape == start.shape
    assert len(predictions_of(group)) == 1
