"""Coupling and anchors attach to any method with soft prompts by one section each, and come off without a trace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from training import short_runs, trainer_of

from prompttune.api.apply_prompts import config_of_prompt
from prompttune.base.run_axis import named_run_parameters, parameters_of_run
from prompttune.config.runs import group_runs, parse_overrides
from prompttune.config.train_config import resolve
from prompttune.errors import ConfigError, InertTermError, PromptFileError
from prompttune.losses.anchors import anchor_term
from prompttune.losses.terms import compute_losses
from prompttune.model.prompt_model import PromptModel
from prompttune.prompts.file import read_prompt_file
from prompttune.training.fit import FitOptions, fit
from prompttune.training.run_group import predictions_of

HOSTS: dict[str, dict[str, Any]] = {
    "coop": {},
    "kgcoop": {"context": {"n_ctx": 16, "init": "random"}},
    "prograd": {},
    "cocoop": {"context": {"n_ctx": 16, "init": "random"}},
    "tcp": {"context": {"n_ctx": 16, "init": "random", "class_tokens_block": 2}},
    "promptsrc-text": {"context": {"n_ctx": 16, "init": "random", "prompt_depth": 3}, "aggregation": {"mean": 3.0}},
}
# Methods with visual prompts, on stores with tokens and the tiny tower's three text blocks.
VISUAL_HOSTS: dict[str, dict[str, Any]] = {
    "ivlp": {"context": {"n_ctx": 16, "init": "random", "prompt_depth": 3}, "visual": {"depth": 3}},
    "maple": {
        "context": {"n_ctx": 16, "init": "random", "prompt_depth": 3},
        "visual": {"n_prompts": 16, "depth": 3},
    },
    "promptsrc": {
        "context": {"n_ctx": 16, "init": "random", "prompt_depth": 3},
        "visual": {"depth": 3},
        "aggregation": {"mean": 3.0},
    },
}
HOSTS_OF_ALL = [*HOSTS, *VISUAL_HOSTS]


@dataclass(frozen=True)
class Place:
    """What a host is trained on: its tables, the target, where the anchors' store lies, a hard prompt."""

    tables: dict[str, Any]
    target: str
    stores: Path
    hard_prompt: str


@pytest.fixture
def place(request: pytest.FixtureRequest, host: str) -> Place:
    kind, tables = ("", HOSTS) if host in HOSTS else ("visual_", VISUAL_HOSTS)
    found = (request.getfixturevalue(f"{kind}{name}") for name in ("target", "stores", "hard_prompt"))
    return Place({"method": host, **tables[host]}, *found)


def plugs(stores: Path, hard_prompt: str) -> dict[str, Any]:
    return {
        "coupling": {"hard_prompts": [hard_prompt], "dropout": 0.2},
        "anchors": {"store": str(stores / "irrelevant.zarr"), "loss": "distill", "n_anchors": 4},
    }


def trained(tables: dict[str, Any], store: str) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[Any]]:
    group, trainer = trainer_of(short_runs(tables, store=store, seeds=[1]))
    records: list[Any] = []
    trainer.train(records.append)
    trainer.finish()
    learned = {name: value.detach().clone() for name, value in parameters_of_run(group.model, 0).items()}
    return learned, predictions_of(group)[0]["new"].logits, records


@pytest.mark.parametrize("host", HOSTS_OF_ALL)
def test_on_and_off_again(host: str, place: Place) -> None:
    before, logits_before, _ = trained(place.tables, place.target)
    on, _, records = trained({**place.tables, **plugs(place.stores, place.hard_prompt)}, place.target)
    off, logits_off, _ = trained({**place.tables, "coupling": "none", "anchors": "none"}, place.target)

    assert {name for name in on if ".coupling." in name}
    assert on.keys() > before.keys()
    assert not torch.allclose(on["context.ctx"], before["context.ctx"], atol=1e-4)
    norms = [record.term_gradient_norms["anchor-distill"] for record in records if record.term_gradient_norms]
    assert norms
    assert all((norm > 0).all() for norm in norms)

    assert off.keys() == before.keys()
    for name in before:
        assert torch.equal(off[name], before[name]), name
    assert torch.equal(logits_off, logits_before)


