"""One small open_clip model per family of image towers: the true architecture, cut in depth and width, random weights.

Towers of timm's are cut through timm's own arguments and registered under names of their own, so that open_clip builds
them as it builds the published ones. The text half is a tiny CLIP's: this is about images.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from openclip_models import cut_config
from safetensors.torch import save_file
from torch import nn

from vidfeat.extraction.options import ModelChoice

TEXT: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 4, "img_size": 48}
HEAD = {"timm_pool": "token", "timm_proj": None}
# Family: timm's model, what is cut of it, and how open_clip reads it.
TIMM: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "siglip": ("vit_base_patch16_siglip_224", SMALL, {"timm_pool": "map", "timm_proj": "none"}),
    "siglip2-so400m": (
        "vit_so400m_patch16_siglip_256",
        SMALL | {"embed_dim": 72, "num_heads": 6, "img_size": (32, 64)},
        {"timm_pool": "map", "timm_proj": "none"},
    ),
    "pe-core": ("vit_pe_core_base_patch16_224", SMALL | {"img_size": 64}, {"timm_pool": "map", "timm_proj": None}),
    "pe-core-bigG": (
        "vit_pe_core_gigantic_patch14_448",
        SMALL | {"img_size": (42, 56)},
        {"timm_pool": "map", "timm_proj": None},
    ),
    "eva02": ("eva02_base_patch16_clip_224", SMALL | {"img_size": 64}, HEAD),
    "eva02-E": ("eva02_enormous_patch14_clip_224", SMALL | {"mlp_ratio": 3.3}, HEAD),
    "eva01": ("eva_giant_patch14_224", SMALL, HEAD),
    "mobileclip-b": ("vit_base_mci_224", {"depth": 2, "img_size": 48}, HEAD),
    "mobileclip2-l": ("vit_large_patch14_clip_224", SMALL, HEAD),
    "gap": ("vit_medium_patch16_gap_256", SMALL, {"timm_pool": "", "timm_proj": "linear"}),
}
# Family: open_clip's config, what is cut of it.
OPEN_CLIP: dict[str, tuple[str, dict[str, Any]]] = {
    "clipa": ("ViT-L-14-CLIPA", {"width": 64, "head_width": 16, "image_size": 42}),
    "coca": ("coca_ViT-B-32", {"width": 96, "head_width": 24, "image_size": 64}),
    "layer-scale": ("ViT-M-16-alt", {"width": 64, "head_width": 16, "image_size": [48, 32]}),
    "metaclip2": ("ViT-H-14-worldwide-quickgelu", {"width": 64, "head_width": 16, "image_size": 42}),
}
OURS = (*OPEN_CLIP, *TIMM)
# Family: timm's model, what is cut of it, picture, and how open_clip reads it.
FOREIGN: dict[str, tuple[str, dict[str, Any], int, dict[str, Any]]] = {
    "convnext": (
        "convnext_tiny",
        {"depths": (1, 1, 2, 1), "dims": (16, 24, 32, 40)},
        64,
        {"timm_pool": "", "timm_proj": "linear"},
    ),
    "fastvit": ("fastvit_mci0", {"layers": (1, 1, 1, 1)}, 64, {"timm_pool": "avg", "timm_proj": None}),
    "vitamin": ("vitamin_small_224", {"depth": 1}, 224, {"timm_pool": "", "timm_proj": "linear"}),
    "swin": (
        "swin_base_patch4_window7_224",
        {"depths": (1, 1), "embed_dim": 32, "num_heads": (2, 4), "img_size": 56},
        56,
        {"timm_pool": "", "timm_proj": "linear"},
    ),
    "relpos": ("vit_relpos_medium_patch16_cls_224", SMALL, 48, {"timm_pool": "", "timm_proj": "linear"}),
}


@cache
def cut_timm(name: str, family: str) -> str:
    """The name under which a cut copy of timm's model is registered."""
    cuts = (TIMM.get(family) or FOREIGN[family])[1]
    registered = f"cut_{family}".replace("-", "_").lower()

    def build(pretrained: bool = False, **given: Any) -> nn.Module:
        return timm.create_model(name, pretrained=False, **(cuts | given))

    build.__name__ = registered
    timm.models.register_model(build)
    return registered


def family_config(family: str) -> dict[str, Any]:
    """open_clip's model config of a family's small model."""
    if family == "resnet":
        config = cut_config("RN50")
        vision = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}
        return config | {"vision_cfg": vision, "text_cfg": copy.deepcopy(TEXT), "embed_dim": 32}
    if family in OPEN_CLIP:
        name, cuts = OPEN_CLIP[family]
        config = cut_config(name)
        config["vision_cfg"] |= cuts
        config.pop("multimodal_cfg", None)
        return config | {"text_cfg": copy.deepcopy(TEXT), "embed_dim": 40, "custom_text": False}
    if family in FOREIGN:
        name, _, size, head = FOREIGN[family]
    else:
        name, cuts, head = TIMM[family]
        size = cuts["img_size"]
    vision = {"timm_model_name": cut_timm(name, family), "image_size": size, **head}
    embed_dim = TIMM[family][1].get("embed_dim", 32) if head["timm_proj"] == "none" else 32
    return {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": copy.deepcopy(TEXT)}


def family_clip(family: str, *, seed: int = 0) -> nn.Module:
    """The family's model; every tensor random, so that one that is lost or misplaced is seen."""
    import open_clip

    config = {key: value for key, value in family_config(family).items() if key != "custom_text"}
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config).eval().requires_grad_(False)
    for name, value in model.state_dict().items():
        if not name.startswith("visual.") or not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.ndim < 2 or value.abs().max() < 0.1:
            # Norms around 1, layer scale (1e-6 at first) large enough to matter, biases and small matrices around 0.
            is_factor = "gamma" in name or (value.ndim == 1 and name.endswith("weight"))
            value.normal_(0.0, 0.1).add_(1.0 if is_factor else 0.0)
    return model


def image_features(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """open_clip's features of pixels, not normalised; CoCa's tower gives its tokens beside them."""
    found = model.visual(pixels)
    return found[0] if isinstance(found, tuple) else found


def open_clips_blocks(model: nn.Module) -> list[nn.Module]:
    """The blocks of open_clip's image tower, whoever built it."""
    visual: Any = model.visual
    return list(visual.trunk.blocks if hasattr(visual, "trunk") else visual.transformer.resblocks)


def random_pixels(model_config: dict[str, Any], *, n: int = 2) -> torch.Tensor:
    """[n 3 H W] normal noise of the config's picture."""
    size = model_config["vision_cfg"]["image_size"]
    shape = (size, size) if isinstance(size, int) else tuple(size)
    return torch.randn(n, 3, *shape, generator=torch.Generator().manual_seed(1))


def write_family(folder: Path, family: str) -> ModelChoice:
    """A family's model config and random weights as files, as open_clip lays them out."""
    folder.mkdir(parents=True, exist_ok=True)
    config, weights = folder / f"{family}.json", folder / f"{family}.safetensors"
    config.write_text(json.dumps(family_config(family)))
    state = {name: value.contiguous() for name, value in family_clip(family).state_dict().items()}
    save_file({name: value for name, value in state.items() if name != "attn_mask"}, weights)
    return ModelChoice(model_config=config, weights=weights)
