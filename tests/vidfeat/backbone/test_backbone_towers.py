"""The towers equal open_clip's own, for every kind of model that is let in.

Tolerances: 1e-5 of the largest value in float32, as both sides sum in another order (measured: below 2e-6); 3e-3 once
tokens went through float16, whose rounding is 2^-11 = 4.9e-4 of each value at every one of the S x D inputs.
"""

from __future__ import annotations

import json

import pytest
import torch
from openclip_models import TINY, cut_config, random_clip, relative_error, world_configs

from vidfeat.backbone import TextTower, VisionTower
from vidfeat.clip.openclip import from_state_dict, load_open_clip

FP32, AFTER_FP16 = 1e-5, 3e-3
SHAPES = {
    "tiny-quickgelu": TINY,
    "tiny-gelu": TINY | {"quick_gelu": False},
    **{name: name for name in ("ViT-B-32", "ViT-B-16-quickgelu", "ViT-L-14")},
    "ViT-S-16": "ViT-S-16",
}
WORLD = {f"world/{path.stem}": json.loads(path.read_text("utf-8")) for path in world_configs()}


class Both:
    """open_clip's model and our towers with the same weights, and what to feed them."""

    def __init__(self, model_config: dict, pack_path) -> None:
        self.clip = random_clip(model_config)
        self.pack = from_state_dict(self.clip.state_dict(), model_config=model_config).write_pack(pack_path)
        self.vision: VisionTower = self.pack.vision_tower()
        self.text: TextTower = self.pack.text_tower()
        size = self.pack.config.vision.image_size
        self.pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            self.image_features = self.clip.encode_image(self.pixels)


@pytest.fixture(scope="module", params=[*SHAPES, *WORLD])
def both(request, tmp_path_factory) -> Both:
    config = (SHAPES | WORLD)[request.param]
    config = cut_config(config) if isinstance(config, str) else config
    return Both(config, tmp_path_factory.mktemp("packs") / "pack")


@torch.no_grad()
def test_pooled_equals_encode_image(both: Both) -> None:
    assert relative_error(both.vision(both.pixels), both.image_features) < FP32


@torch.no_grad()
def test_text_features_equal_encode_text(both: Both) -> None:
    token_ids = both.pack.tokenizer().tokenize(["a video of a person juggling", "x", "surfing " * 40])
    assert relative_error(both.text(token_ids), both.clip.encode_text(token_ids)) < FP32


@torch.no_grad()
def test_text_cut_behind_its_longest_end_is_the_same(both: Both) -> None:
    token_ids = both.pack.tokenizer().tokenize(["a video of a person juggling", "x"])
    length = int(token_ids.argmax(dim=1).max()) + 1
    assert length < token_ids.shape[1]
    assert relative_error(both.text(token_ids[:, :length]), both.clip.encode_text(token_ids)) < FP32


@torch.no_grad()
def test_taps_are_open_clips_own_tokens_and_resume_from_every_block(both: Both) -> None:
    n_layers = both.vision.n_layers
    entering = {}
    hooks = [
        block.register_forward_pre_hook(lambda _, inputs, layer=layer: entering.update({layer: inputs[0]}))
        for layer, block in enumerate(both.clip.visual.transformer.resblocks)
    ]
    both.clip.encode_image(both.pixels)
    for hook in hooks:
        hook.remove()
    taps = both.vision.taps(both.pixels, range(n_layers + 1))
    assert sorted(taps.tokens) == list(range(n_layers + 1))
    assert relative_error(taps.pooled, both.image_features) < FP32
    for layer, tokens in taps.tokens.items():
        assert tokens.shape == (2, both.pack.config.vision.n_tokens, both.pack.config.vision.width)
        if layer < n_layers:
            assert relative_error(tokens, entering[layer]) < FP32
        assert relative_error(both.vision.resume(tokens, layer=layer), both.image_features) < FP32


@torch.no_grad()
def test_resume_after_float16_storage(both: Both) -> None:
    taps = both.vision.taps(both.pixels, range(both.vision.n_layers + 1))
    for layer, tokens in taps.tokens.items():
        resumed = both.vision.resume(tokens.half().float(), layer=layer)
        assert relative_error(resumed, both.image_features) < AFTER_FP16, layer
        cosine = torch.nn.functional.cosine_similarity(resumed, both.image_features)
        assert float(1 - cosine.min()) < 1e-5, layer


