"""A tower of timm's that we would rerun otherwise than timm runs it is refused when it is loaded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vision_families import family_clip, family_config

from vidfeat.clip.openclip import from_state_dict
from vidfeat.clip.rerun_check import require_same_features
from vidfeat.errors import UnsupportedModelError


def test_one_picture_tells() -> None:
    clip = family_clip("pe-core")
    loaded = from_state_dict(clip.state_dict(), model_config=family_config("pe-core"), name="pe")
    require_same_features(loaded.config, loaded.visual_state, clip)
    # As if timm had turned to rows first: tensors fit, features do not.
    rotary = replace(loaded.config.vit.rotary, order="ij")  # type: ignore[type-var]
    other = replace(loaded.config, vision=replace(loaded.config.vit, rotary=rotary))
    with pytest.raises(UnsupportedModelError, match="the image tower of pe is not rerun as open_clip runs it"):
        require_same_features(other, loaded.visual_state, clip)
