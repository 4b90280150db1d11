"""Every family of image towers that we rerun equals open_clip's own: pooled features, and every layer's tokens.

Tolerance: 1e-5 of the largest value in float32, as both sides sum in another order and layer scale is multiplied into
weights beforehand.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from openclip_models import relative_error
from vision_families import OURS, family_clip, family_config, image_features, open_clips_blocks, random_pixels

from vidfeat.backbone import BackbonePack, VisionConfig, VisionTower
from vidfeat.clip.openclip import from_state_dict

FP32 = 1e-5


class Both:
    """open_clip's model and our tower with the same weights, and pictures with their features."""

    def __init__(self, family: str, folder: Path) -> None:
        self.config = family_config(family)
        self.clip = family_clip(family)
        self.pack = from_state_dict(self.clip.state_dict(), model_config=self.config).write_pack(folder / "pack")
        self.tower: VisionTower = self.pack.vision_tower()
        self.pixels = random_pixels(self.config)
        with torch.no_grad():
            self.features = image_features(self.clip, self.pixels)


@pytest.fixture(scope="module", params=OURS)
def both(request: Any, tmp_path_factory: Any) -> Both:
    return Both(request.param, tmp_path_factory.mktemp("packs"))


@torch.no_grad()
def test_pooled_equals_encode_image(both: Both) -> None:
    assert relative_error(both.tower(both.pixels), both.features) < FP32


@torch.no_grad()
def test_tokens_entering_every_block_are_open_clips_and_resume_to_its_features(both: Both) -> None:
    entering: dict[int, torch.Tensor] = {}
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs, layer=layer: entering.update({layer: inputs[0]}))
        for layer, block in enumerate(open_clips_blocks(both.clip))
    ]
    image_features(both.clip, both.pixels)
    for hook in hooks:
        hook.remove()
    n_layers = both.tower.n_layers
    assert len(entering) == n_layers

    taps = both.tower.taps(both.pixels, range(n_layers + 1))

    assert relative_error(taps.pooled, both.features) < FP32
    for layer in range(n_layers + 1):
        tokens = taps.tokens[layer]
        assert tokens.shape[1:] == (both.tower.config.n_tokens, both.tower.config.width)
        if layer < n_layers:
            assert relative_error(tokens, entering[layer]) < FP32, layer
        assert relative_error(both.tower.resume(tokens, layer=layer), both.features) < FP32, layer


def test_the_pack_says_what_the_tower_is(both: Both) -> None:
    values = json.loads((both.pack.path / "config.json").read_text())
    assert isinstance(both.pack.config.vision, VisionConfig)
    assert both.pack.config.from_json(values["config"]) == both.pack.config
    again = BackbonePack.load(both.pack.path, expected_hash=both.pack.hash)
    again.verify()
    older_readers_know_all = set(values["config"]["vision"]) <= {
        *("image_size", "patch_size", "width", "layers", "heads", "mlp_ratio", "activation")
    }
    assert values["version"] == (1 if older_readers_know_all else 2)


@torch.no_grad()
def test_rows_behind_the_tokens_are_seen_by_blocks_and_not_read_by_the_head(both: Both) -> None:
    """Decision 0004: the head reads the S rows it was trained on."""
    tokens = both.tower.taps(both.pixels, [0]).tokens[0]
    rows = torch.randn(len(tokens), 3, tokens.shape[2], generator=torch.Generator().manual_seed(2))
    joined = torch.cat([tokens, rows], dim=1)
    at_the_end = both.tower.pool(torch.cat([tokens, 100 * rows], dim=1))
    assert torch.equal(at_the_end, both.tower.pool(tokens))
    assert relative_error(both.tower.resume(joined, layer=0), both.features) > 1e-3


def test_gradients_of_tokens_are_open_clips(both: Both) -> None:
    """The tower is differentiable in its activations, as open_clip's is: 1e-4 of the largest gradient."""
    pixels = both.pixels.clone().requires_grad_()
    weights = torch.randn(both.features.shape, generator=torch.Generator().manual_seed(3))
    (expected,) = torch.autograd.grad((image_features(both.clip, pixels) * weights).sum(), pixels)
    (found,) = torch.autograd.grad((both.tower(pixels) * weights).sum(), pixels)
    assert relative_error(found, expected) < 1e-4
