"""The vision section of an open_clip model config: the image tower it describes, or why that is not rerun here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidfeat.backbone import VisionConfig
from vidfeat.clip.settings import BLOCK_REFUSALS, LAYER_SCALE, Refusal, is_not, is_set, reasons


def _not_square(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(set(value)) != 1


_REFUSALS = (
    Refusal("timm_model_name", is_set, "a timm image tower ({value})"),
    Refusal("layers", lambda value: isinstance(value, (list, tuple)), "a ResNet image tower (layers={value})"),
    Refusal("attentional_pool", is_set, "an attention pooling head (attentional_pool), as in SigLIP and CoCa"),
    Refusal("pool_type", is_not("tok"), "an image tower pooled by {value!r} instead of its class token (pool_type)"),
    Refusal("no_ln_pre", is_set, "an image tower without a norm before its first block (no_ln_pre)"),
    Refusal("image_size", _not_square, "images that are not square ({value})"),
    Refusal("patch_size", _not_square, "patches that are not square ({value})"),
    Refusal("output_tokens", is_set, "a tower that returns its tokens (output_tokens), as CoCa's do"),
    Refusal("final_ln_after_pool", is_set, "the final norm after pooling (final_ln_after_pool)"),
    LAYER_SCALE,
    *BLOCK_REFUSALS,
)
_IRRELEVANT = (
    *("width", "head_width", "mlp_ratio", "patch_dropout", "pos_embed_type", "attn_pooler_queries"),
    *("attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
    *("timm_drop", "timm_drop_path"),
)


def vision_reasons(vision: Mapping[str, Any]) -> list[str]:
    """Why the image tower of a `vision_cfg` cannot be rerun exactly; empty when it can."""
    return reasons("vision_cfg", vision, _REFUSALS, _IRRELEVANT)


def vision_config(model_config: Mapping[str, Any]) -> VisionConfig:
    """The image tower of a model config that `vision_reasons` has nothing against.

    Raises:
        ValueError, TypeError: sizes that cannot be.

    Source: defaults of CLIPVisionCfg, mlfoundations/open_clip, src/open_clip/model.py (3.3.0).
    """
    vision = model_config["vision_cfg"]
    width, head_width = int(vision.get("width", 768)), int(vision.get("head_width", 64))
    if width % head_width:
        raise ValueError(f"vision width {width} is not a multiple of head_width {head_width}")
    return VisionConfig(
        image_size=_square(vision.get("image_size", 224)),
        patch_size=_square(vision.get("patch_size", 16)),
        width=width,
        layers=int(vision.get("layers", 12)),
        heads=width // head_width,
        mlp_ratio=float(vision.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if model_config.get("quick_gelu") else "gelu",
    )


def _square(value: Any) -> int:
    return int(value[0]) if isinstance(value, (list, tuple)) else int(value)
