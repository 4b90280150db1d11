"""An open_clip model config read into tower sizes, or refused by the name of what we cannot rerun exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vidfeat.backbone import TextConfig, VisionConfig
from vidfeat.errors import UnsupportedModelError, explain


@dataclass(frozen=True)
class TowerSizes:
    """What a model config says about both towers."""

    embed_dim: int
    vision: VisionConfig
    text: TextConfig


@dataclass(frozen=True)
class _Refusal:
    key: str
    refuses: Callable[[Any], bool]
    reason: str


def _is_set(value: Any) -> bool:
    return value not in (None, False, 0, 0.0, {}, "", "default")


def _is_not(*allowed: Any) -> Callable[[Any], bool]:
    return lambda value: value not in (None, *allowed)


_BLOCK_REFUSALS = (
    _Refusal(
        "ls_init_value",
        _is_set,
        "layer scale ({key}={value}) in its blocks",
    ),
    _Refusal("norm_kwargs", _is_set, "a layer norm with other settings ({key}={value}) than epsilon 1e-5"),
    _Refusal("act_kwargs", _is_set, "an activation with other settings ({key}={value}) than plain GELU or QuickGELU"),
    _Refusal("block_type", _is_set, "a custom attention block ({key}={value})"),
    *(
        _Refusal(key, _is_set, f"a custom attention block ({key})")
        for key in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    ),
    _Refusal("output_tokens", _is_set, "a tower that returns its tokens (output_tokens), as CoCa's do"),
    _Refusal("final_ln_after_pool", _is_set, "the final norm after pooling (final_ln_after_pool)"),
)
_VISION_REFUSALS = (
    _Refusal("timm_model_name", _is_set, "a timm image tower ({value})"),
    _Refusal("layers", lambda value: isinstance(value, (list, tuple)), "a ResNet image tower (layers={value})"),
    _Refusal("attentional_pool", _is_set, "an attention pooling head (attentional_pool), as in SigLIP and CoCa"),
    _Refusal("pool_type", _is_not("tok"), "an image tower pooled by {value!r} instead of its class token (pool_type)"),
    _Refusal("no_ln_pre", _is_set, "an image tower without a norm before its first block (no_ln_pre)"),
    _Refusal(
        "image_size",
        lambda value: isinstance(value, (list, tuple)) and len(set(value)) != 1,
        "images that are not square ({value})",
    ),
    _Refusal(
        "patch_size",
        lambda value: isinstance(value, (list, tuple)) and len(set(value)) != 1,
        "patches that are not square ({value})",
    ),
    *_BLOCK_REFUSALS,
)
_TEXT_REFUSALS = (
    _Refusal("hf_model_name", _is_set, "a Hugging Face text tower ({value})"),
    _Refusal("hf_tokenizer_name", _is_set, "another tokenizer ({value}) than CLIP's byte pairs"),
    _Refusal("tokenizer_kwargs", _is_set, "a tokenizer with other settings ({value})"),
    _Refusal("tokenizer_mode", _is_set, "a tokenizer with another mode ({value})"),
    _Refusal("embed_cls", _is_set, "a class token appended to the text (embed_cls), as in CoCa"),
    _Refusal("no_causal_mask", _is_set, "a text tower that is not causal (no_causal_mask)"),
    _Refusal("pool_type", _is_not("argmax"), "a text tower read by {value!r} instead of at end of text (pool_type)"),
    _Refusal("proj_type", _is_not("linear"), "a text tower without a linear projection (proj_type={value})"),
    _Refusal("proj_bias", _is_set, "a text projection with a bias (proj_bias)"),
    *_BLOCK_REFUSALS,
)
_TOP_REFUSALS = (
    _Refusal("multimodal_cfg", _is_set, "a multimodal text decoder (multimodal_cfg), as in CoCa"),
    _Refusal("init_logit_bias", lambda value: value is not None, "a logit bias (init_logit_bias), as in SigLIP's loss"),
    _Refusal("nonscalar_logit_scale", lambda value: False, ""),
)
# Settings that change nothing at inference: dropout is off, inits are overwritten, `custom_text` only renames tensors.
_IRRELEVANT: Mapping[str, tuple[str, ...]] = {
    "top level": (
        "embed_dim",
        "vision_cfg",
        "text_cfg",
        "quick_gelu",
        "custom_text",
        "init_logit_scale",
        "output_dict",
    ),
    "vision_cfg": (
        *("width", "head_width", "mlp_ratio", "patch_dropout", "pos_embed_type", "attn_pooler_queries"),
        *("attn_pooler_heads", "timm_model_pretrained", "timm_pool", "timm_proj", "timm_proj_bias"),
        *("timm_drop", "timm_drop_path"),
    ),
    "text_cfg": (
        *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pad_id", "eos_id"),
        *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
    ),
}


def _reasons(section: str, values: Mapping[str, Any], refusals: tuple[_Refusal, ...]) -> list[str]:
    """Every reason to refuse a section of the config."""
    found = [
        refusal.reason.format(key=refusal.key, value=values[refusal.key])
        for refusal in refusals
        if refusal.key in values and refusal.refuses(values[refusal.key])
    ]
    known = {*_IRRELEVANT[section], *(refusal.key for refusal in refusals)}
    found += [f"an unknown setting in {section} ({key}={values[key]!r})" for key in sorted(values.keys() - known)]
    return found


def tower_sizes(model_config: Mapping[str, Any], *, name: str) -> TowerSizes:
    """The sizes of both towers of an open_clip model config.

    Args:
        model_config: the JSON object with `embed_dim`, `vision_cfg`, `text_cfg` and optionally `quick_gelu`.
        name: what to call the model in an error.

    Raises:
        UnsupportedModelError: towers that `vidfeat.backbone` would not rerun exactly, every reason in one message.

    Source: defaults of CLIPVisionCfg and CLIPTextCfg, mlfoundations/open_clip, src/open_clip/model.py (3.3.0).
    """
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_config]
    if missing:
        raise UnsupportedModelError(
            explain(
                "this is not an open_clip model config",
                where=name,
                expected="a JSON object with embed_dim, vision_cfg and text_cfg",
                got=f"no {', '.join(missing)}",
            )
        )
    vision, text = model_config["vision_cfg"], model_config["text_cfg"]
    reasons = _reasons("top level", model_config, _TOP_REFUSALS)
    reasons += _reasons("vision_cfg", vision, _VISION_REFUSALS) + _reasons("text_cfg", text, _TEXT_REFUSALS)
    if reasons:
        raise UnsupportedModelError(
            explain(
                f"{name} has {'; '.join(reasons)}",
                where="model config",
                expected="a plain ViT (class token, norm before the first block) and CLIP's causal text tower",
                fix="choose such a model, for example ViT-B-16-quickgelu; what is refused here would be rerun wrongly",
            )
        )
    try:
        return _sizes(model_config, vision, text)
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(explain("the model config's sizes cannot be", where=name, got=error)) from error


def _square(value: Any) -> int:
    return int(value[0]) if isinstance(value, (list, tuple)) else int(value)


def _sizes(model_config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> TowerSizes:
    activation = "quick_gelu" if model_config.get("quick_gelu") else "gelu"
    width, head_width = int(vision.get("width", 768)), int(vision.get("head_width", 64))
    if width % head_width:
        raise ValueError(f"vision width {width} is not a multiple of head_width {head_width}")
    return TowerSizes(
        embed_dim=int(model_config["embed_dim"]),
        vision=VisionConfig(
            image_size=_square(vision.get("image_size", 224)),
            patch_size=_square(vision.get("patch_size", 16)),
            width=width,
            layers=int(vision.get("layers", 12)),
            heads=width // head_width,
            mlp_ratio=float(vision.get("mlp_ratio", 4.0)),
            activation=activation,  # type: ignore[arg-type]
        ),
        text=TextConfig(
            context_length=int(text.get("context_length", 77)),
            vocab_size=int(text.get("vocab_size", 49408)),
            width=int(text.get("width", 512)),
            layers=int(text.get("layers", 12)),
            heads=int(text.get("heads", 8)),
            mlp_ratio=float(text.get("mlp_ratio", 4.0)),
            activation=activation,  # type: ignore[arg-type]
        ),
    )
