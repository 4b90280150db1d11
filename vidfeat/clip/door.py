"""The only door to open_clip: its model list, its configs and weights, and its towers as modules.

What is used is exported at the top of the package, in 3.x and in the coming 4.x alike: `list_models`,
`get_model_config`, `create_model`, `CLIP`, `get_pretrained_cfg`, `list_pretrained_tags_by_model`,
`get_model_preprocess_cfg`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

# An image tower is built through open_clip's public model class, which wants a text tower too: the smallest there is.
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 1, "heads": 1, "layers": 1}
# How towers fill their parameters at first; without memory there is nothing to fill, and each costs torch milliseconds.
_FILL_NAMES = ("uniform_", "normal_", "erfinv_", "mul_", "add_", "clamp_", "fill_", "zero_", "div_")
_FILLS = {getattr(torch.Tensor, name) for name in _FILL_NAMES}


class _NothingToFill(TorchFunctionMode):
    """Leaves tensors without memory alone when they are to be filled."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if func in _FILLS and args[0].is_meta else func(*args, **(kwargs or {}))


def model_names() -> tuple[str, ...]:
    """Every architecture that the installed open_clip knows."""
    import open_clip

    return tuple(open_clip.list_models())


def model_config(name: str) -> dict[str, Any] | None:
    """The config of an architecture: a built-in name, `hf-hub:org/name` or `local-dir:path`; None: no such name.

    Raises:
        Exception: whatever the hub raises where a config must be fetched and cannot be.
    """
    import open_clip

    found: dict[str, Any] | None = open_clip.get_model_config(listed(name))
    return found


def listed(name: str) -> str:
    """As open_clip's lists spell an architecture: `ViT-B/16` is `ViT-B-16` there."""
    return name if ":" in name else name.replace("/", "-")


def weights_tags(model: str) -> tuple[str, ...]:
    """The tags of weights there are for an architecture."""
    import open_clip

    return tuple(open_clip.list_pretrained_tags_by_model(listed(model)))


def tag_facts(model: str, tag: str) -> dict[str, Any]:
    """What open_clip knows of weights: where they lie, their preprocessing and activation; empty: no such tag."""
    import open_clip

    return dict(open_clip.get_pretrained_cfg(listed(model), tag) or {})


def loaded_model(model: str, tag: str | None) -> nn.Module:
    """The model with its weights, downloaded or from the hub's cache; float32, on the CPU, in eval mode, frozen.

    Raises:
        Exception: whatever open_clip and the hub raise.
    """
    import open_clip

    # What cannot be loaded is raised as well; through the root logger it would be said twice.
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        clip: nn.Module = open_clip.create_model(
            model, pretrained=tag, precision="fp32", device="cpu", require_pretrained=True
        )
    finally:
        logging.disable(before)
    return clip.eval().requires_grad_(False)


def preprocessing_of(clip: nn.Module) -> dict[str, Any]:
    """How a loaded model's pictures are made: `mean`, `std`, `interpolation`, `resize_mode`, `fill_color`."""
    import open_clip

    return dict(open_clip.get_model_preprocess_cfg(clip))


def vision_module(model_config: Mapping[str, Any], *, device: str = "cpu") -> nn.Module:
    """The image tower of a model config, with initial weights; in eval mode, frozen.

    Args:
        model_config: `embed_dim`, `vision_cfg`, and `quick_gelu` where it has one.
        device: `meta` builds it without memory.

    Raises:
        ImportError: open_clip or timm is not installed.
        RuntimeError: a timm model that the installed timm does not have.
    """
    import open_clip

    with torch.device(device), _NothingToFill():
        model = open_clip.CLIP(
            embed_dim=int(model_config["embed_dim"]),
            vision_cfg=dict(model_config["vision_cfg"]) | {"timm_model_pretrained": False},
            text_cfg=dict(_NO_TEXT),
            quick_gelu=bool(model_config.get("quick_gelu")),
        )
    module: nn.Module = model.visual
    return module.eval().requires_grad_(False)


def versions() -> dict[str, str]:
    """Of what builds a tower; a package that is not installed is left out."""
    found = {}
    for name, package in (("open_clip", "open_clip_torch"), ("timm", "timm")):
        try:
            found[name] = version(package)
        except PackageNotFoundError:
            continue
    return found
