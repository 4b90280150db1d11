"""Checkpoints of every code base of the field load to the same weights; what cannot be rerun is refused by name."""

from __future__ import annotations

import argparse
import copy
import json
import pickle
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from openclip_models import TINY, random_clip
from safetensors.torch import save_file

from vidfeat.backbone import ForeignVision
from vidfeat.clip.config import tower_sizes
from vidfeat.clip.hub import of_another_model
from vidfeat.clip.openclip import from_state_dict, load_open_clip
from vidfeat.errors import UnsupportedModelError


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(random_clip(TINY).state_dict())


@pytest.fixture(scope="module")
def sha256(state) -> str:
    return from_state_dict(state, model_config=TINY).config.weights_sha256


def _vificlip_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As ViFi-CLIP saves: `module.`, its own tower names, a prompt learner, and no token embedding."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("visual."):
            name = name.replace("visual.", "image_encoder.", 1)
        elif name == "token_embedding.weight":
            continue
        elif name != "logit_scale":
            name = f"text_encoder.{name}"
        renamed[f"module.{name}"] = value
    return renamed | {"module.prompt_learner.complete_text_embeddings": torch.zeros(3, 77, 32)}


def test_one_model_through_every_kind_of_file(state, sha256: str, tmp_path: Path) -> None:
    used = torch.tensor([0, 5, 49407])
    sparse = torch.zeros_like(state["token_embedding.weight"])
    sparse[used] = state["token_embedding.weight"][used]
    compact = {name: value for name, value in state.items() if name != "token_embedding.weight"}
    compact |= {"token_embedding.ids": used, "token_embedding.rows": sparse[used]}
    text_prefixed = {
        name if name.startswith("visual.") or name == "logit_scale" else f"text.{name}": value
        for name, value in state.items()
    }
    save_file(state, tmp_path / "plain.safetensors")
    save_file(
        compact, tmp_path / "compact.safetensors", metadata={"format": "compact-open-clip", "vocab_size": "49408"}
    )
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "trained.pt")
    torch.save({"model": text_prefixed, "optimizer": {}}, tmp_path / "custom-text.bin")
    torch.save({"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}}, tmp_path / "compiled.pth")
    torch.save(
        state | {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77)}, tmp_path / "openai.pt"
    )
    for name in ("plain.safetensors", "plain.pt", "trained.pt", "custom-text.bin", "compiled.pth", "openai.pt"):
        loaded = load_open_clip(model_config=TINY, weights=tmp_path / name)
        assert loaded.config.weights_sha256 == sha256, name
        assert loaded.config.pretrained == name
        assert loaded.leftovers == ()
    loaded = load_open_clip(model_config=TINY, weights=tmp_path / "compact.safetensors")
    assert torch.equal(loaded.text_state["token_embedding.weight"], sparse)


def test_a_vificlip_checkpoint_takes_its_token_embedding_from_its_base(state, sha256: str, tmp_path: Path) -> None:
    torch.save(
        {"model": _vificlip_names(state), "config": argparse.Namespace(lr=1.0), "epoch": 10}, tmp_path / "vifi.pth"
    )
    save_file({name: value * 2 for name, value in state.items()}, tmp_path / "base.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"missing token_embedding.weight") as raised:
        load_open_clip(model_config=TINY, weights=tmp_path / "vifi.pth")
    assert "base_weights" in str(raised.value)
    save_file(state, tmp_path / "base.safetensors")
    loaded = load_open_clip(
        model_config=TINY, weights=tmp_path / "vifi.pth", base_weights=tmp_path / "base.safetensors"
    )
    assert loaded.config.weights_sha256 == sha256
    assert loaded.filled_from_base == ("token_embedding.weight",)
    assert loaded.leftovers == ("module.prompt_learner.complete_text_embeddings",)


def test_what_the_checkpoint_has_wins_over_its_base(state, sha256: str, tmp_path: Path) -> None:
    save_file({name: value * 2 for name, value in state.items()}, tmp_path / "base.safetensors")
    save_file({name: value for name, value in state.items() if name != "visual.proj"}, tmp_path / "tuned.safetensors")
    loaded = load_open_clip(
        model_config=TINY, weights=tmp_path / "tuned.safetensors", base_weights=tmp_path / "base.safetensors"
    )
    assert loaded.filled_from_base == ("visual.proj",)
    assert torch.equal(loaded.visual_state["proj"], state["visual.proj"] * 2)
    assert torch.equal(loaded.visual_state["conv1.weight"], state["visual.conv1.weight"])
    assert torch.equal(loaded.text_state["text_projection"], state["text_projection"])


def test_weights_of_openais_code_need_quick_gelu(state, tmp_path: Path) -> None:
    torch.save(state | {"input_resolution": torch.tensor(32)}, tmp_path / "openai.pt")
    with pytest.raises(UnsupportedModelError, match="trained with another activation") as raised:
        load_open_clip(model_config=TINY | {"quick_gelu": False}, weights=tmp_path / "openai.pt")
    assert '"quick_gelu": true' in str(raised.value)


@pytest.mark.parametrize(
    ("model", "pretrained", "named"),
    [
        ("ViT-B-16", "openai", "ViT-B-16-quickgelu"),
        ("ViT-L-14", "openai", "ViT-L-14-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "ViT-B-32"),
    ],
)
def test_a_tag_of_another_activation_names_the_right_model(model: str, pretrained: str, named: str) -> None:
    if not open_clip.get_pretrained_cfg(model, pretrained):
        with pytest.raises(UnsupportedModelError, match="open_clip has no weights"):
            load_open_clip(model=model, pretrained=pretrained)
        return
    with pytest.raises(UnsupportedModelError, match=rf"use the model {named} "):
        load_open_clip(model=model, pretrained=pretrained)


def test_weights_that_stand_under_one_model_alone_are_its_own_whatever_their_entry_says_of_the_activation() -> None:
    """Every tag of open_clip's list is taken, or refused with the name of a model that takes it."""
    for model, tag in open_clip.list_pretrained():
        quick_gelu = bool((open_clip.get_model_config(model) or {}).get("quick_gelu"))
        other = of_another_model(model, tag, quick_gelu=quick_gelu)
        assert other is None or of_another_model(other, tag, quick_gelu=not quick_gelu) is None, (model, tag)


def test_openais_own_spelling_of_a_model_finds_its_weights() -> None:
    with pytest.raises(UnsupportedModelError, match=r"use the model ViT-B-16-quickgelu "):
        load_open_clip(model="ViT-B/16", pretrained="openai")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": {"a": torch.zeros(1)}, "trap": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(UnsupportedModelError):
        load_open_clip(model_config=TINY, weights=tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("garbage.pt", b"not a torch file"),
        ("pickle.pt", pickle.dumps({"a": 1})),
        ("empty.pth", b""),
        ("garbage.safetensors", b"\xff" * 100),
        ("empty.safetensors", b""),
    ],
)
def test_files_that_are_no_weights_give_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedModelError) as raised:
        load_open_clip(model_config=TINY, weights=tmp_path / name)
    assert str(tmp_path / name) in str(raised.value)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_archive_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    with pytest.raises(UnsupportedModelError, match="cannot be read as plain tensors") as raised:
        load_open_clip(model_config=TINY, weights=tmp_path / "script.pt")
    assert "safetensors" in str(raised.value)


def test_leftovers_inside_a_tower_mean_another_model(state, tmp_path: Path) -> None:
    save_file(state | {"visual.transformer.resblocks.1.VPT_shallow": torch.zeros(4, 48)}, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"left over transformer.resblocks.1.VPT_shallow"):
        load_open_clip(model_config=TINY, weights=tmp_path / "w.safetensors")


def test_two_tensors_for_one_place_are_refused(state, tmp_path: Path) -> None:
    save_file(state | {"image_encoder.proj": torch.zeros(48, 24)}, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModelError, match=r"image_encoder\.proj"):
        load_open_clip(model_config=TINY, weights=tmp_path / "w.safetensors")


def test_weights_of_another_size_name_every_difference(state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    other = copy.deepcopy(TINY)
    other["vision_cfg"]["image_size"] = 64
    other["text_cfg"]["layers"] = 4
    with pytest.raises(UnsupportedModelError) as raised:
        load_open_clip(model_config=other, weights=tmp_path / "w.safetensors")
    assert "positional_embedding is [17, 48], not [65, 48]" in str(raised.value)
    assert "missing transformer.resblocks.3.ln_1.weight" in str(raised.value)


def test_a_compact_embedding_outside_the_vocabulary_is_refused(state, tmp_path: Path) -> None:
    compact = {name: value for name, value in state.items() if name != "token_embedding.weight"}
    compact |= {"token_embedding.ids": torch.tensor([49408]), "token_embedding.rows": torch.zeros(1, 32)}
    save_file(compact, tmp_path / "w.safetensors")
    with pytest.raises(UnsupportedModelError, match="compact token embedding cannot be"):
        load_open_clip(model_config=TINY, weights=tmp_path / "w.safetensors")
    compact["token_embedding.ids"] = torch.tensor([49407])
    save_file(compact, tmp_path / "v.safetensors", metadata={"format": "compact-open-clip", "vocab_size": "49400"})
    with pytest.raises(UnsupportedModelError, match="another vocabulary than the model config"):
        load_open_clip(model_config=TINY, weights=tmp_path / "v.safetensors")


# Setting of the image tower, value, and the words that must give the reason why it is not rerun.
FOREIGN = [
    ("layers", [3, 4, 6, 3], "a ResNet, whose stages are convolutions"),
    ("attentional_pool", "cascade", "two attention pools (cascade)"),
    ("pool_type", "none", "pooled by 'none'"),
    ("qk_norm", True, "a custom attention block (qk_norm)"),
    ("block_type", "custom", "a custom attention block (block_type=custom)"),
    ("norm_kwargs", {"eps": 1e-6}, "a layer norm with other settings"),
    ("act_kwargs", {"approximate": "tanh"}, "an activation with other settings"),
    ("patch_size", [8, 16], "patches that are not square"),
]
# Section, setting, value, and the words that must name it.
REFUSALS = [
    ("vision_cfg", "patch_siez", 16, "unknown setting in vision_cfg (patch_siez=16)"),
    ("text_cfg", "hf_pooler_type", "max_pooler", "a text tower of transformers pooled by"),
    ("text_cfg", "tokenizer_kwargs", {"clean": "canonicalize"}, "tokenizer with other settings"),
    ("text_cfg", "tokenizer_mode", "clips", "a tokenizer with another mode"),
    ("text_cfg", "pool_type", "first", "read by 'first'"),
    ("text_cfg", "proj_type", "mlp", "projection of another kind"),
    ("text_cfg", "norm_kwargs", {"elementwise_affine": False}, "layer norms with other settings"),
    ("text_cfg", "act_kwargs", {"approximate": "sigmoid"}, "activation with other settings"),
    ("text_cfg", "scale_heads", True, "scale_heads"),
    ("text_cfg", "context_lenght", 32, "unknown setting in text_cfg (context_lenght=32)"),
    ("text_cfg", "ls_init_value", 1e-4, "layer scale"),
    (None, "logit_bais", -10, "unknown setting in top level (logit_bais=-10)"),
]


@pytest.mark.parametrize(("key", "value", "words"), FOREIGN, ids=lambda value: str(value)[:30])
def test_image_towers_that_cannot_be_rerun_are_open_clips_with_the_reason(key, value, words) -> None:
    config = copy.deepcopy(TINY)
    config["vision_cfg"][key] = value
    vision = tower_sizes(config, name="some model").vision
    assert isinstance(vision, ForeignVision)
    assert words in vision.reason
    assert vision.model["vision_cfg"] == config["vision_cfg"]
    assert vision.versions["open_clip"] == open_clip.__version__


@pytest.mark.parametrize(("section", "key", "value", "words"), REFUSALS, ids=lambda value: str(value)[:30])
def test_towers_that_cannot_be_rerun_are_refused_by_name(section, key, value, words) -> None:
    config = copy.deepcopy(TINY)
    (config[section] if section else config)[key] = value
    with pytest.raises(UnsupportedModelError) as raised:
        tower_sizes(config, name="some model")
    first_line = str(raised.value).splitlines()[0]
    assert first_line.startswith("some model has ")
    assert words in first_line


def test_every_reason_is_given_at_once() -> None:
    config = copy.deepcopy(TINY)
    config["vision_cfg"]["patch_siez"] = 16
    config["text_cfg"]["pool_type"] = "first"
    with pytest.raises(UnsupportedModelError, match=r"patch_siez.*pool_type"):
        tower_sizes(config, name="x")


def test_settings_without_effect_at_inference_are_let_in() -> None:
    config = copy.deepcopy(TINY)
    config["vision_cfg"] |= {"patch_dropout": 0.5, "pool_type": "tok", "attentional_pool": False}
    config["text_cfg"] |= {"pool_type": "argmax", "hf_tokenizer_name": None}
    assert tower_sizes(config, name="x") == tower_sizes(TINY, name="x")


def test_a_timm_model_that_is_not_installed_names_timm_and_its_version() -> None:
    config = TINY | {"vision_cfg": {"timm_model_name": "vit_of_tomorrow", "image_size": 32}}
    with pytest.raises(UnsupportedModelError, match="the installed timm cannot build") as raised:
        tower_sizes(config, name="x")
    assert "vit_of_tomorrow" in str(raised.value)
    assert timm.__version__ in str(raised.value)


def test_a_failed_download_is_one_clear_error(monkeypatch) -> None:
    def offline(*args, **kwargs):
        raise RuntimeError("Failed to download weights for tag 'openai': connection refused\n" + "long trace\n" * 50)

    monkeypatch.setattr(open_clip, "create_model", offline)
    with pytest.raises(
        UnsupportedModelError, match="open_clip could not load the weights of ViT-B-16-quickgelu"
    ) as raised:
        load_open_clip(model="ViT-B-16-quickgelu", pretrained="openai")
    assert "--model ViT-B-16-quickgelu --pretrained FILE" in str(raised.value)
    assert "open_clip_model.safetensors of the hub's timm/vit_base_patch16_clip_224.openai" in str(raised.value)
    assert len(str(raised.value).splitlines()) == 4


def test_a_model_from_the_hub_brings_its_preprocessing(monkeypatch) -> None:
    config = TINY | {"quick_gelu": False}
    model = random_clip(config)
    model.visual.preprocess_cfg = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2), "interpolation": "bilinear"}
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: copy.deepcopy(config))
    monkeypatch.setattr(open_clip, "create_model", lambda *args, **kwargs: model)
    loaded = load_open_clip(model="hf-hub:someone/some-clip")
    assert loaded.config.image_mean == (0.5, 0.4, 0.3)
    assert loaded.config.interpolation == "bilinear"
    assert loaded.config.logit_scale == pytest.approx(float(model.logit_scale.exp()))


