"""The text section of an open_clip model config: the text tower it describes, or why that is not rerun here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidfeat.backbone import ForeignText, TextConfig
from vidfeat.backbone.foreign_text import text_versions
from vidfeat.backbone.tower_config import Activation, TextPooling
from vidfeat.clip.settings import CUSTOM_BLOCK, LAYER_SCALE, Refusal, is_not, is_set, reasons

_REFUSALS = (
    Refusal("tokenizer_mode", is_set, "a tokenizer with another mode ({value})"),
    Refusal("pool_type", is_not("argmax", "eos", "last"), "a text tower read by {value!r} (pool_type)"),
    Refusal("proj_type", is_not("linear", "none"), "a text projection of another kind (proj_type={value})"),
    Refusal("final_ln_after_pool", is_set, "the final norm after pooling (final_ln_after_pool)"),
    Refusal(
        "norm_kwargs",
        lambda value: bool(value) and set(value) != {"eps"},
        "layer norms with other settings ({value}) than an epsilon",
    ),
    Refusal(
        "act_kwargs",
        lambda value: bool(value) and value != {"approximate": "tanh"},
        "an activation with other settings ({value}) than GELU's tanh approximation",
    ),
    Refusal(
        "hf_pooler_type",
        is_not("mean_pooler", "cls_pooler", "cls_last_hidden_state_pooler"),
        "a text tower of transformers pooled by {value!r}",
    ),
    Refusal("hf_proj_type", is_not("linear", "mlp"), "a projection of another kind (hf_proj_type={value})"),
    LAYER_SCALE,
    *CUSTOM_BLOCK,
)
# Read below; whether tokens come out beside the feature; settings of Hugging Face towers.
_KNOWN = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pad_id", "eos_id", "embed_cls"),
    *("no_causal_mask", "proj_bias", "output_tokens", "hf_model_name", "hf_model_pretrained"),
    *("hf_tokenizer_name", "tokenizer_kwargs"),
)
# What a tokenizer from the hub may be told, and the values that are known.
_TOKENIZER_KWARGS: Mapping[str, tuple[Any, ...]] = {
    "clean": ("lower", "whitespace", "canonicalize"),
    "strip_sep_token": (True, False),
}


def text_reasons(text: Mapping[str, Any]) -> list[str]:
    """Why the text tower of a `text_cfg` cannot be rerun exactly; empty when it can."""
    found = reasons("text_cfg", text, _REFUSALS, _KNOWN)
    kwargs = dict(text.get("tokenizer_kwargs") or {})
    known = _TOKENIZER_KWARGS if text.get("hf_tokenizer_name") else {}
    found += [
        f"a tokenizer with other settings ({key}={value!r})"
        for key, value in kwargs.items()
        if value not in known.get(key, ())
    ]
    if text.get("embed_cls") and text.get("no_causal_mask"):
        found.append("a class embedding behind a text that is not causal (embed_cls, no_causal_mask)")
    return found


def text_config(model_config: Mapping[str, Any]) -> TextConfig | ForeignText:
    """The text tower of a model config that `text_reasons` has nothing against; one of transformers' without its own
    config, which is on the hub (`with_hub_config`).

    Raises:
        ValueError, TypeError: sizes that cannot be.

    Source: defaults of CLIPTextCfg, mlfoundations/open_clip, src/open_clip/model.py (3.3.0).
    """
    text = model_config["text_cfg"]
    if text.get("hf_model_name"):
        return ForeignText(
            context_length=int(text.get("context_length", 77)),
            vocab_size=0,
            model={},
            pooler=text.get("hf_pooler_type", "mean_pooler"),
            projection=text.get("hf_proj_type", "mlp"),
            versions=text_versions(),
            tokenizer=None,
        )
    pooling: TextPooling = "class" if text.get("embed_cls") else text.get("pool_type", "argmax")
    if text.get("proj_type", "linear") == "none":
        projection = None
    else:
        projection = "linear" if text.get("proj_bias") else "matrix"
    return TextConfig(
        context_length=int(text.get("context_length", 77)),
        vocab_size=int(text.get("vocab_size", 49408)),
        width=int(text.get("width", 512)),
        layers=int(text.get("layers", 12)),
        heads=int(text.get("heads", 8)),
        mlp_ratio=float(text.get("mlp_ratio", 4.0)),
        activation=_activation(model_config),
        causal=not text.get("no_causal_mask"),
        pooling=pooling,
        eos_id=int(text.get("eos_id", 2)) if pooling == "eos" else None,
        pad_id=int(text.get("pad_id", 0)) if pooling == "class" else 0,
        projection=projection,  # type: ignore[arg-type]
        norm_eps=float((text.get("norm_kwargs") or {}).get("eps", 1e-5)),
    )


def _activation(model_config: Mapping[str, Any]) -> Activation:
    if model_config.get("quick_gelu"):
        return "quick_gelu"
    return "gelu_tanh" if model_config["text_cfg"].get("act_kwargs") else "gelu"
