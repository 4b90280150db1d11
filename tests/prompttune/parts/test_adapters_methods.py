"""The adapters and temporal heads as methods: through configuration, training loop, evaluation and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from training import short_runs, train_runs, trainer_of

from prompttune.base.run_axis import parameters_of_run
from prompttune.config.runs import trains, trains_by_gradient
from prompttune.config.train_config import resolve
from prompttune.data.protocols import open_sources
from prompttune.errors import ConfigError
from prompttune.model.fitted_adapters import tune_adapter
from prompttune.parts.adapters import TipAdapter
from prompttune.parts.class_adapters import ClassCache, ClassProbe
from prompttune.training.run_group import predictions_of, prepare, subset_accuracy
from prompttune.training.trainer import StepRecord

FEW = {"protocol": {"name": "few-shot", "shots": 5, "val_shots": 1}}
METHODS: dict[str, dict[str, Any]] = {
    "prograd": {},
    "promptsrc-text": {"context": {"n_ctx": 4, "init": "random", "prompt_depth": 3}, "aggregation": {"mean": 3.0}},
    # The attention's key biases have no gradient but rounding, which Adam would scale up to steps of its rate.
    "a5": {"context": {"n_ctx": 4}, "optim": {"eps": 1e-5}},
    "tip-adapter-f": {},
    "clip-adapter": {},
    "attention": {"method": "coop", "head": {"temporal": "attention"}, "context": {"n_ctx": 4}},
    "concepts": {
        "method": "coop",
        "head": {"temporal": "concept-spotting", "spotting_temperature": 0.1},
        "context": {"n_ctx": 4},
    },
}


@pytest.mark.parametrize("name", METHODS)
def test_runs_together_equal_each_alone(name: str, target: str) -> None:
    tables = {"method": name, **METHODS[name]}
    runs = short_runs(tables, store=target, seeds=[1, 2])
    together, trainer = trainer_of(runs)
    trainer.train()
    trainer.finish()
    for place, run in enumerate(runs):
        alone, own = trainer_of([run])
        own.train()
        own.finish()
        learned = parameters_of_run(together.model, place)
        assert learned
        for key, value in parameters_of_run(alone.model, 0).items():
            # Batched and single products round differently; AdamW turns a tiny gradient's sign into a step of lr.
            torch.testing.assert_close(learned[key], value, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("name", ["attention", "concepts"])
def test_temporal_heads_fit_their_training_videos(name: str, target: str) -> None:
    """Methods of a name of their own: tests/prompttune/training/test_methods_learn.py."""
    adamw = {"name": "adamw", "epochs": 60, "lr": 0.02, "warmup_epochs": 0.0}
    tables = {**METHODS[name], "optim": adamw, "protocol": {"shots": 3}}
    group, trainer = trainer_of(short_runs(tables, store=target, seeds=[1]))
    trainer.train()
    trainer.finish()
    assert float(subset_accuracy(group, "train")[0]) > 0.95


def test_clip_adapter_lowers_its_loss(target: str) -> None:
    """Six hidden units that only ever add cannot fit any dozen videos; they can fit them better than zero-shot does."""
    optim = {"name": "adamw", "epochs": 60, "lr": 0.003, "warmup_epochs": 0.0}
    tables = {"method": "clip-adapter", "optim": optim, "head": {"adapter_ratio": 0.5}, "protocol": {"shots": 3}}
    _, trainer = trainer_of(short_runs(tables, store=target, seeds=[1, 2]))
    records: list[StepRecord] = []
    trainer.train(records.append)
    first, last = (sum(r.terms["cross-entropy"] for r in part) for part in (records[:2], records[-2:]))
    assert (last < 0.8 * first).all(), (first, last)


def test_linear_probe_end_to_end_and_again_from_its_file(tmp_path: Path, target: str) -> None:
    found = train_runs(tmp_path / "lp", {"method": "linear-probe", **FEW}, store=target, seeds=[1, 2])
    assert [run.n_steps for run in found.result.runs] == [0, 0]
    assert found.result.runs[0].n_parameters == 8 * (24 + 1)
    assert found.result.runs[0].metrics["test"] > 0.5
    group = prepare(short_runs({"method": "linear-probe", **FEW}, store=target, seeds=[1, 2]), open_sources_of(target))
    assert isinstance(group.model.fitted, ClassProbe)
    for place, predictions in enumerate(predictions_of(group)):
        expected = found.predictions[f"seed{place + 1}"]["test"].logits
        torch.testing.assert_close(predictions["test"].logits, expected)
    group.model.load_run_tensors(1, group.model.run_tensors(0))
    assert torch.equal(group.model.fitted.weight.runs[0], group.model.fitted.weight.runs[1])


def open_sources_of(store: str) -> Any:
    return open_sources(resolve({"method": "zero-shot", "store": store}))


def test_linear_probe_has_no_new_classes_and_needs_validation_videos(target: str) -> None:
    with pytest.raises(ConfigError, match="no logits for classes it is not fitted on"):
        resolve({"method": "linear-probe", "store": target, "protocol": {"name": "base-to-new"}})
    with pytest.raises(ConfigError, match=r"protocol\.val_shots"):
        resolve({"method": "linear-probe", "store": target, "protocol": {"val_shots": 0}})
    probe = ClassProbe(("a", "b"), embed_dim=3, n_runs=1)
    with pytest.raises(ConfigError, match="c"):
        probe.logits(torch.zeros(1, 1, 2), torch.zeros(1, 1, 3), ["a", "c"])


def test_tip_adapter_adds_its_cache_to_base_classes_and_nothing_to_new_ones(target: str) -> None:
    run = short_runs({"method": "tip-adapter"}, store=target, seeds=[1])[0]
    assert trains(run.config)
    assert not trains_by_gradient(run.config)
    tip = prepare([run], open_sources_of(target))
    plain = prepare(short_runs({"method": "zero-shot"}, store=target, seeds=[1]), open_sources_of(target))
    mine, zero_shot = predictions_of(tip)[0], predictions_of(plain)[0]
    torch.testing.assert_close(mine["new"].logits, zero_shot["new"].logits)
    split, table = tip.splits[0], tip.features[""]
    keys = F.normalize(table.values[table.positions(split.train)], dim=-1)
    videos = F.normalize(table.values[table.positions(split.tests[0].videos)], dim=-1)
    place = {name: index for index, name in enumerate(split.classes)}
    values = F.one_hot(torch.tensor([place[split.table.labels[row]] for row in split.train])).float()
    cache = 1.17 * torch.exp(-1.0 * (1.0 - videos @ keys.T)) @ values
    torch.testing.assert_close(mine["base"].logits, zero_shot["base"].logits + cache, rtol=1e-4, atol=1e-4)


def test_tip_adapter_searches_on_validation_videos_alone(target: str) -> None:
    tables = {"method": "tip-adapter", "protocol": {"val_shots": 1}}
    group = prepare(short_runs(tables, store=target, seeds=[1, 2]), open_sources_of(target))
    assert isinstance(group.model.fitted, ClassCache)
    before = subset_accuracy(group, "val")
    tests = [test.videos for split in group.splits for test in split.tests]
    table = group.features[""]
    for rows in tests:  # whatever the test videos are, the search must come out the same
        table.values[table.positions(rows)] = float("nan")
    tune_adapter(group.model, splits=group.splits, features=table)
    assert (subset_accuracy(group, "val") >= before).all()
    assert torch.isfinite(group.model.fitted.tip.alpha).all()


def test_tip_adapter_without_validation_keeps_what_is_configured(target: str) -> None:
    tables = {"method": "tip-adapter", "head": {"tip_alpha": 2.5, "tip_beta": 4.0}}
    group = prepare(short_runs(tables, store=target, seeds=[1]), open_sources_of(target))
    tune_adapter(group.model, splits=group.splits, features=group.features[""])
    assert isinstance(group.model.fitted, ClassCache)
    assert (float(group.model.fitted.tip.alpha[0]), float(group.model.fitted.tip.beta[0])) == (2.5, 4.0)


def test_class_cache_puts_columns_under_their_names() -> None:
    tip = TipAdapter(keys=torch.eye(3)[None], labels=torch.tensor([[0, 1, 2]]), n_classes=3, alpha=1.0, beta=5.0)
    cache = ClassCache(tip, ("a", "b", "c"))
    video = torch.eye(3)[None, :1]
    own = tip(video)[0, 0]
    mixed = cache.logits(torch.zeros(1, 1, 4), video, ["c", "new", "a", "b"])[0, 0]
    torch.testing.assert_close(mixed, torch.stack([own[2], torch.zeros(()), own[0], own[1]]))


def test_tip_adapter_cannot_be_evaluated_without_its_videos(target: str) -> None:
    group = prepare(short_runs({"method": "tip-adapter"}, store=target, seeds=[1]), open_sources_of(target))
    group.model.fitted = None
    with pytest.raises(ConfigError, match="a prompt file does not hold"):
        predictions_of(group)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"adapter": "tip-adapter", "temporal": "transformer"}, "must be a mean"),
        ({"train_keys": True}, "head.train_keys"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(head: dict[str, Any], message: str, target: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve({"method": "zero-shot", "store": target, "head": head})
