"""The plug study: chosen on the other data sets, one setting for all hosts, the world as the unit of chance."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_store import Recipe, write_tiny_store

from benchmarks import plug, plug_record
from benchmarks.evidence import grid_of
from benchmarks.evidence_figures import draw_forest, forest_figure
from benchmarks.plug import (
    BOTH,
    PlugStudy,
    Settings,
    final_rows,
    host_trials,
    load_study,
    plug_trials,
    run_study,
    settings_of,
    suite_of,
)
from benchmarks.plug_record import effects, write_record, write_search
from benchmarks.sources import make_sources
from benchmarks.suite import cells
from prompttune.errors import ConfigError
from prompttune.evaluation.results import Result
from prompttune.report.command import ReportOptions, render_report
from prompttune.report.comparison import compare
from prompttune.report.entries import read_groups
from prompttune.report.over_stores import over_stores
from vidfeat.store import open_store, verify

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "plug.toml"
OTHER_CLASSES = ("cook", "paint", "dance", "sleep", "drive", "read")
SMALL = """
title = "small"
command = "c"
shows = "s"
cost = "c"
worlds = [0, 1, 2]
tuning_worlds = [1]
seeds = [1, 2, 3]
trial_seeds = [11]
trials = 2
shots = 4
stores = { target = "target.zarr", other = "other.zarr", irrelevant = "irrelevant.zarr" }
shared = { optim = { epochs = 1 } }
hard_prompts = [{ name = "source", store = "other", config = { method = "coop", context = { n_ctx = 4 } } }]

[plugs.anchors]
search = { "anchors.weight" = [0.1, 1.0] }
config = { anchors = { store = "{stores.irrelevant}", loss = "distill", n_anchors = 4 } }

[plugs.coupling]
search = { "coupling.dropout" = [0.1] }
config = { coupling = { variant = "linear", residual = true, init = "soft", hard_prompts = ["{prompts.source}"] } }

[[hosts]]
label = "CoOp"
config = { method = "coop", context = { n_ctx = 4 } }
search = { "optim.lr" = [0.001, 0.3] }

[[hosts]]
label = "CLIP-Adapter"
config = { method = "clip-adapter" }
search = { "optim.lr" = [0.001, 0.3] }
without = ["coupling"]
reason = "no prompt tokens"
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


def test_the_shipped_study_is_the_issue() -> None:
    study = load_study(SHIPPED)
    assert len(study.worlds) >= 5
    assert len(study.seeds) >= 3
    assert {"CoOp", "KgCoOp", "TCP", "A5", "CLIP-Adapter", "IVLP", "MaPLe", "PromptSRC"} < {
        h.label for h in study.hosts
    }
    assert {len(settings_of(study, host)) for host in study.hosts} == {study.trials}
    chosen = Settings(
        {host.label: settings_of(study, host)[0] for host in study.hosts},
        {name: grid_of(plug.search)[0] for name, plug in study.plugs.items()},
    )
    for stage, rows in (
        ("hosts", host_trials(study)),
        ("plugs", plug_trials(study, chosen)),
        ("final", final_rows(study, chosen)),
    ):
        suite = suite_of(study, stage, 0, rows)
        trained = (study.target if stage == "final" else study.other,)
        assert suite.grid[0].stores == trained
        assert {prompt.store for prompt in suite.hard_prompts} == {"target", "other"} - set(trained)


def test_the_hard_prompt_study_couples_each_arm_with_its_own_sources() -> None:
    study = load_study(SHIPPED.with_name("hard.toml"))
    chosen = Settings({h.label: settings_of(study, h)[0] for h in study.hosts}, {name: {} for name in study.plugs})
    suite = suite_of(study, "final", 2, final_rows(study, chosen))
    assert {prompt.name: prompt.store for prompt in suite.hard_prompts if "large" in prompt.name} == {
        "large": "sources",
        "large-deep": "sources",
    }
    assert suite.stores["sources"] == "world2/sources.zarr"
    by_label = {cell.label: cell for cell in cells(suite, out=Path("out"), data=Path("data")) if cell.kind == "method"}
    assert "CoOp, many classes, deep" not in by_label
    assert "CoOp, both" not in by_label
    deep = by_label["CoOp, 3 blocks, many classes, deep"]
    assert deep.needs == ("prompts-large-deep",)
    assert deep.config.coupling is not None
    assert (deep.config.coupling.depth, deep.config.coupling.deep_hard) == (3, True)
    assert by_label["CoOp, two sources"].needs == ("prompts-all", "prompts-large")
    assert by_label["CoOp, alone"].config.coupling is None


