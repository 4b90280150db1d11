"""A suite file: what it unfolds into, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError
from tiny_suite import COOP, COUPLED, GA2, method, suite, tables, to_toml

from benchmarks.suite import cells, load_suite
from prompttune.errors import ConfigError

OUT, DATA = Path("out"), Path("stores")


def test_a_grid_unfolds_into_cells_and_prompts_come_first() -> None:
    made = cells(suite(COOP, GA2, grid={"stores": ["target", "other"], "shots": [2, 4]}), out=OUT, data=DATA)
    assert [cell.kind for cell in made] == ["prompts"] + ["method"] * 12
    assert len({cell.name for cell in made}) == 13
    coupled = [cell for cell in made if cell.label == "GA2"]
    assert all(cell.needs == ("prompts-other",) for cell in coupled)
    assert coupled[0].config.coupling is not None
    assert coupled[0].config.coupling.hard_prompts == ("out/cells/prompts-other/seed1/prompt.safetensors",)
    assert [cell.config.protocol.shots for cell in made if cell.label == "CoOp"] == [2, 4, 2, 4]
    assert {cell.config.store for cell in made} == {"stores/target.zarr", "stores/other.zarr"}


def test_several_grids_choose_methods_and_settings() -> None:
    few = {"stores": ["target"], "protocols": ["few-shot"], "shots": [1, 2], "methods": ["CoOp"]}
    far = {"name": "far", "stores": ["target"], "shots": [4], "methods": ["CoOp"]}
    far |= {"config": {"protocol": {"test_stores": ["{stores.other}"]}}}
    made = cells(suite(COOP, grid=[few, far]), out=OUT, data=DATA)
    assert [cell.name for cell in made] == [
        "coop-target-few-shot-1",
        "coop-target-few-shot-2",
        "coop-target-base-to-new-4-far",
    ]
    assert made[-1].config.protocol.test_stores == ("stores/other.zarr",)


def test_a_store_may_be_a_url() -> None:
    stores = {"target": "s3://bucket/target.zarr", "other": "other.zarr", "irrelevant": "irrelevant.zarr"}
    made = cells(suite(COOP, stores=stores), out=OUT, data=DATA)
    assert made[0].config.store == "s3://bucket/target.zarr"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"grid": {"stores": ["nowhere"]}}, "no store 'nowhere'"),
        ({"baseline": "CLIP"}, "no method is labelled 'CLIP'"),
        ({"grid": {"stores": ["target"], "methods": ["Coop"]}}, "no method is labelled 'Coop'"),
        ({"grid": [{"stores": ["target"]}, {"stores": ["target"]}]}, "stands twice; give one of its grids a name"),
        ({"grid": {"stores": ["target"], "config": {"store": "{stores.far}"}}}, "stands for nothing"),
        ({"methods": [COOP, COOP]}, "the label 'CoOp' stands twice"),
        ({"seed": 3}, "Extra inputs"),
        ({"resources": {"cpu": 1}}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        suite(COOP, **given)


def test_all_problems_of_a_file_come_in_one_message(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(to_toml(tables(COOP, baseline="CLIP", grid={"stores": ["nowhere"]})))
    with pytest.raises(ConfigError) as raised:
        load_suite(path)
    assert "no store 'nowhere'" in str(raised.value)
    assert "no method is labelled 'CLIP'" in str(raised.value)


def test_methods_that_do_not_resolve_are_all_named() -> None:
    wrong = [method("A", "coop", optim={"lrr": 1.0}), method("B", "ga2-text"), method("C", "unknown")]
    with pytest.raises(ConfigError) as raised:
        cells(suite(*wrong), out=OUT, data=DATA)
    for words in ("A: ", "did you mean 'optim.lr'", "B: ", "names no prompt file", "C: unknown method"):
        assert words in str(raised.value), words


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(to_toml(tables(COOP, method("GA2", "ga2-text", **COUPLED))))
    assert load_suite(path) == suite(COOP, method("GA2", "ga2-text", **COUPLED))
