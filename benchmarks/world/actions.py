"""What a thing can do. Each action draws pose and motion marks for one moment, so that one frame is enough to tell it.

Every function takes the canvas and `t`, the progress of the clip in [0, 1]; what is drawn first lies behind.
"""

import math
from collections.abc import Callable

from benchmarks.world.canvas import Canvas
from benchmarks.world.things import ellipse

_WATER, _FOAM = (45, 110, 220), (150, 200, 250)
_FLAME, _EMBER = (250, 120, 20), (255, 220, 60)
_TEAR = (70, 150, 250)
_EARTH, _WOOD, _BRICK = (105, 70, 40), (150, 100, 50), (160, 85, 70)
_SKIN = (235, 190, 150)
_GLOW = (255, 245, 130)


def _wave(t: float, cycles: float) -> float:
    return math.sin(2 * math.pi * cycles * t)


def _spinning(canvas: Canvas, t: float) -> None:
    canvas.thing(turn=2 * t)
    for start in (0.0, 0.5):
        canvas.arc(1.35, start + 2 * t, 0.3, width=2)


def _jumping(canvas: Canvas, t: float) -> None:
    height = abs(_wave(t, 1.5))
    canvas.polygon(ellipse(0, 1.15, 0.9 - 0.4 * height, 0.16), (40, 40, 45))
    canvas.thing(dy=-0.25 - 0.9 * height, sy=1.1)
    for x in (-0.45, 0.0, 0.45):
        canvas.line([(x, 1.0 - 0.9 * height), (x, 0.95)], width=2)


def _falling(canvas: Canvas, t: float) -> None:
    y = -0.9 + 1.8 * t
    for x, length in ((-0.6, 0.9), (0.0, 1.2), (0.6, 0.9)):
        canvas.line([(x, y - 1.0), (x, y - 1.0 - length)], width=1)
    canvas.thing(dy=y, turn=0.45 + 0.1 * _wave(t, 2))


def _flying(canvas: Canvas, t: float) -> None:
    flap = 0.7 * _wave(t, 3)
    for side in (-1, 1):
        tip = (side * 1.9, -0.4 - flap)
        wing = [(side * 0.5, -0.35), tip, (side * 1.5, 0.1 - 0.5 * flap), (side * 0.5, 0.3)]
        canvas.polygon(wing, (250, 250, 250), (90, 90, 100))
    canvas.thing(dy=-0.2 * flap - 0.3, sx=0.85, sy=0.85)


def _growing(canvas: Canvas, t: float) -> None:
    size = 0.55 + 0.6 * t
    canvas.thing(sx=size, sy=size)
    for x, y in ((-1, -1), (1, -1), (-1, 1), (1, 1)):
        near, far = size * 0.85, size * 0.85 + 0.5
        canvas.line([(x * near, y * near), (x * far, y * far)], width=1)
        canvas.line([(x * (far - 0.3), y * far), (x * far, y * far), (x * far, y * (far - 0.3))], width=1)


def _shrinking(canvas: Canvas, t: float) -> None:
    size = 0.95 - 0.55 * t
    canvas.thing(sx=size, sy=size)
    for edge in (size + 0.15, 1.3):
        corners = [(-edge, -edge), (edge, -edge), (edge, edge), (-edge, edge), (-edge, -edge)]
        canvas.line(corners, width=1)


def _rolling(canvas: Canvas, t: float) -> None:
    x = -1.0 + 2.0 * t
    canvas.line([(-2.2, 1.0), (2.2, 1.0)], width=2)
    canvas.thing(dx=x, turn=0.15 + 0.8 * t)
    for i, y in enumerate((0.75, 0.35, -0.05)):
        canvas.line([(x - 1.2, y), (x - 1.7 + 0.12 * i, y)], width=1)


def _swimming(canvas: Canvas, t: float) -> None:
    canvas.thing(dx=0.2 * _wave(t, 1), dy=-0.1, turn=0.05 * _wave(t, 2))
    crests = [(-2.2 + 0.4 * i, 0.2 + (0.16 if i % 2 else -0.1) * math.cos(6 * t)) for i in range(12)]
    canvas.polygon([*crests, (2.2, 1.3), (-2.2, 1.3)], _WATER)
    canvas.line(crests, _FOAM, width=2)
    canvas.line([(x, y + 0.55) for x, y in crests], _FOAM, width=1)


def _sleeping(canvas: Canvas, t: float) -> None:
    canvas.thing(dy=0.3, turn=0.25, sx=0.95, sy=0.95 + 0.05 * _wave(t, 1))
    for i in range(2):
        size, x, y = 0.3 + 0.15 * i, 0.5 + 0.55 * i, -0.75 - 0.5 * i - 0.2 * t
        canvas.line([(x, y - size), (x + size, y - size), (x, y), (x + size, y)], width=1)


