"""Results of run folders: every key says what it is, many folders are one frame, settings are told apart in it."""

from __future__ import annotations

from pathlib import Path

from training import short_runs, train_runs

from prompttune.api.apply_prompts import apply_prompts
from prompttune.data.features import open_source
from prompttune.evaluation.results import Result, load
from prompttune.splits.file import write_split_file
from prompttune.splits.making import MakeOptions, make_split_file
from prompttune.training.fit import fit


def test_result_schema_documents_every_key() -> None:
    definitions = Result.model_json_schema()["$defs"] | {"Result": Result.model_json_schema()}
    undocumented = [
        f"{name}.{key}"
        for name, definition in definitions.items()
        for key, value in definition["properties"].items()
        if "description" not in value and key not in {"path", "runs", "cells", "mean"}
    ]
    assert undocumented == []


def test_results_load_as_a_frame(tmp_path: Path, target: str) -> None:
    train_runs(tmp_path / "a", method="coop", store=target, seeds=[1, 2])
    train_runs(tmp_path / "b", method="zero-shot", store=target)
    frame = load(tmp_path)
    assert list(frame["method"]) == ["coop", "coop", "zero-shot"]
    assert {"base", "new", "harmonic_mean", "base_top5", "seconds", "n_parameters", "seed"} <= set(frame.columns)


def test_results_of_two_settings_are_told_apart(tmp_path: Path, target: str) -> None:
    """A setting is all but the seed, whether it was given plainly or on a run axis."""
    for folder, seed, n_ctx in (("a", 1, 2), ("b", 2, 2), ("c", 1, 3)):
        train_runs(tmp_path / folder, {"context": {"n_ctx": n_ctx}}, method="coop", store=target, seeds=[seed])
    axes = {"context.n_ctx": [2, 3]}
    fit(short_runs(axes=axes, method="coop", store=target, seeds=[3]), tmp_path / "d", axes=axes)
    found = load(tmp_path)["setting"].tolist()
    assert found == [found[0], found[0], found[2], found[0], found[2]]
    assert found[0] != found[2]


def test_what_was_tested_is_part_of_a_setting(tmp_path: Path, target: str) -> None:
    """The same configuration on other test sets, and on a list whose file has changed, is another setting."""
    apply_prompts([], given={"store": target}, out=tmp_path / "all")
    apply_prompts([], given={"store": target}, base_to_new=True, out=tmp_path / "base-to-new")
    split = make_split_file(open_source(target).table, MakeOptions(), source=target)
    for folder, n_left_out in (("list", 0), ("shorter", 1)):
        kept = {name: ids[n_left_out:] for name, ids in split.tests["test"].videos.items()}
        tests = {"test": split.tests["test"].model_copy(update={"videos": kept})}
        write_split_file(tmp_path / "split.json", split.model_copy(update={"tests": tests}))
        given = {"store": target, "protocol": {"split_file": str(tmp_path / "split.json")}}
        apply_prompts([], given=given, out=tmp_path / folder)
    assert load(tmp_path)["setting"].nunique() == 4
