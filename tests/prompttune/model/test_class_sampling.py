"""Class sub-sampling: exact when it covers all classes, each run's draw its own, refused where it cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_store import CLASSES, Recipe, write_tiny_store
from torch import Tensor
from torch.nn import functional as F
from training import short_runs, train_runs, trainer_of

from prompttune.base.run_axis import RunGenerators, parameters_of_run
from prompttune.config.train_config import ClassesConfig, resolve
from prompttune.cost.step import kept_bytes_per_run, step_text_pass
from prompttune.errors import ConfigError, SplitError
from prompttune.losses.terms import StepTensors
from prompttune.model.class_sampling import ClassSampler, classes_per_step, places_of, step_losses
from prompttune.model.prompt_model import PromptModel
from prompttune.training.trainer import Trainer

SEEDS = [1, 2, 3]
SAMPLED = {"classes": {"sample": "random", "n_negatives": 2}, "optim": {"batch_size": 3}}
# All eight classes of the tiny store train, so that there are classes to leave out.
FEW_SHOT = {"protocol": {"name": "few-shot", "shots": 3}}


def frozen_classes(n_classes: int = 20, width: int = 6) -> Tensor:
    return F.normalize(torch.randn(n_classes, width, generator=torch.Generator().manual_seed(0)), dim=-1)


def sampler(sample: str = "random", *, n_negatives: int = 4, seeds: list[int] | None = None) -> ClassSampler:
    options = ClassesConfig.model_validate({"sample": sample, "n_negatives": n_negatives})
    return ClassSampler(options, frozen=frozen_classes(), seeds=seeds or SEEDS)


@pytest.fixture(params=["coop", "csc", "deep kgcoop", "per-class dropout", "tcp", "cocoop", "anchors", "all extras"])
def tables(request: pytest.FixtureRequest, hard_prompt: str, stores: Path) -> dict[str, Any]:
    """Configurations with every kind of context, loss and random number."""
    anchors = {"store": str(stores / "irrelevant.zarr"), "n_anchors": 4, "loss": "distill"}
    chosen: dict[str, dict[str, Any]] = {
        "coop": {"method": "coop"},
        "csc": {"method": "coop-csc", "losses": {"zero-shot-consistency": 1.0}, "optim": {"gradient": "prograd"}},
        "deep kgcoop": {"method": "kgcoop", "context": {"init": "random", "prompt_depth": 2}},
        "per-class dropout": {
            "method": "ga2-text",
            "coupling": {"hard_prompts": [hard_prompt], "dropout_mask": "per-class"},
            "anchors": anchors,
        },
        "tcp": {"method": "tcp", "context": {"class_tokens_block": 2}},
        "cocoop": {"method": "cocoop", "losses": {"knowledge-guided": 1.0}, "anchors": anchors},
        "anchors": {"method": "coop", "anchors": anchors | {"loss": "margin-softplus"}},
        "all extras": {
            "method": "coop",
            "head": {"temporal": "concept-spotting"},
            "targets": {"mixup_alpha": 0.4, "label_smoothing": 0.1},
            "losses": {"text-l1": 1.0, "logit-kl": 1.0},
        },
    }
    tables = FEW_SHOT | chosen[request.param]
    return tables | {"optim": tables.get("optim", {}) | {"batch_size": 3}}


def first_step(tables: dict[str, Any], store: str, classes: Tensor | None) -> tuple[Trainer, tuple[StepTensors, ...]]:
    """A new trainer and its first step, among `classes` [R K]."""
    group, trainer = trainer_of(short_runs(tables, store=store, seeds=SEEDS))
    inputs = trainer.inputs
    micro = next(trainer._draw(0))
    group.model.train()
    return trainer, group.model.steps(
        micro.batch, inputs.vocabulary, anchors=micro.anchors, mix=micro.mix, classes=classes
    )


def losses_and_gradients(tables: dict[str, Any], store: str, classes: Tensor | None) -> tuple[dict, list[dict]]:
    """Loss terms and gradients of the first step, among `classes` [R K]."""
    trainer, steps = first_step(tables, store, classes)
    losses = step_losses(steps, trainer.inputs.terms)
    losses.total.sum().backward()
    found = [(name, value.grad) for name, value in trainer.model.named_parameters() if value.grad is not None]
    gradients = [{name: value[run] for name, value in found} for run in range(len(SEEDS))]
    return dict(losses.terms), gradients


def test_sampling_all_classes_equals_no_sampling(tables: dict[str, Any], target: str) -> None:
    """Through the sampled path, with every class drawn: the same terms and gradients as the ordinary path's."""
    everything = torch.arange(len(CLASSES)).expand(len(SEEDS), -1)
    terms, gradients = losses_and_gradients(tables, target, None)
    sampled_terms, sampled_gradients = losses_and_gradients(tables, target, everything)
    assert terms.keys() == sampled_terms.keys()
    for name in terms:  # runs one by one instead of together: rounding alone
        torch.testing.assert_close(sampled_terms[name], terms[name], rtol=1e-5, atol=1e-6)
    for expected, found in zip(gradients, sampled_gradients, strict=True):
        assert expected.keys() == found.keys()
        assert expected
        for name in expected:
            scale = float(expected[name].abs().max())
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-5 * scale + 1e-9)


