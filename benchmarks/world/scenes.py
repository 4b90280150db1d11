"""Where things happen: painted backgrounds in variants, larger than a frame so that a shaking camera stays inside."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.world.canvas import RGBTriple, blend

N_VARIANTS = 32
"""Different paintings of each scene."""
MARGIN_SHARE = 0.15
"""Share of the frame's width and height painted beyond each edge."""

LIGHT_INK: RGBTriple = (245, 245, 240)
DARK_INK: RGBTriple = (30, 30, 40)
DARK_SCENES = frozenset({"night", "stage", "forest", "road"})
"""Scenes on which motion marks are drawn in light ink."""


def ink(scene: str) -> RGBTriple:
    """The colour of motion marks that stands out in a scene."""
    return LIGHT_INK if scene in DARK_SCENES else DARK_INK


@lru_cache(maxsize=2048)
def background(scene: str, variant: int, width: int, height: int) -> Image.Image:
    """The painting of `scene`, `width` x `height` pixels plus `MARGIN_SHARE` on every side. Do not draw on it."""
    size = (round(width * (1 + 2 * MARGIN_SHARE)), round(height * (1 + 2 * MARGIN_SHARE)))
    rng = np.random.default_rng([sorted(_PAINTERS).index(scene), variant])
    image = Image.new("RGB", size)
    _PAINTERS[scene](_Painter(image, rng))
    return image


class _Painter:
    """Rectangles, polygons and discs in shares of the painting's width and height."""

    def __init__(self, image: Image.Image, rng: np.random.Generator):
        self._draw = ImageDraw.Draw(image)
        self._width, self._height = image.size
        self.rng = rng

    def near(self, colour: RGBTriple, spread: int = 14) -> RGBTriple:
        shifts = self.rng.integers(-spread, spread + 1, 3)
        return tuple(int(np.clip(c + s, 0, 255)) for c, s in zip(colour, shifts, strict=True))  # type: ignore[return-value]

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def box(self, left: float, top: float, right: float, bottom: float, colour: RGBTriple) -> None:
        w, h = self._width, self._height
        self._draw.rectangle((left * w, top * h, right * w, bottom * h), fill=colour)

    def polygon(self, points: list[tuple[float, float]], colour: RGBTriple) -> None:
        self._draw.polygon([v for x, y in points for v in (x * self._width, y * self._height)], fill=colour)

    def disc(self, x: float, y: float, radius: float, colour: RGBTriple) -> None:
        px, py, r = x * self._width, y * self._height, radius * self._height
        self._draw.ellipse((px - r, py - r, px + r, py + r), fill=colour)

    def sky(self, top: RGBTriple, bottom: RGBTriple, until: float, bands: int = 6) -> None:
        for i in range(bands):
            self.box(0, until * i / bands, 1, until * (i + 1) / bands, blend(top, bottom, i / max(bands - 1, 1)))


def _meadow(p: _Painter) -> None:
    horizon = p.between(0.45, 0.65)
    p.sky(p.near((120, 185, 245)), (205, 230, 250), horizon)
    p.box(0, horizon, 1, 1, p.near((110, 185, 80)))
    for _ in range(40):
        x, y = p.between(0, 1), p.between(horizon, 1)
        p.polygon([(x, y), (x + 0.012, y - 0.05), (x + 0.024, y)], p.near((80, 150, 55)))


def _desert(p: _Painter) -> None:
    horizon = p.between(0.4, 0.6)
    p.sky(p.near((245, 205, 140)), (250, 230, 190), horizon)
    p.box(0, horizon, 1, 1, p.near((225, 185, 115)))
    for _ in range(3):
        x, y, w = p.between(0, 1), p.between(horizon, 0.95), p.between(0.2, 0.45)
        p.polygon([(x - w, y), (x, y - 0.12), (x + w, y)], p.near((205, 160, 90)))
    x = p.between(0.1, 0.9)
    p.box(x, horizon - 0.15, x + 0.04, horizon + 0.08, (70, 125, 60))
    p.box(x - 0.05, horizon - 0.06, x + 0.09, horizon - 0.03, (70, 125, 60))


def _night(p: _Painter) -> None:
    horizon = p.between(0.7, 0.85)
    p.sky(p.near((12, 14, 45)), (35, 40, 90), horizon)
    for _ in range(30):
        p.disc(p.between(0, 1), p.between(0, horizon), p.between(0.004, 0.012), (235, 235, 200))
    p.box(0, horizon, 1, 1, p.near((18, 26, 32), 6))


