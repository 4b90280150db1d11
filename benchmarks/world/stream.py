"""The pre-training stream: batch `k` of (frame, caption) pairs is a pure function of the seed and `k`."""

import io
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from benchmarks.world.captions import caption
from benchmarks.world.scene import (
    COLOUR_INDEX,
    N_UNIFORMS,
    SCENE_INDEX,
    WHOLE_FRAME,
    Framing,
    draw_clip,
    draw_frame,
)
from benchmarks.world.styles import PRETRAINING_STYLE, apply_look, draw_look
from benchmarks.world.vocabulary import COLOURS, SCENES

FRAME_SIZE = 64
"""Width and height of a pre-training frame in pixels."""
_N_OPTIONS = {COLOUR_INDEX: len(COLOURS), SCENE_INDEX: len(SCENES)}
_EMPTY_SHARE = 0.03
_COMPRESSED_SHARE = 0.3


@dataclass(frozen=True)
class Lesson:
    """How batches are drawn from `first_index` on, until the next lesson.

    A batch shows only `n_scenes` scenes and `n_colours` colours, drawn anew for each batch: what varies little within a
    batch cannot tell its captions apart, so the rest must.
    """

    first_index: int
    batch_size: int
    n_scenes: int = len(SCENES)
    n_colours: int = len(COLOURS)
    framing: Framing = WHOLE_FRAME


LESSONS = (
    Lesson(first_index=0, batch_size=256),
    Lesson(first_index=800, batch_size=128, n_scenes=2, n_colours=3, framing=Framing(zoom=(1.0, 1.4))),
    Lesson(first_index=1600, batch_size=128, n_scenes=2, n_colours=2, framing=Framing(zoom=(1.2, 1.6), spread=0.3)),
)
"""The whole world at once teaches scenes and colours; then, these held back, who does what: first anywhere in the
frame, then larger and nearer to its middle."""


@dataclass(frozen=True)
class CaptionedFrames:
    """A batch: `frames` [B 64 64 3] uint8 RGB and one caption for each."""

    frames: np.ndarray
    captions: tuple[str, ...]


def captioned_batch(seed: int, index: int, lessons: tuple[Lesson, ...] = LESSONS) -> CaptionedFrames:
    """Batch `index` of the stream that `seed` names."""
    lesson = [lesson for lesson in lessons if lesson.first_index <= index][-1]
    batch_size = lesson.batch_size
    rng = np.random.default_rng([seed, index])
    words = random.Random(f"{seed}/{index}")
    uniforms = rng.random((batch_size, N_UNIFORMS + 4))
    choice = np.random.default_rng([seed, index, 1])
    kept = {COLOUR_INDEX: lesson.n_colours, SCENE_INDEX: lesson.n_scenes}
    for column, n_kept in kept.items():
        uniforms[:, column] = _keep_few(uniforms[:, column], n_kept, _N_OPTIONS[column], choice)
    frames = np.empty((batch_size, FRAME_SIZE, FRAME_SIZE, 3), dtype=np.uint8)
    texts = []
    for i in range(batch_size):
        moment, empty, compressed, quality = uniforms[i, N_UNIFORMS:].tolist()
        clip = draw_clip(uniforms[i, :N_UNIFORMS], empty=empty < _EMPTY_SHARE, framing=lesson.framing)
        image = draw_frame(clip, moment, FRAME_SIZE, FRAME_SIZE)
        look = draw_look(PRETRAINING_STYLE, rng)
        frame = apply_look(np.asarray(image), look, rng)
        if compressed < _COMPRESSED_SHARE:
            frame = _compress(frame, quality=int(30 + 50 * quality))
        frames[i] = frame
        texts.append(caption(clip, words, look.notes))
    return CaptionedFrames(frames=frames, captions=tuple(texts))


def stream(seed: int, start: int = 0) -> Iterator[CaptionedFrames]:
    """Batches without end, from batch `start` on."""
    return (captioned_batch(seed, index) for index in itertools.count(start))


def _keep_few(uniforms: np.ndarray, n_kept: int, n_options: int, rng: np.random.Generator) -> np.ndarray:
    """`uniforms` [B] moved so that they choose among `n_kept` of `n_options` options alone, each equally likely."""
    if n_kept == n_options:
        return uniforms
    kept = rng.permutation(n_options)[:n_kept]
    return (kept[(uniforms * n_kept).astype(int)] + 0.5) / n_options


def _compress(frame: np.ndarray, quality: int) -> np.ndarray:
    """The frame after JPEG: blocks and ringing much like a video codec's, at a fraction of its price."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))
