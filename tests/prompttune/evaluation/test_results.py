"""Results of run folders: every key says what it is, many folders are one frame, settings are told apart in it."""

from __future__ import annotations

from pathlib import Path

from training import short_runs, train_runs

from prompttune.evaluation.results import Result, load
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
