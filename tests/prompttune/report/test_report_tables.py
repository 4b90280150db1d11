"""The printed table: what stands together, what is bold and why, and that all forms say the same."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from report_results import write_entry

from benchmarks.__main__ import main
from prompttune.config.runs import flat
from prompttune.config.train_config import resolve
from prompttune.errors import ConfigError, RunFolderError
from prompttune.evaluation.results import NO_SETTING
from prompttune.report.comparison import backed_best, compare, differences
from prompttune.report.entries import Group, read_groups
from prompttune.report.over_stores import over_stores
from prompttune.report.settings import told_settings
from prompttune.report.statistics import paired_difference
from prompttune.report.tables import escape_latex, to_csv, to_latex, to_markdown

Counts = tuple[Sequence[int], Sequence[int]]
ZERO: list[Counts] = [((10, 10, 10), (12, 12, 12))]
COOP: list[Counts] = [((16, 15, 16), (6, 8, 7)), ((15, 14, 16), (8, 9, 6)), ((17, 15, 15), (5, 8, 8))]
BEST: list[Counts] = [((18, 18, 18), (14, 14, 13)), ((17, 18, 18), (15, 14, 15)), ((19, 18, 17), (13, 14, 15))]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    write_entry(tmp_path / "a", "zero-shot", ZERO)
    write_entry(tmp_path / "b", "coop", COOP)
    write_entry(tmp_path / "c", "kgcoop", BEST)
    return tmp_path


def only_group(folder: Path) -> Group:
    (group,) = read_groups(folder)
    return group


def test_bold_where_a_test_stands_behind_it(results: Path) -> None:
    group = only_group(results)
    assert backed_best(group, "new") == "kgcoop"
    text = to_markdown([compare(group)], title="t")
    row = next(line for line in text.splitlines() if line.startswith("| kgcoop"))
    assert row.count("**") == 6
    assert "paired t test" in text
    assert "Holm" in text


def test_best_without_a_test_is_not_bold(tmp_path: Path) -> None:
    write_entry(tmp_path / "b", "coop", COOP[:2])
    write_entry(tmp_path / "c", "kgcoop", BEST[:2])
    assert "**" not in to_markdown([compare(only_group(tmp_path))], title="two seeds are no test")


def test_best_within_the_seeds_spread_is_not_bold(tmp_path: Path) -> None:
    swinging: list[Counts] = [((20, 20, 20), (6, 8, 7)), ((10, 10, 10), (8, 9, 6)), ((20, 18, 19), (5, 8, 8))]
    write_entry(tmp_path / "b", "coop", COOP)
    write_entry(tmp_path / "c", "kgcoop", swinging)
    group = only_group(tmp_path)
    means = {entry.label: entry.cell.metrics["base"].mean for entry in group.entries}
    assert means["kgcoop"] > means["coop"]
    assert backed_best(group, "base") is None


def test_runs_on_other_training_videos_are_no_pairs(tmp_path: Path) -> None:
    write_entry(tmp_path / "b", "coop", COOP, split="one")
    write_entry(tmp_path / "c", "kgcoop", BEST, split="other")
    group = only_group(tmp_path)
    assert differences(group.entries[0], group.entries[1], "new") == []
    assert backed_best(group, "new") is None


def test_differences_pair_by_seed_not_by_place(tmp_path: Path) -> None:
    write_entry(tmp_path / "b", "coop", COOP, seeds=(1, 2, 3))
    write_entry(tmp_path / "c", "kgcoop", BEST, seeds=(3, 2, 1))
    coop, kgcoop = only_group(tmp_path).entries
    by_seed = {run.seed: run.metrics["new"] for run in kgcoop.runs}
    expected = [by_seed[run.seed] - run.metrics["new"] for run in coop.runs]
    assert sorted(differences(kgcoop, coop, "new")) == pytest.approx(sorted(expected))


def test_zero_shot_is_paired_with_every_seed_and_has_no_deviation(results: Path) -> None:
    zero, coop, _ = only_group(results).entries
    assert len(differences(coop, zero, "base")) == 3
    assert differences(coop, zero, "base") == pytest.approx([-x for x in differences(zero, coop, "base")])
    line = compare(only_group(results)).lines[0]
    assert line.metrics["base"].std is None
    assert line.over_seeds is None


def test_prompts_that_are_only_evaluated_have_a_difference_of_every_seed(results: Path) -> None:
    """`prompttune eval --prompts FOLDER --out`: nothing trains there, yet the seeds differ."""
    path = results / "b" / "result.json"
    document = json.loads(path.read_text())
    for run in document["runs"]:
        run["n_train"] = 0
    path.write_text(json.dumps(document))
    lines = {line.label: line for line in compare(only_group(results)).lines}
    zero, coop = lines["zero-shot"], lines["coop"]
    assert not coop.entry.is_trained
    assert coop.over_seeds is not None
    assert coop.over_seeds.n == 3
    expected = coop.metrics["harmonic_mean"].mean - zero.metrics["harmonic_mean"].mean
    assert coop.over_seeds.mean == pytest.approx(expected), "the difference of what the line's own cells say"


def test_both_harmonic_means_where_they_differ(results: Path) -> None:
    comparison = compare(only_group(results))
    (row,) = [row for row in csv.DictReader(io.StringIO(to_csv([comparison]))) if row["label"] == "coop"]
    assert float(row["harmonic_mean_of_means"]) != float(row["harmonic_mean_mean"])
    assert float(row["harmonic_mean_of_means"]) == pytest.approx(
        comparison.group.entries[1].cell.metrics["harmonic_mean_of_means"].mean
    )


def test_csv_holds_the_numbers_of_result_json(results: Path) -> None:
    rows = {row["label"]: row for row in csv.DictReader(io.StringIO(to_csv([compare(only_group(results))])))}
    document = json.loads((results / "c" / "result.json").read_text())
    for metric in ("base", "new", "harmonic_mean"):
        assert float(rows["kgcoop"][f"{metric}_mean"]) == pytest.approx(document["cells"][0]["metrics"][metric]["mean"])
        assert float(rows["kgcoop"][f"{metric}_std"]) == pytest.approx(document["cells"][0]["metrics"][metric]["std"])
    assert rows["kgcoop"]["n_seeds"] == "3"
    assert float(rows["kgcoop"]["seconds_per_seed"]) == 1.0


def test_latex_escapes_names_and_balances(tmp_path: Path) -> None:
    write_entry(tmp_path / "x_y", "coop", COOP, store="a_b.zarr")
    text = to_latex([compare(only_group(tmp_path))])
    assert r"a\_b: base-to-new" in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    assert r"$\pm$" in text
    assert "±" not in text
    assert escape_latex("50 % & {a}_b\\") == r"50 \% \& \{a\}\_b\textbackslash{}"


def test_stores_and_class_lists_are_not_mixed(results: Path) -> None:
    write_entry(results / "elsewhere", "coop", COOP, store="stores/other.zarr")
    groups = read_groups(results)
    assert sorted(group.store for group in groups) == ["other", "target"]
    assert [len(group.entries) for group in groups if group.store == "target"] == [3]


def test_other_test_videos_are_another_table(results: Path) -> None:
    """Two draws of a split from one store: what one line gains on its videos is not counted against the other's."""
    write_entry(results / "drawn-anew", "tip-adapter", COOP)
    path = results / "drawn-anew" / "result.json"
    document = json.loads(path.read_text())
    for run in document["runs"]:
        run["tests"]["new"]["videos_sha256"] = "5" * 64
    path.write_text(json.dumps(document))
    groups = read_groups(results)
    assert [[entry.label for entry in group.entries] for group in groups] == [
        ["zero-shot", "coop", "kgcoop"], ["tip-adapter"]]  # fmt: skip
    assert len({group.title for group in groups}) == 2
    assert all("4 shots, test videos " in group.title for group in groups)
    comparisons = [compare(group) for group in groups]
    assert over_stores(comparisons) == [], "two draws from one store are no two data sets"
    rows = csv.DictReader(io.StringIO(to_csv(comparisons)))
    assert [(row["label"], row["baseline"]) for row in rows][-1] == ("tip-adapter", "")
    assert to_latex(comparisons).count(r"\label{tab:target-base-to-new-4-") == 2