def test_sources_are_other_worlds_videos_without_the_target_s_classes(tmp_path: Path) -> None:
    for world in range(3):
        folder = tmp_path / f"world{world}"
        write_tiny_store(
            folder / "target.zarr", Recipe(seed=world, classes=("run", "jump", "cook"), n_train=1, n_test=1)
        )
        classes = (*OTHER_CLASSES[:2], f"hum {world}")
        write_tiny_store(folder / "other.zarr", Recipe(classes=classes, seed=world, n_train=2, n_test=1, failed=(0,)))
    made = make_sources([0, 1, 2], data=tmp_path)
    again = make_sources([0, 1, 2], data=tmp_path)  # finished: nothing is done
    assert made == again
    joined, first = open_store(made[0]), open_store(tmp_path / "world1" / "other.zarr")
    assert joined.classes == ("paint", "hum 1", "hum 2")
    assert sorted(set(joined.labels)) == ["hum 1", "hum 2", "paint"]
    assert len(joined) == 2 * 2 * 3  # two worlds, two classes each that the target does not name, three videos
    row, own = list(joined.ids).index("world1/paint/001.mp4"), list(first.ids).index("paint/001.mp4")
    assert np.array_equal(joined.rows("pooled", [row]).values, first.rows("pooled", [own]).values)
    assert not verify(made[0], level="full").problems
    assert (made[0] / "pack" / "text.safetensors").exists()


@pytest.mark.parametrize(("until", "expected"), [("plugs", "plugs"), ("final", "final")])
def test_stages_without_a_choice_are_left_out(
    tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch, until: str, expected: str
) -> None:
    text = SMALL.replace("trials = 2", f'trials = 1\nuntil = "{until}"\ntogether = false').replace(
        "[0.1, 1.0]", "[0.1]"
    )
    small.write_text(text.replace("[0.001, 0.3]", "[0.001]"))
    stages: list[str] = []
    ran = lambda study, stage, rows, **_: stages.append(stage) or {r["label"]: {1: np.ones(1)} for r in rows}  # noqa: E731
    monkeypatch.setattr(plug, "_run", ran)
    study = load_study(small)
    settings = run_study(study, out=tmp_path / "out", data=tmp_path)
    assert stages == [expected]
    assert settings.plugs["anchors"] == {"anchors.weight": 0.1}
    assert study.arms(study.hosts[0]) == ("alone", "anchors", "coupling")


def test_a_search_ranks_every_setting_and_looks_at_no_target(tmp_path: Path, small: Path) -> None:
    study = load_study(small)
    settings = Settings({"CoOp": {"optim.lr": 0.001}, "CLIP-Adapter": {"optim.lr": 0.001}}, {})
    values = iter(range(100))

    def scores(study: PlugStudy, stage: str, rows: list[dict], **_: object) -> dict:
        assert stage == "plugs"
        metrics = ("base", "new", "harmonic_mean")
        return {row["label"]: {1: {key: [next(values) / 100] for key in metrics}} for row in rows}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plug_record, "read_scores", scores)
        record = write_search(study, settings, out=tmp_path, data=tmp_path, path=tmp_path / "found.json")
    found = [line["harmonic_mean"] for line in record["lines"]]
    assert found == sorted(found, reverse=True)
    assert len(found) == len(plug_trials(study, settings))
    assert record["baseline"] == "CoOp, alone"
    assert [row[0] for row in record["readme"]["rows"]][:2] == ["CLIP-Adapter, anchors 1", "CLIP-Adapter, anchors 0"]
    gained = {line["label"]: line["against_baseline"]["new"] for line in record["lines"]}
    assert gained["CoOp, anchors 1"]["by_world"] == pytest.approx([0.06])  # of numbers that count up, three a row
    assert json.loads((tmp_path / "found.json").read_text()) == record


def test_a_host_with_fewer_settings_than_the_budget_is_refused(small: Path) -> None:
    small.write_text(SMALL.replace("[0.001, 0.3]", "[0.001]"))
    with pytest.raises(ConfigError, match="trials = 2"):
        load_study(small)
    nothing = (
        '[[hosts]]\nlabel = "Zero-shot CLIP"\nconfig = { method = "zero-shot" }\nwithout = ["anchors", "coupling"]\n'
    )
    small.write_text(SMALL + nothing)  # nothing to choose among
    assert settings_of(load_study(small), load_study(small).hosts[-1]) == [{}]