def test_gradients_through_resume_equal_open_clips(both: Both) -> None:
    layer = 1
    tokens = both.vision.taps(both.pixels, [layer]).tokens[layer]
    direction = torch.randn(both.image_features.shape, generator=torch.Generator().manual_seed(2))
    ours, theirs = tokens.clone().requires_grad_(), tokens.clone().requires_grad_()
    (both.vision.resume(ours, layer=layer) * direction).sum().backward()
    x = theirs
    for block in both.clip.visual.transformer.resblocks[layer:]:
        x = block(x)
    pooled, _ = both.clip.visual._pool(x)
    ((pooled @ both.clip.visual.proj) * direction).sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    assert relative_error(ours.grad, theirs.grad) < FP32


@pytest.mark.parametrize("path", world_configs(), ids=lambda path: path.stem)
def test_the_embedded_clip_itself_equals_open_clip(path, tmp_path) -> None:
    """Its trained, compactly stored weights, not random ones."""
    from open_clip import CLIP
    from safetensors.torch import load_file

    weights = sorted(path.parent.glob("*.safetensors"))
    if not weights:
        pytest.skip("the embedded CLIP has no weights yet")
    pack = load_open_clip(model_config=path, weights=weights[0]).write_pack(tmp_path / "pack")
    state = load_file(weights[0])
    embedding = torch.zeros(49408, pack.config.text.width)
    embedding[state.pop("token_embedding.ids")] = state.pop("token_embedding.rows").float()
    clip = CLIP(**json.loads(path.read_text("utf-8"))).eval()
    clip.load_state_dict(state | {"token_embedding.weight": embedding})
    pixels = torch.randn(2, 3, *(2 * [pack.config.vision.image_size]))
    token_ids = pack.tokenizer().tokenize(["a red star spinning in the snow"])
    with torch.no_grad():
        assert relative_error(pack.vision_tower()(pixels), clip.encode_image(pixels)) < FP32
        assert relative_error(pack.text_tower()(token_ids), clip.encode_text(token_ids)) < FP32
        assert pack.config.logit_scale == pytest.approx(float(clip.logit_scale.exp()), rel=1e-6)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Both:
    return Both(TINY, tmp_path_factory.mktemp("packs") / "pack")


def test_towers_are_frozen_and_have_open_clips_names(tiny: Both) -> None:
    ours = {f"visual.{name}" for name, _ in tiny.vision.named_parameters()}
    ours |= {name for name, _ in tiny.text.named_parameters()}
    assert ours == {name for name, _ in tiny.clip.named_parameters()} - {"logit_scale"}
    for tower in (tiny.vision, tiny.text):
        assert not tower.training
        assert not any(value.requires_grad for value in tower.parameters())


@torch.no_grad()
def test_a_block_asked_for_its_first_rows_gives_those_rows(tiny: Both) -> None:
    tokens = tiny.vision.taps(tiny.pixels, [1]).tokens[1]
    block = tiny.vision.blocks[1]
    for n_query in (1, 5, tokens.shape[1]):
        assert relative_error(block(tokens, n_query=n_query), block(tokens)[:, :n_query]) < FP32


@torch.no_grad()
def test_text_is_causal(tiny: Both) -> None:
    token_ids = tiny.pack.tokenizer().tokenize(["a cat"])
    behind = token_ids.clone()
    behind[:, 10:] = 5
    assert torch.equal(tiny.text(token_ids), tiny.text(behind))


@pytest.mark.parametrize(
    "pixels", [torch.zeros(2, 3, 16, 16), torch.zeros(2, 32, 32, 3), torch.zeros(2, 3, 32, 32, dtype=torch.uint8)]
)
def test_pixels_of_another_shape_are_refused(tiny: Both, pixels: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\[N 3 32 32\], got"):
        tiny.vision(pixels)


@pytest.mark.parametrize("layer", [-1, 5])
def test_blocks_that_are_not_there_are_refused(tiny: Both, layer: int) -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 4\]"):
        tiny.vision.taps(tiny.pixels, [layer])
    with pytest.raises(ValueError, match=r"not in \[0, 4\]"):
        tiny.vision.resume(torch.zeros(1, 17, 48), layer=layer)


def test_a_text_of_more_rows_than_positions_is_refused(tiny: Both) -> None:
    with pytest.raises(ValueError, match="78 text tokens do not fit the context length 77"):
        tiny.text(torch.zeros(1, 78, dtype=torch.int64))
