"""Frames with their captions on one picture, for a person to look at."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.world.plans import plan_dataset, plan_videos
from benchmarks.world.stream import captioned_batch
from benchmarks.world.videos import N_FRAMES, render_video

_SCALE = 2
_TEXT_HEIGHT = 26
_COLUMNS = 8


def stream_sheet(path: Path, *, seed: int = 0, n_frames: int = 48) -> None:
    """Write frames of the pre-training stream with their captions."""
    batch = captioned_batch(seed, 0)
    _write_sheet(path, list(batch.frames[:n_frames]), list(batch.captions[:n_frames]))


def dataset_sheet(path: Path, name: str, *, seed: int = 0, n_videos: int = 24) -> None:
    """Write the first, a middle and the last frame of videos of a dataset, before compression, with their labels."""
    videos = list(plan_videos(plan_dataset(name, seed)))
    chosen = [videos[i] for i in np.linspace(0, len(videos) - 1, n_videos).astype(int)]
    frames, texts = [], []
    for labelled in chosen:
        shown = render_video(labelled.video)
        frames += [shown[i] for i in (0, N_FRAMES // 2, N_FRAMES - 1)]
        texts += [labelled.label, "", ""]
    _write_sheet(path, frames, texts, columns=9)


def _write_sheet(path: Path, frames: list[np.ndarray], texts: list[str], columns: int = _COLUMNS) -> None:
    height, width = (side * _SCALE for side in frames[0].shape[:2])
    cell_width, cell_height = width + 4, height + _TEXT_HEIGHT
    rows = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * cell_width, rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    per_line = width // 6
    for i, (frame, text) in enumerate(zip(frames, texts, strict=True)):
        x, y = (i % columns) * cell_width, (i // columns) * cell_height
        sheet.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (x, y))
        lines = [text[:per_line], text[per_line : 2 * per_line]]
        draw.multiline_text((x, y + height), "\n".join(lines), fill="black", spacing=0)
    sheet.save(path)
