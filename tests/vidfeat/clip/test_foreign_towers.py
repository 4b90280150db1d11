"""Image towers that open_clip runs: their features are its own, out of the pack; everything else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import relative_error
from torch import nn
from vision_families import FOREIGN, family_clip, family_config, image_features, random_pixels

from vidfeat.backbone import BackbonePack, ForeignVision
from vidfeat.clip import door
from vidfeat.clip.encode import Encoder
from vidfeat.clip.openclip import from_state_dict
from vidfeat.errors import UnsupportedModelError

FAMILIES = ("resnet", *FOREIGN)


def pack_of(family: str, clip: nn.Module, folder: Path) -> BackbonePack:
    loaded = from_state_dict(clip.state_dict(), model_config=family_config(family), name=family, pretrained="random")
    return loaded.write_pack(folder / family)


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_open_clips_own_and_tokens_are_refused_with_the_reason(family: str, tmp_path: Path) -> None:
    clip = family_clip(family)
    pack = pack_of(family, clip, tmp_path)
    again = BackbonePack.load(pack.path, expected_hash=pack.hash)
    again.verify()
    assert isinstance(again.config.vision, ForeignVision)
    assert again.config == pack.config
    pixels = random_pixels(family_config(family))
    with torch.no_grad():
        expected = image_features(clip, pixels)

    encoder = Encoder(again, device="cpu")

    found = torch.from_numpy(encoder.encode(pixels.numpy()).pooled)
    # The same modules with the same weights: only float32 sums in other batches could differ.
    assert relative_error(found, expected) < 1e-6
    with pytest.raises(UnsupportedModelError, match=f"cannot join {family}: its image tower.* has ") as raised:
        Encoder(again, layers=[0], device="cpu")
    assert "without visual prompts" in str(raised.value)


@pytest.fixture(scope="module")
def written(tmp_path_factory: Any) -> BackbonePack:
    return pack_of("resnet", family_clip("resnet"), tmp_path_factory.mktemp("packs"))


def test_a_tower_that_this_machines_open_clip_does_not_know_names_model_and_versions(written: BackbonePack) -> None:
    vision = written.config.vision
    assert isinstance(vision, ForeignVision)
    later = ForeignVision(
        image_size=64,
        model={**vision.model, "vision_cfg": {"timm_model_name": "resnet_of_tomorrow", "image_size": 64}},
        versions={"open_clip": "9.1.0", "timm": "8.0.2"},
        reason=vision.reason,
    )
    object.__setattr__(written.config, "vision", later)
    try:
        with pytest.raises(UnsupportedModelError, match="cannot run the image tower of resnet, random") as raised:
            Encoder(written, device="cpu")
    finally:
        object.__setattr__(written.config, "vision", vision)
    message = str(raised.value)
    assert "open_clip 9.1.0, timm 8.0.2" in message
    assert f"open_clip {door.versions()['open_clip']}" in message
    assert "resnet_of_tomorrow" in message


def test_weights_that_are_not_the_towers_are_refused_when_they_are_loaded(tmp_path: Path) -> None:
    state = family_clip("resnet").state_dict()
    del state["visual.layer1.0.conv1.weight"]
    state["visual.layer9.weight"] = torch.zeros(3)
    with pytest.raises(UnsupportedModelError, match="not the model that the config describes") as raised:
        from_state_dict(state, model_config=family_config("resnet"))
    assert "missing layer1.0.conv1.weight" in str(raised.value)
    assert "left over layer9.weight [3]" in str(raised.value)


def test_another_build_of_the_tower_is_refused_when_it_is_run(written: BackbonePack, tmp_path: Path) -> None:
    """As if a later timm had renamed a tensor: the pack is whole, the tower another."""
    folder = tmp_path / "pack"
    state = written.visual_state()
    state["renamed"] = state.pop("conv1.weight")
    pack = BackbonePack.write(
        folder,
        config=written.config.__class__.from_json(written.config.to_json() | {"weights_sha256": ""}),
        text_state=written._state("text.safetensors"),
        visual_state=state,
        tokenizer=written.tokenizer(),
    )
    with pytest.raises(UnsupportedModelError, match="cannot run the image tower") as raised:
        Encoder(pack, device="cpu")
    assert "missing conv1.weight" in str(raised.value)
