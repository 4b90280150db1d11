"""Clips as real video files: H.264 in mp4, the same bytes for the same clip and the same encoder."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from benchmarks.world.scene import Clip, draw_frame
from benchmarks.world.styles import Look, apply_look

N_FRAMES = 16
FRAMES_PER_SECOND = 8
_DETERMINISTIC = "rc-lookahead=0:sync-lookahead=0:mbtree=0"


@dataclass(frozen=True)
class VideoPlan:
    """All that one file shows and how it is compressed. `crf` is x264's constant rate factor: larger is coarser."""

    clip: Clip
    look: Look
    crf: int
    noise_seed: int
    width: int
    height: int


def render_video(plan: VideoPlan) -> np.ndarray:
    """The frames before compression, `[T H W 3]` uint8 RGB."""
    moments = np.linspace(0.0, 1.0, N_FRAMES)
    frames = np.stack([np.asarray(draw_frame(plan.clip, float(t), plan.width, plan.height)) for t in moments])
    return apply_look(frames, plan.look, np.random.default_rng(plan.noise_seed))


def write_video(path: Path, frames: np.ndarray, crf: int) -> None:
    """Encode `frames` [T H W 3] uint8 RGB, even width and height, at `FRAMES_PER_SECOND` into a new mp4 file."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        # One thread and no lookahead: with either of them x264 was seen to give other bytes for the same frames.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "veryfast", "x264-params": _DETERMINISTIC}
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
