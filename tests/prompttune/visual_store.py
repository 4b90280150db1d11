"""A tiny store with tokens: frames of made-up images through a small random vision tower, every tap of one pass.

Each class has an image of its own, blurred by noise per video and frame; a further view is the image upside down.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tiny_store import CLASSES, make_pack

from vidfeat.backbone import VisionConfig
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

# Strong images: a random tower passes little of a patch on to its class token.
AMPLITUDE = 3.0
VISION = VisionConfig(image_size=16, patch_size=8, width=32, layers=4, heads=2, activation="quick_gelu")


@dataclass(frozen=True)
class VisualRecipe:
    """What a tiny store with tokens is made of."""

    classes: tuple[str, ...] = CLASSES
    layers: tuple[int, ...] = (0, 2)
    n_train: int = 5
    n_test: int = 3
    n_frames: int = 4
    n_views: int = 2
    noise: float = 0.6
    seed: int = 0
    dtype: str = "float32"


def write_visual_store(path: Path, recipe: VisualRecipe = VisualRecipe()) -> Path:
    """Writes the store with its pack inside and gives its path."""
    pack = make_pack(path.with_suffix(".pack"), vision_config=VISION)
    tower = pack.vision_tower()
    generator = torch.Generator().manual_seed(recipe.seed)
    images = AMPLITUDE * torch.randn(len(recipe.classes), 3, 16, 16, generator=generator)
    videos: list[VideoRow] = []
    rows: dict[str, list[np.ndarray]] = {"pooled": [], **{f"tokens/{layer:02d}": [] for layer in recipe.layers}}
    for index, name in enumerate(recipe.classes):
        for number in range(recipe.n_train + recipe.n_test):
            own = images[index] + recipe.noise * torch.randn(3, 16, 16, generator=generator)
            frames = own + 0.5 * recipe.noise * torch.randn(recipe.n_frames, 3, 16, 16, generator=generator)
            pixels = torch.cat([frames if view == 0 else frames.flip(2) for view in range(recipe.n_views)])
            with torch.no_grad():
                taps = tower.taps(pixels, recipe.layers)
            rows["pooled"].append(taps.pooled.numpy())
            for layer in recipe.layers:
                rows[f"tokens/{layer:02d}"].append(taps.tokens[layer].numpy())
            videos.append(
                VideoRow(
                    id=f"{name}/{number:03d}.mp4",
                    label=name,
                    split="train" if number < recipe.n_train else "test",
                    n_frames=recipe.n_frames,
                    n_source_frames=30,
                    fps=25.0,
                    pts_seconds=tuple(0.1 * i for i in range(recipe.n_frames)),
                    content_sha256=hashlib.sha256(f"{recipe.seed}/{name}/{number}".encode()).hexdigest(),
                    decoder="tiny",
                )
            )
    token_shape = (VISION.n_tokens, VISION.width)
    token_taps = [TapSpec(f"tokens/{layer:02d}", token_shape, recipe.dtype) for layer in recipe.layers]
    model = {"name": pack.config.name, "pretrained": pack.config.pretrained}
    sampling = {"kind": "uniform", "n_frames": recipe.n_frames}
    spec = StoreSpec(
        taps=(TapSpec("pooled", (pack.config.embed_dim,), recipe.dtype), *token_taps),
        n_frames=recipe.n_frames,
        n_views=recipe.n_views,
        classes=recipe.classes,
        fingerprint=Fingerprint({"model": model, "sampling": sampling, "dtype": recipe.dtype}),
        pack_hash=pack.hash,
    )
    writer = StoreWriter.create(path, spec, videos)
    for unit in writer.pending_units():
        arrays = {tap: np.concatenate([values[index] for index in unit.video_indices]) for tap, values in rows.items()}
        writer.commit(unit, arrays, [videos[index] for index in unit.video_indices])
    writer.finalize()
    path.with_suffix(".pack").rename(path / "pack")
    return path
