"""Frames -> pixels: exactly the picture open_clip's own evaluation transform makes, and cropped, flipped views of it.

Frames are resized by Pillow, as torchvision does for pictures, so that the pixels equal those the model was trained and
published with.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

from vidfeat.errors import explain
from vidfeat.video.framing import Framing, Kept
from vidfeat.video.sampling import unit_draws, video_seed

RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")
_TRIES = 10


@dataclass(frozen=True)
class ViewSpec:
    """How many views of a video are stored, and how the views after the first are drawn.

    View 0 is the deterministic centre crop. Each further view is one random-resized-crop and one coin for a horizontal
    flip, the same for all frames of that (video, view), drawn from (seed, video id, view): view k does not change when
    more views are asked for.

    Attributes:
        n_views: V, the centre crop included.
        scale: range of the crop's area, as a share of the frame's.
        ratio: range of the crop's width / height.
        flip_probability: in [0, 1].
        seed: of the run.

    Raises:
        ValueError: a range that is empty or a number outside its bounds.
    """

    n_views: int = 1
    scale: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip_probability: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.n_views < 1:
            problems.append(f"n_views={self.n_views} must be at least 1")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            problems.append(f"scale={self.scale} must be 0 < low <= high <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            problems.append(f"ratio={self.ratio} must be 0 < low <= high")
        if not 0 <= self.flip_probability <= 1:
            problems.append(f"flip_probability={self.flip_probability} must be in [0, 1]")
        if problems:
            raise ValueError(explain("These views cannot be drawn.", where=self, got="; ".join(problems)))

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {**asdict(self), "scale": list(self.scale), "ratio": list(self.ratio)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> ViewSpec:
        """The spec `to_json` wrote.

        Raises:
            ValueError: an unknown key, or values that make no spec.
        """
        return cls(**_known_fields(cls, values))


@dataclass(frozen=True)
class Crop:
    """A part of a frame in source pixels, half-open: rows [top, top + height), columns [left, left + width)."""

    top: int
    left: int
    height: int
    width: int
    flip: bool


def draw_crop(views: ViewSpec, *, video_id: str, view: int, height: int, width: int) -> Crop:
    """The crop of one view of one video whose frames measure height x width.

    Ten tries for a box of a random area and (log-uniform) aspect ratio that lies inside the frame, else the largest
    centred box whose aspect ratio is within bounds.

    Raises:
        ValueError: view 0, which is never drawn, or a negative view.

    Source: torchvision.transforms.RandomResizedCrop.get_params; the draws here are `unit_draws`, so that no
    torch is needed.
    """
    if view < 1:
        raise ValueError(explain("Only views from 1 on are drawn; view 0 is the centre crop.", got=f"view={view}"))
    # One draw for the flip, then area, ratio, top and left for each of ten tries.
    draws = unit_draws(video_seed(views.seed, f"{video_id}\0view {view}"), 1 + 4 * _TRIES)
    flip = bool(draws[0] < views.flip_probability)
    low, high = (math.log(bound) for bound in views.ratio)
    for at_area, at_ratio, at_top, at_left in draws[1:].reshape(_TRIES, 4).tolist():
        area = height * width * (views.scale[0] + at_area * (views.scale[1] - views.scale[0]))
        ratio = math.exp(low + at_ratio * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Crop(int(at_top * (height - h + 1)), int(at_left * (width - w + 1)), h, w, flip)
    ratio = min(max(width / height, views.ratio[0]), views.ratio[1])
    w, h = min(width, max(1, round(height * ratio))), min(height, max(1, round(width / ratio)))
    return Crop((height - h) // 2, (width - w) // 2, h, w, flip)


@dataclass(frozen=True)
class Preprocess:
    """The picture a backbone expects: its size, its normalisation, how frames are resized to it.

    Attributes:
        image_size: side of the square picture in pixels, or its height and width.
        mean, std: per channel (red, green, blue), of values in [0, 1].
        interpolation: "bicubic" or "bilinear", antialiased (Pillow).
        resize_mode: "shortest" resizes until the picture is covered and takes the centre; "longest" until the frame
            fits in, with a border around it; "squash" ignores the aspect ratio.
        fill_color: of that border, in [0, 255].

    Raises:
        ValueError: a value outside these.
    """

    image_size: int | tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0

    def __post_init__(self) -> None:
        problems = []
        if min(self.image_hw) < 1:
            problems.append(f"image_size={self.image_size} must be positive")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(value > 0 for value in self.std):
            problems.append(f"mean={self.mean}, std={self.std} must be three numbers each, std positive")
        if self.interpolation not in INTERPOLATIONS:
            problems.append(f"interpolation={self.interpolation!r} is not one of {', '.join(INTERPOLATIONS)}")
        if self.resize_mode not in RESIZE_MODES:
            problems.append(f"resize_mode={self.resize_mode!r} is not one of {', '.join(RESIZE_MODES)}")
        if not 0 <= self.fill_color <= 255:
            problems.append(f"fill_color={self.fill_color} must be in [0, 255]")
        if problems:
            raise ValueError(explain("This preprocessing is not supported.", where=self, got="; ".join(problems)))

    @property
    def image_hw(self) -> tuple[int, int]:
        """Height and width of the picture in pixels."""
        return (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values; a border's colour only where it is not black, as older stores have none."""
        return {
            "image_size": self.image_size if isinstance(self.image_size, int) else list(self.image_size),
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize_mode,
            **({"fill_color": self.fill_color} if self.fill_color else {}),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preprocess:
        """The preprocessing `to_json` wrote.

        Raises:
            ValueError: an unknown key, or values that are not supported.
        """
        return cls(**_known_fields(cls, values))

    def apply(
        self, frames: np.ndarray, *, views: ViewSpec | None = None, video_id: str = "", view_range: range | None = None
    ) -> np.ndarray:
        """Pixels [V F 3 H W] float32, normalised, of the views in `view_range`: `pictures`, then the mean and std."""
        pictures = self.pictures(frames, views=views, video_id=video_id, view_range=view_range)
        table = _normalisation_table(self.mean, self.std)
        pixels = np.empty(pictures.shape, dtype=np.float32)
        for channel in range(3):
            np.take(table[channel], pictures[:, :, channel], out=pixels[:, :, channel], mode="clip")
        return pixels

    def pictures(
        self, frames: np.ndarray, *, views: ViewSpec | None = None, video_id: str = "", view_range: range | None = None
    ) -> np.ndarray:
        """Pictures [V F 3 H W] uint8, not yet normalised, of the views in `view_range` (default: all of `views`).

        Normalised, view 0 equals open_clip's `image_transform(is_train=False)`; the others are drawn by `draw_crop`.

        Args:
            frames: [F H W 3] uint8, RGB.
            views: default: the centre crop alone.
            video_id: with `views.seed`, what the views after the first are drawn from.
            view_range: half-open part of range(n_views), for adding views to a store that has the first ones.

        Raises:
            ValueError: frames of another shape or dtype, or a view that the spec does not have.
        """
        views = views or ViewSpec()
        view_range = range(views.n_views) if view_range is None else view_range
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or 0 in frames.shape:
            raise ValueError(
                explain("These are not frames.", expected="[F H W 3] uint8", got=f"{list(frames.shape)} {frames.dtype}")
            )
        if len(view_range) and not (min(view_range) >= 0 and max(view_range) < views.n_views):
            raise ValueError(
                explain("There are no such views.", expected=f"within [0, {views.n_views})", got=view_range)
            )
        pictures = np.empty((len(view_range), len(frames), 3, *self.image_hw), dtype=np.uint8)
        for row, view in enumerate(view_range):
            framing = self.framing(*frames.shape[1:3], views=views, video_id=video_id, view=view)
            for index, part in enumerate(framing.part(frames)):
                pictures[row, index] = framing.picture(part).transpose(2, 0, 1)
        return pictures

    def framing(
        self, height: int, width: int, *, views: ViewSpec | None = None, video_id: str = "", view: int = 0
    ) -> Framing:
        """Where the pictures of a view come from, in a video whose frames measure height x width."""
        if view == 0:
            return self._centre(height, width)
        crop = draw_crop(views or ViewSpec(), video_id=video_id, view=view, height=height, width=width)
        rows, columns = (Kept(0, size) for size in self.image_hw)
        return Framing(
            *(crop.top, crop.left, crop.height, crop.width),
            resized=self.image_hw,
            interpolation=self.interpolation,
            rows=rows,
            columns=columns,
            flip=crop.flip,
        )

    def _centre(self, height: int, width: int) -> Framing:
        """The whole frame as the model's picture; the rounding is open_clip's."""
        tall, wide = self.image_hw
        resized, interpolation = self.image_hw, self.interpolation
        if self.resize_mode == "shortest" and tall == wide:
            # torchvision's Resize(int) truncates the long side.
            short = min(height, width)
            resized = int(tall * height / short), int(tall * width / short)
        elif self.resize_mode != "squash":
            # open_clip's ResizeKeepRatio, which for a picture that is not square leaves out the model's interpolation.
            ratios = (height / tall, width / wide)
            ratio = max(ratios) if self.resize_mode == "longest" else min(ratios)
            resized = max(1, round(height / ratio)), max(1, round(width / ratio))
            interpolation = "bicubic" if self.resize_mode == "shortest" else interpolation
        rows, columns = (Kept.centre(size, wanted) for size, wanted in zip(resized, self.image_hw, strict=True))
        return Framing(0, 0, height, width, resized, interpolation, rows, columns, self.fill_color)


@lru_cache(maxsize=8)
def _normalisation_table(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalised values [3 256] float32 of every byte in every channel.

    The float32 operations of torchvision's ToTensor and Normalize, in their order: theirs to the bit.
    """
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    return (levels - np.asarray(mean, dtype=np.float32)[:, None]) / np.asarray(std, dtype=np.float32)[:, None]


def _known_fields(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """The values by field name, JSON's lists as tuples."""
    known = [field.name for field in fields(kind)]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(explain(f"Unknown keys for {kind.__name__}.", expected=known, got=unknown))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