@pytest.mark.parametrize("host", HOSTS_OF_ALL)
def test_anchors_without_weight_change_nothing_but_rounding(host: str, place: Place) -> None:
    """They draw from a stream of their own, so order, shots and initial values stay; negatives join the text pass."""
    anchors = {"store": str(place.stores / "irrelevant.zarr"), "loss": "margin-softplus", "weight": 0.0, "n_anchors": 4}
    before, _, _ = trained(place.tables, place.target)
    idle, _, _ = trained({**place.tables, "anchors": anchors}, place.target)
    for name in before:
        torch.testing.assert_close(idle[name], before[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("host", VISUAL_HOSTS)
def test_the_feature_anchor_acts_through_visual_prompts(host: str, place: Place) -> None:
    """Anchors' tokens go through the same prompted blocks, so keeping their features has a gradient on every row."""
    anchors = {"store": str(place.stores / "irrelevant.zarr"), "loss": "feature", "n_anchors": 4}
    tables = {**place.tables, "anchors": anchors, "log": {"every": 1}}
    _, _, records = trained(tables, place.target)
    for record in records:
        share = record.term_gradient_norms["anchor-feature"] / record.term_gradient_norms["cross-entropy"]
        assert (share > 1e-4).all()
    group, trainer = trainer_of(short_runs(tables, store=place.target, seeds=[1]))
    anchors_only = trainer.inputs.anchors
    assert anchors_only is not None
    (step,) = group.model.steps(
        trainer.inputs.videos.batch(torch.zeros(1, 2, dtype=torch.int64)),
        trainer.inputs.vocabulary,
        anchors=anchors_only.draw(),
    )
    anchor_term("feature")(step).sum().backward()
    learned = {name: held.values.grad for name, held in named_run_parameters(group.model)}
    acting = {name for name, gradient in learned.items() if gradient is not None and gradient.abs().max() > 0}
    rows = {name for name in learned if name.startswith("visual.")}
    assert rows <= acting
    assert (acting - rows) == ({"context.ctx", "context.deep.0", "context.deep.1"} if host == "maple" else set())


def test_coupling_that_starts_soft_starts_where_the_host_starts(target: str, hard_prompt: str) -> None:
    plain, _ = trainer_of(short_runs({"method": "coop"}, store=target, seeds=[1, 2]))
    coupling = {"variant": "linear", "init": "soft", "hard_prompts": [hard_prompt]}
    coupled, _ = trainer_of(short_runs({"method": "coop", "coupling": coupling}, store=target, seeds=[1, 2]))
    for one, other in zip(predictions_of(plain), predictions_of(coupled), strict=True):
        torch.testing.assert_close(one["base"].logits, other["base"].logits, rtol=1e-4, atol=1e-4)


def deep_prompts(tmp_path: Path, stores: Path, n_prompts: int) -> list[str]:
    """Prompt files of three prompted blocks, learned on other.zarr; no two alike."""
    tables = {"method": "coop", "context": {"n_ctx": 4, "prompt_depth": 3, "init_std": 0.3}, "optim": {"epochs": 1}}
    seeds = list(range(1, n_prompts + 1))
    fit(short_runs(tables, store=str(stores / "other.zarr"), seeds=seeds), tmp_path / "hard")
    return [str(tmp_path / "hard" / f"seed{seed}" / "prompt.safetensors") for seed in seeds]


def test_deep_hard_prompts_of_several_sources_enter_each_its_block(tmp_path: Path, stores: Path, target: str) -> None:
    paths = deep_prompts(tmp_path, stores, 2)
    files = [read_prompt_file(path) for path in paths]
    coupling = {"variant": "linear", "depth": 3, "deep_hard": True, "dropout": 0.0, "hard_prompts": paths}
    tables = {"method": "coop", "context": {"n_ctx": 4, "prompt_depth": 3}, "coupling": coupling}
    group, trainer = trainer_of(short_runs(tables, store=target, seeds=[1, 2]))
    context = group.model.context
    assert context is not None
    assert context.coupling is not None
    # A mapping that picks one source: the classes are then those of that source's own model, whatever is soft.
    names = ("run", "wave_hand")
    for picked, file in enumerate(files):
        for mapping in context.coupling.mappings:
            weight = torch.zeros(32, 3 * 32)
            weight[:, 32 * picked : 32 * (picked + 1)] = torch.eye(32)
            mapping.first.fill(weight=weight)
        own = PromptModel(config_of_prompt(file, {"store": target}), group.model.pack, seeds=[1], classes=file.classes)
        own.load_run_tensors(0, file.learned)
        with torch.no_grad():
            found = group.model.eval().class_features(group.model.vocabulary(names))
            expected = own.eval().class_features(own.vocabulary(names))
        for run in found:
            torch.testing.assert_close(run, expected[0], rtol=1e-5, atol=1e-6)  # products of other shapes
    group.model.train()
    before = {name: value.clone() for name, value in group.model.named_buffers()}
    trainer.step()
    assert all(torch.equal(value, before[name]) for name, value in group.model.named_buffers())
    for mapping in context.coupling.mappings:  # every block's mapping learns from its own hard prompts
        moved = mapping.first.weight.runs[0][:, :64] - torch.cat([torch.zeros(32, 32), torch.eye(32)], dim=1)
        assert moved.abs().max() > 0
    exported = group.model.run_tensors(0)
    assert exported["context.coupling.hard_0"].shape == (3, 4, 32)


def test_gradients_through_deep_hard_prompts_are_finite_differences(tmp_path: Path, stores: Path, target: str) -> None:
    (path,) = deep_prompts(tmp_path, stores, 1)
    coupling = {"variant": "released", "depth": 2, "deep_hard": True, "dropout": 0.0, "hard_prompts": [path]}
    tables = {"method": "coop", "context": {"n_ctx": 4, "prompt_depth": 3}, "coupling": coupling}
    group, _ = trainer_of(short_runs(tables, store=target, seeds=[1]))
    context = group.model.double().context
    assert context is not None
    assert context.coupling is not None
    weight = context.coupling.mappings[1].first.weight.values

    def rows() -> torch.Tensor:
        return context(frozen_classes=torch.zeros(2, 24)).deep[0]

    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(rows().sum(), weight)
    found = []
    for sign in (1.0, -1.0):
        with torch.no_grad():
            weight += sign * 1e-6 * direction
            found.append(rows().sum())
            weight -= sign * 1e-6 * direction
    assert float((found[0] - found[1]) / 2e-6) == pytest.approx(float((gradient * direction).sum()), rel=1e-5)


def test_a_hard_prompt_without_the_blocks_is_refused(target: str, hard_prompt: str) -> None:
    coupling = {"variant": "linear", "depth": 2, "deep_hard": True, "hard_prompts": [hard_prompt]}
    with pytest.raises(PromptFileError, match=r"(?s)not as many blocks.*2 blocks.*1 in a prompt of coop"):
        trainer_of(short_runs({"method": "coop", "context": {"prompt_depth": 2}, "coupling": coupling}, store=target))
    with pytest.raises(ConfigError, match="depth = 2 or more"):
        resolve({"method": "coop", "store": target, "coupling": coupling | {"depth": 1}})


@pytest.mark.parametrize("loss", ["margin-softplus", "margin-hinge", "extra-class", "distill", "text-anchor"])
def test_every_acting_anchor_loss_has_a_gradient_through_the_text_tower(loss: str, stores: Path, target: str) -> None:
    options = {"margin": 2.5} if loss.startswith("margin") else {}
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": loss, "n_anchors": 4, "options": options}
    _, _, records = trained({"method": "coop", "anchors": anchors, "log": {"every": 1}}, target)
    for record in records[1:]:
        share = record.term_gradient_norms[f"anchor-{loss}"] / record.term_gradient_norms["cross-entropy"]
        assert (share > 1e-4).all()


def test_several_anchor_losses_act_together(stores: Path, target: str) -> None:
    """Each is logged by its name; the sum of their values and gradients is what the step takes."""
    store = str(stores / "irrelevant.zarr")

    def first_step(**losses: Any) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        tables = {"method": "coop", "anchors": {"store": store, "n_anchors": 4, **losses}}
        group, trainer = trainer_of(short_runs(tables, store=target, seeds=[1]))
        given = trainer.inputs
        assert given.anchors is not None
        batch = given.videos.batch(torch.arange(4).unsqueeze(0))
        found = compute_losses(*group.model.steps(batch, given.vocabulary, anchors=given.anchors.draw()), given.terms)
        found.total.sum().backward()
        return dict(found.terms), group.model.context.ctx.values.grad[0]

    both, gradient = first_step(loss="distill", weight=0.5, also={"text-anchor": 3.0, "margin-hinge": 0.0})
    assert list(both) == ["cross-entropy", "anchor-distill", "anchor-text-anchor"]
    distilled, of_distill = first_step(loss="distill", weight=0.5)
    held, of_text = first_step(loss="text-anchor", weight=3.0)
    _, of_task = first_step(loss="distill", weight=0.0)
    torch.testing.assert_close(both["anchor-distill"], distilled["anchor-distill"])
    torch.testing.assert_close(both["anchor-text-anchor"], held["anchor-text-anchor"])
    for gradient_of_both in (of_distill, of_text):
        assert (gradient_of_both - of_task).norm() > 1e-3 * of_task.norm()
    # float32 sums of three gradients in another order
    torch.testing.assert_close(gradient + of_task, of_distill + of_text, rtol=1e-4, atol=1e-6)


def test_a_loss_given_twice_is_refused(target: str) -> None:
    anchors = {"store": "x", "loss": "distill", "also": {"distill": 2.0}}
    with pytest.raises(ConfigError, match=r"anchors: .*also names 'distill'"):
        resolve({"method": "coop", "store": target, "anchors": anchors})


def test_weights_of_further_losses_are_a_run_axis(stores: Path, target: str) -> None:
    """They go through the towers together, and each run keeps its own."""
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "distill", "n_anchors": 4}
    _, axes = parse_overrides(["anchors.also.text-anchor=1.0,4.0"])
    runs = short_runs({"method": "coop", "anchors": anchors}, axes, store=target, seeds=[1])
    assert len(group_runs(runs)) == 1
    _, trainer = trainer_of(runs)
    values = trainer.step().terms["anchor-text-anchor"]
    torch.testing.assert_close(values[1], 4.0 * values[0])
    assert values[0] > 0


@pytest.mark.parametrize("anchors", [{"prompted_negatives": False}, {"context": "class"}])
def test_text_anchor_without_prompted_negatives_is_refused(anchors: dict[str, Any], target: str) -> None:
    kind = anchors.pop("context", "shared")
    anchors |= {"store": "x", "loss": "distill", "also": {"text-anchor": 1.0}}
    with pytest.raises(ConfigError, match=r"text-anchor needs anchors\.prompted_negatives = true"):
        resolve({"method": "coop", "store": target, "context": {"kind": kind}, "anchors": anchors})


def test_an_additive_anchor_beside_another_names_the_number_of_negatives(stores: Path, target: str) -> None:
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "distill", "also": {"additive": 1.0}}
    _, trainer = trainer_of(short_runs({"method": "coop", "anchors": anchors}, store=target, seeds=[1]))
    with pytest.raises(ConfigError, match="cannot use this number of negative prompts"):
        trainer.step()


