"""The loop's own parts: schedule, optimisers, precision, logs; and that each of them acts."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from training import short_runs, train_runs, trainer_of

from prompttune.config.train_config import OptimConfig
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine
from prompttune.training.run_log import RunLog
from prompttune.training.schedules import learning_rate
from vidfeat.backbone import TextTower


def rates(**options: object) -> list[float]:
    optim = OptimConfig(lr=0.1, epochs=10, **options)  # type: ignore[arg-type]
    return [learning_rate(optim, step, n_steps=100, steps_per_epoch=10) for step in range(100)]


def test_warm_up_rises_linearly_and_the_cosine_falls_to_nothing() -> None:
    found = rates(warmup_epochs=2.0, warmup_lr=0.02)
    assert found[0] == pytest.approx(0.02)
    assert found[10] == pytest.approx(0.06)
    assert found[20] == pytest.approx(0.1)
    assert found[60] == pytest.approx(0.05)
    assert found[99] == pytest.approx(0.05 * (1 + math.cos(math.pi * 79 / 80)))
    assert all(later < earlier for earlier, later in itertools.pairwise(found[20:]))


def test_schedule_without_warm_up_and_constant() -> None:
    assert rates(warmup_epochs=0.0)[0] == pytest.approx(0.1)
    assert set(rates(warmup_epochs=1.0, schedule="constant")[10:]) == {0.1}
    short = OptimConfig(lr=0.1, epochs=1, warmup_epochs=5.0)
    assert learning_rate(short, 9, n_steps=10, steps_per_epoch=10) < 0.1  # a training shorter than its warm-up


def test_cosine_equals_torch_own_scheduler() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=100)
    expected = []
    for _ in range(100):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert rates(warmup_epochs=0.0) == pytest.approx(expected)


def test_every_epoch_visits_every_training_video_once(target: str) -> None:
    runs = short_runs({"method": "coop", "optim": {"batch_size": 5, "drop_last": False}}, store=target, seeds=[1, 2])
    _, trainer = trainer_of(runs)
    for epoch in range(2):
        first = epoch * trainer.steps_per_epoch
        steps = [micro for step in range(first, first + trainer.steps_per_epoch) for micro in trainer._draw(step)]
        shown = torch.cat([micro.batch.features for micro in steps], dim=1)
        for run in range(2):
            own = trainer.inputs.videos.values[trainer.inputs.videos.positions[run]]
            assert sorted(shown[run].sum(dim=1).tolist()) == sorted(own.sum(dim=1).tolist())
        assert not torch.equal(shown[0], shown[1])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_as_float32_does(tmp_path: Path, target: str, precision: str) -> None:
    tables = {"optim": {"epochs": 30, "lr": 0.02, "name": "adamw"}}
    full = train_runs(tmp_path / "full", tables, method="coop", store=target, seeds=[1]).result.runs[0]
    half = train_runs(tmp_path / "half", {**tables, "precision": precision}, method="coop", store=target, seeds=[1])
    run = half.result.runs[0]
    # Eight bits of mantissa move a few videos over the border, not more.
    assert run.train_accuracy == pytest.approx(full.train_accuracy, abs=0.15)
    group, _ = trainer_of(short_runs({"method": "coop", "precision": precision}, store=target))
    assert {parameter.dtype for parameter in group.model.parameters()} == {torch.float32}


def test_log_has_terms_gradient_norms_and_rates_of_each_run(tmp_path: Path, target: str) -> None:
    fitted = train_runs(tmp_path / "run", {"log": {"every": 5}}, method="kgcoop", store=target, seeds=[1, 2])
    lines = [json.loads(line) for line in (tmp_path / "run" / "seed2" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 3, 5, 7]  # every fifth, and the last of each epoch
    assert [bool(line["term_gradient_norms"]) for line in lines] == [True, False, False, True, False]
    assert fitted.result.runs[1].n_steps == 8
    first = lines[0]
    assert set(first["terms"]) == set(first["term_gradient_norms"]) == {"cross-entropy", "knowledge-guided"}
    assert first["loss"] == pytest.approx(sum(first["terms"].values()))
    assert first["term_gradient_norms"]["cross-entropy"] > 0
    assert lines[2]["lr"] > first["lr"]


def test_tensorboard_curves_are_written_when_asked_for(tmp_path: Path, target: str) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tables = {"log": {"tensorboard": True, "every": 1}}
    train_runs(tmp_path / "run", tables, method="kgcoop", store=target, seeds=[1, 2])
    for seed in ("seed1", "seed2"):
        folder = tmp_path / "run" / seed
        board = EventAccumulator(str(folder))
        board.Reload()
        logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        tags = {
            "loss",
            "lr",
            "accuracy",
            "gradient_norm",
            "terms/knowledge-guided",
            "term_gradient_norms/cross-entropy",
        }
        assert tags <= set(board.Tags()["scalars"])
        curve = board.Scalars("loss")
        assert [one.step for one in curve] == [line["step"] for line in logged]
        assert [one.value for one in curve] == pytest.approx([line["loss"] for line in logged], rel=1e-6)


@pytest.mark.parametrize("from_step", [0, 3])
def test_curves_of_a_killed_training_go_on_from_its_checkpoint(from_step: int, tmp_path: Path, target: str) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runs = short_runs({"method": "coop", "log": {"tensorboard": True}}, store=target, seeds=[1])
    _, trainer = trainer_of(runs)
    records = [trainer.step() for _ in range(6)]
    for first, last in ((0, 5), (from_step, 6)):
        with RunLog(tmp_path, runs, from_step=first) as log:
            for record in records[first:last]:
                log.write(record)
    board = EventAccumulator(str(tmp_path / "seed1"))
    board.Reload()
    lines = (tmp_path / "seed1" / "log.jsonl").read_text().splitlines()
    steps = [one.step for one in board.Scalars("loss")]
    assert steps == [json.loads(line)["step"] for line in lines] == list(range(6))


def test_frozen_text_is_encoded_once_and_evaluation_encodes_its_classes_once(
    tmp_path: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole command: 3 runs, two at a time, a model to plan the memory, batches of 3 videos in evaluation."""
    frozen_texts: list[tuple[int, ...]] = []
    encoded: list[tuple[bool, int]] = []
    forward, encode = TextTower.forward, TextEngine.encode

    def counted_forward(self: TextTower, token_ids: torch.Tensor) -> torch.Tensor:
        frozen_texts.extend(tuple(ids.tolist()) for ids in token_ids)
        return forward(self, token_ids)

    def counted_encode(self: TextEngine, prompts: ClassPrompts, context: TextContext) -> torch.Tensor:
        encoded.append((torch.is_grad_enabled(), prompts.n_classes))
        return encode(self, prompts, context)

    monkeypatch.setattr(TextTower, "forward", counted_forward)
    monkeypatch.setattr(TextEngine, "encode", counted_encode)
    monkeypatch.setattr("prompttune.evaluation.evaluate._EVALUATION_BATCH", 3)
    train_runs(tmp_path / "run", {"runs_at_once": 2}, method="kgcoop", store=target, seeds=[1, 2, 3])
    assert len(frozen_texts) == len(set(frozen_texts)) == 8
    n_steps, n_groups = 8, 2
    assert len([n for trains, n in encoded if trains]) == n_steps * n_groups
    # Once for the training videos' accuracy, once for base, once for new, whatever the number of batches; the runs'
    # training videos differ.
    of_evaluation = [n for trains, n in encoded if not trains]
    assert of_evaluation.count(4) <= 3 * n_groups
    assert len(of_evaluation) <= 4 * n_groups
