"""Frames resized on a device: Pillow's pictures to the bit, and a Pillow that makes others ends the run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vidfeat.clip.resize import DeviceResize
from vidfeat.errors import VidfeatError
from vidfeat.video.framing import Framing
from vidfeat.video.preprocess import Preprocess, ViewSpec

MEAN = STD = (0.5, 0.5, 0.5)
# Down, up, one axis alone, neither; sizes of real videos, primes, thin ones; 4K leaves many places to add up.
SIZES = [(240, 320), (321, 241), (224, 224), (224, 300), (112, 149), (65, 500), (500, 65), (481, 832), (1, 1), (3, 7)]
MODES = [("shortest", "bicubic"), ("shortest", "bilinear"), ("longest", "bicubic"), ("squash", "bilinear")]


def frames_of(height: int, width: int) -> np.ndarray:
    """Noise, whose sums go everywhere, and black and white, whose overshoot is cut off at both ends."""
    draw = np.random.default_rng(height + width)
    noise = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.stack([noise, np.where(noise < 128, 0, 255).astype(np.uint8)])


@pytest.mark.parametrize(("mode", "interpolation"), MODES)
def test_pictures_are_pillows_to_the_bit(mode: str, interpolation: str) -> None:
    resize = DeviceResize(torch.device("cpu"))
    for side, sizes in ((224, SIZES[:6]), ((64, 97), SIZES)):
        preprocess = Preprocess(side, MEAN, STD, interpolation, mode, fill_color=7)
        for height, width in sizes:
            frames, framing = frames_of(height, width), preprocess.framing(height, width)
            made = resize.pictures(framing.part(frames), framing)
            np.testing.assert_array_equal(made, preprocess.pictures(frames)[0], err_msg=f"{side} {height} {width}")


def test_cropped_and_mirrored_views_are_too() -> None:
    resize, views = DeviceResize(torch.device("cpu")), ViewSpec(n_views=7, scale=(0.05, 1.0))
    preprocess, frames = Preprocess(96, MEAN, STD), frames_of(120, 163)
    framings = [preprocess.framing(120, 163, views=views, video_id="v", view=view) for view in range(7)]
    made = np.stack([resize.pictures(framing.part(frames), framing) for framing in framings])
    np.testing.assert_array_equal(made, preprocess.pictures(frames, views=views, video_id="v"))
    assert len({framing.flip for framing in framings}) == 2


def test_many_places_of_a_large_frame_add_up_as_in_c() -> None:
    preprocess, frames = Preprocess(32, MEAN, STD), frames_of(1440, 2560)
    framing = preprocess.framing(1440, 2560)
    made = DeviceResize(torch.device("cpu")).pictures(framing.part(frames[:1]), framing)
    np.testing.assert_array_equal(made, preprocess.pictures(frames[:1])[0])


def test_a_pillow_that_always_takes_the_width_first_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Pillow did before 13; black frames, which every order makes black, do not mislead."""

    def resize(self: Framing, part: np.ndarray) -> np.ndarray:
        (tall, wide), filters = self.resized, {"bicubic": Image.Resampling.BICUBIC}
        across = Image.fromarray(np.ascontiguousarray(part)).resize((wide, len(part)), filters[self.interpolation])
        return np.asarray(across.resize((wide, tall), filters[self.interpolation]))

    preprocess = Preprocess(32, MEAN, STD, "bicubic", "squash")
    for height, width in ((90, 51), (51, 90)):
        resize_ours, frames = DeviceResize(torch.device("cpu")), frames_of(height, width)
        framing = preprocess.framing(height, width)
        with monkeypatch.context() as patch:
            patch.setattr(Framing, "_resize", resize)
            assert not resize_ours.pictures(np.zeros_like(frames), framing).any()
            made = resize_ours.pictures(frames, framing)
            np.testing.assert_array_equal(made, preprocess.pictures(frames)[0])


def test_a_pillow_that_makes_other_pictures_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    preprocess, frames = Preprocess(32, MEAN, STD), frames_of(50, 60)
    framing = preprocess.framing(50, 60)
    pillows = Framing.picture
    monkeypatch.setattr(Framing, "picture", lambda self, part: np.bitwise_xor(pillows(self, part), 1))
    with pytest.raises(VidfeatError, match=r"off by 1 of 255(.|\n)*--resize workers"):
        DeviceResize(torch.device("cpu")).pictures(framing.part(frames), framing)
