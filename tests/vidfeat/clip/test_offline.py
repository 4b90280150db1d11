"""As users are: no network, weights in the hub's cache or not there at all.

True architectures at full size, with random float16 weights, extracted by a process: ViT-B-16-quickgelu with the tag
openai, 300 MB; PE-Core-B-16 and ViT-B-16-SigLIP2, up to three times as large, with PROMPTTUNE_FULL_SIZE=1 in the
environment, and in every run under their own names, cut in depth and width. What follows needs the store alone.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
from click.testing import CliRunner
from hub_cache import fill, offline
from hub_tokenizers import fill_tokenizer
from small_extraction import write_videos
from whole_families import WHOLE, whole_config

from prompttune.cli.commands import cli as prompttune
from vidfeat.backbone import BackboneConfig, BackbonePack
from vidfeat.cli import main as vidfeat
from vidfeat.clip.openclip import load_open_clip

MODEL = ("--model", "ViT-B-16-quickgelu", "--pretrained", "openai")


def extract(*arguments: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """`vidfeat extract` in a process of its own: the environment says what hub there is before anything is imported."""
    command = [sys.executable, "-m", "vidfeat.cli", "extract", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=dict(env), check=False)


def sound(command: Any, *arguments: object) -> str:
    """What a command prints that must end well."""
    done = CliRunner().invoke(command, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


def evaluate_train_and_classify(store: Path, videos: Path, out: Path) -> None:
    half = ("--set", "protocol.test_fraction=0.5")
    sound(prompttune, "eval", "--store", store, *half)
    few = (*half, "--set", "protocol.shots=1", "--set", "protocol.name=few-shot", "--set", "optim.epochs=1")
    sound(prompttune, "train", "--store", store, "--method", "coop", *few, "--seeds", 1, "--out", out)
    video, prompts = next(videos.rglob("*.mp4")), out / "seed1" / "prompt.safetensors"
    assert video.name in sound(prompttune, "classify", video, "--like", store, "--prompts", prompts)


def model_of_the_file(file: Path, model: str, tag: str, tokenizer: Path | None) -> BackboneConfig:
    """What comes of an empty cache's advice, followed: the same file, given."""
    return replace(load_open_clip(model=model, pretrained=str(file), tokenizer=tokenizer).config, pretrained=tag)


def test_an_empty_cache_is_a_short_message_with_the_file_to_bring(tmp_path: Path) -> None:
    videos = write_videos(tmp_path / "videos", 2)
    done = extract(videos, "--out", tmp_path / "x.zarr", *MODEL, env=offline(tmp_path / "home"))
    assert done.returncode == 2
    message = done.stderr.strip().splitlines()
    assert message[0] == "error: open_clip could not load the weights of ViT-B-16-quickgelu, openai"
    assert len(message) <= 5
    assert str(tmp_path / "home" / "hub") in done.stderr
    assert "open_clip_model.safetensors of the hub's timm/vit_base_patch16_clip_224.openai" in done.stderr
    assert "--model ViT-B-16-quickgelu --pretrained FILE" in done.stderr
    assert not (tmp_path / "x.zarr").exists()


_asked_for = pytest.mark.skipif("PROMPTTUNE_FULL_SIZE" not in os.environ, reason="minutes: PROMPTTUNE_FULL_SIZE=1")


@pytest.mark.long
@pytest.mark.parametrize(
    ("model", "tag", "tokenizer"),
    [
        ("ViT-B-16-quickgelu", "openai", None),
        pytest.param("PE-Core-B-16", "meta", None, marks=_asked_for),
        pytest.param("ViT-B-16-SigLIP2", "webli", "siglip2", marks=_asked_for),
    ],
)
def test_extract_zero_shot_train_and_classify_from_a_filled_cache(
    model: str, tag: str, tokenizer: str | None, tmp_path: Path
) -> None:
    home, videos, store = tmp_path / "home", write_videos(tmp_path / "videos", 4), tmp_path / "x.zarr"
    file = fill(home, model=model, tag=tag)
    beside = None if tokenizer is None else fill_tokenizer(home, tokenizer, repository=f"timm/{model}")
    given = ("--model", model, "--pretrained", tag, "--frames", 1, "--workers", 0)
    done = extract(videos, "--out", store, *given, env=offline(home))
    assert done.returncode == 0, done.stderr
    evaluate_train_and_classify(store, videos, tmp_path / "runs")
    if "PROMPTTUNE_FULL_SIZE" in os.environ:
        assert BackbonePack.load(store / "pack").config == model_of_the_file(file, model, tag, beside)


@pytest.fixture
def cut_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a network whose open_clip has small models under the published names; its hub's folder."""
    from huggingface_hub import constants

    home = tmp_path / "home"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    names = {family: WHOLE[family][1] for family in ("pe-core", "siglip2")}
    cut = {name: whole_config(family) for family, name in names.items()}
    whole = {name: open_clip.get_model_config(name) for name in names.values()}
    # The models added last count, so the whole ones are added again at the end.
    for folder, configs in ((tmp_path / "cut", cut), (tmp_path / "whole", whole)):
        folder.mkdir()
        for name, config in configs.items():
            (folder / f"{name}.json").write_text(json.dumps(config), "utf-8")
    open_clip.add_model_config(tmp_path / "cut")
    yield home
    open_clip.add_model_config(tmp_path / "whole")


@pytest.mark.parametrize(("family", "tag"), [("pe-core", "meta"), ("siglip2", "webli")])
def test_models_of_today_go_from_the_hubs_cache_to_a_classified_video(
    family: str, tag: str, cut_models: Path, tmp_path: Path
) -> None:
    model, videos, store = WHOLE[family][1], write_videos(tmp_path / "videos", 4), tmp_path / "x.zarr"
    file, beside = fill(cut_models, model=model, tag=tag), None
    if WHOLE[family][2] is not None:
        beside = fill_tokenizer(cut_models, family, repository=f"timm/{model}")
    given = ("--model", model, "--pretrained", tag, "--frames", 1, "--workers", 0)
    sound(vidfeat, "extract", videos, "--out", store, *given)
    evaluate_train_and_classify(store, videos, tmp_path / "runs")
    assert BackbonePack.load(store / "pack").config == model_of_the_file(file, model, tag, beside)
