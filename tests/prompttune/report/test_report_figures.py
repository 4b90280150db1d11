"""Every figure of a report follows from the files it was made of: predictions -> result -> table, without a gap."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from page_figures import marks, tables

import prompttune.cli.commands as command_line
from prompttune.evaluation.evaluate import load_predictions, metrics, save_predictions, summarise
from prompttune.evaluation.results import Result
from prompttune.evaluation.results import test_result as result_of_test
from prompttune.report.command import ReportOptions, render_report
from prompttune.report.entries import read_groups
from prompttune.report.learned_features import AnchorSimilarity, LearnedModels, class_movement


def run(*arguments: object) -> str:
    done = CliRunner().invoke(command_line.cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, target: str) -> Path:
    """The tutorial's commands: a split, the zero-shot baseline by `eval`, a training."""
    root = tmp_path_factory.mktemp("runs")
    split = root / "split.json"
    run("splits", "make", target, split, "--base-to-new", "--shots", "2", "--seeds", "1,2,3")
    run("eval", "--store", target, "--split", split, "--out", root / "zero-shot")
    run("train", "--method", "coop", "--store", target, "--split", split, "--shots", "2", "--seeds", "1,2,3",
        "--set", "optim.epochs=12", "--out", root / "coop")  # fmt: skip
    return root


@pytest.mark.parametrize("folder", ["zero-shot", "coop"])
def test_a_result_is_what_its_predictions_say(runs: Path, folder: str) -> None:
    result = Result.read(runs / folder)
    for one in result.runs:
        found = load_predictions(str(runs / folder / one.name / "predictions.npz"))
        assert set(found) == {"base", "new"}
        assert metrics(found) == one.metrics
        for name, predictions in found.items():
            again = result_of_test(predictions).model_copy(update={"n_listed": one.tests[name].n_listed})
            assert again == one.tests[name]
    (cell,) = result.cells
    summary = summarise([one.metrics for one in result.runs]) if len(result.runs) > 1 else {}
    assert all(cell.metrics[name].mean == value.mean for name, value in summary.items())


def test_the_table_and_its_intervals_are_what_the_predictions_say(runs: Path) -> None:
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(render_report(ReportOptions(runs, form="csv"))))}
    right = {}
    for method in ("zero-shot", "coop"):
        result = Result.read(runs / method)
        found = [load_predictions(str(runs / method / one.name / "predictions.npz")) for one in result.runs]
        right[method] = [metrics(one) for one in found]
        for name in ("base", "new", "harmonic_mean"):
            assert float(rows[method][f"{name}_mean"]) == pytest.approx(np.mean([m[name] for m in right[method]]))
    gains = [one["harmonic_mean"] - right["zero-shot"][0]["harmonic_mean"] for one in right["coop"]]
    line = rows["coop"]
    assert line["baseline"] == "zero-shot"
    assert float(line["difference_seeds_mean"]) == pytest.approx(np.mean(gains))
    assert float(line["difference_videos_mean"]) == pytest.approx(np.mean(gains))  # `eval` kept its predictions
    for kind in ("seeds", "videos"):
        low, mean, high = (float(line[f"difference_{kind}_{key}"]) for key in ("low", "mean", "high"))
        assert low <= mean <= high


def test_the_page_speaks_of_the_baseline_and_of_no_rounding(runs: Path) -> None:
    text = render_report(ReportOptions(runs, form="md"))
    assert "half precision" not in text
    assert "No predictions on disk" not in text
    for method in ("zero-shot", "coop"):
        (cell,) = Result.read(runs / method).cells
        line = next(line for line in text.splitlines() if re.match(rf"\| \**{method}\** \|", line))
        for name in ("base", "new"):
            assert f"{100 * cell.metrics[name].mean:.1f}" in line


@pytest.fixture(scope="module")
def page(runs: Path) -> str:
    return render_report(ReportOptions(runs))


def guesses(folder: Path, test: str) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Classes, labels [n] and every run's answers [n S], read without prompttune."""
    found = []
    for path in sorted(folder.glob("*/predictions.npz")):
        with np.load(path) as arrays:
            classes, labels = [str(name) for name in arrays[f"{test}/classes"]], arrays[f"{test}/labels"]
            found.append(arrays[f"{test}/logits"].argmax(axis=1))
    return classes, labels, np.stack(found, axis=1)


def test_dots_stand_where_their_accuracies_are(runs: Path, page: str) -> None:
    found = marks(page, "new accuracy over base accuracy with lines of equal harmonic mean")
    for method in ("zero-shot", "coop"):
        seeds, mean = (mark.points for mark in found if mark.label == method)
        right = [(g == y[:, None]).mean(axis=0) for _, y, g in (guesses(runs / method, t) for t in ("base", "new"))]
        expected = 100 * np.stack(right, axis=1)
        assert seeds == pytest.approx(expected, abs=0.01)  # the paper's last digit
        assert mean[0] == pytest.approx(expected.mean(axis=0), abs=0.01)


