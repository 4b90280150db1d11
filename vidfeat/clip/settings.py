"""Settings of an open_clip model config that change what a tower computes, and those that do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """A setting whose value may make a tower one that is not rerun here.

    Attributes:
        key: of the config's section.
        refuses: whether that value does.
        reason: what the tower then has; `{key}` and `{value}` are filled in.
    """

    key: str
    refuses: Callable[[Any], bool]
    reason: str


def is_set(value: Any) -> bool:
    """Whether a setting asks for anything."""
    return value not in (None, False, 0, 0.0, {}, "", "default")


def is_not(*allowed: Any) -> Callable[[Any], bool]:
    """Whether a setting asks for something else than these."""
    return lambda value: value not in (None, *allowed)


CUSTOM_BLOCK = (
    Refusal("block_type", is_set, "a custom attention block ({key}={value})"),
    *(
        Refusal(key, is_set, f"a custom attention block ({key})")
        for key in ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")
    ),
)
BLOCK_REFUSALS = (
    Refusal("norm_kwargs", is_set, "a layer norm with other settings ({key}={value}) than epsilon 1e-5"),
    Refusal("act_kwargs", is_set, "an activation with other settings ({key}={value}) than plain GELU or QuickGELU"),
    *CUSTOM_BLOCK,
)
LAYER_SCALE = Refusal("ls_init_value", is_set, "layer scale ({key}={value}) in its blocks")


def reasons(
    section: str, values: Mapping[str, Any], refusals: tuple[Refusal, ...], irrelevant: tuple[str, ...]
) -> list[str]:
    """Every reason to refuse a section of the config, in words.

    Args:
        section: its name in the config.
        irrelevant: settings that are read elsewhere, or change nothing at inference.
    """
    found = [
        refusal.reason.format(key=refusal.key, value=values[refusal.key])
        for refusal in refusals
        if refusal.key in values and refusal.refuses(values[refusal.key])
    ]
    return found + unknown(section, values, (*irrelevant, *(refusal.key for refusal in refusals)))


def unknown(section: str, values: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    """Every setting of a section that nobody reads, in words."""
    keys = sorted(values.keys() - set(known))
    return [f"an unknown setting in {section} ({key}={values[key]!r})" for key in keys]
