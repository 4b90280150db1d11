"""The runner on tiny stores: plan, skip, share, fail, go on; nothing is mocked."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from rich.console import Console
from tiny_suite import COOP, GA2, learned, learning_rate, method, suite, tables, to_toml, write_stores

from benchmarks.__main__ import main
from benchmarks.locks import held
from benchmarks.runner import Outcome, RunOptions, make_plan, run_suite
from benchmarks.suite import Suite
from prompttune.errors import ConfigError, NonFiniteLossError, RunFolderError
from prompttune.evaluation.results import Result
from prompttune.training.run_folder import CLAIM

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stores(tmp_path_factory.mktemp("stores"))


def run(of: Suite, out: Path, stores: Path, **options: Any) -> Outcome:
    return run_suite(of, out=out, data=stores, console=QUIET, options=RunOptions(**options))


def states(of: Suite, out: Path, stores: Path, **options: Any) -> dict[str, str]:
    plan = make_plan(of, out=out, data=stores, options=RunOptions(**options))
    return {one.cell.name: one.state for one in plan.cells}


def stamps(out: Path) -> dict[str, int]:
    """When each result was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (out / "cells").glob("*/result.json")}


def test_a_suite_runs_and_its_second_run_does_nothing(tmp_path: Path, stores: Path) -> None:
    of = suite(COOP, GA2)
    assert set(states(of, tmp_path, stores).values()) == {"to do"}
    outcome = run(of, tmp_path, stores)
    assert outcome.failures == {}
    assert [row.label for row in outcome.rows] == ["Zero-shot", "CoOp", "GA2"]
    assert [row.n_seeds for row in outcome.rows] == [1, 2, 2]
    assert "| CoOp |" in (tmp_path / "table.md").read_text()
    before = stamps(tmp_path)
    assert len(before) == 4
    assert set(states(of, tmp_path, stores).values()) == {"finished"}
    again = run(of, tmp_path, stores)
    assert again.rows == outcome.rows
    assert stamps(tmp_path) == before


def test_the_plan_counts_steps_time_and_memory_and_writes_nothing(tmp_path: Path, stores: Path) -> None:
    plan = make_plan(suite(COOP, GA2, learning_rate(0.02)), out=tmp_path / "out", data=stores)
    by_name = {one.cell.name: one for one in plan.cells}
    coop = by_name["coop-target-base-to-new-4"]
    assert coop.estimate is not None
    assert coop.estimate.n_steps == 3 * 2  # epochs x ceil(4 classes x 4 shots / 8)
    assert coop.estimate.how == "measured"
    assert 0 < coop.estimate.seconds < 30
    assert coop.n_together == 2
    assert coop.estimate.memory_bytes > 1000
    zero = by_name["zero-shot-target-base-to-new-4"]
    assert zero.estimate is not None
    assert (zero.estimate.n_steps, zero.estimate.how) == (0, "none")
    # The coupled method was opened and timed although its prompts are yet to be trained.
    assert by_name["ga2-target-base-to-new-4"].estimate is not None
    assert len(plan.jobs) == 4
    assert not (tmp_path / "out").exists()


def test_cells_that_differ_in_their_learning_rate_train_together_and_each_has_its_own_result(
    tmp_path: Path, stores: Path
) -> None:
    rates = [learning_rate(0.005), learning_rate(0.02)]
    of = suite(*rates)
    plan = make_plan(of, out=tmp_path / "one", data=stores)
    assert [len(job.cells) for job in plan.jobs] == [1, 2]
    assert run(of, tmp_path / "one", stores).failures == {}
    for rate in rates:  # each of them alone
        run(suite(rate), tmp_path / "apart", stores, only=(rate["label"],))
    together, apart = learned(tmp_path / "one" / "cells"), learned(tmp_path / "apart" / "cells")
    for name, (numbers, _, metrics) in apart.items():
        found, _, found_metrics = together[name]
        torch.testing.assert_close(found, numbers, rtol=1e-4, atol=1e-6)
        assert found_metrics == metrics
    ours, theirs = (
        Result.read(tmp_path / side / "cells" / "coop-0-02-target-base-to-new-4") for side in ("one", "apart")
    )
    assert {run.runs_together for run in ours.runs} == {4}
    assert ours.config["optim"]["lr"] == 0.02
    same = {"seconds": 0.0, "config": {}}
    times = {"train_seconds": 0.0, "runs_together": 0}
    strip = lambda result: result.model_copy(  # noqa: E731
        update=same | {"runs": [one.model_copy(update=times) for one in result.runs], "store": theirs.store}
    )
    assert strip(ours) == strip(theirs)
    assert not (tmp_path / "one" / "together").exists() or not list((tmp_path / "one" / "together").iterdir())
    assert set(states(of, tmp_path / "one", stores).values()) == {"finished"}


