"""Tables keep within 80 columns, name settings whole, choose by validation alone, and come as rows for programs."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tiny_store import Recipe, write_tiny_store
from training import train_runs

from prompttune.base.console import plain_console
from prompttune.cli.commands import cli
from prompttune.cli.result_table import best_by_validation, result_rows, result_tables
from prompttune.config.runs import expand_runs
from prompttune.evaluation.results import CellResult, Result, Summary
from prompttune.training.fit import fit

SHORT = {"protocol": {"shots": 4}, "optim": {"epochs": 2, "batch_size": 8}}


def printed(result: Result) -> str:
    console = plain_console()
    console.width = 80
    with console.capture() as text:
        for part in result_tables(result):
            console.print(part, soft_wrap=isinstance(part, str))
    return text.get()


def run(*arguments: object) -> str:
    done = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def swept(target: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """Two learning rates by two templates, two seeds, one validation shot."""
    templates = ["a video of {}.", "a rather long sentence about a person who does {} somewhere"]
    axes: dict[str, list[Any]] = {"optim.lr": [0.002, 0.02], "templates.zero_shot": templates}
    given = {"method": "kgcoop", "store": target, "seeds": [1, 2], "selection": "val"}
    given |= {"protocol": {"shots": 4, "val_shots": 1}, "optim": {"epochs": 1, "batch_size": 8}}
    done = fit(expand_runs(given, axes), tmp_path_factory.mktemp("swept") / "run", axes=axes)
    return done.result, done.folder


def test_settings_are_columns_and_long_ones_are_numbered(swept: tuple[Result, Path]) -> None:
    text = printed(swept[0])
    lines = text.splitlines()
    assert max(len(line) for line in lines if "zero_shot [" not in line) <= 80
    assert "zero_shot [2] a rather long sentence about a person who does {} somewhere" in lines
    assert "..." not in text
    assert "…" not in text
    (head,) = {line.split()[0] for line in lines if "base" in line and "new" in line}
    assert head == "lr"


def test_the_best_is_marked_by_validation(swept: tuple[Result, Path]) -> None:
    result = swept[0]
    rows = result_rows(result)
    best = best_by_validation(result)
    assert [row["best_by_validation"] for row in rows].index(True) == best
    assert rows[best]["val"] == max(row["val"] for row in rows)  # type: ignore[index]
    of_best = [run.val_accuracy for run in result.runs if run.overrides == result.cells[best].overrides]  # type: ignore[index]
    assert rows[best]["val"] == pytest.approx(sum(of_best) / 2)  # type: ignore[index, arg-type]
    assert printed(result).count("*") == 2  # the mark, and what it means
    without = result.model_copy(update={"runs": [one.model_copy(update={"val_accuracy": None}) for one in result.runs]})
    assert best_by_validation(without) is None
    assert "choose nothing" in printed(without)


def test_many_test_sets_make_several_tables(swept: tuple[Result, Path]) -> None:
    result = swept[0]
    cells = [
        CellResult(
            overrides=cell.overrides,
            metrics=cell.metrics | {f"store-{n}/val{n}": Summary(mean=n / 10, std=0.01, n=2) for n in range(9)},
        )
        for cell in result.cells
    ]
    text = printed(result.model_copy(update={"cells": cells}))
    assert max(len(line) for line in text.splitlines() if "zero_shot [" not in line) <= 80
    assert all(f"store-{n}/val{n}" in text for n in range(9))


def test_rows_for_programs(swept: tuple[Result, Path], tmp_path: Path, target: str) -> None:
    folder = swept[1]
    rows = json.loads(run("eval", "--store", target, "--prompts", folder, "--json"))
    assert len(rows) == 4
    assert all(row["runs"] == 2 and "seed*" in row["prompts"] for row in rows)
    for row in rows:
        alone = [
            json.loads(run("eval", "--store", target, "--json", "--prompts", row["prompts"].replace("*", seed)))[0]
            for seed in ("1", "2")
        ]
        assert row["test"] == pytest.approx((alone[0]["test"] + alone[1]["test"]) / 2)
        assert row["test_std"] is not None
        break
    table = list(csv.DictReader(io.StringIO(run("classify", target, "--csv", "--top", "2"))))
    assert table[0].keys() == {"video", "rank", "class", "score"}
    assert {row["name"] for row in json.loads(run("methods", "--json"))} >= {"coop", "ga2"}
    listed = json.loads(run("prompts", "list", folder, "--json"))
    assert len(listed) == 8


def test_several_files_and_a_pattern(swept: tuple[Result, Path], target: str) -> None:
    files = sorted(swept[1].rglob("prompt.safetensors"))[:3]
    rows = json.loads(run("eval", "--store", target, "--json", "--prompts", *files))
    assert [row["prompts"] for row in rows] == [file.as_posix() for file in files]
    pattern = f"{swept[1]}/*seed1/prompt.safetensors"
    assert len(json.loads(run("eval", "--store", target, "--json", "--prompts", pattern))) == 4
    done = CliRunner().invoke(cli, ["eval", "--store", target, "stray"])
    assert done.exit_code == 2
    assert "--prompts" in done.output


def test_other_settings_are_never_merged(tmp_path: Path, target: str) -> None:
    """Two runs whose paths differ in the seed alone, of different settings: two rows."""
    for seed, n_ctx in ((1, 2), (2, 3)):
        train_runs(
            tmp_path / f"seed{seed}", SHORT | {"context": {"n_ctx": n_ctx}}, method="coop", store=target, seeds=[7]
        )
    rows = json.loads(run("eval", "--store", target, "--json", "--prompts", f"{tmp_path}/*/seed7/prompt.safetensors"))
    assert len(rows) == 2


def test_overlap_needs_no_splits(swept: tuple[Result, Path], tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "plain.zarr", Recipe(with_splits=False))
    file = next(swept[1].rglob("prompt.safetensors"))
    assert "class" in run("prompts", "overlap", file, "--store", tmp_path / "plain.zarr")
