"""A drawing surface in a thing's own units: the origin is where the thing stands, 1 is its radius, x right, y down."""

import math

import numpy as np
from PIL import ImageDraw

from benchmarks.world.things import Point, Tone, ellipse, shape

RGBTriple = tuple[int, int, int]


def blend(a: RGBTriple, b: RGBTriple, share: float) -> RGBTriple:
    """Colour `a` moved towards `b` by `share` in [0, 1]."""
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


class Canvas:
    """Draws one thing and its motion marks on a Pillow image at (x, y) pixels with `radius` pixels per unit."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, thing: str, *, at: Point, radius: float, colour: RGBTriple, ink: RGBTriple
    ):
        self._draw = draw
        self._thing = thing
        self._x, self._y = at
        self._radius = radius
        self.ink = ink
        self._tones = {
            "main": colour,
            "dark": blend(colour, (0, 0, 0), 0.4),
            "light": blend(colour, (255, 255, 255), 0.5),
        }

    def thing(
        self,
        dx: float = 0.0,
        dy: float = 0.0,
        *,
        turn: float = 0.0,
        sx: float = 1.0,
        sy: float = 1.0,
        lean: float = 0.0,
    ) -> None:
        """Draw the thing moved by (dx, dy), turned clockwise by `turn` whole turns, stretched, leaning by a shear."""
        form = shape(self._thing)
        c, s = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
        r = self._radius
        # Stretch and shear first, then turn: rows are what x and y of a point contribute to the image.
        matrix = np.array([[c * sx, s * sx], [(lean * c - s) * sy, (lean * s + c) * sy]]) * r
        points = (form.points @ matrix + (self._x + dx * r, self._y + dy * r)).ravel().tolist()
        outline = self._tones["dark"]
        for tone, first, last in form.parts:
            fill = self._tones[tone] if isinstance(tone, str) else tone
            edge = outline if tone == "main" else None
            self._draw.polygon(points[2 * first : 2 * last], fill=fill, outline=edge)

    def tone(self, name: str) -> RGBTriple:
        """The thing's own "main", "dark" or "light" colour."""
        return self._tones[name]

    def line(self, points: list[Point], colour: Tone | None = None, width: float = 1.3) -> None:
        """Draw a polyline `width` pixels thick, in the ink colour unless told."""
        self._draw.line(self._pixels(points), fill=colour or self.ink, width=max(1, round(width)))

    def polygon(self, points: list[Point], colour: RGBTriple, edge: RGBTriple | None = None) -> None:
        """Fill a polygon."""
        self._draw.polygon(self._pixels(points), fill=colour, outline=edge)

    def arc(self, radius: float, start: float, turn: float, width: float = 1.3) -> None:
        """Draw an arc around the origin from `start` over `turn` (whole turns)."""
        self.line(ellipse(0, 0, radius, radius, 8, start=start, turn=turn), width=width)

    def dot(self, x: float, y: float, radius: float, colour: RGBTriple | None = None) -> None:
        """Fill a small disc."""
        px, py, pr = self._x + x * self._radius, self._y + y * self._radius, max(radius * self._radius, 0.7)
        self._draw.ellipse((px - pr, py - pr, px + pr, py + pr), fill=colour or self.ink)

    def _pixels(self, points: list[Point]) -> list[float]:
        x0, y0, r = self._x, self._y, self._radius
        return [value for x, y in points for value in (x0 + x * r, y0 + y * r)]