@pytest.mark.parametrize("memory", [{"recompute": True}, {"frames_per_chunk": 2}])
def test_compiled_blocks_are_not_computed_again(memory: dict[str, Any], target: str) -> None:
    visual = {"depth": 2, "compile": True}
    resolve({"method": "vpt-deep", "store": target, "visual": visual})
    with pytest.raises(ConfigError, match=r"visual\.compile does not go with"):
        resolve({"method": "vpt-deep", "store": target, "visual": visual | memory})


@pytest.mark.parametrize("loss", ["additive", "feature"])
def test_an_anchor_that_cannot_act_is_an_error_unless_it_is_allowed(
    loss: str, tmp_path: Path, stores: Path, target: str
) -> None:
    """`additive` with the released negative prompt, and `feature` without visual prompts."""
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": loss, "negatives": "released", "n_anchors": 1}
    tables = {"method": "coop", "anchors": anchors, "log": {"every": 1}}
    with pytest.raises(InertTermError, match=f"anchor-{loss}"):
        fit(short_runs(tables, store=target, seeds=[1]), tmp_path / "a", options=FitOptions())
    anchors["allow_inert"] = True
    found = fit(short_runs(tables, store=target, seeds=[1]), tmp_path / "b", options=FitOptions())
    assert found.result.runs[0].inert_terms == [f"anchor-{loss}"]
    plain = fit(short_runs({"method": "coop"}, store=target, seeds=[1]), tmp_path / "c", options=FitOptions())
    for name, one in plain.predictions["seed1"].items():
        torch.testing.assert_close(found.predictions["seed1"][name].logits, one.logits, rtol=1e-3, atol=1e-3)
