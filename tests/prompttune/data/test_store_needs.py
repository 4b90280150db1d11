"""What a store cannot serve is refused in one message, with the command that would make it so."""

from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from training import short_runs
from visual_store import VisualRecipe, write_visual_store

from prompttune.data.extract_command import extract_command
from prompttune.data.features import open_source
from prompttune.data.protocols import open_sources
from prompttune.errors import FeatureError
from vidfeat.backbone import BackboneConfig
from vidfeat.store import open_store


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of one view and no tokens but those entering block 1."""
    path = tmp_path_factory.mktemp("poor") / "poor.zarr"
    return str(write_visual_store(path, VisualRecipe(classes=("a", "b"), layers=(1,), n_views=1)))


def refusal(tables: dict[str, Any], store: str) -> str:
    with pytest.raises(FeatureError) as caught:
        open_sources(short_runs(tables, store=store, seeds=[1])[0].config)
    return str(caught.value)


def test_a_missing_tap(poor: str) -> None:
    message = refusal({"method": "vpt"}, poor)
    assert "has no tokens@0 (it has pooled,tokens@1)" in message
    command = f"vidfeat extract SOURCE --out {poor} --model tiny --pretrained random-0 --frames 4"
    assert f"{command} --taps pooled,tokens@1,tokens@0 --dtype float32" in message


def test_the_command_is_one_that_vidfeat_takes(poor: str) -> None:
    from vidfeat.cli.commands import extract

    message = refusal({"method": "vpt", "frames": {"views": "random"}}, poor)
    command = next(line for line in message.splitlines() if "vidfeat extract" in line)
    words = shlex.split(command.split("fix:")[1].split("(SOURCE")[0])
    parsed = extract.make_context("extract", words[2:]).params
    assert parsed["taps"] == "pooled,tokens@1,tokens@0"
    assert (parsed["views"], parsed["frames"], parsed["dtype"]) == (2, 4, "float32")


def test_a_model_of_files_is_asked_for_where_they_lie(poor: str) -> None:
    """A store does not know the folder of a model's own files, and a bare file name would be looked for right here."""
    for tokenizer, more in ((None, ""), ("of the hub", " --tokenizer FOLDER/tokenizer.json")):
        text = SimpleNamespace(tokenizer=tokenizer)
        files = SimpleNamespace(name="world-clip", pretrained="world-clip.safetensors", text=text)
        command = extract_command(poor, open_store(poor), taps=["pooled"], model=cast(BackboneConfig, files))
        assert (
            f"--model-config FOLDER/world-clip.json --weights FOLDER/world-clip.safetensors{more} --frames" in command
        )


@pytest.mark.parametrize(
    ("visual", "words"),
    [
        ({"first_block": 1, "depth": 4}, "blocks 0 to 3, and visual.first_block = 1 with visual.depth = 4"),
        ({"first_block": 4}, "--set visual.first_block=0"),
    ],
)
def test_blocks_beyond_the_tower(poor: str, visual: dict[str, int], words: str) -> None:
    assert words in refusal({"method": "vpt", "visual": visual}, poor)


def test_every_problem_of_every_store_in_one_message(poor: str, visual_target: str) -> None:
    message = refusal(
        {
            "method": "ivlp",
            "visual": {"first_block": 2, "depth": 3},
            "context": {"prompt_depth": 9},
            "frames": {"used": 9},
            "anchors": {"store": poor, "loss": "feature"},
        },
        visual_target,
    )
    layers = open_source(visual_target).pack.config.open_text.layers
    assert f"fix:      --set visual.depth=2 --set context.prompt_depth={layers}; vidfeat extract" in message
    assert "frames.used = 9" in message
    assert f"{poor} has no tokens@2 (it has pooled,tokens@1)" in message
    assert message.count("vidfeat extract") == 1


def test_a_store_of_another_backbone(stores: Path, target: str) -> None:
    tables = {"method": "coop", "protocol": {"test_stores": [str(stores / "foreign.zarr")]}}
    message = refusal(tables, target)
    assert "--out ANOTHER.zarr --model tiny --pretrained random-0" in message
    assert "--taps pooled" in message


def test_random_views_of_one_view(poor: str) -> None:
    assert "--views 2" in refusal({"method": "coop", "frames": {"views": "random"}}, poor)