def test_one_bad_cell_does_not_stop_the_rest(tmp_path: Path, stores: Path) -> None:
    # A rate that overflows float32, of a kind with a sound one, with which it would train together.
    of = suite(COOP, learning_rate(3e38, "Diverges"), GA2)
    outcome = run(of, tmp_path, stores, allow_missing=True)
    assert list(outcome.failures) == ["diverges-target-base-to-new-4"]
    assert [row.label for row in outcome.rows] == ["Zero-shot", "CoOp", "GA2"]
    failures = json.loads((tmp_path / "failures.json").read_text())
    assert "not finite" in failures["diverges-target-base-to-new-4"]["message"]
    assert run(suite(COOP, GA2), tmp_path, stores).failures == {}
    assert json.loads((tmp_path / "failures.json").read_text()) == failures  # not this suite's cell


def test_a_cell_that_fails_late_leaves_those_it_trained_with_to_train_apart(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttune.training import fit as fit_module

    train, groups = fit_module._train, []

    def diverging(group: Any, *rest: Any) -> Any:
        inert = train(group, *rest)
        groups.append([run.config.optim.lr for run in group.runs])
        if 0.02 in groups[-1]:
            raise NonFiniteLossError("the loss is not finite", step=5, run="", term="cross-entropy")
        return inert

    monkeypatch.setattr(fit_module, "_train", diverging)
    outcome = run(suite(learning_rate(0.01, "Sound"), learning_rate(0.02, "Diverges")), tmp_path, stores)
    assert groups == [[0.01, 0.01, 0.02, 0.02], [0.01, 0.01], [0.02, 0.02]]
    assert list(outcome.failures) == ["diverges-target-base-to-new-4"]
    assert [row.label for row in outcome.rows] == ["Zero-shot", "Sound"]
    assert not list((tmp_path / "together").iterdir())


def test_an_unexpected_error_is_recorded_with_its_traceback(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttune.training import fit as fit_module

    train = fit_module._train

    def broken(group: Any, *rest: Any) -> Any:
        if group.config.method == "kgcoop":
            raise ZeroDivisionError("a defect nobody thought of")
        return train(group, *rest)

    monkeypatch.setattr(fit_module, "_train", broken)
    of = suite(method("KgCoOp", "kgcoop"), COOP)
    outcome = run(of, tmp_path, stores)
    assert list(outcome.failures) == ["kgcoop-target-base-to-new-4"]
    entry = json.loads((tmp_path / "failures.json").read_text())["kgcoop-target-base-to-new-4"]
    assert entry["kind"] == "ZeroDivisionError"
    text = (tmp_path / entry["traceback"]).read_text()
    assert "Traceback" in text
    assert "in broken" in text
    monkeypatch.undo()
    assert run(of, tmp_path, stores).failures == {}
    assert not (tmp_path / "failures.json").exists()
    assert not (tmp_path / "failures").exists()


def test_cells_whose_prompts_failed_are_not_started(
    tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prompttune.training import fit as fit_module

    def broken(group: Any, *rest: Any) -> Any:
        raise MemoryError("no memory")

    monkeypatch.setattr(fit_module, "_train", broken)
    outcome = run(suite(GA2), tmp_path, stores)
    assert outcome.failures["prompts-other"].kind == "MemoryError"
    assert outcome.failures["ga2-target-base-to-new-4"].kind == "blocked"
    assert "prompts-other" in outcome.failures["ga2-target-base-to-new-4"].message


def test_nothing_starts_where_a_cell_cannot_run(tmp_path: Path, stores: Path) -> None:
    broken = method("Long", "coop", context={"n_ctx": 76})
    of = suite(COOP, broken, GA2, stores={"target": "target.zarr", "other": "gone.zarr"})
    with pytest.raises(ConfigError) as raised:
        run(of, tmp_path, stores)
    text = str(raised.value)
    assert "3 of 5 cells cannot run; nothing was started" in text
    for words in ("long-target-base-to-new-4", "gone.zarr", "needs the prompts of prompts-other", "--allow-missing"):
        assert words in text, words
    assert not (tmp_path / "cells").exists()
    outcome = run(of, tmp_path, stores, allow_missing=True)
    assert [row.label for row in outcome.rows] == ["Zero-shot", "CoOp"]
    assert set(outcome.failures) == {"long-target-base-to-new-4", "prompts-other", "ga2-target-base-to-new-4"}


def test_a_changed_suite_is_not_taken_for_finished(tmp_path: Path, stores: Path) -> None:
    run(suite(learning_rate(0.01, "CoOp")), tmp_path, stores)
    changed = suite(learning_rate(0.02, "CoOp"))
    with pytest.raises(ConfigError, match="a run of other settings"):
        run(changed, tmp_path, stores)
    assert run(changed, tmp_path, stores, overwrite=True).failures == {}
    assert Result.read(tmp_path / "cells" / "coop-target-base-to-new-4").config["optim"]["lr"] == 0.02


def test_another_store_at_the_same_path_is_not_taken_for_finished(tmp_path: Path) -> None:
    stores = write_stores(tmp_path / "stores")
    run(suite(COOP), tmp_path / "out", stores)
    from tiny_store import Recipe, write_tiny_store

    (stores / "target.zarr").rename(tmp_path / "old.zarr")
    write_tiny_store(stores / "target.zarr", Recipe(n_frames=4))
    assert set(states(suite(COOP), tmp_path / "out", stores).values()) == {"cannot run"}


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (("CoOp",), ["coop-target-base-to-new-4"]),
        (("ga2-*",), ["prompts-other", "ga2-target-base-to-new-4"]),
    ],
)
def test_only_chooses_cells_and_what_they_need(
    tmp_path: Path, stores: Path, only: Sequence[str], expected: Sequence[str]
) -> None:
    assert list(states(suite(COOP, GA2), tmp_path, stores, only=tuple(only))) == list(expected)


def test_two_runs_into_one_folder_are_refused(tmp_path: Path, stores: Path) -> None:
    with held(tmp_path), pytest.raises(RunFolderError, match="another process"):
        run(suite(COOP), tmp_path, stores)


def test_a_begun_shared_folder_is_gone_on_with(tmp_path: Path, stores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped between the first cell's share and the second's: the first is not trained again, nor is the second."""
    from benchmarks import jobs

    of = suite(learning_rate(0.005), learning_rate(0.02))
    deal_out, dealt = jobs._deal_out, []

    def stop_after_one(*given: Any, **named: Any) -> None:
        if dealt:
            raise KeyboardInterrupt
        dealt.append(deal_out(*given, **named))

    with monkeypatch.context() as patched:
        patched.setattr(jobs, "_deal_out", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            run(of, tmp_path, stores)
    before = stamps(tmp_path)
    assert len(before) == 2  # zero-shot, and the first of the two
    (shared,) = (tmp_path / "together").iterdir()
    claimed = (shared / CLAIM).read_bytes()
    from prompttune.training import fit as fit_module

    with monkeypatch.context() as patched:
        patched.setattr(fit_module, "_run_groups", lambda *_: pytest.fail("trained again"))
        assert run(of, tmp_path, stores).failures == {}
    assert claimed
    after = stamps(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 3
    assert not shared.exists()


def test_the_plan_keeps_within_80_columns_and_names_every_cell_whole(tmp_path: Path, stores: Path) -> None:
    of = suite(COOP, method("Something with a long name, coupled with anchors, 2 of other", "coop"), GA2)
    plan = make_plan(of, out=tmp_path / "out", data=stores / "nowhere")  # opens nothing, so that it takes no time
    console = Console(width=80, file=io.StringIO(), markup=False)
    for part in plan.parts():
        console.print(part, soft_wrap=isinstance(part, str))
    lines = console.file.getvalue().splitlines()
    names = [one.cell.name for one in plan.cells]
    assert max(map(len, names)) > 60
    assert [line for line in lines if line.startswith("cell [")] == [f"cell [{k}] {n}" for k, n in enumerate(names, 1)]
    table = lines[: lines.index(f"cell [1] {names[0]}")]
    assert max(map(len, table)) <= 80
    assert [line.split()[0] for line in table if "cannot run" in line] == [f"[{k + 1}]" for k in range(len(names))]
    assert all(any(line.startswith(f"{name}: ") for line in lines) for name in names)


def test_command_plans_runs_and_says_where(tmp_path: Path, stores: Path) -> None:
    path = tmp_path / "tiny.toml"
    path.write_text(to_toml(tables(COOP)))
    given = ["run", str(path), "--data", str(stores), "--out", str(tmp_path / "out")]
    planned = CliRunner().invoke(main, [*given, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "2 cells, about" in planned.output
    assert not (tmp_path / "out").exists()
    rows = json.loads(CliRunner().invoke(main, [*given, "--plan", "--json"]).stdout)
    assert [row["cell"] for row in rows] == ["zero-shot-target-base-to-new-4", "coop-target-base-to-new-4"]
    assert (rows[1]["state"], rows[1]["runs"], rows[1]["n_steps"]) == ("to do", 2, 6)
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 0, done.output
    assert "2/2 done coop-target-base-to-new-4" in done.output
    assert "prompttune report" in done.output
    again = json.loads(CliRunner().invoke(main, [*given, "--json"]).stdout)
    result = Result.read(tmp_path / "out" / "cells" / "coop-target-base-to-new-4")
    assert [row["label"] for row in again] == ["Zero-shot", "CoOp"]
    assert again[1]["harmonic_mean"] == result.cells[0].metrics["harmonic_mean"].mean
    missing = CliRunner().invoke(main, ["run", str(path), "--data", str(tmp_path), "--out", str(tmp_path / "no")])
    assert missing.exit_code == 2
    assert "error: 2 of 2 cells cannot run" in missing.output
    assert "Traceback" not in missing.output