def _singing(canvas: Canvas, t: float) -> None:
    canvas.thing(lean=0.15 * _wave(t, 2))
    for i, x in enumerate((-1.5, 1.2)):
        y = -0.7 - 0.4 * i + 0.3 * _wave(t + 0.3 * i, 2)
        canvas.dot(x, y + 0.7, 0.2)
        canvas.dot(x + 0.45, y + 0.6, 0.2)
        canvas.line([(x + 0.15, y + 0.7), (x + 0.15, y), (x + 0.6, y - 0.1), (x + 0.6, y + 0.6)], width=1.6)


def _exploding(canvas: Canvas, t: float) -> None:
    size = 1.0 + 0.5 * t
    spikes = []
    for i in range(18):
        radius, angle = size * (1.35 if i % 2 == 0 else 0.85), math.pi * i / 9
        spikes.append((radius * math.cos(angle), radius * math.sin(angle)))
    canvas.polygon(spikes, _FLAME, _EMBER)
    canvas.thing(sx=0.7, sy=0.7, turn=0.1 * t)
    for i in range(6):
        angle, radius = 1.05 * i + 0.4, 1.2 + 0.9 * t
        canvas.dot(radius * math.cos(angle), radius * math.sin(angle), 0.14, (60, 50, 50))


def _burning(canvas: Canvas, t: float) -> None:
    for colour, size in ((_FLAME, 1.0), (_EMBER, 0.6)):
        tongues = [(-1.0 * size, 0.2)]
        for i in range(5):
            tip = -1.3 - 0.4 * math.sin(9 * t + 2.1 * i)
            tongues += [(size * (-0.8 + 0.4 * i), size * tip - 0.1), (size * (-0.6 + 0.4 * i), -0.5 * size)]
        canvas.polygon([*tongues, (1.0 * size, 0.2)], colour)
    canvas.thing(dy=0.25, sx=0.9, sy=0.85)
    canvas.line([(-0.3, -0.9), (-0.15, -1.5 - 0.2 * t)], _FLAME, width=2)


def _melting(canvas: Canvas, t: float) -> None:
    canvas.polygon(ellipse(0, 1.05, 1.1 + 0.4 * t, 0.25), canvas.tone("main"), canvas.tone("dark"))
    sink = 0.4 + 0.35 * t
    canvas.thing(dy=sink * 0.6, sx=1.0 + 0.25 * t, sy=1.0 - 0.65 * sink)
    for x, length in ((-0.6, 0.5), (-0.1, 0.75), (0.45, 0.4)):
        canvas.line([(x, 0.4), (x, 0.4 + length)], canvas.tone("main"), width=2.6)


def _hiding(canvas: Canvas, t: float) -> None:
    canvas.thing(dx=0.1, dy=-0.55 + 0.45 * _wave(t, 1))
    canvas.polygon([(-1.4, 0.0), (1.4, 0.0), (1.4, 1.25), (-1.4, 1.25)], _BRICK, (90, 45, 35))
    for i, y in enumerate((0.4, 0.8)):
        canvas.line([(-1.4, y), (1.4, y)], (215, 190, 180), width=1)
        for x in (-0.9, 0.0, 0.9):
            canvas.line([(x + 0.4 * i, y), (x + 0.4 * i, y + 0.4)], (215, 190, 180), width=1)


def _climbing(canvas: Canvas, t: float) -> None:
    for x in (-0.55, 0.55):
        canvas.line([(x, -1.9), (x, 1.9)], _WOOD, width=2.4)
    for i in range(8):
        canvas.line([(-0.55, -1.75 + 0.5 * i), (0.55, -1.75 + 0.5 * i)], _WOOD, width=1.6)
    canvas.thing(dy=0.75 - 1.4 * t, turn=0.04 * _wave(t, 4), sx=0.85, sy=0.85)


def _swinging(canvas: Canvas, t: float) -> None:
    angle = 0.75 * math.cos(2 * math.pi * 1.5 * t)
    length = 2.0
    x, y = length * math.sin(angle), -1.9 + length * math.cos(angle)
    canvas.line([(-0.7, -1.9), (0.7, -1.9)], _WOOD, width=3)
    canvas.line([(0, -1.9), (x, y - 0.3)], _WOOD, width=1.6)
    canvas.thing(dx=x, dy=y + 0.3, turn=-angle / (2 * math.pi), sx=0.85, sy=0.85)


def _trembling(canvas: Canvas, t: float) -> None:
    canvas.thing(dx=0.14 * _wave(t, 8) + 0.05, dy=0.05 * _wave(t, 5), turn=0.02 * _wave(t, 7))
    for side in (-1, 1):
        for x in (1.25, 1.6):
            zigzag = [(side * (x + (0.12 if i % 2 else -0.12)), -0.8 + 0.4 * i) for i in range(5)]
            canvas.line(zigzag, width=1)