def test_a_step_among_some_classes_is_cut_out_of_the_full_step(tables: dict[str, Any], target: str) -> None:
    """Each run's tensors are those of the full step at its own classes, dropout masks and negatives included."""
    _, (full,) = first_step(tables, target, None)
    others = [[c for c in range(len(CLASSES)) if c not in set(own)] for own in full.labels.tolist()]
    # Every run leaves out another two classes that are not in its batch.
    left_out = [rest[run : run + 2] for run, rest in enumerate(others)]
    classes = torch.tensor([[c for c in range(len(CLASSES)) if c not in out] for out in left_out])
    assert len({tuple(chosen) for chosen in classes.tolist()}) > 1
    _, steps = first_step(tables, target, classes)
    for run, (step, chosen) in enumerate(zip(steps, classes, strict=True)):
        assert torch.equal(chosen[step.labels[0]], full.labels[run])
        expected = {
            "logits": full.logits[run][:, chosen],
            "class_features": full.class_features[run][..., chosen, :],
            "frozen_logits": full.frozen_logits[run][:, chosen],
            "targets": None if full.targets is None else full.targets[run][:, chosen],
            "video_features": full.video_features[run],
        }
        for name, value in expected.items():
            if value is not None:
                torch.testing.assert_close(getattr(step, name)[0], value, rtol=1e-4, atol=1e-4)
        assert torch.equal(step.frozen_class_features, full.frozen_class_features[chosen])
        if full.anchors is not None and step.anchors is not None:
            torch.testing.assert_close(step.anchors.anchor_features[0], full.anchors.anchor_features[run])
            if full.anchors.negative_features is not None and step.anchors.negative_features is not None:
                torch.testing.assert_close(
                    step.anchors.negative_features[0], full.anchors.negative_features[run], rtol=1e-4, atol=1e-5
                )
            if full.anchors.class_features is not None and step.anchors.class_features is not None:
                torch.testing.assert_close(
                    step.anchors.class_features[0],
                    full.anchors.class_features[run][:, chosen],
                    rtol=1e-4,
                    atol=1e-5,
                )


def test_terms_are_taken_among_the_classes_of_the_step(target: str) -> None:
    """Independent of the sampled path: cross-entropy and KgCoOp's term of some classes, by hand from the full step."""
    tables = FEW_SHOT | {"method": "kgcoop", "context": {"init": "random"}, "optim": {"batch_size": 2}}
    trainer, (full,) = first_step(tables, target, None)
    frozen = trainer.inputs.vocabulary.frozen
    options = ClassesConfig(sample="random", n_negatives=2)
    classes = ClassSampler(options, frozen=frozen, seeds=SEEDS).draw(full.labels)
    assert classes is not None
    assert classes.shape == (3, 4)
    _, steps = first_step(tables, target, classes)
    losses = step_losses(steps, trainer.inputs.terms)
    for run, chosen in enumerate(classes):
        log_p = full.logits[run][:, chosen].log_softmax(dim=-1)
        own = torch.stack([log_p[b, (chosen == label).nonzero().item()] for b, label in enumerate(full.labels[run])])
        torch.testing.assert_close(losses.terms["cross-entropy"][run], -own.mean(), rtol=1e-4, atol=1e-5)
        cosine = F.cosine_similarity(full.class_features[run][chosen], frozen[chosen], dim=-1)
        torch.testing.assert_close(losses.terms["knowledge-guided"][run], 8.0 * (1.0 - cosine).mean())


def learned(tables: dict[str, Any], store: str, seeds: list[int]) -> list[dict[str, Tensor]]:
    group, trainer = trainer_of(short_runs(tables, store=store, seeds=seeds))
    trainer.train()
    trainer.finish()
    return [dict(parameters_of_run(group.model, run)) for run in range(len(seeds))]


