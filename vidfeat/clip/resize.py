"""Frames -> pictures on a device, equal to Pillow's to the bit, so that a store does not depend on who resized.

Pillow resizes bytes in whole numbers: weights rounded to 22 binary places, sums of their products with the bytes in 32
bits, rounded to a byte after each axis. Whole numbers add up alike everywhere and in any order, so that the same sums
are the same bytes on a GPU. Which axis comes first depends on the sizes since Pillow 13; it is found out for each size
by resizing noise with both, and a Pillow that makes other bytes of it ends the run.

Source: python-pillow/Pillow src/libImaging/Resample.c (`precompute_coeffs`, `normalize_coeffs_8bpc`,
`ImagingResampleHorizontal_8bpc`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidfeat.errors import VidfeatError, explain
from vidfeat.video.framing import Framing, Kept

WEIGHT_BITS = 32 - 8 - 2  # of a weight's fraction: a byte and two bits of sums beyond it stay free
WIDTH_FIRST, HEIGHT_FIRST = (2, 1), (1, 2)  # axes of [n h w 3]


def _bilinear(x: np.ndarray) -> np.ndarray:
    return np.where(x < 1.0, 1.0 - x, 0.0)


def _bicubic(x: np.ndarray) -> np.ndarray:
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


# Of a distance >= 0, and how far it reaches.
_FILTERS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
}


@lru_cache(maxsize=64)
def weights(n_in: int, n_out: int, interpolation: str) -> tuple[np.ndarray, np.ndarray]:
    """Places [n_out K] int64 of `n_in`, and their weights [n_out K] int32, that each of `n_out` places is the sum of.

    Every operation is Pillow's, in its order.
    """
    function, reach = _FILTERS[interpolation]
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = reach * stretch
    centre = (np.arange(n_out) + 0.5) * scale
    first = np.maximum(np.trunc(centre - support + 0.5).astype(np.int64), 0)
    stop = np.minimum(np.trunc(centre + support + 0.5).astype(np.int64), n_in)
    places = first[:, None] + np.arange(int((stop - first).max()))
    found = function(np.abs((places - centre[:, None] + 0.5) * (1.0 / stretch)))
    found[places >= stop[:, None]] = 0.0
    total = np.zeros(n_out)
    for one in found.T:  # one after the other, as C adds them up
        total += one
    np.divide(found, total[:, None], out=found, where=total[:, None] != 0.0)
    whole = np.trunc(found * (1 << WEIGHT_BITS) + np.copysign(0.5, found)).astype(np.int32)
    return np.minimum(places, n_in - 1), whole


class DeviceResize:
    """Makes pictures on a device; on a CUDA device in a stream of its own, beside the encoder's work.

    Args:
        device: of the encoder.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._orders: dict[tuple[object, ...], tuple[int, int]] = {}

    def pictures(self, parts: np.ndarray, framing: Framing) -> np.ndarray:
        """Pictures [n 3 H W] uint8 on the host of `framing.part(frames)` [n h w 3] uint8.

        Raises:
            VidfeatError: Pillow would make other pictures of them.
        """
        size = (framing.height, framing.width, framing.resized, framing.interpolation)
        if size not in self._orders:
            self._orders[size] = self._order(framing)
        return self._made(parts, framing, self._orders[size])

    def _made(self, parts: np.ndarray, framing: Framing, order: tuple[int, int]) -> np.ndarray:
        # The stream is waited for, so that `parts` may be overwritten afterwards.
        with torch.inference_mode(), nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            return framed(torch.from_numpy(parts).to(self._device), framing, order).cpu().numpy()

    def _order(self, framing: Framing) -> tuple[int, int]:
        """The order of axes in which Pillow resizes frames of this size. Of noise: a black frame does not tell."""
        noise = np.random.default_rng(0).integers(0, 256, (1, framing.height, framing.width, 3), dtype=np.uint8)
        by_pillow = framing.picture(noise[0]).transpose(2, 0, 1)
        differences = []
        for order in (WIDTH_FIRST, HEIGHT_FIRST):
            made = self._made(noise, framing, order)[0]
            if np.array_equal(by_pillow, made):
                return order
            differences.append(int(np.abs(by_pillow.astype(int) - made).max()))
        import PIL

        (tall, wide), source = framing.resized, f"{framing.width}x{framing.height}"
        raise VidfeatError(
            explain(
                "pictures resized on the device are not Pillow's",
                where=f"{source} -> {wide}x{tall}, {framing.interpolation}, {self._device}, Pillow {PIL.__version__}",
                expected="equal bytes, so that stores do not depend on where frames are resized",
                got=f"a pixel off by {min(differences)} of 255",
                fix="--resize workers",
            )
        )


def framed(parts: Tensor, framing: Framing, order: tuple[int, int]) -> Tensor:
    """Pictures [n 3 H W] uint8 of parts [n h w 3] uint8, on their device; what is not kept is not computed."""
    sizes, kept = {1: framing.resized[0], 2: framing.resized[1]}, {1: framing.rows, 2: framing.columns}
    for axis in order:
        parts = _resampled(parts, axis, sizes[axis], kept[axis], framing.interpolation)
    pictures = parts.permute(0, 3, 1, 2)
    borders = (framing.columns.before, framing.columns.after, framing.rows.before, framing.rows.after)
    if any(borders):
        pictures = F.pad(pictures, borders, value=framing.fill_color)
    return (pictures.flip(3) if framing.flip else pictures).contiguous()


def _resampled(pictures: Tensor, axis: int, size: int, kept: Kept, interpolation: str) -> Tensor:
    """[n h w 3] with the kept places of one axis resized to `size`; an axis of that size already is left as it is."""
    if pictures.shape[axis] == size:
        return pictures.narrow(axis, kept.start, kept.stop - kept.start)
    places, whole = _on_device(pictures.shape[axis], size, kept, interpolation, pictures.device)
    taken = pictures.index_select(axis, places.flatten()).unflatten(axis, tuple(places.shape))
    products = taken * whole.view(*whole.shape, *[1] * (taken.dim() - axis - 2))
    sums = products.sum(axis + 1, dtype=torch.int32).add_(1 << (WEIGHT_BITS - 1))
    return (sums >> WEIGHT_BITS).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _on_device(n_in: int, n_out: int, kept: Kept, interpolation: str, device: torch.device) -> tuple[Tensor, Tensor]:
    places, whole = (torch.from_numpy(one[kept.start : kept.stop]) for one in weights(n_in, n_out, interpolation))
    return places.to(device), whole.to(device)
