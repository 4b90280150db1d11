"""What `prompttune plan` says before a training is what the training then does: bytes, operations, seconds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from flop_counts import needs_counted_attention
from torch.utils.flop_counter import FlopCounterMode
from training import short_runs, trainer_of
from visual_tables import tables_of

from prompttune.cli.commands import cli
from prompttune.config.train_config import merge
from prompttune.cost import rate as machine_rate
from prompttune.cost.step import step_operations, step_text_pass
from prompttune.errors import FeatureError
from prompttune.training import plan
from prompttune.training.plan import plan_training
from prompttune.training.trainer import Trainer

WITH_ANCHORS: dict[str, Any] = {"anchors": {"loss": "feature", "n_anchors": 3}, "log": {"every": 1000}}


@pytest.fixture(autouse=True)
def measured_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates are measured over three rounds, however short they are: nothing here depends on how exact they are."""
    monkeypatch.setattr(machine_rate, "timed", partial(machine_rate.timed, seconds=0.0))
    monkeypatch.setattr(machine_rate, "SECONDS", 0.0)


def tables(method: str, stores: Path, hard_prompt: str, *, anchors: bool) -> dict[str, Any]:
    found = tables_of(method, hard_prompt)
    if anchors:
        found = merge(found, WITH_ANCHORS)
        found["anchors"]["store"] = str(stores / "irrelevant.zarr")
    return found


@needs_counted_attention
@pytest.mark.parametrize("seeds", [[1], [1, 2]])
@pytest.mark.parametrize(("method", "anchors"), [("vpt", False), ("vpt-deep", True), ("maple", False), ("ga2", True)])
def test_operations_are_those_of_a_real_step(
    method: str, anchors: bool, seeds: list[int], visual_stores: Path, visual_target: str, visual_hard_prompt: str
) -> None:
    """The vision tower's to the last one; the text engine pads tiles, and maps of prompts are not counted: 25 %."""
    runs = short_runs(
        tables(method, visual_stores, visual_hard_prompt, anchors=anchors), store=visual_target, seeds=seeds
    )
    group, trainer = trainer_of(runs)
    trainer.step()  # the next step measures no gradient norms
    model = group.model
    sent = step_text_pass(model, group.splits[0].classes)
    counted = step_operations(runs, model, sent, n_frames=4)
    assert model.visual is not None
    tokens = trainer.inputs.videos.batch(torch.arange(8).expand(len(seeds), -1)).tokens
    assert tokens is not None
    rows = model.context.soft_rows() if model.visual.from_text is not None else ()
    text_rows = [row.detach().requires_grad_() for row in rows]
    passes = [tokens] if not anchors else [tokens, trainer.inputs.anchors.draw().tokens]
    with FlopCounterMode(display=False) as visual:
        for shown in passes:
            model.visual(shown, text_rows).sum().backward()
    maps = 3 * 2 * len(seeds) * sum(row.shape[1] * 32 * 32 for row in text_rows)  # MaPLe's linear maps, both passes
    assert visual.get_total_flops() == counted.visual + maps
    with FlopCounterMode(display=False) as whole:
        trainer.step()
    assert counted.norms < 0.01 * counted.total
    assert whole.get_total_flops() == pytest.approx(counted.total, rel=0.25)


def test_gradient_norms_are_counted(visual_target: str) -> None:
    runs = short_runs({**tables_of("promptsrc", ""), "log": {"every": 1}}, store=visual_target, seeds=[1])
    group, trainer = trainer_of(runs)
    sent = step_text_pass(group.model, group.splits[0].classes)
    counted = step_operations(runs, group.model, sent, n_frames=4)
    with FlopCounterMode(display=False) as whole:
        trainer.step()
    assert counted.norms > 0.5 * (counted.visual + counted.text)
    # Norms of terms that act through one tower alone cost less than is counted.
    assert whole.get_total_flops() == pytest.approx(counted.total, rel=0.4)


def test_bytes_are_those_of_the_store(visual_stores: Path, visual_target: str) -> None:
    runs = short_runs(tables_of("ivlp", ""), store=visual_target, seeds=[1])
    planned = plan_training(runs)
    sizes = {tap: size for _, tap, size in planned.taps}
    assert set(sizes) == {"pooled", "tokens/00"}
    for tap, size in sizes.items():
        on_disk = sum(file.stat().st_size for file in (Path(visual_target) / tap).rglob("*") if file.is_file())
        assert on_disk == pytest.approx(size, rel=0.25), tap