def together_and_alone(tables: dict[str, Any], store: str) -> list[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Two runs' parameters, trained side by side and each alone: five steps, in which both draws differ."""
    alone = [learned(tables, store, [seed])[0] for seed in SEEDS[:2]]
    return list(zip(learned(tables, store, SEEDS[:2]), alone, strict=True))


def few_steps(tables: dict[str, Any], sample: str) -> dict[str, Any]:
    """Two videos a class, once through, no warm-up: sixteen of them in batches of three."""
    return tables | {
        "classes": {"sample": sample, "n_negatives": 2},
        "protocol": FEW_SHOT["protocol"] | {"shots": 2},
        "optim": tables.get("optim", {}) | {"batch_size": 3, "epochs": 1, "warmup_epochs": 0.0},
    }


def test_runs_together_equal_each_alone(tables: dict[str, Any], target: str) -> None:
    for found, alone in together_and_alone(few_steps(tables, "random"), target):
        assert found.keys() == alone.keys()
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_runs_with_hard_negatives_equal_each_alone(target: str) -> None:
    """Which classes are drawn is all that differs from random ones, and no method has a say in it."""
    for found, alone in together_and_alone(few_steps({"method": "coop"}, "hard"), target):
        torch.testing.assert_close(found, alone, rtol=1e-5, atol=1e-5)


def test_resumed_equals_uninterrupted_bit_for_bit(target: str) -> None:
    runs = short_runs(FEW_SHOT | SAMPLED, method="coop", store=target, seeds=SEEDS)
    _, whole = trainer_of(runs)
    whole.train()
    _, first = trainer_of(runs)
    first.train(until=5)
    _, resumed = trainer_of(runs)
    resumed.train(until=2)
    resumed.load_state(first.state())
    resumed.train()
    for name, value in whole.state().items():
        if name != "seconds":
            assert torch.equal(value, resumed.state()[name]), name
    assert not torch.equal(whole.state()["generators.classes"], RunGenerators(SEEDS, "classes").state())


def test_accumulated_gradients_equal_the_whole_batch(target: str) -> None:
    """The classes are drawn for the batch, not for its parts."""
    tables = FEW_SHOT | SAMPLED | {"method": "kgcoop", "context": {"init": "random"}, "optim": {"batch_size": 4}}
    (whole,) = learned(tables, target, [1])
    (parts,) = learned(tables | {"optim": {"batch_size": 4, "accumulate": 2}}, target, [1])
    torch.testing.assert_close(whole["context.ctx"], parts["context.ctx"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sample", ["random", "hard"])
def test_a_draw_holds_the_batch_and_others_once_each(sample: str) -> None:
    labels = torch.tensor([[3, 3, 7], [0, 19, 5], [1, 1, 1]])
    classes = sampler(sample).draw(labels)
    assert classes is not None
    assert classes.shape == (3, 7)
    for own, chosen in zip(labels.tolist(), classes.tolist(), strict=True):
        assert set(own) <= set(chosen) <= set(range(20))
        assert chosen == sorted(set(chosen))
    places = places_of(labels, classes)
    assert torch.equal(classes.gather(1, places), labels)
    with pytest.raises(ValueError, match="not drawn"):
        places_of(labels, classes[:, :1].expand(-1, 7))


def test_random_draws_differ_by_step_and_run_and_cover_every_class() -> None:
    draws = sampler()
    labels = torch.zeros(3, 2, dtype=torch.int64)
    seen = torch.stack([taken for _ in range(400) if (taken := draws.draw(labels)) is not None])
    assert seen.shape == (400, 3, 6)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[:, 0], seen[:, 1])
    counts = torch.bincount(seen[:, 0].flatten(), minlength=20)
    assert counts[0] == 400
    # Each of the others with probability 5/19 a step: mean 105, standard deviation 8.8; six of them on either side.
    assert int(counts[1:].min()) > 52
    assert int(counts[1:].max()) < 158


def test_hard_negatives_are_the_classes_nearest_to_the_batch() -> None:
    frozen = frozen_classes()
    labels = torch.tensor([[4, 11]])
    chosen = sampler("hard", n_negatives=3, seeds=[1]).draw(labels)
    assert chosen is not None
    nearness = {c: max(float(frozen[c] @ frozen[4]), float(frozen[c] @ frozen[11])) for c in range(20)}
    others = sorted((c for c in range(20) if c not in (4, 11)), key=lambda c: -nearness[c])[:3]
    assert chosen.tolist() == [sorted([4, 11, *others])]


def test_covering_all_classes_is_no_sampling(target: str) -> None:
    assert sampler(n_negatives=18).draw(torch.zeros(3, 2, dtype=torch.int64)) is None
    tables = FEW_SHOT | {"method": "coop"}
    (off,) = learned(tables, target, [1])
    (covered,) = learned(tables | {"classes": {"sample": "hard", "n_negatives": 100}}, target, [1])
    assert torch.equal(off["context.ctx"], covered["context.ctx"])
    (sampled,) = learned(
        tables | {"classes": {"sample": "hard", "n_negatives": 1}, "optim": {"batch_size": 2}}, target, [1]
    )
    assert not torch.allclose(off["context.ctx"], sampled["context.ctx"], atol=1e-3)


def test_a_whole_training_learns_and_evaluates_on_all_classes(tmp_path: Path, target: str) -> None:
    tables = FEW_SHOT | SAMPLED | {"optim": {"epochs": 25, "batch_size": 4, "lr": 0.02}}
    fitted = train_runs(tmp_path / "out", tables, method="coop", store=target, seeds=[1, 2])
    for predictions in fitted.predictions.values():
        (found,) = predictions.values()
        assert len(found.classes) == len(CLASSES)
        assert found.top(1) > 0.6  # chance is 1 in 8


def kept_bytes(model: PromptModel, classes: Sequence[str]) -> int:
    return kept_bytes_per_run(model, step_text_pass(model, classes), n_frames=1)


def test_memory_is_planned_for_the_classes_of_a_step(target: str) -> None:
    options = ClassesConfig(sample="random", n_negatives=4)
    assert classes_per_step(options, n_classes=100, batch_size=8) == 12
    assert classes_per_step(options, n_classes=10, batch_size=8) == 10
    assert classes_per_step(ClassesConfig(), n_classes=100, batch_size=8) == 100
    tables = FEW_SHOT | {"method": "coop-csc", "optim": {"batch_size": 1}}
    full, _ = trainer_of(short_runs(tables, store=target, seeds=[1]))
    sampled = FEW_SHOT | {"classes": {"sample": "random", "n_negatives": 1}, "optim": {"batch_size": 1}}
    few, _ = trainer_of(short_runs(sampled, method="coop-csc", store=target, seeds=[1]))
    assert kept_bytes(few.model, CLASSES) <= kept_bytes(full.model, CLASSES) / 4 + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "clip-adapter"}, "context.kind"),
        ({"method": "zero-shot"}, "context.kind"),
        ({"method": "tip-adapter-f"}, "head.adapter"),
        ({"method": "coop", "head": {"adapter": "tip-adapter"}}, "head.adapter"),
        ({"method": "coop", "anchors": {"store": "x", "loss": "additive"}}, "additive"),
        ({"method": "coop", "classes": {"n_negatives": 0}}, "classes.n_negatives"),
    ],
)
def test_what_cannot_work_with_it_is_refused(given: dict[str, Any], message: str) -> None:
    tables = {"store": "s.zarr", **given}
    with pytest.raises(ConfigError, match=message):
        resolve(tables | {"classes": {"sample": "random"} | given.get("classes", {})})
    if "classes" not in given:
        resolve(tables)


