"""What a warm step asks of a device, seen on `meta` (tests/prompttune/launches.py): for every method that trains no
read and no transfer, and for many runs no more kernels than for one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from launches import Launches, Offence
from training import short_runs, trainer_of

from prompttune.config.methods import METHODS
from prompttune.config.train_config import merge
from prompttune.training.trainer import Trainer

TABLES: dict[str, dict[str, Any]] = {
    "promptsrc-text": {"context": {"prompt_depth": 3}},
    "tcp": {"context": {"class_tokens_block": 2}},
    "a5": {"head": {"max_frames": 3}},
    "ivlp": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "maple": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "promptsrc": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "vifi-vl": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "ga2": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "vpt-deep": {"visual": {"depth": 4}},
}


def warm_trainer(method: str, request: pytest.FixtureRequest, **given: Any) -> Trainer:
    """On `meta`, two steps behind it."""
    kind = "visual_" if "visual" in METHODS[method].defaults else ""
    target, hard_prompt = (request.getfixturevalue(f"{kind}{name}") for name in ("target", "hard_prompt"))
    tables: dict[str, Any] = {"method": method, "store": target, "optim": {"batch_size": 4}}
    if METHODS[method].defaults.get("context", {}).get("kind") != "none":
        tables["context"] = {"init": "random"}  # words would be looked up on meta, where nothing is
    if METHODS[method].requires:
        tables["coupling"] = {"hard_prompts": [hard_prompt]}
    runs = short_runs(merge(merge({"seeds": [1], **tables}, TABLES.get(method, {})), given))
    # A configuration and its command refuse `meta`, on which nothing can be learned.
    request.getfixturevalue("monkeypatch").setattr("prompttune.training.run_group.training_device", torch.device)
    on_meta = [replace(run, config=run.config.model_copy(update={"device": "meta"})) for run in runs]
    _, trainer = trainer_of(on_meta)
    trainer.model.train()
    for step in range(2):
        trainer.device_step(trainer._draw(step), step, with_norms=False)
    return trainer


def step_on_meta(trainer: Trainer) -> Launches:
    micros = list(trainer._draw(2))  # what is drawn is sent ahead
    with Launches() as launches:
        trainer.device_step(micros, 2, with_norms=False)
    return launches


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.fit == "gradient"])
def test_a_warm_step_neither_reads_nor_sends(method: str, precision: str, request: pytest.FixtureRequest) -> None:
    launches = step_on_meta(warm_trainer(method, request, precision=precision))
    assert launches.offences == []
    assert launches.total > 0


def test_many_runs_launch_as_much_as_one(request: pytest.FixtureRequest) -> None:
    axes = {"optim": {"lr": 0.1}}
    alone = step_on_meta(warm_trainer("ga2-text", request, **axes)).total
    together = step_on_meta(warm_trainer("ga2-text", request, **axes, seeds=list(range(16)))).total
    assert together <= alone + 4  # masks of several runs, weights of several


def test_reads_and_transfers_are_found() -> None:
    x = torch.ones(3, device="meta")
    with Launches() as launches:
        torch.tensor([1.0, 2.0, 3.0], device="meta") * x
        x + torch.ones(3).to("meta")
        x[1:].view(2, 1)
        with pytest.raises(RuntimeError):
            x.sum().item()
    assert [offence.operation for offence in launches.offences] == ["lift_fresh", "_to_copy", "_local_scalar_dense"]
    assert isinstance(launches.offences[0], Offence)
    assert all(offence.where.startswith("tests/prompttune/training/test_launches.py:") for offence in launches.offences)
    assert launches.counts["sum"] == 1
    assert "view" not in launches.counts