def _legs(canvas: Canvas, dx: float, stride: float) -> None:
    for side in (-1, 1):
        hip, foot = dx + 0.2 * side, dx + 0.2 * side + side * stride
        canvas.line([(hip, 0.5), (foot, 1.35), (foot + 0.3, 1.35)], width=2)


def _walking(canvas: Canvas, t: float) -> None:
    dx = -0.5 + 1.0 * t
    _legs(canvas, dx, 0.3 * _wave(t, 3))
    canvas.thing(dx=dx, dy=-0.25 + 0.06 * abs(_wave(t, 3)), sx=0.85, sy=0.85)


def _running(canvas: Canvas, t: float) -> None:
    dx = -0.6 + 1.4 * t
    _legs(canvas, dx, 0.55 + 0.3 * _wave(t, 4))
    canvas.thing(dx=dx, dy=-0.3, turn=0.04, lean=-0.3, sx=0.85, sy=0.85)
    for y in (-0.7, -0.2, 0.3):
        canvas.line([(dx - 1.1, y), (dx - 2.0, y)], width=1.6)


def _juggling(canvas: Canvas, t: float) -> None:
    canvas.thing(dy=0.35, sx=0.9, sy=0.9)
    for i, colour in enumerate(((230, 40, 40), (250, 220, 40), (60, 90, 230))):
        angle = math.pi * ((2 * t + i / 3) % 1.0)
        canvas.dot(1.2 * math.cos(angle), -0.35 - 1.15 * math.sin(angle), 0.22, colour)


def _crying(canvas: Canvas, t: float) -> None:
    canvas.thing(dy=-0.1, lean=0.08 * _wave(t, 2))
    canvas.polygon(ellipse(0, 1.1, 1.2, 0.16), _TEAR)
    for side in (-1, 1):
        for i in range(3):
            y = -0.3 + ((t * 2 + i / 3) % 1.0) * 1.3
            x = side * (0.55 + 0.35 * (y + 0.3))
            canvas.polygon(
                [(x, y - 0.28), (x + 0.15, y + 0.06), (x, y + 0.18), (x - 0.15, y + 0.06)], _TEAR, (255, 255, 255)
            )


def _waving(canvas: Canvas, t: float) -> None:
    angle = -1.0 + 0.45 * _wave(t, 3)
    hand = (0.75 + 0.95 * math.cos(angle), 0.0 + 1.15 * math.sin(angle))
    canvas.line([(0.5, 0.1), hand], _SKIN, width=3)
    canvas.thing(sx=0.95, sy=0.95)
    canvas.dot(hand[0], hand[1], 0.28, _SKIN)
    for spread in (0.4, 0.65):
        canvas.line([(hand[0] + spread, hand[1] - 0.35), (hand[0] + spread + 0.1, hand[1] + 0.2)], width=1)


def _halo(t: float) -> tuple[int, int, int]:
    level = int(20 * _wave(t, 2))
    return (235 + level // 2, 220 + level, 110 + level)


def _shining(canvas: Canvas, t: float) -> None:
    canvas.polygon(ellipse(0, 0, 1.25, 1.25), _halo(t))
    for i in range(10):
        angle = 2 * math.pi * (i / 10 + 0.1 * t)
        far = 1.75 + 0.15 * _wave(t, 4)
        canvas.line(
            [(1.35 * math.cos(angle), 1.35 * math.sin(angle)), (far * math.cos(angle), far * math.sin(angle))],
            _GLOW,
            width=2,
        )
    canvas.thing(sx=0.85, sy=0.85)


def _digging(canvas: Canvas, t: float) -> None:
    canvas.thing(dy=-0.2 + 0.4 * t, turn=0.5 + 0.05 * _wave(t, 5), sx=0.9, sy=0.9)
    mound = [(-1.7, 1.25), (-1.3, 0.45), (-0.6, 0.7), (0.0, 0.45), (0.7, 0.7), (1.3, 0.4), (1.7, 1.25)]
    canvas.polygon(mound, _EARTH, (70, 45, 25))
    for i in range(6):
        rise = (2 * t + 0.17 * i) % 1.0
        x = (1.0 + 0.7 * rise) * (1 if i % 2 else -1)
        canvas.dot(x, 0.5 - 1.6 * rise * (1.3 - rise), 0.13, _EARTH)


ACTION_DRAWERS: dict[str, Callable[[Canvas, float], None]] = {
    "spinning": _spinning,
    "jumping": _jumping,
    "falling": _falling,
    "flying": _flying,
    "growing": _growing,
    "shrinking": _shrinking,
    "rolling": _rolling,
    "swimming": _swimming,
    "sleeping": _sleeping,
    "singing": _singing,
    "exploding": _exploding,
    "burning": _burning,
    "melting": _melting,
    "hiding": _hiding,
    "climbing": _climbing,
    "swinging": _swinging,
    "trembling": _trembling,
    "walking": _walking,
    "running": _running,
    "juggling": _juggling,
    "crying": _crying,
    "waving": _waving,
    "shining": _shining,
    "digging": _digging,
}
