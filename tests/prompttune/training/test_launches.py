"""What a warm step asks of a device, seen on `meta` (benchmarks/speed/launches.py): for every method that trains no
read and no transfer, no kernel more than are pinned here, and for many runs no more than for one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_store import Recipe, write_tiny_store
from training import short_runs, trainer_of
from visual_store import VISION, VisualRecipe, write_visual_store

from benchmarks.speed.launches import Launches, Offence
from prompttune.base.machine import training_device
from prompttune.config.methods import METHODS
from prompttune.config.train_config import merge
from prompttune.training.trainer import Trainer

NAMES = json.loads((Path(__file__).parents[3] / "benchmarks" / "speed" / "class_names.json").read_text("utf-8"))
HMDB_BASE = tuple(NAMES["HMDB-51 base"])
TABLES: dict[str, dict[str, Any]] = {
    "promptsrc-text": {"context": {"prompt_depth": 3}},
    "tcp": {"context": {"class_tokens_block": 2}},
    "a5": {"head": {"max_frames": 3}},
    "ivlp": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "maple": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "promptsrc": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "vifi-vl": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "ga2": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "ga2-plus": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
    "vpt-deep": {"visual": {"depth": 4}},
}


# Kernels of a warm step in float32, and of these the text engine's: towers of three blocks, one run.
PINNED: dict[str, tuple[int, int]] = {
    "coop": (130, 86),
    "coop-csc": (132, 86),
    "kgcoop": (147, 86),
    "cocoop": (145, 88),
    "tcp": (175, 88),
    "prograd": (233, 133),
    "promptsrc-text": (164, 89),
    "a5": (223, 86),
    "ga2-text": (148, 86),
    "tip-adapter-f": (50, 0),
    "clip-adapter": (63, 0),
    "vpt": (174, 0),
    "vpt-deep": (182, 0),
    "ivlp": (283, 89),
    "maple": (301, 89),
    "promptsrc": (329, 89),
    "vifi-vl": (296, 89),
    "ga2": (300, 89),
    "ga2-plus": (760, 176),
}
# Of a step with ViT-B/16's twelve blocks and HMDB-51's 26 base classes.
AT_FULL_DEPTH = {("coop", "fp32"): 372, ("coop", "bf16"): 420, ("ivlp", "fp32"): 771, ("ivlp", "bf16"): 853}


def device_or_meta(name: str) -> torch.device:
    return torch.device(name) if name == "meta" else training_device(name)


def warm_trainer(method: str, request: pytest.FixtureRequest, **given: Any) -> Trainer:
    """On `meta`, two steps behind it."""
    kind = "visual_" if "visual" in METHODS[method].defaults else ""
    target, hard_prompt = (request.getfixturevalue(f"{kind}{name}") for name in ("target", "hard_prompt"))
    required: dict[str, dict[str, Any]] = {
        "coupling": {"hard_prompts": [hard_prompt]},
        "anchors": {"store": str(Path(target).with_name("irrelevant.zarr"))},
    }
    tables: dict[str, Any] = {"method": method, "store": target, "optim": {"batch_size": 4}}
    if METHODS[method].defaults.get("context", {}).get("kind") != "none":
        tables["context"] = {"init": "random"}  # words would be looked up on meta, where nothing is
    tables |= {table: required[table] for table in METHODS[method].requires}
    runs = short_runs(merge(merge({"seeds": [1], **tables}, TABLES.get(method, {})), given))
    # A configuration and its command refuse `meta`, on which nothing can be learned.
    request.getfixturevalue("monkeypatch").setattr("prompttune.training.run_group.training_device", device_or_meta)
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
    if precision == "fp32":
        assert (launches.total, launches.engine) == PINNED[method]


@pytest.mark.usefixtures("target", "hard_prompt", "visual_target", "visual_hard_prompt")  # made before towers are deep
def test_kernels_at_full_depth(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels do not depend on a tower's width, so narrow ones of full depth stand for ViT-B/16's."""
    monkeypatch.setattr("tiny_store.LAYERS", 12)
    monkeypatch.setattr("visual_store.VISION", replace(VISION, layers=12))
    few = {"classes": HMDB_BASE, "n_train": 1, "n_test": 1}
    deep = {
        "coop": write_tiny_store(tmp_path / "deep.zarr", Recipe(**few)),
        "ivlp": write_visual_store(tmp_path / "visual.zarr", VisualRecipe(**few, layers=(0,))),
    }
    for (method, precision), pinned in AT_FULL_DEPTH.items():
        given = {"precision": precision, "store": str(deep[method]), "protocol": {"shots": 1}}
        blocks = {"context": {"prompt_depth": 9}, "visual": {"depth": 9}} if method == "ivlp" else {}
        assert step_on_meta(warm_trainer(method, request, **given, **blocks)).total == pinned, (method, precision)


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
