"""What a backbone is, in numbers: sizes, activation, preprocessing constants, and the hash of its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

Activation = Literal["gelu", "quick_gelu"]
ACTIVATIONS: tuple[Activation, ...] = ("gelu", "quick_gelu")


def _check_tower(width: int, heads: int, layers: int, activation: str, tower: str) -> None:
    if activation not in ACTIVATIONS:
        raise ValueError(f"{tower}: activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    if min(width, heads, layers) < 1:
        raise ValueError(f"{tower}: width {width}, heads {heads} and layers {layers} must all be at least 1")
    if width % heads:
        raise ValueError(f"{tower}: width {width} is not a multiple of heads {heads}")


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a plain ViT with a class token, a norm before the first block and the class token as pool."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        _check_tower(self.width, self.heads, self.layers, self.activation, "vision tower")
        if self.patch_size < 1 or self.image_size < self.patch_size:
            raise ValueError(f"vision tower: no patch of {self.patch_size} fits an image of {self.image_size}")

    @property
    def n_tokens(self) -> int:
        """Tokens per frame, the class token included (S)."""
        return (self.image_size // self.patch_size) ** 2 + 1

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)


@dataclass(frozen=True)
class TextConfig:
    """Sizes of a causal text transformer that is read at its end-of-text token."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0
    activation: Activation = "gelu"

    def __post_init__(self) -> None:
        _check_tower(self.width, self.heads, self.layers, self.activation, "text tower")
        if self.context_length < 3 or self.vocab_size < 3:
            raise ValueError(
                f"text tower: context length {self.context_length} and vocabulary {self.vocab_size} must be at least 3"
            )

    @property
    def mlp_width(self) -> int:
        """Hidden width of a block's MLP."""
        return int(self.width * self.mlp_ratio)


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
        resize_mode: how the preprocessing fits a frame to the square (`shortest` side, then a centre crop).
    """

    name: str
    pretrained: str
    embed_dim: int
    vision: VisionConfig
    text: TextConfig
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    interpolation: str
    logit_scale: float
    weights_sha256: str = ""
    resize_mode: str = "shortest"

    def __post_init__(self) -> None:
        if self.embed_dim < 1:
            raise ValueError(f"embed_dim must be at least 1, got {self.embed_dim}")
        if len(self.image_mean) != 3 or len(self.image_std) != 3 or min(self.image_std) <= 0:
            raise ValueError(
                f"image_mean and image_std need three values, std > 0: {self.image_mean}, {self.image_std}"
            )
        if not 0 < self.logit_scale < float("inf"):
            raise ValueError(f"logit_scale must be a positive number (already exponentiated), got {self.logit_scale}")

    def to_json(self) -> dict[str, Any]:
        """A JSON object with one key per field; `from_json` gives the same config back."""
        return asdict(self) | {"image_mean": list(self.image_mean), "image_std": list(self.image_std)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BackboneConfig:
        """The config of a JSON object.

        Raises:
            ValueError: missing or unknown keys, or values that cannot be.
        """
        checked = _exact_keys(cls, values, "backbone config")
        checked["vision"] = VisionConfig(**_exact_keys(VisionConfig, checked["vision"], "backbone config, vision"))
        checked["text"] = TextConfig(**_exact_keys(TextConfig, checked["text"], "backbone config, text"))
        checked["image_mean"] = tuple(checked["image_mean"])
        checked["image_std"] = tuple(checked["image_std"])
        return cls(**checked)


def _exact_keys(kind: type, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: expected a JSON object, got {type(values).__name__}")
    known = {field.name for field in fields(kind)}
    missing, unknown = sorted(known - values.keys()), sorted(values.keys() - known)
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}")
    return dict(values)