@pytest.mark.parametrize("test", ["base", "new"])
def test_bars_are_as_long_as_their_classes_gained(runs: Path, page: str, test: str) -> None:
    bars = {mark.tip.split(":")[0]: mark for mark in marks(page, f"change of accuracy of each {test} class under coop")}
    classes, labels, ours = guesses(runs / "coop", test)
    _, _, before = guesses(runs / "zero-shot", test)
    assert set(bars) == set(classes)
    for place, name in enumerate(classes):
        after, was = ((one[labels == place] == place).mean(axis=0) for one in (ours, before))
        ends = bars[name].points[:, 0]
        assert (ends.min() + ends.max()) == pytest.approx(100 * (after.mean() - was.mean()), abs=0.05)
        in_words = f"{100 * was.mean():.0f} % → {100 * after.mean():.0f} % (runs: "
        assert bars[name].tip.removeprefix(f"{name}: ").startswith(in_words)


def test_curves_run_through_what_was_logged(runs: Path, page: str) -> None:
    logs = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(runs.glob("coop/*/log.jsonl"))
    ]
    for panel, (key, scale) in enumerate((("loss", 1), ("accuracy", 100))):
        *seeds, mean = marks(page, "loss and batch accuracy over training steps", panel=panel)
        expected = np.array([[(record["step"], scale * record[key]) for record in records] for records in logs])
        assert np.array([mark.points for mark in seeds]) == pytest.approx(expected, abs=0.02 * scale**0.5)
        assert len(mean.points) == len(expected[0])


def test_confusions_are_counted_as_the_predictions_say(runs: Path, page: str) -> None:
    (rows,) = tables(page, "What is taken for what")
    seen = 0
    for method, test in ((method, test) for method in ("zero-shot", "coop") for test in ("base", "new")):
        classes, labels, given = guesses(runs / method, test)
        for _, _, label, taken_for, n, _, of_class in [row for row in rows if row[:2] == [method, test]]:
            own = given[labels == classes.index(label)]
            assert (n, of_class) == (f"{(own == classes.index(taken_for)).sum(axis=0).mean():.1f}", str(len(own)))
            seen += 1
    assert seen == len(rows) > 4


def test_new_classes_are_those_that_did_not_train_whatever_their_test_set_is_called(runs: Path) -> None:
    (group,) = read_groups(runs)
    entry = next(entry for entry in group.entries if entry.is_trained)
    classes = {"test": group.classes["base"], "other": (*group.classes["new"], group.classes["base"][0])}
    elsewhere = replace(entry, result=entry.result.model_copy(update={"classes": classes}))
    movement = class_movement(elsewhere, LearnedModels())
    assert {name for name, new in zip(movement.names, movement.is_new, strict=True) if new} == set(group.classes["new"])


def test_hand_written_prompts_are_one_row_only_where_they_are_the_same() -> None:
    one, other = np.array([0.1, 0.2], dtype=np.float32), np.array([0.1, 0.3], dtype=np.float32)
    same = AnchorSimilarity({"a": one, "b": one.copy()}, {}, 2).references()
    assert list(same) == ["hand-written prompts"]
    apart = AnchorSimilarity({"a": one, "b": other}, {}, 2).references()
    assert list(apart) == ["hand-written prompts of a", "hand-written prompts of b"]
    assert apart["hand-written prompts of a"] is one


def test_predictions_of_an_earlier_release_are_read_and_what_ties_in_them_is_said(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "old")
    path = tmp_path / "old" / "coop" / "seed1" / "predictions.npz"
    found = load_predictions(str(path))
    right_before = found["base"].top(1)
    # A lead that float16 cannot hold: 1 part in 10,000.
    logits = found["base"].logits
    logits[:] = 20.0
    logits[np.arange(len(logits)), found["base"].labels] = 20.0 + 2e-3
    save_predictions(str(path), found)
    assert load_predictions(str(path))["base"].top(1) == 1.0
    with np.load(path) as arrays:
        old = {name: a.astype(np.float16) if name.endswith("/logits") else a for name, a in arrays.items()}
    np.savez_compressed(path, **old)
    back = load_predictions(str(path))["base"]
    assert back.logits.dtype == logits.dtype
    assert back.top(1) == 0.0 != right_before
    assert "Predictions of an earlier release are in half precision" in render_report(
        ReportOptions(tmp_path / "old", form="md")
    )
