"""`speed text` times paths that compute the same thing, and judges its own figures; nothing here asserts a time."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.speed import text
from prompttune.class_prompts import ClassPrompts
from prompttune.text_engine import TextContext, TextEngine, plain_encode


def seconds(**best: float) -> dict[str, list[float]]:
    """Timings whose fastest is `best`, the others slower."""
    names = {"four": "engine, 4 runs"}
    return {names.get(name, name): [3 * value, value, 2 * value] for name, value in best.items()}


def test_a_row_compares_the_fastest_rounds() -> None:
    timings = seconds(open_clip=30.0, plain=20.0, engine=1.0, four=2.0, sgemm=2 * text.SGEMM_SIZE**3 / 1e11)
    row = text.Row.of("HMDB-51 base", 26, 1, flops=int(8e10), seconds=timings)
    assert (row.ratio_to_open_clip, row.ratio_to_plain) == (30.0, 20.0)
    assert (row.ratio_to_open_clip_per_run_of_4, row.ratio_to_plain_per_run_of_4) == (60.0, 40.0)
    assert row.share_of_sgemm == pytest.approx(0.8)
    assert row.share_of_sgemm_of_4 == pytest.approx(1.6)
    assert row.median_seconds["engine"] == 2.0
    assert row.misses() == []


def test_missed_goals_are_named() -> None:
    timings = seconds(open_clip=10.0, plain=10.0, engine=1.0, four=4.0, sgemm=2 * text.SGEMM_SIZE**3 / 1e11)
    row = text.Row.of("UCF-101 base", 51, 9, flops=int(1e10), seconds=timings)
    assert [miss.split(": ")[1] for miss in row.misses()] == [
        "10.0x, goal 15x",
        "10.0x per run of four, goal 20x",
        "10% of sgemm, goal 70%",
    ]
    result = text.summary(text.Setting(("UCF-101 base",), 1, 1, "cpu"), [row])
    assert not result["goal"]["met"]
    assert len(result["readme"]["rows"][0]) == len(result["readme"]["columns"])
    json.dumps(result)


def test_class_lists_are_those_of_the_goals() -> None:
    names = json.loads(text.CLASS_NAMES.read_text("utf-8"))
    assert {name: len(classes) for name, classes in names.items()} == {
        "HMDB-51 base": 26,
        "UCF-101 base": 51,
        "Kinetics-400 base": 200,
    }
    assert set(names) == set(text.GOALS)


@pytest.mark.long
def test_the_timed_paths_compute_the_same_features() -> None:
    pytest.importorskip("open_clip")
    towers = text.random_towers()
    prompts = ClassPrompts.build(["playing violin", "hurling (sport)"], towers.tokenizer, n_ctx=text.N_CTX)
    rows = [0.02 * torch.randn(1, text.N_CTX, text.WIDTH) for _ in range(3)]
    context = TextContext(ctx=rows[0], deep=tuple(rows[1:]))
    with torch.no_grad():
        expected = text.open_clip_encode(towers.open_clip, prompts, context)
        for found in (plain_encode(towers.ours, prompts, context), TextEngine(towers.ours).encode(prompts, context)):
            # float32 over 12 blocks of a real width
            assert (found - expected).norm() / expected.norm() < 1e-5
