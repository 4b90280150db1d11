"""Whole small models of every family: its own image tower, its own text tower, its own tokenizer; random weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from hub_tokenizers import write_tokenizer
from safetensors.torch import save_file
from vision_families import family_config

from vidfeat.extraction.options import ModelChoice

# Family: its image tower in `vision_families`, open_clip's model with its text tower, its tokenizer in
# `hub_tokenizers` (None: CLIP's).
WHOLE: dict[str, tuple[str, str, str | None]] = {
    "siglip": ("siglip", "ViT-B-16-SigLIP", "siglip"),
    "siglip2": ("siglip2-so400m", "ViT-B-16-SigLIP2", "siglip2"),
    "pe-core": ("pe-core", "PE-Core-B-16", None),
    "eva02": ("eva02", "EVA02-B-16", None),
    "eva02-E": ("eva02-E", "EVA02-E-14", None),
    "clipa": ("clipa", "ViT-L-14-CLIPA", "clipa"),
    "coca": ("coca", "coca_ViT-B-32", None),
    "metaclip2": ("metaclip2", "ViT-H-14-worldwide-quickgelu", "worldwide"),
    "mobileclip-b": ("mobileclip-b", "MobileCLIP2-B", None),
    "mobileclip2-l": ("mobileclip2-l", "MobileCLIP2-L-14", None),
    "layer-scale": ("layer-scale", "ViT-M-16-alt", None),
    "resnet": ("resnet", "RN50-quickgelu", None),
    "fastvit": ("fastvit", "MobileCLIP2-S2", None),
}
WIDTH, HEADS, LAYERS = 32, 2, 2


def whole_config(family: str) -> dict[str, Any]:
    """open_clip's model config of a family, both towers cut in depth and width."""
    import open_clip

    image, model, kind = WHOLE[family]
    config, own = family_config(image), open_clip.get_model_config(model)
    sizes = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "vocab_size": 49408 if kind is None else 600}
    kept = {key: own[key] for key in ("quick_gelu", "init_logit_bias") if key in own}
    return config | kept | {"text_cfg": own["text_cfg"] | sizes}


def write_whole(folder: Path, family: str) -> ModelChoice:
    """The family's model as files: config, weights, and the tokenizer where it has its own."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    config = whole_config(family)
    (folder / f"{family}.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    known = ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_bias")
    text = {key: value for key, value in config["text_cfg"].items() if not key.startswith(("hf_", "tokenizer"))}
    model = open_clip.CustomTextCLIP(**{key: config[key] for key in known if key in config} | {"text_cfg": text})
    state = {name: value.contiguous() for name, value in model.state_dict().items() if "attn_mask" not in name}
    save_file(state, folder / f"{family}.safetensors")
    choice = ModelChoice(model_config=folder / f"{family}.json", weights=folder / f"{family}.safetensors")
    kind = WHOLE[family][2]
    return choice if kind is None else replace(choice, tokenizer=write_tokenizer(folder / "tokenizer", kind))