def test_what_trains_nothing_stands_once_unless_it_differs(results: Path) -> None:
    write_entry(results / "again", "zero-shot", ZERO)
    write_entry(results / "template", "zero-shot", [((11, 10, 10), (12, 12, 12))])
    labels = [entry.label for entry in only_group(results).entries]
    assert labels == ["zero-shot (again)", "zero-shot (template)", "coop", "kgcoop"]


def test_two_lines_of_one_method_get_names_of_their_own(results: Path) -> None:
    write_entry(results / "b2", "coop", BEST)
    labels = [entry.label for entry in only_group(results).entries]
    assert {"coop (b)", "coop (b2)"} <= set(labels)
    assert len(set(labels)) == len(labels)


def test_suite_labels_name_the_cells(tmp_path: Path) -> None:
    cells = tmp_path / "cells"
    write_entry(cells / "coop-target-base-to-new-4", "coop", COOP)
    write_entry(cells / "coop-longer-target-base-to-new-4", "coop", BEST)
    write_entry(cells / "prompts-other", "coop", BEST)
    table = {"title": "My suite", "columns": ["method"], "rows": [["CoOp, longer"], ["CoOp"]]}
    (tmp_path / "table.json").write_text(json.dumps(table))
    assert [entry.label for entry in only_group(tmp_path).entries] == ["CoOp, longer", "CoOp"]
    assert to_markdown([compare(only_group(tmp_path))], title="t").count("\n| CoOp") == 2