def test_seconds_are_measured(monkeypatch: pytest.MonkeyPatch, visual_target: str) -> None:
    """A machine that takes twice as long for the measured piece is planned to take twice as long."""
    runs = short_runs(tables_of("ivlp", ""), store=visual_target, seeds=[1, 2])
    monkeypatch.setattr(machine_rate, "timed", lambda work, *, device: (work(), 0.5)[1])
    one = plan_training(runs)
    monkeypatch.setattr(machine_rate, "timed", lambda work, *, device: (work(), 1.0)[1])
    other = plan_training(runs)
    assert other.step_seconds == pytest.approx(2 * one.step_seconds)
    assert other.seconds == pytest.approx(2 * one.seconds)
    assert other.matrix_rate == pytest.approx(one.matrix_rate / 2)
    assert one.n_steps == 8
    assert one.step_seconds > 0


def test_short_steps_are_timed_whole_on_the_threads_of_training(
    monkeypatch: pytest.MonkeyPatch, visual_target: str
) -> None:
    runs = short_runs({"method": "coop"}, store=visual_target, seeds=[1, 2])
    threads: list[int] = []

    def timed_whole(trainer: Trainer, *, at_least: int) -> float:
        threads.append(torch.get_num_threads())
        return 0.125

    before = torch.get_num_threads()
    monkeypatch.setattr(plan, "step_seconds", timed_whole)
    monkeypatch.setattr(plan, "SHORT_STEP_SECONDS", 1000)  # however busy this machine is
    monkeypatch.setattr(plan, "choose_threads", lambda _: before + 1)
    assert plan_training(runs).step_seconds == 0.125
    assert threads == [before + 1]
    assert torch.get_num_threads() == before
    monkeypatch.setattr(plan, "FEATURE_BYTES", 0)  # too much to read for it
    assert plan_training(runs).step_seconds != 0.125


def test_whole_steps_are_averaged_with_those_that_measure_gradients(
    monkeypatch: pytest.MonkeyPatch, visual_target: str
) -> None:
    """Every second step measures norms here and takes 3 s by a clock of the test's, others 1 s, the first 100 s."""
    now = [0.0]
    tables = {"method": "kgcoop", "log": {"every": 2}, "optim": {"epochs": 5}}
    _, trainer = trainer_of(short_runs(tables, store=visual_target, seeds=[1]))
    step = trainer.step

    def slow() -> object:
        record = step()
        now[0] += 100.0 if record.step == 0 else 3.0 if record.term_gradient_norms else 1.0
        return record

    monkeypatch.setattr(trainer, "step", slow)
    monkeypatch.setattr(machine_rate.time, "perf_counter", lambda: now[0])
    assert machine_rate.step_seconds(trainer, at_least=3) == pytest.approx(2.0)
    assert trainer.step_index == 3


def test_memory_is_more_for_more_runs_and_less_when_recomputed(visual_target: str) -> None:
    plain = tables_of("ivlp", "")
    one = plan_training(short_runs(plain, store=visual_target, seeds=[1]))
    three = plan_training(short_runs(plain, store=visual_target, seeds=[1, 2, 3]))
    again = plan_training(
        short_runs(merge(plain, {"visual": {"frames_per_chunk": 2}}), store=visual_target, seeds=[1, 2, 3])
    )
    assert one.memory_bytes < three.memory_bytes
    assert again.memory_bytes < 0.5 * three.memory_bytes
    assert again.step.visual > three.step.visual


def test_the_command_prints_it(visual_target: str, tmp_path: Path) -> None:
    config = tmp_path / "ivlp.toml"
    config.write_text(f'method = "ivlp"\nstore = "{visual_target}"\n[context]\nprompt_depth = 3\n[visual]\ndepth = 3\n')
    words = ["plan", str(config), "--seeds", "1,2", "--shots", "4"]
    found = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert found.exit_code == 0
    assert "ivlp (published visual prompts)" in found.output
    assert all(word in found.output for word in ("tokens/00", "GFLOP", "memory", "2 run(s)", "evaluation"))
    with pytest.raises(FeatureError, match=r"vidfeat extract SOURCE .*--taps pooled,tokens@0,tokens@2,tokens@1"):
        CliRunner().invoke(cli, [*words, "--set", "visual.first_block=1"], catch_exceptions=False)
    assert not (tmp_path / "runs").exists()


def test_methods_without_visual_prompts_are_planned_too(visual_target: str) -> None:
    planned = plan_training(short_runs({"method": "coop"}, store=visual_target, seeds=[1, 2]))
    assert planned.step.visual == 0
    assert planned.step.text > 0
    assert planned.step_seconds > 0
    nothing = plan_training(short_runs({"method": "zero-shot"}, store=visual_target, seeds=[1]))
    assert (nothing.step.total, nothing.n_steps) == (0, 0)
