"""The last check of a tower that was read off timm's modules: one picture through both, before anything is stored."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from vidfeat.backbone import BackboneConfig, VisionConfig, VisionTower
from vidfeat.clip import door
from vidfeat.errors import UnsupportedModelError, explain

# float32 through at most 64 blocks, summed in another order: measured below 1e-5 of the largest value.
TOLERANCE = 1e-4


def require_same_features(config: BackboneConfig, state: Mapping[str, Tensor], clip: nn.Module) -> None:
    """None, if our tower with that state gives open_clip's features for a random picture.

    Towers of open_clip's own are let through: their computation is known from its source, not from modules that may
    change under their names.

    Raises:
        UnsupportedModelError: another feature.
    """
    if not isinstance(config.vision, VisionConfig) or not hasattr(clip.visual, "trunk"):
        return
    with torch.device("meta"):
        tower = VisionTower(config.vision, embed_dim=config.embed_dim)
    tower.load_state_dict(dict(state), strict=True, assign=True)
    pixels = torch.randn(1, 3, *config.vision.image_hw, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected, found = clip.visual(pixels), tower.eval()(pixels)  # type: ignore[operator]
    error = float((found - expected).abs().max() / expected.abs().max())
    if not error < TOLERANCE:
        installed = ", ".join(f"{package} {version}" for package, version in door.versions().items())
        raise UnsupportedModelError(
            explain(
                f"the image tower of {config.name} is not rerun as open_clip runs it",
                where=installed,
                expected=f"the same feature of one picture, to {TOLERANCE:g} of its largest value",
                got=f"{error:.2g}",
                fix="tell the project, with these versions; another version of timm may agree",
            )
        )