def test_a_config_file_with_preprocessing(state, tmp_path: Path) -> None:
    save_file(state, tmp_path / "w.safetensors")
    values = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]}}
    (tmp_path / "tiny.json").write_text(json.dumps(values))
    loaded = load_open_clip(model_config=tmp_path / "tiny.json", weights=tmp_path / "w.safetensors")
    assert (loaded.config.name, loaded.config.image_mean) == ("tiny", (0.1, 0.2, 0.3))


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(UnsupportedModelError, match="ViT-B-16"):
        load_open_clip(model="ViT-B16", pretrained="openai")


def test_an_unknown_tag_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedModelError, match="laion2b_s34b_b88k"):
        load_open_clip(model="ViT-B-16", pretrained="opnai")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"model": "ViT-B-16"},
        {"model": "ViT-B-16", "model_config": TINY, "weights": "w"},
        {"model_config": TINY},
        {"model": "ViT-B-16", "pretrained": "openai", "weights": "w"},
        {"model": "hf-hub:a/b", "pretrained": "openai"},
        {"model": "ViT-B-16", "pretrained": "openai", "base_weights": "w"},
    ],
    ids=str,
)
def test_arguments_that_do_not_go_together(arguments) -> None:
    with pytest.raises(ValueError, match=r"give|brings"):
        load_open_clip(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"model_config": "nowhere.json", "weights": "w"}, {"model_config": TINY, "weights": "w"}]
)
def test_missing_files(arguments) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such"):
        load_open_clip(**arguments)
