"""The frozen blocks of a vision tower as autocast runs them, made once for each tower and dtype.

Autocast remembers the conversions of trained weights alone: a frozen matrix would be converted at every product. Here
matrices and their biases are kept in half precision; norms and the residual stream stay in the tower's dtype, and what
comes out is bit for bit autocast's own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch

from prompttune.base.devices import autocast_dtype
from vidfeat.backbone import ResidualBlock, VisionTower

_MADE: WeakKeyDictionary[VisionTower, dict[tuple[torch.dtype, torch.device], list[ResidualBlock]]] = WeakKeyDictionary()


def frozen_blocks(tower: VisionTower) -> Sequence[ResidualBlock]:
    """The blocks of `tower` for what linear layers run in here and now: its own outside autocast."""
    device = tower.positional_embedding.device
    dtype = autocast_dtype(device.type)
    if dtype is None:
        return [cast(ResidualBlock, block) for block in tower.blocks]
    known = _MADE.setdefault(tower, {})
    if (dtype, device) not in known:
        known[dtype, device] = [_converted(cast(ResidualBlock, block), dtype) for block in tower.blocks]
    return known[dtype, device]


def _converted(block: ResidualBlock, dtype: torch.dtype) -> ResidualBlock:
    made = copy.deepcopy(block)
    for name, parameter in made.named_parameters():
        is_of_norm = ".ln" in f".{name}"
        if not is_of_norm:
            parameter.data = parameter.data.to(dtype)
    return made
