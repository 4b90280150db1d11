"""Where a picture comes from: the part of a frame that is resized, to what size, and what of it is kept.

Plain data that a decoding process can send along with a frame; Pillow (`Framing.picture`) and a device
(`vidfeat/clip/resize.py`) make the same picture of it, to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Kept:
    """Of one axis: the places [start, stop) that are kept, and the border before and after them."""

    start: int
    stop: int
    before: int = 0
    after: int = 0

    @classmethod
    def centre(cls, size: int, wanted: int) -> Kept:
        """The middle `wanted` of `size` places; all of them within a border where they are too few.

        Source: torchvision's CenterCrop, which rounds half to even, and open_clip's.
        """
        missing = max(wanted - size, 0)
        if missing:
            return cls(0, size, missing // 2, (missing + 1) // 2)
        start = round((size - wanted) / 2)
        return cls(start, start + wanted)


@dataclass(frozen=True)
class Framing:
    """How frames of one size become pictures.

    Attributes:
        top, left, height, width: the part of a frame, in its pixels.
        resized: height and width that the part is resized to.
        interpolation: "bicubic" or "bilinear", antialiased.
        rows, columns: what is kept of it.
        fill_color: of the border, in [0, 255].
        flip: mirrored at last.
    """

    top: int
    left: int
    height: int
    width: int
    resized: tuple[int, int]
    interpolation: str
    rows: Kept
    columns: Kept
    fill_color: int = 0
    flip: bool = False

    def part(self, frames: np.ndarray) -> np.ndarray:
        """The part [... h w 3] of frames [... H W 3]."""
        return frames[..., self.top : self.top + self.height, self.left : self.left + self.width, :]

    def picture(self, part: np.ndarray) -> np.ndarray:
        """The picture [H W 3] uint8 of one frame's part [h w 3], resized by Pillow."""
        resized = self._resize(part)[self.rows.start : self.rows.stop, self.columns.start : self.columns.stop]
        borders = tuple((kept.before, kept.after) for kept in (self.rows, self.columns))
        if any(map(any, borders)):
            resized = np.pad(resized, (*borders, (0, 0)), constant_values=self.fill_color)
        return resized[:, ::-1] if self.flip else resized

    def _resize(self, part: np.ndarray) -> np.ndarray:
        from PIL import Image

        if part.shape[:2] == self.resized:
            return part
        filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
        picture = Image.fromarray(np.ascontiguousarray(part))
        return np.asarray(picture.resize(self.resized[::-1], filters[self.interpolation]))
