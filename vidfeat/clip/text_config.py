"""The text section of an open_clip model config: the text tower it describes, or why that is not rerun here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vidfeat.backbone import TextConfig
from vidfeat.clip.settings import BLOCK_REFUSALS, LAYER_SCALE, Refusal, is_not, is_set, reasons

_REFUSALS = (
    Refusal("hf_model_name", is_set, "a Hugging Face text tower ({value})"),
    Refusal("hf_tokenizer_name", is_set, "another tokenizer ({value}) than CLIP's byte pairs"),
    Refusal("tokenizer_kwargs", is_set, "a tokenizer with other settings ({value})"),
    Refusal("tokenizer_mode", is_set, "a tokenizer with another mode ({value})"),
    Refusal("embed_cls", is_set, "a class token appended to the text (embed_cls), as in CoCa"),
    Refusal("no_causal_mask", is_set, "a text tower that is not causal (no_causal_mask)"),
    Refusal("pool_type", is_not("argmax"), "a text tower read by {value!r} instead of at end of text (pool_type)"),
    Refusal("proj_type", is_not("linear"), "a text tower without a linear projection (proj_type={value})"),
    Refusal("proj_bias", is_set, "a text projection with a bias (proj_bias)"),
    Refusal("output_tokens", is_set, "a tower that returns its tokens (output_tokens), as CoCa's do"),
    Refusal("final_ln_after_pool", is_set, "the final norm after pooling (final_ln_after_pool)"),
    LAYER_SCALE,
    *BLOCK_REFUSALS,
)
_IRRELEVANT = (
    *("context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "pad_id", "eos_id"),
    *("hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
)


def text_reasons(text: Mapping[str, Any]) -> list[str]:
    """Why the text tower of a `text_cfg` cannot be rerun exactly; empty when it can."""
    return reasons("text_cfg", text, _REFUSALS, _IRRELEVANT)


def text_config(model_config: Mapping[str, Any]) -> TextConfig:
    """The text tower of a model config that `text_reasons` has nothing against.

    Raises:
        ValueError, TypeError: sizes that cannot be.

    Source: defaults of CLIPTextCfg, mlfoundations/open_clip, src/open_clip/model.py (3.3.0).
    """
    text = model_config["text_cfg"]
    return TextConfig(
        context_length=int(text.get("context_length", 77)),
        vocab_size=int(text.get("vocab_size", 49408)),
        width=int(text.get("width", 512)),
        layers=int(text.get("layers", 12)),
        heads=int(text.get("heads", 8)),
        mlp_ratio=float(text.get("mlp_ratio", 4.0)),
        activation="quick_gelu" if model_config.get("quick_gelu") else "gelu",
    )
