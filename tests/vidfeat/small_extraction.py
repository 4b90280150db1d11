"""What the extraction's tests share: real mp4 files, a tiny CLIP on disk, options, and the bytes of a store."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from vidfeat.extraction.extract import ExtractSummary, extract_or_resume
from vidfeat.extraction.options import ExtractOptions, Machine, ModelChoice
from vidfeat.store import open_store
from vidfeat.video.sampling import SamplingPolicy

TINY_CLIP: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
N_FRAMES = 4
CLASSES = ("jump", "run")


def write_mp4(path: Path, *, n_frames: int = 20, seed: int = 0, size: tuple[int, int] = (48, 64)) -> Path:
    """A short H.264 clip of a bright square that moves over a random gradient: every frame differs."""
    import av

    height, width = size
    generator = np.random.default_rng(seed)
    base = np.linspace(0, generator.integers(60, 200), width)[None, :, None] + generator.integers(0, 50, (1, 1, 3))
    base = np.broadcast_to(base, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(n_frames):
            picture = base.copy()
            left = (3 * index + 5 * seed) % (width - 12)
            picture[10:22, left : left + 12] = (250, 250 - 10 * index % 200, 20)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_videos(root: Path, n_videos: int = 6, *, first: int = 0) -> Path:
    """`root` with one folder per class, videos of different lengths dealt out in turn."""
    for number in range(first, first + n_videos):
        path = root / CLASSES[number % len(CLASSES)] / f"{number:03d}.mp4"
        write_mp4(path, n_frames=9 + 7 * (number % 4), seed=number)
    return root


def write_tiny_clip(folder: Path, *, seed: int = 0, name: str = "tiny") -> ModelChoice:
    """A model config and random weights, as open_clip lays them out."""
    import torch
    from open_clip import CLIP
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.contiguous() for key, value in CLIP(**TINY_CLIP).state_dict().items() if key != "attn_mask"}
    config, weights = folder / f"{name}.json", folder / f"{name}.safetensors"
    config.write_text(json.dumps(TINY_CLIP))
    save_file(state, weights)
    return ModelChoice(model_config=config, weights=weights)


def small_options(source: Path, out: Path, model: ModelChoice, **changes: Any) -> ExtractOptions:
    """Options for a store of several units: a shard holds two videos of token rows."""
    options = ExtractOptions(
        source=source,
        out=out,
        model=model,
        sampling=SamplingPolicy("segments-middle", n_frames=N_FRAMES),
        taps=("pooled", "tokens@1"),
        shard_bytes=2 * N_FRAMES * 5 * 32 * 2,
        machine=Machine(workers=0, device="cpu", batch_frames=3),
    )
    return replace(options, **changes)


def digests(store: Path) -> dict[str, str]:
    """sha256 of every file of a store, by path; the lock file is no content."""
    return {
        path.relative_to(store).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def extract(options: ExtractOptions) -> ExtractSummary:
    """The extraction, without a word."""
    return extract_or_resume(options, quiet=True)


def rows_by_id(store: Path, tap: str = "pooled", view: int = 0) -> dict[str, np.ndarray]:
    """The stored rows of every sound video, by its id."""
    reader = open_store(store, check="always")
    return {
        reader.ids[index]: reader.rows(tap, [index], view=view).values for index in np.flatnonzero(reader.ok).tolist()
    }
