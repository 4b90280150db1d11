"""Steps through the buffers of a CUDA graph: on a CPU the same bits; what cannot be recorded is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.config.train_config import resolve
from prompttune.training.step_graph import EAGER_STEPS, Replay, why_eager
from prompttune.training.trainer import Trainer

# The last batch of an epoch is smaller: two kinds of batch, each with and without norms.
BASE = {"optim": {"epochs": 8, "batch_size": 5, "drop_last": False}, "protocol": {"shots": 3}, "log": {"every": 4}}
CASES: dict[str, dict[str, Any]] = {
    "coop": {"targets": {"mixup_alpha": 0.4}},
    "kgcoop": {"selection": "val", "protocol": {"shots": 3, "val_shots": 1}},
    "ga2-text": {},
}


def graphed(trainer: Trainer, record: Callable[[Callable[[], None]], Replay]) -> Trainer:
    """As on a GPU, but for what recording is."""
    trainer.graphed.reason, trainer.graphed.record = None, record
    return trainer


def run_of(method: str, target: str, hard_prompt: str) -> list[Any]:
    tables = {**BASE, **CASES[method], **({"coupling": {"hard_prompts": [hard_prompt]}} if "ga2" in method else {})}
    return short_runs(tables, method=method, store=target, seeds=[1, 2])


@pytest.mark.parametrize("method", CASES)
def test_steps_through_the_buffers_of_a_graph_have_the_same_bits(method: str, target: str, hard_prompt: str) -> None:
    runs = run_of(method, target, hard_prompt)
    _, plain = trainer_of(runs)
    expected: list[Any] = []
    plain.train(expected.append)
    replayed = []

    def record(work: Callable[[], None]) -> Replay:
        return lambda: replayed.append(work())

    _, trainer = trainer_of(runs)
    found: list[Any] = []
    graphed(trainer, record).train(found.append, until=7)
    _, resumed = trainer_of(runs)
    resumed.load_state(trainer.state())
    graphed(resumed, record).train(found.append)
    assert replayed
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs.terms:
            assert torch.equal(ours.terms[name], theirs.terms[name])
        assert torch.equal(ours.gradient_norm, theirs.gradient_norm)
    assert all(torch.equal(value, resumed.state()[name]) for name, value in plain.state().items() if name != "seconds")


def test_a_failed_recording_falls_back_and_says_why(target: str, hard_prompt: str) -> None:
    runs = run_of("coop", target, hard_prompt)
    _, plain = trainer_of(runs)
    plain.train()
    tried = []

    def record(work: Callable[[], None]) -> Replay:
        tried.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    _, trainer = trainer_of(runs)
    graphed(trainer, record).train()
    assert trainer.graphed.reason == "recording failed: operation not permitted when stream is capturing"
    assert len(tried) == 1
    assert torch.equal(trainer.device_step.parameters.values, plain.device_step.parameters.values)


@pytest.mark.parametrize(
    ("tables", "device", "word"),
    [
        ({}, "cuda", None),
        ({"graph": "off"}, "cuda", "off"),
        ({}, "cpu", "CUDA"),
        ({"classes": {"sample": "random"}}, "cuda", "classes.sample"),
        ({"precision": "fp16"}, "cuda", "fp16"),
        ({"precision": "bf16"}, "cuda", None),
        ({"optim": {"accumulate": 2}}, "cuda", "accumulate"),
    ],
)
def test_what_is_recorded_is_known_beforehand(tables: dict[str, Any], device: str, word: str | None) -> None:
    reason = why_eager(resolve({"method": "coop", "store": "s.zarr", **tables}), torch.device(device))
    assert (reason is None) if word is None else word in (reason or "")


def test_a_step_is_recorded_after_those_that_make_what_is_made_once(target: str, hard_prompt: str) -> None:
    recorded_at: list[int] = []
    _, trainer = trainer_of(run_of("coop", target, hard_prompt))

    def record(work: Callable[[], None]) -> Replay:
        recorded_at.append(trainer.step_index)
        return work

    graphed(trainer, record).train()
    assert len(recorded_at) == len(set(recorded_at)) >= 2
    assert min(recorded_at) >= EAGER_STEPS
