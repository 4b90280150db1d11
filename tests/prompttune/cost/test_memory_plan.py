"""The memory of a step, counted beforehand against what autograd keeps; fewer runs at once where memory is short."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from training import short_runs, train_runs, trainer_of

from prompttune.cost import memory as memory_plan
from prompttune.cost.step import feature_bytes, kept_bytes_per_run, memory_bytes, step_text_pass
from prompttune.errors import ConfigError
from prompttune.losses.terms import compute_losses
from prompttune.model.prompt_model import PromptModel


def kept_bytes(model: PromptModel, classes: Sequence[str]) -> int:
    return kept_bytes_per_run(model, step_text_pass(model, classes), n_frames=1)


@pytest.mark.parametrize(
    "tables",
    [
        {"method": "coop"},
        {"method": "coop", "context": {"prompt_depth": 3}},
        {"method": "coop-csc"},
        {"method": "cocoop", "optim": {"batch_size": 3}},
    ],
)
def test_estimate_is_near_what_autograd_keeps(target: str, tables: dict[str, Any]) -> None:
    group, trainer = trainer_of(short_runs(tables, store=target, seeds=[1, 2]))
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in group.model.pack.text_tower().parameters()}
    picks = torch.zeros(2, group.config.optim.batch_size, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        (step,) = group.model.steps(trainer.inputs.videos.batch(picks), trainer.inputs.vocabulary)
        losses = compute_losses(step, trainer.inputs.terms)
    assert losses.total.requires_grad
    measured = sum(n_bytes for pointer, n_bytes in kept.items() if pointer not in weights) / 2
    estimate = kept_bytes(group.model, group.splits[0].classes)
    # A plan, not a measurement: within a factor of two and a half, the attention's own tables included.
    assert measured / 2.5 < estimate < measured * 2.5, (estimate, measured)


def test_matrices_kept_beside_the_towers_are_counted(target: str, visual_target: str) -> None:
    """The text engine's both ways round, in either precision; the vision tower's in half precision."""

    def weights(tables: dict[str, Any], store: str) -> tuple[int, PromptModel]:
        group, _ = trainer_of(short_runs(tables, store=store, seeds=[1]))
        model, split = group.model, group.splits[0]
        sent = step_text_pass(model, split.classes)
        kept = kept_bytes_per_run(model, sent, n_frames=1)
        if model.visual is not None:
            kept += kept_bytes_per_run(model, None, n_frames=1) // model.visual.tower.n_layers
        learned = 4 * 4 * model.n_parameters
        whole = memory_bytes(model, split, group.sources, n_frames=1)
        return whole - kept - learned - feature_bytes(model, split, group.sources), model

    def size(module: torch.nn.Module) -> int:
        return sum(p.numel() * p.element_size() for p in module.parameters())

    found, model = weights({"method": "coop"}, target)
    text = model.pack.text_tower()
    assert found == size(text) + size(text.blocks)
    for precision, share in (("fp32", 0.0), ("bf16", 0.5)):
        found, model = weights({"method": "vpt", "precision": precision}, visual_target)
        assert model.visual is not None
        assert found == size(model.visual.tower) + int(share * size(model.visual.tower.blocks))


def test_fewer_runs_go_together_where_memory_is_short(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = short_runs({"method": "coop"}, store=target, seeds=[1])
    group, _ = trainer_of([run])
    needed = kept_bytes(group.model, group.splits[0].classes)
    everything = train_runs(tmp_path / "all", method="coop", store=target, seeds=[1, 2, 3])
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: int(needed * 2 / memory_plan.SHARE_OF_FREE_MEMORY))
    fewer = train_runs(tmp_path / "few", method="coop", store=target, seeds=[1, 2, 3])
    assert [run.runs_together for run in everything.result.runs] == [3, 3, 3]
    assert [run.runs_together for run in fewer.result.runs] == [2, 2, 1]
    assert [run.metrics for run in fewer.result.runs] == [run.metrics for run in everything.result.runs]
    monkeypatch.setattr(memory_plan, "free_bytes", lambda device: needed // 2)
    with pytest.raises(ConfigError, match="recompute=true"):
        train_runs(tmp_path / "none", method="coop", store=target, seeds=[1, 2])


def test_recomputing_in_chunks_changes_no_result(tmp_path: Path, target: str) -> None:
    whole = train_runs(tmp_path / "whole", method="coop", store=target, seeds=[1])
    tables = {"recompute": True, "class_chunk": 2}
    chunked = train_runs(tmp_path / "chunked", tables, method="coop", store=target, seeds=[1])
    assert whole.result.runs[0].metrics == chunked.result.runs[0].metrics
    group, _ = trainer_of(short_runs({**tables, "method": "coop"}, store=target, seeds=[1]))
    plain, _ = trainer_of(short_runs({"method": "coop"}, store=target, seeds=[1]))
    classes = group.splits[0].classes
    assert kept_bytes(group.model, classes) < kept_bytes(plain.model, classes)


def test_memory_of_this_machine_is_known() -> None:
    assert memory_plan.free_bytes(torch.device("cpu")) > 2**26
