"""The suites that come with the project: each says what it is and resolves; one runs, small, on real videos."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks import quickstart
from benchmarks.suite import Suite, cells, load_suite
from benchmarks.world import datasets
from prompttune.config.train_config import merge
from prompttune.evaluation.results import Result

SUITES = sorted((Path(quickstart.__file__).parent / "suites").glob("*.toml"))
NAMES = {"quick", "methods", "ga2", "ablation", "few_shot", "cross_dataset"}


def test_all_of_them_are_there() -> None:
    assert {path.stem for path in SUITES} >= NAMES


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_it_opens_with_its_command_and_resolves(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    opening = text[: text.index("[stores]")]
    assert opening.startswith("#")
    assert "python -m benchmarks" in opening
    for key in ("command", "shows", "cost"):
        assert f"\n{key} = " in opening, key
    suite = load_suite(path)
    made = cells(suite, out=Path("out"), data=Path("stores"))
    assert len({cell.name for cell in made}) == len(made)
    lines = {cell.label for cell in made if cell.kind == "method"}
    assert lines == {row.label for row in suite.methods}, "a method that no grid runs"
    assert suite.baseline in lines
    used = {cell.store for cell in made} | {name for name, path in suite.stores.items() if path in repr(made)}
    assert used == set(suite.stores), "a store that no cell reads"
    for cell in made:
        assert set(cell.needs) <= {one.name for one in made if one.kind == "prompts"}


def test_the_whole_paper_is_in_its_suite() -> None:
    made = cells(load_suite(next(path for path in SUITES if path.stem == "ga2")), out=Path("out"), data=Path("stores"))
    found = {(cell.store, cell.protocol) for cell in made if cell.kind == "method"}
    assert found == {
        *((store, "base-to-new") for store in ("hmdb51", "ucf101", "ssv2", "k400")),
        *((store, "few-shot") for store in ("hmdb51", "ucf101", "ssv2", "k400")),
    }
    assert all(cell.config.seeds == (1, 2, 3) for cell in made if cell.kind == "method")
    assert {cell.shots for cell in made if cell.protocol == "few-shot" and not cell.grid} >= {2, 4, 8, 16}
    transfer = [cell for cell in made if cell.grid == "transfer"]
    assert all(len(cell.config.protocol.test_stores) == 3 for cell in transfer)
    # Nothing that is tested on Kinetics-600 may take prompts of its classes.
    assert not any("prompts-k600" in cell.needs for cell in transfer)


def small(name: str, seed: int) -> datasets.DatasetPlan:
    plan = plan_dataset(name, seed)
    if name == "irrelevant":
        return replace(plan, n_train=8)
    return replace(plan, classes=plan.classes[:4], n_train=4, n_test=3)


plan_dataset = datasets.plan_dataset


def shortened() -> Suite:
    """quick.toml with few shots, few epochs and two seeds."""
    tables: dict[str, Any] = tomllib.loads(quickstart.QUICK_SUITE.read_text())
    short = {"optim": {"epochs": 3}, "protocol": {"shots": 4}}
    for row in (*tables["hard_prompts"], *tables["methods"]):
        if row["config"]["method"] != "zero-shot":
            row["config"] = merge(row["config"], short)
    return Suite.model_validate(tables | {"seeds": [1, 2], "grid": {"stores": ["target"], "shots": [4]}})


@pytest.mark.long
def test_the_quick_suite_runs_from_videos_to_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "plan_dataset", small)
    outcome = quickstart.chain(shortened(), out=tmp_path, seed=0, workers=1, console=Console(quiet=True))
    assert outcome.failures == {}
    assert len(list((tmp_path / "videos" / "target").rglob("*.mp4"))) == 4 * (4 + 3)
    labels = [row["label"] for row in tomllib.loads(quickstart.QUICK_SUITE.read_text())["methods"]]
    assert [row.label for row in outcome.rows] == labels
    for folder in (tmp_path / "results" / "cells").iterdir():
        result = Result.read(folder)
        assert all(0 <= run.metrics["base"] <= 1 for run in result.runs)
        assert result.store.failed_videos == []
    again = quickstart.chain(shortened(), out=tmp_path, seed=0, workers=1, console=Console(quiet=True))
    assert again.rows == outcome.rows
