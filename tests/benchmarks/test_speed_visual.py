"""`speed visual` compares like with like, and its ratios are those of the seconds it measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import visual
from prompttune.parts.visual_prompts import VisualPrompts, prompted_forward


@pytest.fixture
def tiny(monkeypatch) -> visual.Setting:
    monkeypatch.setitem(visual.SIZES, "tiny", (32, 16, 32, 4, 2, 16))
    return visual.Setting("tiny", n_frames=2, n_prompts=3, depth=2, n_runs=2, n_rounds=2, n_threads=1)


@pytest.mark.parametrize("first_block", [0, 1])
def test_the_plain_step_computes_the_same(tiny, first_block: int) -> None:
    tower = visual.random_tower("tiny")
    tokens = torch.randn(2, tower.config.n_tokens, 32)
    prompts = VisualPrompts((torch.randn(2, 3, 32), torch.randn(2, 3, 32)), first_block)
    # Float32 sums in another order.
    torch.testing.assert_close(
        prompted_forward(tower, tokens, prompts=prompts),
        visual.plain_step(tower, tokens, prompts),
        rtol=1e-4,
        atol=1e-5,
    )


def test_every_step_is_timed_in_every_round(tiny) -> None:
    seconds = visual.measure(tiny, (0, 3))
    assert list(seconds) == ["plain", "block 0", "block 3"]
    assert all(len(values[clock]) == 2 for values in seconds.values() for clock in ("wall", "cpu"))
    result = visual.summary(tiny, seconds)
    assert [step["first_block"] for step in result["steps"]] == [0, 3]
    assert len(result["readme"]["rows"]) == 3


def test_ratios_are_of_the_fastest_rounds(tiny) -> None:
    def took(*wall: float) -> dict[str, list[float]]:
        return {"wall": list(wall), "cpu": list(wall)}

    seconds = {"plain": took(6.0, 9.0), "block 0": took(4.0, 7.0), "block 2": took(8.0, 2.4)}
    result = visual.summary(tiny, seconds)
    assert result["plain_over_block_0"] == 1.5
    assert result["steps"][1]["share_of_time"] == pytest.approx(0.6)
    assert result["steps"][1]["ratio_to_share"] == pytest.approx(1.2)
    assert result["goal"]["met"] is False
