"""What a warm step asks of a device, counted on `meta` (see benchmarks/speed/launches.py): no read, no transfer, and
not one kernel more than is written down here, for every method that trains.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from benchmarks.speed.launches import Launches, Offence
from prompttune.config.methods import METHODS
from prompttune.config.train_config import merge
from prompttune.training.trainer import Trainer

# Kernels of one step, float32 and bfloat16, in a tower of three blocks (and four, visual): fewer is better.
KERNELS: dict[str, tuple[int, int]] = {
    "coop": (193, 197),
    "coop-csc": (192, 196),
    "kgcoop": (204, 208),
    "cocoop": (210, 214),
    "tcp": (233, 239),
    "prograd": (312, 318),
    "promptsrc-text": (220, 228),
    "a5": (333, 337),
    "tip-adapter-f": (75, 75),
    "clip-adapter": (94, 94),
    "ga2-text": (213, 217),
    "vpt": (311, 311),
    "vpt-deep": (347, 347),
    "ivlp": (481, 489),
    "maple": (502, 510),
    "promptsrc": (532, 540),
    "vifi-vl": (489, 497),
    "ga2": (500, 508),
}
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
def test_a_warm_step_neither_reads_nor_sends_and_launches_no_more(
    method: str, precision: str, request: pytest.FixtureRequest
) -> None:
    launches = step_on_meta(warm_trainer(method, request, precision=precision))
    assert launches.offences == []
    allowed = KERNELS[method][precision == "bf16"]
    assert 0 < launches.total <= allowed, launches.counts.most_common(12)


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
