"""The pre-training stream: batch `k` of (frame, caption) pairs is a pure function of the seed and `k`."""

import io
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.world.captions import caption
from benchmarks.world.scene import N_UNIFORMS, draw_clip, draw_frame
from benchmarks.world.styles import PRETRAINING_STYLE, apply_look, draw_look

FRAME_SIZE = 64
"""Width and height of a pre-training frame in pixels."""
_EMPTY_SHARE = 0.03
_COMPRESSED_SHARE = 0.3


@dataclass(frozen=True)
class CaptionedFrames:
    """A batch: `frames` [B 64 64 3] uint8 RGB and one caption for each."""

    frames: np.ndarray
    captions: tuple[str, ...]


def captioned_batch(seed: int, index: int, batch_size: int) -> CaptionedFrames:
    """Batch `index` of the stream that `seed` names."""
    rng = np.random.default_rng([seed, index])
    words = random.Random(f"{seed}/{index}")
    uniforms = rng.random((batch_size, N_UNIFORMS + 4))
    frames = np.empty((batch_size, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    texts = []
    for i in range(batch_size):
        moment, empty, compressed, quality = uniforms[i, N_UNIFORMS:].tolist()
        clip = draw_clip(uniforms[i, :N_UNIFORMS], empty=empty < _EMPTY_SHARE)
        image = draw_frame(clip, moment, FRAME_SIZE, FRAME_SIZE)
        look = draw_look(PRETRAINING_STYLE, rng)
        frame = apply_look(np.asarray(image), look, rng)
        if compressed < _COMPRESSED_SHARE:
            frame = _compress(frame, quality=int(30 + 50 * quality))
        frames[i] = frame
        texts.append(caption(clip, words, look.notes))
    return CaptionedFrames(frames=frames, captions=tuple(texts))


def stream(seed: int, batch_size: int, start: int = 0) -> Iterator[CaptionedFrames]:
    """Batches without end, from batch `start` on."""
    index = start
    while True:
        yield captioned_batch(seed, index, batch_size)
        index += 1


def _compress(frame: np.ndarray, quality: int) -> np.ndarray:
    """The frame after JPEG: blocks and ringing much like a video codec's, at a fraction of its price."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
