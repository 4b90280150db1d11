"""Shapes of the things: flat polygons in a unit square, x to the right, y down, roughly within [-1, 1].

A part is (tone, points). A tone is a role ("main", "dark", "light": made from the thing's colour) or a fixed RGB; so
every thing can be drawn in every colour, turned and stretched by one matrix product over all its points.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

Point = tuple[float, float]
Tone = str | tuple[int, int, int]
Part = tuple[Tone, list[Point]]

_INK = (25, 25, 30)
_WHITE = (250, 250, 250)
_GOLD = (250, 190, 40)
_BARK = (110, 70, 40)
_STEM = (50, 140, 50)


@dataclass(frozen=True)
class Shape:
    """All points of one thing, `points` [P 2], and its parts as (tone, first point, one past the last point)."""

    points: np.ndarray
    parts: tuple[tuple[Tone, int, int], ...]


def ellipse(
    x: float, y: float, rx: float, ry: float, n: int = 14, start: float = 0.0, turn: float = 1.0
) -> list[Point]:
    """`n` points of an ellipse around (x, y); `start` and `turn` are whole turns, clockwise from the right."""
    last = n if turn >= 1.0 else n - 1
    angles = [2 * math.pi * (start + turn * i / last) for i in range(n)]
    return [(x + rx * math.cos(a), y + ry * math.sin(a)) for a in angles]


def _rectangle(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _bar(x0: float, y0: float, x1: float, y1: float, half: float = 0.1) -> list[Point]:
    """The four corners of a thick line from (x0, y0) to (x1, y1)."""
    length = math.hypot(x1 - x0, y1 - y0)
    nx, ny = (y1 - y0) / length * half, (x0 - x1) / length * half
    return [(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]


def _eyes(x: float, y: float, apart: float, radius: float = 0.16) -> list[Part]:
    parts: list[Part] = []
    for side in (x - apart, x + apart):
        parts += [
            (_WHITE, ellipse(side, y, radius, radius, 8)),
            (_INK, ellipse(side, y, radius * 0.55, radius * 0.55, 6)),
        ]
    return parts


def _star() -> list[Part]:
    points = []
    for i in range(10):
        radius, angle = (1.0 if i % 2 == 0 else 0.42), math.pi * i / 5 - math.pi / 2
        points.append((radius * math.cos(angle), radius * math.sin(angle)))
    return [("main", points)]


def _ball() -> list[Part]:
    return [
        ("main", ellipse(0, 0, 0.9, 0.9, 18)),
        ("light", ellipse(0, 0, 0.3, 0.9)),
        ("dark", ellipse(0, 0, 0.12, 0.9)),
    ]


def _cube() -> list[Part]:
    front = _rectangle(-0.85, -0.45, 0.45, 0.85)
    top = [(-0.85, -0.45), (-0.4, -0.85), (0.85, -0.85), (0.45, -0.45)]
    side = [(0.45, -0.45), (0.85, -0.85), (0.85, 0.45), (0.45, 0.85)]
    return [("main", front), ("light", top), ("dark", side)]


def _heart() -> list[Part]:
    angles = [2 * math.pi * i / 20 for i in range(20)]
    outline = [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
        for a in angles
    ]
    return [("main", outline), ("light", ellipse(-0.4, -0.35, 0.18, 0.14, 8))]


def _fish() -> list[Part]:
    return [
        ("dark", [(-0.5, 0), (-1.0, -0.55), (-0.85, 0), (-1.0, 0.55)]),
        ("main", ellipse(0.15, 0, 0.8, 0.5, 16)),
        ("dark", [(0.0, -0.4), (0.35, -0.85), (0.45, -0.4)]),
        (_WHITE, ellipse(0.6, -0.12, 0.15, 0.15, 8)),
        (_INK, ellipse(0.62, -0.12, 0.08, 0.08, 6)),
    ]


def _bird() -> list[Part]:
    return [
        ("dark", [(-0.5, 0.1), (-1.0, -0.25), (-0.95, 0.3)]),
        ("main", ellipse(-0.1, 0.2, 0.65, 0.5)),
        ("main", ellipse(0.45, -0.35, 0.38, 0.38, 12)),
        (_GOLD, [(0.75, -0.5), (1.1, -0.3), (0.75, -0.15)]),
        ("dark", [(-0.45, 0.05), (0.25, 0.05), (-0.15, 0.55)]),
        (_INK, ellipse(0.52, -0.42, 0.1, 0.1, 6)),
        (_GOLD, _bar(-0.1, 0.65, -0.1, 1.0, 0.06)),
        (_GOLD, _bar(0.15, 0.65, 0.15, 1.0, 0.06)),
    ]


def _cat() -> list[Part]:
    return [
        ("dark", [(-0.75, -0.2), (-0.7, -1.0), (-0.1, -0.6)]),
        ("dark", [(0.75, -0.2), (0.7, -1.0), (0.1, -0.6)]),
        ("main", ellipse(0, 0.1, 0.85, 0.75, 16)),
        *_eyes(0, -0.05, 0.35, 0.2),
        (_INK, [(-0.14, 0.25), (0.14, 0.25), (0, 0.42)]),
        (_WHITE, _bar(-0.3, 0.42, -1.05, 0.3, 0.05)),
        (_WHITE, _bar(0.3, 0.42, 1.05, 0.3, 0.05)),
    ]


def _snail() -> list[Part]:
    return [
        ("light", [(-1.0, 0.85), (-0.7, 0.5), (0.5, 0.5), (0.65, -0.2), (0.95, -0.2), (0.9, 0.85)]),
        ("main", ellipse(-0.2, 0.0, 0.68, 0.68, 16)),
        ("dark", ellipse(-0.15, 0.05, 0.42, 0.42, 12)),
        ("light", ellipse(-0.12, 0.08, 0.18, 0.18, 8)),
        (_INK, _bar(0.75, -0.2, 0.6, -0.75, 0.05)),
        (_INK, _bar(0.85, -0.2, 1.0, -0.75, 0.05)),
    ]


def _flower() -> list[Part]:
    petals: list[Part] = [
        ("main", ellipse(0.45 * math.cos(a), -0.35 + 0.45 * math.sin(a), 0.3, 0.3, 10))
        for a in (2 * math.pi * i / 5 - math.pi / 2 for i in range(5))
    ]
    leaf: Part = (_STEM, [(0.0, 0.75), (0.5, 0.45), (0.4, 0.8)])
    return [(_STEM, _bar(0, 0, 0, 1.0, 0.08)), leaf, *petals, (_GOLD, ellipse(0, -0.35, 0.25, 0.25, 10))]


def _tree() -> list[Part]:
    return [
        (_BARK, _rectangle(-0.15, 0.4, 0.15, 1.0)),
        ("dark", [(-0.85, 0.5), (0.85, 0.5), (0, -0.2)]),
        ("main", [(-0.7, 0.1), (0.7, 0.1), (0, -0.6)]),
        ("light", [(-0.5, -0.3), (0.5, -0.3), (0, -1.0)]),
    ]


def _house() -> list[Part]:
    return [
        ("main", _rectangle(-0.7, -0.15, 0.7, 0.9)),
        ("dark", [(-0.95, -0.15), (0, -1.0), (0.95, -0.15)]),
        (_BARK, _rectangle(-0.5, 0.3, -0.1, 0.9)),
        (_WHITE, _rectangle(0.15, 0.15, 0.5, 0.5)),
    ]


def _car() -> list[Part]:
    return [
        ("dark", [(-0.55, -0.1), (-0.3, -0.55), (0.35, -0.55), (0.6, -0.1)]),
        (_WHITE, [(-0.35, -0.12), (-0.2, -0.42), (0.25, -0.42), (0.4, -0.12)]),
        ("main", [(-1.0, 0.4), (-1.0, -0.05), (-0.5, -0.15), (0.7, -0.15), (1.0, 0.1), (1.0, 0.4)]),
        (_INK, ellipse(-0.5, 0.45, 0.26, 0.26, 10)),
        (_INK, ellipse(0.5, 0.45, 0.26, 0.26, 10)),
        (_WHITE, ellipse(-0.5, 0.45, 0.1, 0.1, 6)),
        (_WHITE, ellipse(0.5, 0.45, 0.1, 0.1, 6)),
    ]


def _boat() -> list[Part]:
    return [
        (_BARK, _rectangle(-0.05, -1.0, 0.07, 0.3)),
        (_WHITE, [(0.1, -0.95), (0.8, 0.15), (0.1, 0.15)]),
        ("light", [(-0.1, -0.8), (-0.1, 0.15), (-0.6, 0.15)]),
        ("main", [(-1.0, 0.25), (1.0, 0.25), (0.65, 0.8), (-0.65, 0.8)]),
    ]


def _rocket() -> list[Part]:
    return [
        ("dark", [(-0.35, 0.3), (-0.75, 0.9), (-0.3, 0.7)]),
        ("dark", [(0.35, 0.3), (0.75, 0.9), (0.3, 0.7)]),
        ("main", [(-0.36, 0.75), (-0.36, -0.35), (0.36, -0.35), (0.36, 0.75)]),
        ("dark", [(-0.36, -0.35), (0, -1.05), (0.36, -0.35)]),
        (_WHITE, ellipse(0, 0.0, 0.2, 0.2, 10)),
    ]


def _robot() -> list[Part]:
    return [
        (_INK, _bar(0, -0.7, 0, -1.05, 0.05)),
        ("main", _rectangle(-0.5, -0.75, 0.5, -0.05)),
        ("dark", _rectangle(-0.65, 0.05, 0.65, 0.9)),
        ("light", _rectangle(-0.3, 0.25, 0.3, 0.6)),
        *_eyes(0, -0.45, 0.25, 0.15),
        (_INK, _rectangle(-0.25, -0.24, 0.25, -0.16)),
        ("main", _rectangle(-0.95, 0.1, -0.72, 0.7)),
        ("main", _rectangle(0.72, 0.1, 0.95, 0.7)),
    ]


def _ghost() -> list[Part]:
    dome = ellipse(0, -0.2, 0.7, 0.75, 10, start=0.5, turn=0.5)
    hem = [(0.7, 0.95), (0.42, 0.65), (0.22, 0.95), (0.0, 0.65), (-0.22, 0.95), (-0.42, 0.65), (-0.7, 0.95)]
    return [("main", dome + hem), *_eyes(0, -0.25, 0.28, 0.2), (_INK, ellipse(0, 0.2, 0.12, 0.17, 8))]


def _moon() -> list[Part]:
    outer = ellipse(0, 0, 0.95, 0.95, 14, start=0.14, turn=0.72)
    inner = ellipse(0.42, 0, 0.72, 0.76, 12, start=0.2, turn=0.6)
    return [("main", outer + inner[::-1])]


def _arrow() -> list[Part]:
    return [("main", [(-1.0, -0.25), (0.1, -0.25), (0.1, -0.75), (1.0, 0), (0.1, 0.75), (0.1, 0.25), (-1.0, 0.25)])]


def _ring() -> list[Part]:
    outer, inner = ellipse(0, 0, 0.95, 0.95, 18), ellipse(0, 0, 0.55, 0.55, 18)
    return [("main", [*outer, outer[0], inner[0], *inner[::-1]])]


def _cup() -> list[Part]:
    handle = ellipse(0.6, 0.0, 0.42, 0.42, 12), ellipse(0.6, 0.0, 0.22, 0.22, 12)
    return [
        ("dark", [*handle[0], handle[0][0], handle[1][0], *handle[1][::-1]]),
        ("main", [(-0.8, -0.6), (0.6, -0.6), (0.4, 0.85), (-0.6, 0.85)]),
        ("light", ellipse(-0.1, -0.6, 0.7, 0.2)),
    ]


def _umbrella() -> list[Part]:
    dome = ellipse(0, 0.0, 1.0, 0.85, 12, start=0.5, turn=0.5)
    return [
        (_INK, _bar(0, 0, 0, 0.9, 0.06)),
        (_INK, _bar(0, 0.9, 0.3, 0.85, 0.07)),
        ("main", [*dome, (0.66, -0.15), (0.33, 0.05), (0, -0.15), (-0.33, 0.05), (-0.66, -0.15)]),
        ("dark", [(-0.12, -0.84), (0.12, -0.84), (0.3, 0.03), (0, -0.15), (-0.3, 0.03)]),
    ]


def _mushroom() -> list[Part]:
    return [
        ((240, 225, 200), [(-0.25, 0.0), (0.25, 0.0), (0.38, 0.95), (-0.38, 0.95)]),
        ("main", ellipse(0, 0.05, 0.98, 0.95, 12, start=0.5, turn=0.5)),
        (_WHITE, ellipse(-0.4, -0.3, 0.16, 0.16, 8)),
        (_WHITE, ellipse(0.1, -0.6, 0.16, 0.16, 8)),
        (_WHITE, ellipse(0.5, -0.2, 0.16, 0.16, 8)),
    ]


def _butterfly() -> list[Part]:
    wings: list[Part] = []
    for side in (-1, 1):
        wings += [
            ("main", ellipse(side * 0.55, -0.35, 0.45, 0.5, 12)),
            ("dark", ellipse(side * 0.45, 0.45, 0.36, 0.4, 12)),
            ("light", ellipse(side * 0.55, -0.35, 0.18, 0.2, 8)),
            (_INK, _bar(0, -0.5, side * 0.25, -1.0, 0.04)),
        ]
    return [*wings, (_INK, ellipse(0, 0.05, 0.12, 0.65, 10))]


def _person() -> list[Part]:
    skin = (235, 190, 150)
    return [
        (_INK, _bar(-0.15, 0.4, -0.35, 1.0, 0.1)),
        (_INK, _bar(0.15, 0.4, 0.35, 1.0, 0.1)),
        (skin, _bar(-0.3, -0.25, -0.75, 0.25, 0.09)),
        (skin, _bar(0.3, -0.25, 0.75, 0.25, 0.09)),
        ("main", [(-0.4, -0.35), (0.4, -0.35), (0.32, 0.5), (-0.32, 0.5)]),
        (skin, ellipse(0, -0.68, 0.32, 0.32, 12)),
        (_BARK, ellipse(0, -0.78, 0.33, 0.24, 10, start=0.5, turn=0.5)),
    ]


_DRAWERS = {
    "star": _star,
    "ball": _ball,
    "cube": _cube,
    "heart": _heart,
    "fish": _fish,
    "bird": _bird,
    "cat": _cat,
    "snail": _snail,
    "flower": _flower,
    "tree": _tree,
    "house": _house,
    "car": _car,
    "boat": _boat,
    "rocket": _rocket,
    "robot": _robot,
    "ghost": _ghost,
    "moon": _moon,
    "arrow": _arrow,
    "ring": _ring,
    "cup": _cup,
    "umbrella": _umbrella,
    "mushroom": _mushroom,
    "butterfly": _butterfly,
    "person": _person,
}


@cache
def shape(name: str) -> Shape:
    """The polygons of one thing of `vocabulary.THINGS`."""
    points: list[Point] = []
    parts: list[tuple[Tone, int, int]] = []
    for tone, outline in _DRAWERS[name]():
        parts.append((tone, len(points), len(points) + len(outline)))
        points += outline
    return Shape(points=np.asarray(points, dtype=np.float64), parts=tuple(parts))
