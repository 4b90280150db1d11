"""What a backbone is, in numbers: its towers, preprocessing constants, and the hash of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vidfeat.errors import UnsupportedModelError, explain

from .config_json import LATER, exact_keys, plain
from .tower_config import ForeignText, ForeignVision, TextConfig, VisionConfig, text_from_json, vision_from_json


@dataclass(frozen=True)
class BackboneConfig:
    """Everything about a frozen CLIP but its tensors.

    Attributes:
        name: the architecture as it was asked for (`ViT-B-16-quickgelu`, or the stem of a model config file).
        pretrained: where the weights came from (a tag such as `openai`, or a file name).
        embed_dim: E, the width of the joint space.
        image_mean, image_std: per RGB channel, for pixels in [0, 1].
        interpolation: how frames are resized (`bicubic`, `bilinear`).
        logit_scale: multiplies cosine similarities; already exponentiated.
        weights_sha256: over the canonical full state, see `weights_sha256()`; empty until computed.
        resize_mode: how the preprocessing fits a frame to the picture: `shortest` side, then a centre crop; `longest`
            side, then a border; `squash`, whatever the aspect ratio.
        fill_color: of that border, in [0, 255].
        logit_bias: added to scaled similarities (SigLIP); the same for all classes, so it cancels in a softmax.
    """

    name: str
    pretrained: str
    embed_dim: int
    vision: VisionConfig | ForeignVision
    text: TextConfig | ForeignText
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    interpolation: str
    logit_scale: float
    weights_sha256: str = ""
    resize_mode: str = "shortest"
    fill_color: int = field(default=0, metadata=LATER)
    logit_bias: float | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim must be at least 1, got {self.embed_dim}")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                f"image_mean and image_std need three values, std > 0: {self.image_mean}, {self.image_std}"
            )
        if not 0 < self.logit_scale < float("inf"):
            raise ValueError(f"logit_scale must be a positive number (already exponentiated), got {self.logit_scale}")

    @property
    def vit(self) -> VisionConfig:
        """The image tower whose blocks run here: what tokens and visual prompts need.

        Raises:
            UnsupportedModelError: an image tower that open_clip runs, with the reason.
        """
        if isinstance(self.vision, VisionConfig):
            return self.vision
        raise UnsupportedModelError(
            explain(
                f"visual prompts and stored tokens cannot join {self.name}: {self.vision.reason}",
                where=f"the image tower of {self.name}, {self.pretrained}",
                expected="a ViT whose blocks are rerun here; `vidfeat models` lists them",
                fix="use a method without visual prompts, on the store's pooled features, or another model",
            )
        )

    @property
    def open_text(self) -> TextConfig:
        """The text tower whose blocks run here: what learned context needs.

        Raises:
            UnsupportedModelError: a text tower that transformers runs.
        """
        if isinstance(self.text, TextConfig):
            return self.text
        raise UnsupportedModelError(
            explain(
                f"text prompts cannot enter {self.name}: transformers runs its text tower",
                where=f"the text tower of {self.name}, {self.pretrained}",
                expected="a text transformer whose blocks run here; `vidfeat models` lists them",
                fix="use zero-shot, an adapter, the linear probe or visual prompts alone, or another model",
            )
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with one key per field that is in use; `from_json` gives the same config back."""
        found: dict[str, Any] = plain(self)
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BackboneConfig:
        """The config of a JSON object.

        Raises:
            ValueError: missing or unknown keys, or values that cannot be.
        """
        checked = exact_keys(cls, values, "backbone config")
        checked["vision"] = vision_from_json(checked["vision"])
        checked["text"] = text_from_json(checked["text"])
        return cls(**checked)
