"""Text towers that transformers runs: features as open_clip's, what refuses them, what is said where it is absent."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_tokenizers import write_tokenizer
from small_extraction import TINY_CLIP, small_options, write_videos
from training import train_runs

from vidfeat.backbone import BackbonePack, ForeignText, ForeignTextTower
from vidfeat.clip.openclip import LoadedClip, from_state_dict, load_open_clip
from vidfeat.clip.verdicts import judge
from vidfeat.errors import UnsupportedModelError
from vidfeat.extraction.extract import extract_or_resume
from vidfeat.extraction.options import ModelChoice

ROBERTA = {
    "vocab_size": 700,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 100,
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
MT5 = {
    "model_type": "mt5",
    "vocab_size": 700,
    "d_model": 32,
    "d_kv": 16,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 2,
    "is_encoder_decoder": True,
    "pad_token_id": 1,
    "decoder_start_token_id": 0,
}
NLLB = {
    "model_type": "m2m_100",
    "vocab_size": 700,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 100,
    "is_encoder_decoder": True,
    "pad_token_id": 1,
    "bos_token_id": 0,
}
# Kind: transformers' config, its pooling and projection in open_clip's models, its tokenizer.
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "roberta": (ROBERTA | {"model_type": "roberta"}, {"hf_proj_type": "linear"}, "worldwide"),
    "xlm-roberta": (ROBERTA | {"model_type": "xlm-roberta"}, {"hf_pooler_type": "mean_pooler"}, "worldwide"),
    "mt5": (MT5, {"hf_pooler_type": "mean_pooler"}, "worldwide"),
    "nllb": (NLLB, {"hf_proj_type": "linear", "hf_pooler_type": "cls_pooler"}, "nllb"),
    "own-pooler": (
        ROBERTA | {"model_type": "roberta"},
        {"hf_pooler_type": "cls_pooler", "hf_proj_type": None},
        "worldwide",
    ),
}
TEXTS = ["a video of playing guitar", "a", "brushing hair and riding a horse"]


def config_of(kind: str, folder: Path) -> dict[str, Any]:
    """A small model config whose text tower and tokenizer are in that folder, as a hub's cache would have them."""
    config, text, tokenizer = KINDS[kind]
    write_tokenizer(folder, tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    named = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "hf_model_pretrained": False}
    return TINY_CLIP | {"embed_dim": 32, "quick_gelu": False, "text_cfg": named | text}


def open_clips(config: dict[str, Any]) -> Any:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(**config).eval().requires_grad_(False)
    for value in model.text.parameters():
        value.normal_(std=0.3)
    return model


def loaded(kind: str, folder: Path) -> tuple[Any, LoadedClip]:
    pytest.importorskip("transformers")
    config = config_of(kind, folder)
    model = open_clips(config)
    return model, from_state_dict(model.state_dict(), model_config=config, tokenizer=folder)


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_open_clips_after_a_pack(kind: str, tmp_path: Path) -> None:
    theirs, ours = loaded(kind, tmp_path / "hub")
    ours.write_pack(tmp_path / "pack")
    pack = BackbonePack.load(tmp_path / "pack")
    pack.verify()
    assert pack.config == ours.config
    ids, tower = pack.tokenizer().tokenize(TEXTS), pack.frozen_text()
    expected = theirs.encode_text(ids)
    torch.testing.assert_close(tower(ids), expected, rtol=1e-5, atol=1e-5)
    # Padding is hidden from all tokens: a text cut behind its last one has the same feature.
    n = int(tower.n_needed(ids[1:2]))
    assert n < ids.shape[1]
    torch.testing.assert_close(tower(ids[1:2, :n]), expected[1:2], rtol=1e-5, atol=1e-5)


def test_zero_shot_and_the_probe_train_and_prompts_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model, _ = loaded("nllb", tmp_path / "hub")
    config, weights = tmp_path / "small.json", tmp_path / "small.safetensors"
    config.write_text(json.dumps(config_of("nllb", tmp_path / "hub")))
    save_file({name: value.clone().contiguous() for name, value in model.state_dict().items()}, weights)
    choice = ModelChoice(model_config=config, weights=weights, tokenizer=tmp_path / "hub")
    options = small_options(write_videos(tmp_path / "videos", 8), tmp_path / "x.zarr", choice, taps=("pooled",))
    extract_or_resume(options, quiet=True)
    few: dict[str, Any] = {"protocol": {"name": "few-shot", "shots": 2, "val_shots": 1, "test_fraction": 0.25}}
    store = str(tmp_path / "x.zarr")
    for method in ("zero-shot", "linear-probe", "tip-adapter"):
        train_runs(tmp_path / method, few, method=method, store=store, seeds=[1])
    for method in ("coop", "ivlp"):  # also where tokens are lacking: to extract them first would be in vain
        with pytest.raises(UnsupportedModelError, match="text prompts cannot enter small: transformers runs"):
            train_runs(tmp_path / method, few, method=method, store=store, seeds=[1])
    with pytest.raises(UnsupportedModelError, match="text prompts cannot enter"):
        BackbonePack.load(tmp_path / "x.zarr" / "pack").text_tower()


def test_without_transformers_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UnsupportedModelError, match=r'pip install "prompttune\[hf-text\]"'):
        load_open_clip(model="xlm-roberta-base-ViT-B-32", pretrained="laion5b_s13b_b90k")
    text = ForeignText(77, 700, ROBERTA | {"model_type": "roberta"}, "mean_pooler", None, {"transformers": "5"}, None)
    with pytest.raises(UnsupportedModelError, match="which is not installed"):
        ForeignTextTower(text, embed_dim=32, name="x")


def test_the_models_list_says_what_they_can() -> None:
    verdict = judge("nllb-clip-base")
    assert verdict.zero_shot.how == "class features of written prompts, by transformers"
    assert not verdict.text_prompts.yes
    assert verdict.tokens.yes
