"""One clip as plain facts, and a frame of it at any moment. The same facts always give the same pixels."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.world.actions import ACTION_DRAWERS
from benchmarks.world.canvas import Canvas
from benchmarks.world.scenes import MARGIN_SHARE, N_VARIANTS, background, ink
from benchmarks.world.vocabulary import ACTIONS, COLOURS, RGB, SCENES, THINGS

N_UNIFORMS = 16
"""Random numbers in [0, 1) that decide one clip."""
COLOUR_INDEX, SCENE_INDEX = 2, 3
"""Which of them choose the colour and the scene."""

_THINGS, _ACTIONS, _COLOURS, _SCENES = tuple(THINGS), tuple(ACTIONS), tuple(COLOURS), tuple(SCENES)
_RADIUS = {"small": (0.13, 0.17), "medium": (0.17, 0.21), "large": (0.21, 0.26)}
"""Radius of a thing in shares of the frame's shorter side, half-open."""


@dataclass(frozen=True)
class Framing:
    """How the camera is set up.

    `zoom` is the half-open range of a factor on the thing's size, `spread` the share of the places in the frame that it
    may take, around the middle.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    spread: float = 1.0


WHOLE_FRAME = Framing()


@dataclass(frozen=True)
class Clip:
    """What happens in one clip. `thing` and `action` are None in an empty scene."""

    thing: str | None
    action: str | None
    colour: str
    scene: str
    variant: int
    size: str
    radius: float
    x: float
    y: float
    shake: float
    shake_phase: float
    pan: float
    colour_shift: tuple[float, float, float]


def pick(options: tuple[str, ...], uniform: float) -> str:
    """The option a number in [0, 1) stands for."""
    return options[int(uniform * len(options))]


def draw_clip(
    uniforms: np.ndarray,
    *,
    thing: str | None = None,
    action: str | None = None,
    empty: bool = False,
    framing: Framing = WHOLE_FRAME,
) -> Clip:
    """The clip that `uniforms` [N_UNIFORMS], float in [0, 1), stand for; `thing` and `action` fix what is shown."""
    u = uniforms.tolist()
    if not empty:
        thing, action = thing or pick(_THINGS, u[0]), action or pick(_ACTIONS, u[1])
    size = pick(tuple(_RADIUS), u[4])
    low, high = _RADIUS[size]
    near, far = framing.zoom
    across, down = (0.5 + framing.spread * (x - 0.5) for x in u[7:9])
    return Clip(
        thing=None if empty else thing,
        action=None if empty else action,
        colour=pick(_COLOURS, u[COLOUR_INDEX]),
        scene=pick(_SCENES, u[SCENE_INDEX]),
        variant=int(u[5] * N_VARIANTS),
        size=size,
        radius=(low + (high - low) * u[6]) * (near + (far - near) * u[15]),
        x=0.34 + 0.32 * across,
        y=0.42 + 0.2 * down,
        # Three clips in four are held still; the rest shake by up to 4 % of the frame.
        shake=max(0.0, u[9] - 0.75) * 0.16,
        shake_phase=u[10],
        pan=(u[11] - 0.5) * 0.12,
        colour_shift=(u[12] - 0.5, u[13] - 0.5, u[14] - 0.5),
    )


def draw_frame(clip: Clip, t: float, width: int, height: int) -> Image.Image:
    """The frame at `t`, the progress of the clip in [0, 1], as an RGB image of `width` x `height` pixels."""
    short = min(width, height)
    angle = 2 * math.pi * (clip.shake_phase + 5 * t)
    dx = clip.shake * math.sin(angle) + clip.pan * (t - 0.5)
    dy = clip.shake * math.sin(1.7 * angle)
    wide = background(clip.scene, clip.variant, width, height)
    left = round((MARGIN_SHARE - dx) * width)
    top = round((MARGIN_SHARE - dy) * height)
    image = wide.crop((left, top, left + width, top + height))
    if clip.thing is None or clip.action is None:
        return image
    at = (width / 2 + (clip.x - 0.5 + dx) * short, height / 2 + (clip.y - 0.5 + dy) * short)
    shifted = (c + 40 * s for c, s in zip(RGB[clip.colour], clip.colour_shift, strict=True))
    red, green, blue = (int(min(max(value, 0), 255)) for value in shifted)
    canvas = Canvas(
        ImageDraw.Draw(image),
        clip.thing,
        at=at,
        radius=clip.radius * short,
        colour=(red, green, blue),
        ink=ink(clip.scene),
    )
    ACTION_DRAWERS[clip.action](canvas, t)
    return image
