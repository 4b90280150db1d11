"""open_clip models with random weights, at real widths and cut in depth; what the parity tests compare with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
TINY: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 4},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 3},
}


def cut_config(name: str, *, vision_layers: int = 3, text_layers: int = 2) -> dict[str, Any]:
    """open_clip's own config of that name, with fewer blocks."""
    import open_clip

    config = open_clip.get_model_config(name)
    config["vision_cfg"]["layers"] = vision_layers
    config["text_cfg"]["layers"] = text_layers
    return config


def random_clip(model_config: dict[str, Any], *, seed: int = 0) -> nn.Module:
    """An open_clip model in eval mode, whose biases and norms are random too, so that a lost one is seen."""
    from open_clip import CLIP

    torch.manual_seed(seed)
    model = CLIP(**model_config).eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("bias") or ".ln_" in name or name.startswith("ln_"):
            value.add_(0.1 * torch.randn_like(value))
    return model


def world_configs() -> list[Path]:
    """The model configs of the embedded small CLIP, once there."""
    return sorted(
        path
        for path in (ROOT / "benchmarks/world/clip").glob("*.json")
        if "vision_cfg" in json.loads(path.read_text("utf-8"))
    )


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest absolute value."""
    return float((found - expected).abs().max() / expected.abs().max())
