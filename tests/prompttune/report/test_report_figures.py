"""Every figure of a report follows from the files it was made of: predictions -> result -> table, without a gap."""

from __future__ import annotations

import csv
import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import prompttune.cli.commands as command_line
from prompttune.evaluation.evaluate import load_predictions, metrics, save_predictions, summarise
from prompttune.evaluation.results import Result
from prompttune.evaluation.results import test_result as result_of_test
from prompttune.report.command import ReportOptions, render_report


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
