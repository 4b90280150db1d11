"""Stores for the tests of anchors: a tiny backbone pack, and videos made of scenes, so that every cosine is known.

A scene is a random direction of the joint space: a frame of it lies within a cosine of 0.98, and no two scenes of a
test come near the threshold of near-duplicates.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vidfeat.backbone import BackboneConfig, BackbonePack, TextConfig, TextTower, Tokenizer, VisionConfig, VisionTower
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

EMBED_DIM = 32
CLASSES = ("archery", "juggling", "yoga")
POOL_CLASS = "thing"


def write_pack(path: Path, *, seed: int = 0) -> BackbonePack:
    """A random backbone of CLIP's structure with a byte-level tokenizer."""
    tokenizer = Tokenizer(("v i", "vi d"), context_length=77)
    config = BackboneConfig(
        name="tiny",
        pretrained=f"random-{seed}",
        embed_dim=EMBED_DIM,
        vision=VisionConfig(image_size=8, patch_size=4, width=16, layers=1, heads=2),
        text=TextConfig(context_length=77, vocab_size=tokenizer.vocab_size, width=16, layers=2, heads=2),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        logit_scale=50.0,
    )
    generator = torch.Generator().manual_seed(seed)
    towers = TextTower(config.text, embed_dim=EMBED_DIM), VisionTower(config.vision, embed_dim=EMBED_DIM)
    states = [
        {name: torch.randn(value.shape, generator=generator) for name, value in tower.state_dict().items()}
        for tower in towers
    ]
    return BackbonePack.write(path, config=config, text_state=states[0], visual_state=states[1], tokenizer=tokenizer)


@dataclass(frozen=True)
class Clip:
    """One video: its frames' scenes, and what its bytes are (equal `content` = equal hash; "" = hash not known)."""

    id: str
    scenes: tuple[np.ndarray, ...]
    content: str | None = None
    failed: bool = False
    label: str = POOL_CLASS

    @property
    def frames(self) -> np.ndarray:
        """float32 [F E]: near the scenes, of no particular length."""
        rng = np.random.default_rng(list(self.id.encode()))
        noise = rng.normal(0, 0.02, (len(self.scenes), EMBED_DIM))
        return (5.0 * (np.stack(self.scenes) + noise)).astype(np.float32)

    @property
    def facts(self) -> VideoRow:
        content = self.id if self.content is None else self.content
        digest = hashlib.sha256(content.encode()).hexdigest() if content else ""
        if self.failed:
            return VideoRow(self.id, self.label, status="failed", reason="truncated", content_sha256=digest)
        return VideoRow(self.id, self.label, n_frames=len(self.scenes), content_sha256=digest, decoder="tiny")


def scene(seed: int) -> np.ndarray:
    """A direction of the joint space, float64 [E] of length 1."""
    direction = np.random.default_rng(seed).standard_normal(EMBED_DIM)
    return direction / np.linalg.norm(direction)


def still(name: str, seed: int, *, n_frames: int = 4, **facts: object) -> Clip:
    """A video of one scene."""
    return replace(Clip(name, (scene(seed),) * n_frames), **facts)


def write_store(
    path: Path, clips: list[Clip], *, pack_seed: int = 0, taps: tuple[str, ...] = ("pooled",), n_views: int = 1
) -> Path:
    """The store of these clips with its pack inside; `tokens/..` taps are random, `tokens/01` is int8."""
    pack = write_pack(path.with_suffix(".pack"), seed=pack_seed)
    known = {"pooled": TapSpec("pooled", (EMBED_DIM,)), "tokens/00": TapSpec("tokens/00", (3, 4), "float32")}
    known["tokens/01"] = TapSpec("tokens/01", (3, 4), "int8")
    spec = StoreSpec(
        taps=tuple(known[name] for name in taps),
        n_frames=None,
        max_frames=16,
        n_views=n_views,
        classes=tuple(dict.fromkeys(clip.label for clip in clips)),
        fingerprint=Fingerprint({"weights": pack.config.weights_sha256}),
        pack_hash=pack.hash,
        max_unit_videos=5,
    )
    writer = StoreWriter.create(path, spec, [clip.facts for clip in clips])
    for name in ("config.json", "text.safetensors", "visual.safetensors", "tokenizer.json"):
        writer.write_pack_file(name, (pack.path / name).read_bytes())
    for unit in writer.pending_units():
        chosen = [clips[index] for index in unit.video_indices]
        arrays = {
            tap: [_rows(clip, tap, v) for clip in chosen if not clip.failed for v in range(n_views)] for tap in taps
        }
        writer.commit(unit, arrays, [clip.facts for clip in chosen])
    writer.finalize()
    return path


def _rows(clip: Clip, tap: str, view: int) -> np.ndarray:
    if tap == "pooled":
        return clip.frames + view
    rng = np.random.default_rng([view, *clip.id.encode(), *tap.encode()])
    return rng.standard_normal((len(clip.scenes), 3, 4)).astype(np.float32)
