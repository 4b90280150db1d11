"""Whether tensors are the towers that a config describes: names, shapes, finite values."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .config import BackboneConfig
from .foreign_text import ForeignTextTower
from .text import TextTower
from .tower_config import ForeignText, VisionConfig
from .vision import VisionTower


def empty_text_tower(config: BackboneConfig) -> TextTower | ForeignTextTower:
    """The text tower of a config, without memory; one of transformers', whose tables are no weights, with initial ones.

    Raises:
        UnsupportedModelError: transformers is not installed, or builds no such tower.
    """
    if isinstance(config.text, ForeignText):
        return ForeignTextTower(config.text, embed_dim=config.embed_dim, name=config.name)
    with torch.device("meta"):
        return TextTower(config.text, embed_dim=config.embed_dim)


def empty_vision_tower(config: BackboneConfig) -> VisionTower:
    """The image tower of a config that is run here, without memory."""
    with torch.device("meta"):
        return VisionTower(config.vit, embed_dim=config.embed_dim)


def is_finite(value: Tensor) -> bool:
    """Whether a tensor holds floats, all of them finite."""
    if not value.is_floating_point():
        return False
    if not value.numel():
        return True
    # One pass without a temporary: a NaN anywhere is both the smallest and the largest value.
    smallest, largest = torch.aminmax(value)
    return bool(torch.isfinite(smallest) and torch.isfinite(largest))


def state_problems(tower: nn.Module, state: Mapping[str, Tensor]) -> str:
    """What keeps a state from filling a tower, in words; empty when nothing does."""
    expected = {name: tuple(value.shape) for name, value in tower.state_dict().items()}
    problems = [f"missing {name} {list(shape)}" for name, shape in expected.items() if name not in state]
    problems += [f"left over {name} {list(value.shape)}" for name, value in state.items() if name not in expected]
    for name, shape in expected.items():
        if name not in state:
            continue
        value = state[name]
        if tuple(value.shape) != shape:
            problems.append(f"{name} is {list(value.shape)}, not {list(shape)}")
        elif not is_finite(value):
            problems.append(f"{name} ({value.dtype}) holds values that are no finite floats")
    hidden = len(problems) - 12
    return "; ".join(problems[:12]) + (f"; and {hidden} more" if hidden > 0 else "")


def tower_problems(
    config: BackboneConfig, *, text_state: Mapping[str, Tensor], visual_state: Mapping[str, Tensor]
) -> list[str]:
    """What keeps two states from being the towers a config describes, in words; empty when they are."""
    text = state_problems(empty_text_tower(config), text_state)
    if isinstance(config.vision, VisionConfig):
        vision = state_problems(empty_vision_tower(config), visual_state)
    else:
        vision = "; ".join(f"{name} is not finite" for name, value in visual_state.items() if not is_finite(value))
    return [f"text tower: {text}"] * bool(text) + [f"vision tower: {vision}"] * bool(vision)