def test_a_study_without_plugs_compares_its_hosts(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, end = SMALL.index("[plugs.anchors]"), SMALL.index("[[hosts]]")
    text = (SMALL[:start] + SMALL[end:]).replace('without = ["coupling"]\nreason = "no prompt tokens"\n', "")
    pairs = 'together = false\npairs = [["CLIP-Adapter, alone", "CoOp, alone"]]'
    small.write_text(text.replace("trials = 2", f"trials = 1\n{pairs}"))
    study = load_study(small)
    base = {"CoOp, alone": 0.5, "CLIP-Adapter, alone": 0.6}
    of = lambda label, world: {m: [base[label] + world / 10] * 3 for m in ("base", "new", "harmonic_mean")}  # noqa: E731
    found = {label: {world: of(label, world) for world in study.worlds} for label in base}
    monkeypatch.setattr(plug_record, "read_scores", lambda *_, **__: found)
    chosen = Settings({host.label: {} for host in study.hosts}, {})
    record = write_record(study, chosen, out=tmp_path, data=tmp_path, path=tmp_path / "found.json")
    assert record["readme"]["rows"][1] == ["CLIP-Adapter", *["70.0 (60.0, 70.0, 80.0)"] * 3]
    assert record["pairs"][0]["difference"]["new"]["by_world"] == pytest.approx([0.1] * 3)
    assert sorted(path.name for path in tmp_path.glob("found*")) == ["found.json", "found_pairs.json"]


def test_tuning_on_further_worlds_may_look_at_their_targets_and_no_others(small: Path) -> None:
    both = SMALL.replace("seeds = [1, 2, 3]", 'seeds = [1, 2, 3]\ntuned_on = ["other", "target"]', 1)
    hard = 'hard_prompts = [{ name = "source", store = "other"'
    for text, problem in (
        (both, r"target of worlds that are compared: \[1\]"),
        (both.replace("tuning_worlds = [1]", "tuning_worlds = [7]"), "change places"),
    ):
        small.write_text(text)
        with pytest.raises(ConfigError, match=problem):
            load_study(small)
    start = both.index(hard)
    text = both[:start] + both[both.index("\n", start) :]
    small.write_text(
        text.replace("tuning_worlds = [1]", "tuning_worlds = [7]").replace("{prompts.source}", "x.prompts")
    )
    study = load_study(small)
    suite = suite_of(study, "hosts", 7, host_trials(study))
    assert (suite.grid[0].stores, suite.stores["target"]) == (("other", "target"), "world7/target.zarr")
    chosen = Settings({host.label: {} for host in study.hosts}, {name: {} for name in study.plugs})
    assert suite_of(study, "final", 0, final_rows(study, chosen)).grid[0].stores == ("target",)


def test_several_sets_of_a_world_are_averaged_seed_by_seed(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(small)
    accuracies = {"one": [(0.5, 0.5), (1.0, 0.5)], "two": [(0.7, 0.3), (0.0, 0.0)]}  # seed 1, seed 2: base, new

    def result(folder: Path) -> SimpleNamespace:
        runs = [
            SimpleNamespace(seed=seed, metrics={"base": base, "new": new})
            for seed, (base, new) in enumerate(accuracies[folder.name], 1)
        ]
        return SimpleNamespace(runs=runs[::-1])  # in any order

    monkeypatch.setattr(plug.Result, "read", result)
    made = [SimpleNamespace(kind="method", label="CoOp, alone", folder=Path(name)) for name in accuracies]
    monkeypatch.setattr(plug, "cells", lambda *_, **__: made)
    rows = [{"label": "CoOp, alone", "config": {"method": "coop"}}]
    (found,) = plug.read_scores(study, "plugs", rows, out=Path(), data=Path())["CoOp, alone"].values()
    assert found["base"] == pytest.approx([0.6, 0.5])
    assert found["harmonic_mean"] == pytest.approx([(0.5 + 0.42) / 2, 1 / 3])


def test_a_pair_of_arms_that_there_are_not_is_refused(small: Path) -> None:
    small.write_text(SMALL.replace("shots = 4", 'shots = 4\npairs = [["CoOp, alone", "CLIP-Adapter, coupling"]]', 1))
    with pytest.raises(ConfigError, match="CLIP-Adapter, coupling"):
        load_study(small)


def test_the_effect_is_the_mixed_models(small: Path) -> None:
    """Balanced worlds and seeds: the intercept of `difference ~ 1 + (1 | world)` and its exact t interval."""
    study = load_study(small)
    rng = np.random.default_rng(0)
    found = {
        label: {
            world: {metric: rng.normal(0.5, 0.1, 3).tolist() for metric in ("base", "new", "harmonic_mean")}
            for world in study.worlds
        }
        for label in ("CoOp, alone", "CoOp, anchors", "CoOp, coupling", "CoOp, both", "CLIP-Adapter, alone",
                      "CLIP-Adapter, anchors")
    }  # fmt: skip
    by_place = {(host, arm, metric): effect for host, arm, metric, effect in effects(study, found)}
    assert ("CLIP-Adapter", "coupling", "new") not in by_place
    values = np.array(
        [np.subtract(found["CoOp, anchors"][w]["new"], found["CoOp, alone"][w]["new"]) for w in study.worlds]
    )
    effect = by_place["CoOp", "anchors", "new"]
    between = values.mean(axis=1).var(ddof=1) / len(values)  # the squared standard error of the balanced model
    assert effect.mean == pytest.approx(values.mean())
    assert effect.high - effect.mean == pytest.approx(4.302653 * np.sqrt(between), rel=1e-5)  # t, 2 degrees of freedom
    both_hosts = by_place["all", "anchors", "new"].mean
    assert both_hosts == pytest.approx((effect.mean + by_place["CLIP-Adapter", "anchors", "new"].mean) / 2)


@pytest.mark.long
def test_from_trials_to_the_forest(tmp_path: Path, small: Path) -> None:
    small.write_text(SMALL.replace("shots = 4", 'shots = 4\npairs = [["CoOp, anchors", "CLIP-Adapter, alone"]]', 1))
    for world in range(3):
        folder = tmp_path / f"world{world}"
        write_tiny_store(folder / "target.zarr", Recipe(seed=10 * world))
        write_tiny_store(folder / "other.zarr", Recipe(classes=OTHER_CLASSES, seed=10 * world + 1))
        write_tiny_store(folder / "irrelevant.zarr", Recipe(classes=("sky", "water"), seed=10 * world + 2, n_train=10))
    study, out = load_study(small), tmp_path / "out"
    settings = run_study(study, out=out, data=tmp_path)
    assert {tuple(chosen) for chosen in settings.hosts.values()} == {("optim.lr",)}
    assert settings.plugs["anchors"]["anchors.weight"] in (0.1, 1.0)
    both = Result.read(out / "final" / "world2" / "cells" / "coop-both-target-base-to-new-4")
    assert both.store.path == str(tmp_path / "world2" / "target.zarr")
    assert both.config["optim"]["lr"] == settings.hosts["CoOp"]["optim.lr"]
    assert both.config["anchors"]["weight"] == settings.plugs["anchors"]["anchors.weight"]
    assert not (out / "hosts" / "world0").exists()  # tuned on world 1 alone

    record = write_record(study, settings, out=out, data=tmp_path, path=tmp_path / "plug.json")
    assert json.loads((tmp_path / "plug.json").read_text())["effects"] == record["effects"]
    lines = {(line["host"], line["arm"], line["metric"]): line for line in record["effects"]}
    assert ("CLIP-Adapter", BOTH, "new") not in lines
    by_seed = [run.metrics["new"] for run in both.runs]
    assert record["scores"]["CoOp, both"]["2"]["new"] == pytest.approx(by_seed, rel=1e-5)
    assert lines["CoOp", "anchors", "base"]["p_holm"] >= lines["CoOp", "anchors", "base"]["p"]
    rows = record["readme"]["rows"]
    assert [row[:2] for row in rows] == [[h, m] for h in ("CoOp", "CLIP-Adapter") for m in ("base", "new", "HM")]
    assert rows[4][-1] == "no place"
    (pair,) = record["pairs"]
    scores = record["scores"]
    by_world = [
        np.mean(np.subtract(scores["CoOp, anchors"][w]["new"], scores["CLIP-Adapter, alone"][w]["new"])) for w in "012"
    ]
    assert pair["difference"]["new"]["by_world"] == pytest.approx(by_world, abs=1e-5)
    (row,) = json.loads((tmp_path / "plug_pairs.json").read_text())["readme"]["rows"]
    assert row[:2] == ["CoOp, anchors", "CLIP-Adapter"]
    assert row[-1] == f"{100 * min(pair['difference']['new']['by_world']):+.1f}"
    means = json.loads((tmp_path / "plug_means.json").read_text())["readme"]["rows"]
    assert [row[0] for row in means] == ["+ anchors", "+ coupling", "+ both"]
    assert means[0][2] == f"{100 * lines['all', 'anchors', 'new']['mean']:+.1f}"  # no interval: nothing varies here
    (over,) = over_stores([compare(group) for group in read_groups(out / "final")])
    on_page = {line.label: line for line in over.lines}
    assert on_page["CoOp, both"].against == "CoOp, alone"
    assert on_page["CoOp, both"].gains["new"].mean == pytest.approx(lines["CoOp", BOTH, "new"]["mean"], abs=1e-6)
    assert on_page["CoOp, alone"].gains == {}  # nothing is zero-shot here, so no baseline
    page = render_report(ReportOptions(out / "final"))
    assert "Over 3 data sets: base-to-new, 4 shots" in page
    assert page.count("<title>CoOp, both against CoOp, alone: ") == 3  # dots; nothing varies here
    assert "<svg" in draw_forest(record, folder=tmp_path / "figures").read_text()
    dots = [line.get_xdata()[0] for line in forest_figure(record).axes[2].lines if line.get_marker() == "o"]
    expected = [lines[host, "anchors", "harmonic_mean"]["mean"] for host in ("CoOp", "CLIP-Adapter", "all")]
    assert dots == pytest.approx([100 * mean for mean in expected])
