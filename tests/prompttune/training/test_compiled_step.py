"""`compile = true`: a pass noted as one line of operations, kernels made of it; the training is the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.config.train_config import resolve
from prompttune.errors import ConfigError
from prompttune.training.trainer import Trainer

BASE = {"optim": {"epochs": 3, "batch_size": 5, "drop_last": False}, "protocol": {"shots": 2}, "log": {"every": 4}}
CASES: dict[str, dict[str, Any]] = {
    "coop": {"targets": {"mixup_alpha": 0.4}, "optim": {"accumulate": 2}},
    "ga2-text": {"optim": {"drop_last": True}},  # dropout, anchors, gradient norms
}


def trained(runs: list[Any], *, until: int | None = None, state: dict[str, torch.Tensor] | None = None) -> Trainer:
    """A new trainer, as far as asked for."""
    _, trainer = trainer_of(runs)
    if state is not None:
        trainer.load_state(state)
    trainer.train(until=until)
    return trainer


def state_of(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: value for name, value in trainer.state().items() if name != "seconds"}


@pytest.mark.parametrize("method", CASES)
def test_what_is_noted_is_the_step_to_the_bit(
    method: str, target: str, hard_prompt: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every operation as PyTorch does it, without kernels: two kinds of batch, two runs, stopped and gone on with."""
    noted: list[torch.nn.Module] = []
    monkeypatch.setattr(torch, "compile", lambda module, **_: noted.append(module) or module)
    coupling = {"coupling": {"hard_prompts": [hard_prompt]}} if "ga2" in method else {}
    given: dict[str, Any] = {"method": method, "store": target, "seeds": [1, 2], **coupling}
    tables = {name: {**BASE.get(name, {}), **CASES[method].get(name, {})} for name in {**BASE, **CASES[method]}}
    plain, compiled = (short_runs(tables, compile=compiled, **given) for compiled in (False, True))
    expected = state_of(trained(plain))
    half = trained(compiled, until=3)
    assert len(noted) >= (2 if method == "coop" else 1)
    found = state_of(trained(compiled, state=half.state()))
    assert {name for name in expected if not torch.equal(expected[name], found[name])} == set()


# Gradients of an anchor loss within the step, a context per image, prompts made of prompts.
OTHERS: dict[str, dict[str, Any]] = {
    "coop": {"anchors": {"loss": "distill", "weighting": "balanced"}},
    "cocoop": {},
    "maple": {"context": {"prompt_depth": 3}, "visual": {"depth": 3}},
}


@pytest.mark.parametrize(
    ("method", "as_on_a_device"), [("coop", True), ("cocoop", False), ("maple", False), ("maple", True)]
)
def test_two_steps_of_other_methods_are_noted_to_the_bit(
    method: str, as_on_a_device: bool, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    if as_on_a_device:  # the engine's and the image tower's forms that launch fewer kernels
        for module in ("text.engine.text_engine", "parts.visual_prompts", "parts.frozen_blocks"):
            monkeypatch.setattr(f"prompttune.{module}.launches_cost", lambda like: True)
    store = Path(request.getfixturevalue("visual_target" if "visual" in OTHERS[method] else "target"))
    tables = {**OTHERS[method], "optim": {"batch_size": 4}}
    if anchors := tables.get("anchors"):
        tables["anchors"] = anchors | {"store": str(store.with_name("irrelevant.zarr"))}
    plain, compiled = (
        trained(short_runs(tables, method=method, store=str(store), seeds=[1], compile=compiled), until=2)
        for compiled in (False, True)
    )
    found, expected = state_of(compiled), state_of(plain)
    assert {name for name in expected if not torch.equal(expected[name], found[name])} == set()


@pytest.fixture
def one_kind(target: str) -> list[Any]:
    """Two runs of a method with one kind of step."""
    tables = {"optim": {"epochs": 2, "batch_size": 4}, "protocol": {"shots": 1}}
    return short_runs(tables, method="coop", store=target, seeds=[1, 2], compile=True)


def test_the_compiler_takes_it_whole(one_kind: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced by torch.compile itself, with the operations left as they are: making kernels takes minutes. Its
    decompositions sum in another order."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    _, plain = trainer_of(short_runs(None, **{**one_kind[0].config.model_dump(), "seeds": [1, 2], "compile": False}))
    compiled = trained(one_kind)
    plain.train()
    values = [trainer.device_step.parameters.values for trainer in (plain, compiled)]
    torch.testing.assert_close(values[1], values[0], rtol=1e-5, atol=1e-6)
    assert compiled.finished


def test_without_a_compiler_the_message_says_so(one_kind: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    with pytest.raises(ConfigError, match=r"no compiler(.|\n)*compile = false"):
        trained(one_kind)


def test_a_pass_that_looks_at_a_value_is_refused(one_kind: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, trainer = trainer_of(one_kind)
    inner = trainer.device_step._forward
    monkeypatch.setattr(
        trainer.device_step, "_forward", lambda micro: (float(micro.batch.features.sum()), inner(micro))[1]
    )
    with pytest.raises(ConfigError, match=r"cannot be compiled(.|\n)*compile = false"):
        trainer.train()


@pytest.mark.parametrize(
    ("tables", "word"),
    [
        ({"classes": {"sample": "random"}}, "classes.sample"),
        ({"precision": "fp16"}, "fp16"),
        ({"recompute": True}, "recompute"),
        ({"method": "vpt", "visual": {"compile": True}}, "visual.compile"),
        ({"method": "vpt", "visual": {"frames_per_chunk": 4}}, "visual.frames_per_chunk"),
        ({"method": "tip-adapter"}, "has none"),
    ],
)
def test_what_cannot_be_compiled_is_refused(tables: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        resolve({"method": "coop", "store": "s.zarr", "compile": True, **tables})
    assert resolve({"method": "coop", "store": "s.zarr", "compile": True}).compile