def test_over_data_sets_each_one_counts_once(tmp_path: Path) -> None:
    """Three worlds of a suite each, stores of one name; every line against its own, with the worlds' means."""
    shifts = (0, 1, 2)
    for world in shifts:
        cells, store = tmp_path / f"world{world}" / "cells", f"w/world{world}/target.zarr"
        for label, counts in (("zero", ZERO), ("coop", COOP), ("coop-anchors", BEST)):
            moved = [((a - world * (counts is BEST), b, c), new) for (a, b, c), new in counts]
            method = "zero-shot" if label == "zero" else "coop"
            write_entry(cells / f"{label}-target-base-to-new-4", method, moved, store=store)
        rows = [["Zero"], ["CoOp"], ["CoOp, anchors"]]
        table = {"title": f"World {world}", "rows": rows, "against": {"CoOp, anchors": "CoOp"}}
        (tmp_path / f"world{world}" / "table.json").write_text(json.dumps(table))

    groups = read_groups(tmp_path)
    assert [group.store for group in groups] == ["world0/target", "world1/target", "world2/target"]
    assert [entry.label for entry in groups[0].entries] == ["Zero", "CoOp", "CoOp, anchors"]
    comparisons = [compare(group) for group in groups]
    (over,) = over_stores(comparisons)
    assert over.title == "Over 3 data sets: base-to-new, 4 shots"
    lines = {line.label: line for line in over.lines}
    assert {label: line.against for label, line in lines.items()} == {
        "Zero": "", "CoOp": "Zero", "CoOp, anchors": "CoOp"}  # fmt: skip
    by_world = [(54 - 47 + 53 - 45 + 54 - 47) / 3 / 60 - world / 60 for world in shifts]
    expected = paired_difference(by_world)
    gain = lines["CoOp, anchors"].gains["base"]
    assert (gain.mean, gain.low, gain.high, gain.n) == pytest.approx((expected.mean, expected.low, expected.high, 3))
    assert lines["CoOp, anchors"].means["base"].std == pytest.approx(1 / 60)
    assert lines["CoOp"].gains["base"].low is None  # the same on every world
    assert lines["Zero"].p is None
    text, latex = to_markdown(comparisons, title="t"), to_latex(comparisons)
    assert f"| {100 * gain.mean:+.1f} [{100 * expected.low:+.1f}, {100 * expected.high:+.1f}] |" in text
    assert latex.count(r"\begin{table}") == 4
    assert over_stores(comparisons[:1]) == []
    assert {line.data_sets for line in over.lines} == {"3"}
    shutil.rmtree(tmp_path / "world0" / "cells" / "zero-target-base-to-new-4")
    (over,) = over_stores([compare(group) for group in read_groups(tmp_path)])
    lines = {line.label: line for line in over.lines}
    assert (lines["CoOp"].data_sets, lines["CoOp, anchors"].data_sets) == ("3, Δ on 2", "3")


