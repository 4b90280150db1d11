"""Runs trained together give each run what it has alone; a resumed training gives what an uninterrupted one has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.base.run_axis import parameters_of_run
from prompttune.config.runs import Run

# Batched and single matrix products round differently in the last bits; over a few dozen steps that stays far below.
TOGETHER = {"rtol": 1e-5, "atol": 1e-5}


def methods(hard_prompt: str, stores: Path) -> dict[str, dict[str, Any]]:
    """Configurations that use every kind of random number there is."""
    anchors = {"store": str(stores / "irrelevant.zarr"), "n_anchors": 4}
    coupling = {"hard_prompts": [hard_prompt]}
    return {
        "coop": {"method": "coop"},
        "kgcoop": {"method": "kgcoop", "context": {"init": "random"}},
        "ga2-text": {"method": "ga2-text", "coupling": coupling, "anchors": anchors},
        "ga2-text per class": {
            "method": "ga2-text",
            "coupling": coupling | {"dropout_mask": "per-class"},
            "context": {"prompt_depth": 2},
        },
        "coop with all extras": {
            "method": "coop",
            "context": {"prompt_depth": 3},
            "targets": {"mixup_alpha": 0.4, "label_smoothing": 0.1},
            "aggregation": {"mean": 3.0, "std": 1.0},
            "losses": {"text-l1": 1.0, "logit-kl": 1.0},
            "protocol": {"val_shots": 1},
            "selection": "val",
            "optim": {"name": "adamw", "accumulate": 2},
        },
    }


@pytest.fixture(params=["coop", "kgcoop", "ga2-text", "ga2-text per class", "coop with all extras"])
def tables(request: pytest.FixtureRequest, hard_prompt: str, stores: Path) -> dict[str, Any]:
    return methods(hard_prompt, stores)[request.param]


def learned(runs: list[Run]) -> list[dict[str, torch.Tensor]]:
    group, trainer = trainer_of(runs)
    trainer.train()
    trainer.finish()
    return [
        {name: value.detach().clone() for name, value in parameters_of_run(group.model, run).items()}
        for run in range(len(runs))
    ]


def test_runs_together_equal_each_alone(tables: dict[str, Any], target: str) -> None:
    runs = short_runs(tables, store=target, seeds=[1, 2, 3])
    together = learned(runs)
    for run, found in zip(runs, together, strict=True):
        (alone,) = learned([run])
        assert found.keys() == alone.keys()
        for name in alone:
            torch.testing.assert_close(found[name], alone[name], **TOGETHER)
    first, second = together[0], together[1]
    assert any(not torch.allclose(first[name], second[name], atol=1e-3) for name in first), "seeds must differ"


def test_hyper_parameters_along_the_run_axis_equal_each_alone(target: str) -> None:
    axes = {"optim.lr": [0.002, 0.05], "optim.weight_decay": [0.0, 0.1]}
    runs = short_runs({"method": "coop"}, axes, store=target, seeds=[1, 2])
    assert len(runs) == 8
    together = learned(runs)
    for run, found in zip(runs, together, strict=True):
        (alone,) = learned([run])
        torch.testing.assert_close(found["context.ctx"], alone["context.ctx"], **TOGETHER)
    assert not torch.allclose(together[0]["context.ctx"], together[4]["context.ctx"], atol=1e-3), (
        "learning rates must act"
    )


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_resumed_equals_uninterrupted_bit_for_bit(tables: dict[str, Any], target: str, stop: int) -> None:
    runs = short_runs(tables, store=target, seeds=[1, 2])
    _, whole = trainer_of(runs)
    records = []
    whole.train(records.append)

    _, first = trainer_of(runs)
    first.train(until=stop)
    kept = first.state()
    _, resumed = trainer_of(runs)
    resumed.train(until=2)  # what it did before loading must leave no trace
    resumed.load_state(kept)
    after = []
    resumed.train(after.append)

    for one, other in zip(records[stop:], after, strict=True):
        assert one.step == other.step
        for name in one.terms:
            assert torch.equal(one.terms[name], other.terms[name])
    expected, found = whole.state(), resumed.state()
    assert expected.keys() == found.keys()
    for name in expected:
        if name != "seconds":
            assert torch.equal(expected[name], found[name]), name
    for trainer in (whole, resumed):
        trainer.finish()
    for name, value in whole.model.trained_state().items():
        assert torch.equal(value, resumed.model.trained_state()[name]), name


def test_same_seed_same_numbers_whatever_torch_was_used_for(target: str) -> None:
    runs = short_runs({"method": "coop"}, store=target, seeds=[3])
    torch.manual_seed(0)
    (one,) = learned(runs)
    torch.manual_seed(1)
    torch.rand(7)
    (other,) = learned(runs)
    assert torch.equal(one["context.ctx"], other["context.ctx"])


def test_accumulated_gradients_equal_the_whole_batch(target: str) -> None:
    whole = learned(short_runs({"method": "kgcoop", "context": {"init": "random"}}, store=target, seeds=[1]))[0]
    parts = learned(
        short_runs(
            {"method": "kgcoop", "context": {"init": "random"}, "optim": {"accumulate": 3}}, store=target, seeds=[1]
        )
    )[0]
    # Sums of other order: rounding alone.
    torch.testing.assert_close(whole["context.ctx"], parts["context.ctx"], rtol=1e-4, atol=1e-5)
