"""How a picture looks, whatever it shows: tint, brightness, saturation, noise. Downstream datasets shift this style."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Style:
    """Ranges from which every clip draws its look.

    `tint` and `brightness` are the half widths around 1 of a factor per channel and of one for all channels;
    `desaturation` is the largest share of colour taken away; `noise` the largest standard deviation of pixel noise, in
    levels of 255.
    """

    tint: float
    brightness: float
    desaturation: float
    noise: float


PRETRAINING_STYLE = Style(tint=0.08, brightness=0.2, desaturation=0.0, noise=4.0)


@dataclass(frozen=True)
class Look:
    """One clip's look: a gain per channel [3], the share of colour taken away, the noise's standard deviation."""

    gain: tuple[float, float, float]
    desaturation: float
    noise: float

    @property
    def notes(self) -> tuple[str, ...]:
        """What a caption could say of it: keys of `captions.NOTES`."""
        mean = sum(self.gain) / 3
        light = ("dark",) if mean < 0.88 else ("bright",) if mean > 1.12 else ()
        return light + (("noisy",) if self.noise > 3.0 else ())


def draw_look(style: Style, rng: np.random.Generator) -> Look:
    """A look drawn from `style`."""
    u = rng.random(6).tolist()
    bright = 1.0 + style.brightness * (2 * u[0] - 1)
    red, green, blue = (bright * (1.0 + style.tint * (2 * x - 1)) for x in u[1:4])
    return Look(gain=(red, green, blue), desaturation=style.desaturation * u[4], noise=style.noise * u[5])


def apply_look(frames: np.ndarray, look: Look, rng: np.random.Generator) -> np.ndarray:
    """`frames` [... H W 3] uint8 in that look, uint8; the noise is fresh in every frame."""
    pixels = frames.astype(np.float32)
    if look.desaturation > 0:
        gray = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        pixels += look.desaturation * (gray[..., None] - pixels)
    pixels *= np.array(look.gain, dtype=np.float32)
    if look.noise > 0:
        pixels += look.noise * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