def test_settings_that_differ_are_told_with_their_defaults(tmp_path: Path) -> None:
    def config(method: str, **given: object) -> dict[str, Any]:
        return resolve({"method": method, "store": "x", **given}).model_dump(mode="json")

    usual = {key: flat(config(key)) for key in ("coop", "kgcoop")}
    write_entry(tmp_path / "a", "coop", COOP, config=config("coop", seeds=[1, 2, 3]))
    write_entry(tmp_path / "b", "coop", BEST, config=config("coop", seeds=[4], optim={"lr": 0.5}))
    write_entry(tmp_path / "c", "kgcoop", BEST, config=config("kgcoop"))
    comparison = compare(only_group(tmp_path))
    found = {one.key: one for one in told_settings(comparison)}
    assert found["optim.lr"].values == {
        "coop (a)": str(usual["coop"]["optim.lr"]),
        "coop (b)": "0.5",
        "kgcoop": str(usual["kgcoop"]["optim.lr"]),
    }
    assert found["optim.lr"].defaults == {"coop (b)": str(usual["coop"]["optim.lr"])}
    methods_differ = {key for key in usual["coop"] if usual["coop"][key] != usual["kgcoop"].get(key)}
    assert methods_differ <= found.keys() | NO_SETTING
    assert all(len(set(one.values.values())) > 1 for one in found.values())
    text = to_markdown([comparison], title="t")
    (row,) = [line for line in text.splitlines() if line.startswith("| optim.lr ")]
    lr = {key: str(own["optim.lr"]) for key, own in usual.items()}
    assert row == f"| optim.lr | {lr['coop']} | 0.5 (default {lr['coop']}) | {lr['kgcoop']} |"
    assert "seeds" not in found


def test_a_folder_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"python -m benchmarks run"):
        read_groups(tmp_path)


def test_an_unknown_baseline_names_the_lines(results: Path) -> None:
    with pytest.raises(ConfigError, match="zero-shot, coop, kgcoop"):
        compare(only_group(results), baseline="CoOpp")


@pytest.mark.parametrize(("form", "sign"), [("md", "| coop |"), ("latex", r"\toprule"), ("csv", "label,")])
def test_command_prints_or_writes_the_same_text(results: Path, tmp_path: Path, form: str, sign: str) -> None:
    out = tmp_path / "made" / "table.txt"
    printed = CliRunner().invoke(main, ["report", str(results), "--format", form])
    written = CliRunner().invoke(main, ["report", str(results), "--format", form, "--out", str(out)])
    assert (printed.exit_code, written.exit_code) == (0, 0), printed.output
    assert sign in printed.output
    assert out.read_text() == printed.output


def test_command_says_what_is_wrong_and_writes_nothing(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    said = CliRunner().invoke(main, ["report", str(results), "--baseline", "CoOpp", "--out", str(out)])
    assert said.exit_code == 2
    assert "error: no line is labelled 'CoOpp'" in said.output
    assert "Traceback" not in said.output
    assert not out.exists()
