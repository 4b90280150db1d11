"""The vision section of an open_clip model config: the ViT that we rerun, or the tower that open_clip runs for us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidfeat.backbone import ForeignVision, VisionConfig
from vidfeat.backbone.tower_config import AttentionPool
from vidfeat.clip import door
from vidfeat.clip.settings import BLOCK_REFUSALS, Refusal, is_not, reasons, unknown
from vidfeat.clip.timm_vit import NotRerun, timm_vision

# What a foreign tower is built from; the rest of a model config is about text and training.
MODEL_KEYS = ("embed_dim", "vision_cfg", "quick_gelu")
_REFUSALS = (
    Refusal("layers", lambda value: isinstance(value, (list, tuple)), "a ResNet, whose stages are convolutions"),
    Refusal("pool_type", is_not("tok", "avg"), "an image tower pooled by {value!r} (pool_type)"),
    Refusal("attentional_pool", lambda value: isinstance(value, str), "two attention pools ({value})"),
    Refusal(
        "patch_size",
        lambda value: isinstance(value, (list, tuple)) and len(set(value)) != 1,
        "patches that are not square ({value})",
    ),
    *BLOCK_REFUSALS,
)
_IRRELEVANT = (
    *("width", "head_width", "mlp_ratio", "image_size", "patch_dropout", "pos_embed_type", "ls_init_value"),
    *("attn_pooler_queries", "attn_pooler_heads", "no_ln_pre", "final_ln_after_pool", "output_tokens"),
    *("timm_model_name", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path"),
)


def vision_unknown(vision: Mapping[str, Any]) -> list[str]:
    """Settings of a `vision_cfg` that open_clip does not have."""
    return unknown("vision_cfg", vision, (*_IRRELEVANT, *(refusal.key for refusal in _REFUSALS)))


def vision_config(model_config: Mapping[str, Any]) -> VisionConfig | ForeignVision:
    """The image tower of an open_clip model config.

    Raises:
        ValueError, TypeError: sizes that cannot be.
        ImportError: a timm tower without timm, or without open_clip to build it.
        RuntimeError: a timm model that the installed timm does not have.
    """
    vision = model_config["vision_cfg"]
    try:
        if vision.get("timm_model_name"):
            return timm_vision(door.vision_module(model_config, device="meta"))
        found = reasons("vision_cfg", vision, _REFUSALS, _IRRELEVANT)
        if found:
            raise NotRerun("; ".join(found))
    except NotRerun as reason:
        name = vision.get("timm_model_name")
        return ForeignVision(
            image_size=_size(vision.get("image_size", 224)),
            model={key: model_config[key] for key in MODEL_KEYS if key in model_config},
            versions=door.versions(),
            reason=f"its image tower{f' ({name})' if name else ''} has {reason}",
        )
    return _open_clips_vit(model_config)


def _open_clips_vit(model_config: Mapping[str, Any]) -> VisionConfig:
    """The config of open_clip's own VisionTransformer.

    Source: defaults of CLIPVisionCfg, mlfoundations/open_clip, src/open_clip/model.py (3.3.0).
    """
    vision = model_config["vision_cfg"]
    width, head_width = int(vision.get("width", 768)), int(vision.get("head_width", 64))
    if width % head_width:
        raise ValueError(f"vision width {width} is not a multiple of head_width {head_width}")
    attention_pool, pool = None, "mean" if vision.get("pool_type") == "avg" else "class"
    if vision.get("attentional_pool"):
        heads = int(vision.get("attn_pooler_heads", 8))
        pool, attention_pool = "attention", AttentionPool(heads, int(model_config["embed_dim"]), norms=True)
    return VisionConfig(
        image_size=_size(vision.get("image_size", 224)),
        patch_size=_square(vision.get("patch_size", 16)),
        width=width,
        layers=int(vision.get("layers", 12)),
        heads=width // head_width,
        mlp_ratio=float(vision.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if model_config.get("quick_gelu") else "gelu",
        pre_norm=not vision.get("no_ln_pre"),
        pool=pool,  # type: ignore[arg-type]
        attention_pool=attention_pool,
        # One row is normed alike in front of the pool and behind it.
        norm_after_pool=attention_pool is not None or (pool == "mean" and bool(vision.get("final_ln_after_pool"))),
    )


def _square(value: Any) -> int:
    return int(value[0]) if isinstance(value, (list, tuple)) else int(value)


def _size(value: Any) -> int | tuple[int, int]:
    if isinstance(value, (list, tuple)):
        height, width = map(int, value)
        return height if height == width else (height, width)
    return int(value)