def _city(p: _Painter) -> None:
    p.sky(p.near((165, 190, 215)), (215, 220, 225), 1.0)
    x = -0.05
    while x < 1.0:
        width, top = p.between(0.12, 0.25), p.between(0.15, 0.5)
        p.box(x, top, x + width, 0.88, p.near((120, 120, 130), 25))
        for wx in np.arange(x + 0.02, x + width - 0.03, 0.055):
            for wy in np.arange(top + 0.04, 0.85, 0.09):
                p.box(wx, wy, wx + 0.022, wy + 0.04, (235, 225, 160))
        x += width
    p.box(0, 0.85, 1, 1, p.near((95, 95, 100)))


def _forest(p: _Painter) -> None:
    p.box(0, 0, 1, 1, p.near((45, 95, 55)))
    for _ in range(60):
        p.disc(p.between(0, 1), p.between(0, 0.5), p.between(0.03, 0.09), p.near((35, 105, 50), 22))
    for _ in range(6):
        x, w = p.between(0, 1), p.between(0.03, 0.07)
        p.box(x, 0.1, x + w, p.between(0.75, 0.9), p.near((75, 50, 30)))
    p.box(0, 0.84, 1, 1, p.near((70, 60, 35)))


def _mountains(p: _Painter) -> None:
    p.sky(p.near((150, 200, 240)), (225, 238, 248), 0.8)
    for _ in range(4):
        x, top, w = p.between(0, 1), p.between(0.15, 0.4), p.between(0.25, 0.45)
        p.polygon([(x - w, 0.8), (x, top), (x + w, 0.8)], p.near((120, 130, 150)))
        p.polygon([(x - w * 0.35, top + 0.16), (x, top), (x + w * 0.35, top + 0.16), (x, top + 0.11)], (245, 248, 252))
    p.box(0, 0.75, 1, 1, p.near((232, 238, 245), 8))


def _room(p: _Painter) -> None:
    floor = p.between(0.7, 0.82)
    p.box(0, 0, 1, floor, p.near((225, 205, 180), 22))
    p.box(0, floor, 1, 1, p.near((150, 105, 70)))
    p.box(0, floor - 0.025, 1, floor, (245, 240, 230))
    x = p.between(0.1, 0.6)
    p.box(x, 0.14, x + 0.3, 0.48, (250, 250, 250))
    p.box(x + 0.025, 0.165, x + 0.14, 0.455, (150, 205, 245))
    p.box(x + 0.16, 0.165, x + 0.275, 0.455, (150, 205, 245))


def _sea(p: _Painter) -> None:
    horizon, beach = p.between(0.35, 0.5), p.between(0.75, 0.85)
    p.sky(p.near((135, 200, 245)), (225, 240, 250), horizon)
    p.disc(p.between(0.1, 0.9), p.between(0.1, 0.25), 0.08, (255, 240, 150))
    p.box(0, horizon, 1, beach, p.near((35, 120, 185)))
    for _ in range(14):
        x, y = p.between(0, 1), p.between(horizon + 0.03, beach)
        p.box(x, y, x + p.between(0.05, 0.15), y + 0.012, (150, 205, 235))
    p.box(0, beach, 1, 1, p.near((240, 215, 160)))


def _road(p: _Painter) -> None:
    verge = p.between(0.2, 0.35)
    p.box(0, 0, 1, verge, p.near((95, 150, 85)))
    p.box(0, verge, 1, 1, p.near((82, 82, 88)))
    p.box(0, verge, 1, verge + 0.025, (235, 235, 235))
    offset = p.between(0, 0.2)
    for x in np.arange(offset - 0.3, 1.0, 0.3):
        p.box(x, 0.66, x + 0.17, 0.69, (240, 240, 240))
    p.box(0, 0.95, 1, 1, (235, 235, 235))


def _stage(p: _Painter) -> None:
    p.box(0, 0, 1, 1, p.near((58, 32, 52)))
    p.polygon([(0.5, 0), (0.15, 0.85), (0.85, 0.85)], p.near((100, 78, 92)))
    p.box(0, 0.82, 1, 1, p.near((120, 80, 50)))
    side = p.between(0.12, 0.2)
    for i in range(4):
        shade = (150, 25, 40) if i % 2 else (110, 15, 30)
        p.box(side * i / 4, 0, side * (i + 1) / 4, 0.85, shade)
        p.box(1 - side * (i + 1) / 4, 0, 1 - side * i / 4, 0.85, shade)
    p.box(0, 0, 1, 0.08, (150, 25, 40))


_PAINTERS = {
    "meadow": _meadow,
    "desert": _desert,
    "night": _night,
    "city": _city,
    "forest": _forest,
    "mountains": _mountains,
    "room": _room,
    "sea": _sea,
    "road": _road,
    "stage": _stage,
}
