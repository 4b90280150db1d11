"""Tuning looks at the other data set alone, gives every method as many trials, and its choice is what is compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_store import Recipe, write_tiny_store

from benchmarks.evidence import (
    anchor_gradient_share,
    choose,
    final_suite,
    load_evidence,
    run_evidence,
    trials_of,
    tuning_suite,
    write_record,
)
from benchmarks.evidence_figures import difference_figure, draw_figures
from prompttune.errors import ConfigError
from prompttune.evaluation.results import Result

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "evidence.toml"
OTHER_CLASSES = ("cook", "paint", "dance", "sleep", "drive", "read")
SMALL = """
title = "small"
command = "c"
shows = "s"
cost = "c"
seeds = [1, 2, 3]
baseline = "Zero-shot CLIP"
target = "target"
tuned_on = "other"
trials = 2
trial_seeds = [11]
stores = { target = "target.zarr", other = "other.zarr" }
shots = 4
pairs = [["GA2", "CoOp"]]
shared = { optim = { epochs = 2 } }
hard_prompts = [{ name = "source", store = "other", config = { method = "coop", context = { n_ctx = 4 } } }]

[[methods]]
label = "Zero-shot CLIP"
config = { method = "zero-shot" }

[[methods]]
label = "CoOp"
config = { method = "coop", context = { n_ctx = 4 } }
search = { "optim.lr" = [0.001, 0.02, 0.3] }

[[methods]]
label = "GA2"
config = { method = "ga2-text", context = { n_ctx = 4 }, coupling = { hard_prompts = ["{prompts.source}"] } }
search = { "optim.lr" = [0.001, 0.01], "coupling.dropout" = [0.1, 0.5] }
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_the_shipped_comparison_gives_every_method_the_same_budget() -> None:
    evidence = load_evidence(SHIPPED)
    searched = [row for row in evidence.methods if row.search]
    assert {row.label for row in evidence.methods} - {row.label for row in searched} == {evidence.baseline}
    assert {len(trials_of(evidence, row)) for row in searched} == {evidence.trials}
    assert len(evidence.seeds) >= 5


def test_data_sets_change_places_between_tuning_and_comparison(small: Path) -> None:
    evidence = load_evidence(small)
    tuning = tuning_suite(evidence)
    assert tuning.grid[0].stores == ("other",)
    assert {prompt.store for prompt in tuning.hard_prompts} == {"target"}
    assert tuning.seeds == (11,)


def test_a_grid_smaller_than_the_budget_is_refused(small: Path) -> None:
    small.write_text(SMALL.replace("[0.001, 0.02, 0.3]", "[0.001]"))
    with pytest.raises(ConfigError, match="CoOp: 1"):
        load_evidence(small)


@pytest.mark.long
def test_from_trials_to_the_record(tmp_path: Path, small: Path) -> None:
    write_tiny_store(tmp_path / "target.zarr")
    write_tiny_store(tmp_path / "other.zarr", Recipe(classes=OTHER_CLASSES, seed=1))
    evidence, out = load_evidence(small), tmp_path / "out"
    choices = run_evidence(evidence, out=out, data=tmp_path)
    assert [choice.label for choice in choices] == ["Zero-shot CLIP", "CoOp", "GA2"]
    for choice in choices[1:]:
        scores = [score for _, score in choice.trials]
        assert len(scores) == 2
        assert choice.chosen == scores.index(max(scores))
    # What is compared on the target is what was chosen on the other data set.
    final = final_suite(evidence, choices)
    found = Result.read(out / "final" / "cells" / "coop-target-base-to-new-4")
    assert final.grid[0].stores == ("target",)
    assert found.config["optim"]["lr"] == choices[1].settings["optim.lr"]
    assert found.store.path == str(tmp_path / "target.zarr")
    ga2 = Result.read(out / "final" / "cells" / "ga2-target-base-to-new-4")
    assert "prompts-source" in ga2.config["coupling"]["hard_prompts"][0]
    assert choose(evidence, tuning_suite(evidence), out=out / "trials", data=tmp_path) == choices

    record = write_record(evidence, choices, out=out, path=tmp_path / "evidence.json")
    assert json.loads((tmp_path / "evidence.json").read_text())["lines"] == record["lines"]
    lines = {line["label"]: line for line in record["lines"]}
    by_seed = [run.metrics["harmonic_mean"] for run in ga2.runs]
    zero_shot = lines["Zero-shot CLIP"]["harmonic_mean"]["mean"]
    difference = lines["GA2"]["against"]["Zero-shot CLIP"]["harmonic_mean"]
    assert difference["mean"] == pytest.approx(sum(by_seed) / 3 - zero_shot, rel=1e-5)
    assert difference["p_holm"] >= difference["p"]
    assert [row[0] for row in record["readme"]["rows"]] == list(lines)

    drawn = draw_figures(record, baseline="Zero-shot CLIP", folder=tmp_path / "figures")
    assert all("<svg" in path.read_text() for path in drawn)
    panels = difference_figure(record, "Zero-shot CLIP").axes
    dots = [line.get_xdata()[0] for line in panels[2].lines if line.get_marker() == "o"]
    means = [lines[name]["against"]["Zero-shot CLIP"]["harmonic_mean"]["mean"] for name in ("CoOp", "GA2")]
    assert dots == pytest.approx([100 * mean for mean in means])
    (pair,) = json.loads((tmp_path / "evidence_pairs.json").read_text())["readme"]["rows"]
    assert pair[:2] == ["GA2", "CoOp"]
    assert pair[3].startswith(f"{100 * lines['GA2']['against']['CoOp']['new']['mean']:+.1f}")


def test_the_anchors_share_is_of_the_weighted_gradients(tmp_path: Path) -> None:
    for seed, pairs in ((1, [(4.0, 2.0), (2.0, 3.0)]), (2, [(1.0, 0.1)])):
        (tmp_path / f"seed{seed}").mkdir()
        lines = [{"term_gradient_norms": {"cross-entropy": ce, "anchor-distill": a}} for ce, a in pairs]
        lines.append({"term_gradient_norms": {}})
        (tmp_path / f"seed{seed}" / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert anchor_gradient_share(tmp_path) == 0.5
    several = {"cross-entropy": 1.0, "anchor-distill": 0.25, "anchor-text-anchor": 0.75}
    (tmp_path / "two" / "seed1").mkdir(parents=True)
    (tmp_path / "two" / "seed1" / "log.jsonl").write_text(json.dumps({"term_gradient_norms": several}))
    assert anchor_gradient_share(tmp_path / "two") == 0.75
    assert anchor_gradient_share(tmp_path / "nothing") is None
