"""An open_clip model config read into both towers, or refused by the name of what we cannot rerun exactly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vidfeat.backbone import ForeignText, ForeignVision, TextConfig, VisionConfig
from vidfeat.clip import door
from vidfeat.clip.settings import unknown
from vidfeat.clip.text_config import text_config, text_reasons
from vidfeat.clip.vision_config import vision_config, vision_unknown
from vidfeat.errors import UnsupportedModelError, explain


@dataclass(frozen=True)
class TowerSizes:
    """What a model config says about both towers.

    Attributes:
        quick_gelu: the activation of text towers and open_clip's own ViTs; towers from timm have their own.
    """

    embed_dim: int
    quick_gelu: bool
    vision: VisionConfig | ForeignVision
    text: TextConfig | ForeignText


# Initial values are overwritten, `custom_text` renames tensors, CoCa's multimodal decoder is in neither feature.
_KNOWN = (
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "multimodal_cfg", "output_dict"),
    *("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale"),
)


def tower_sizes(model_config: Mapping[str, Any], *, name: str) -> TowerSizes:
    """The sizes of both towers of an open_clip model config.

    Args:
        model_config: the JSON object with `embed_dim`, `vision_cfg`, `text_cfg` and optionally `quick_gelu`.
        name: what to call the model in an error.

    Raises:
        UnsupportedModelError: towers that `vidfeat.backbone` would not rerun exactly, every reason in one message.
    """
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in model_config]
    if missing:
        raise UnsupportedModelError(
            explain(
                "this is not an open_clip model config",
                where=name,
                expected="a JSON object with embed_dim, vision_cfg and text_cfg",
                got=f"no {', '.join(missing)}",
            )
        )
    found = unknown("top level", model_config, _KNOWN) + vision_unknown(model_config["vision_cfg"])
    found += text_reasons(model_config["text_cfg"])
    if found:
        raise UnsupportedModelError(
            explain(
                f"{name} has {'; '.join(found)}",
                where="model config",
                fix="choose another model (`vidfeat models` lists what each can do); this one would be rerun wrongly",
            )
        )
    try:
        return TowerSizes(
            embed_dim=int(model_config["embed_dim"]),
            quick_gelu=bool(model_config.get("quick_gelu")),
            vision=vision_config(model_config),
            text=text_config(model_config),
        )
    except (ValueError, TypeError) as error:
        raise UnsupportedModelError(explain("the model config's sizes cannot be", where=name, got=error)) from error
    except RuntimeError as error:
        # timm's word for a model name it does not know.
        raise UnsupportedModelError(
            explain(
                "the installed timm cannot build the image tower",
                where=name,
                got=f"{error} (timm {door.versions().get('timm', 'is not installed')})",
                fix="install the timm that this config was made for",
            )
        ) from error
