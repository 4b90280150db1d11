"""The frozen blocks of a vision tower as autocast runs them, made once for each tower and dtype.

Autocast remembers the conversions of trained weights alone: a frozen matrix would be converted at every product. Here
matrices and their biases are kept in half precision; norms and the residual stream stay in the tower's dtype. On a CPU
what comes out is bit for bit autocast's own; elsewhere quick_gelu's slope is in the weights, which leaves PyTorch's
silu: four kernels a block less.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast
from weakref import WeakKeyDictionary

import torch
from torch.nn import functional as F

from prompttune.base.devices import autocast_dtype, launches_cost
from vidfeat.backbone import QUICK_GELU_SLOPE, ResidualBlock, VisionTower, quick_gelu

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


@torch.no_grad()
def _converted(block: ResidualBlock, dtype: torch.dtype) -> ResidualBlock:
    made = copy.deepcopy(block)
    mlp = made.mlp
    if launches_cost(mlp.c_fc.weight) and mlp.activation is quick_gelu and mlp.c_gate is None and mlp.ln is None:
        for given in (mlp.c_fc.weight, mlp.c_fc.bias):
            given.mul_(QUICK_GELU_SLOPE)
        mlp.c_proj.weight.div_(QUICK_GELU_SLOPE)
        mlp.activation = F.silu
    for name, parameter in made.named_parameters():
        is_of_norm = ".ln" in f".{name}"
        if not is_of_norm:
            parameter.data = parameter.data.to(dtype)
    return made