def test_the_released_anchor_takes_part(target: str, stores: Path) -> None:
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "additive", "negatives": "released", "n_anchors": 1}
    tables = FEW_SHOT | SAMPLED | {"method": "coop", "anchors": anchors | {"allow_inert": True}}
    _, trainer = trainer_of(short_runs(tables, store=target, seeds=[1]))
    assert set(trainer.step().terms) == {"cross-entropy", "anchor-additive"}


def test_each_run_keeps_its_own_weights(target: str) -> None:
    tables = FEW_SHOT | SAMPLED | {"method": "kgcoop", "context": {"init": "random"}}
    runs = short_runs(tables, {"losses.knowledge-guided": [1.0, 8.0]}, store=target, seeds=[1])
    _, trainer = trainer_of(runs)
    record = trainer.step()
    weighted = record.terms["knowledge-guided"]
    torch.testing.assert_close(weighted[1], 8.0 * weighted[0])
    assert float(weighted[0]) > 0


def test_a_store_without_splits_names_the_override_and_leaves_the_folder_free(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "plain.zarr", Recipe(with_splits=False))
    for _ in range(2):  # the second time, no claim of the first is in the way
        with pytest.raises(SplitError, match=r"--set protocol\.test_fraction=0\.5"):
            train_runs(tmp_path / "out", method="coop", store=str(store), seeds=[1])
        assert not (tmp_path / "out").exists()
    tables = {"protocol": {"test_fraction": 0.5, "shots": 2}}
    fitted = train_runs(tmp_path / "out", tables, method="coop", store=str(store), seeds=[1])
    assert fitted.result.runs[0].n_train == 8  # 2 shots of 4 base classes


def test_a_refused_command_takes_away_its_claim_alone(tmp_path: Path, target: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError):
        train_runs(out, {"context": {"init": "three words here"}}, method="coop", store=target, seeds=[1])
    assert [path.name for path in out.iterdir()] == ["notes.txt"]
