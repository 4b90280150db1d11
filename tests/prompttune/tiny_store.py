"""A store and a backbone small enough for a test and real enough for training: written by the package's own writers.

Video features are made of the text tower's own class features under a hidden context, plus a shift and noise: the
hand-written template tells classes apart somewhat, a learned context can tell them apart well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from vidfeat.backbone import (
    BackboneConfig,
    BackbonePack,
    TextConfig,
    TextTower,
    Tokenizer,
    VisionConfig,
    VisionTower,
)
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

CLASSES = ("run", "jump", "swim", "wave_hand", "climb", "throw_ball", "ride", "spin")
# Enough for "a video of a" to be four tokens, as in CLIP's own vocabulary; everything else is spelled in bytes.
MERGES = ("v i", "vi d", "vid e", "vide o</w>", "o f</w>")
TEXT_WIDTH = 32
EMBED_DIM = 24
LAYERS = 3


@dataclass(frozen=True)
class Recipe:
    """What a tiny store is made of; equal recipes make equal bytes."""

    classes: tuple[str, ...] = CLASSES
    n_train: int = 6
    n_test: int = 5
    n_frames: int = 3
    noise: float = 0.25
    seed: int = 0
    with_splits: bool = True
    backbone_seed: int = 0
    text_width: int = TEXT_WIDTH
    failed: tuple[int, ...] = ()
    groups: int = 0
    hashes: tuple[tuple[int, str], ...] = ()  # (video, content hash); the others have none, as after an import


SHALLOW = VisionConfig(image_size=8, patch_size=4, width=16, layers=1, heads=2)


def make_pack(
    path: Path, *, seed: int = 0, text_width: int = TEXT_WIDTH, vision_config: VisionConfig = SHALLOW
) -> BackbonePack:
    """A random backbone with CLIP's structure and a byte-level tokenizer."""
    tokenizer = Tokenizer(MERGES, context_length=77)
    config = BackboneConfig(
        name="tiny",
        pretrained=f"random-{seed}",
        embed_dim=EMBED_DIM,
        vision=vision_config,
        text=TextConfig(context_length=77, vocab_size=tokenizer.vocab_size, width=text_width, layers=LAYERS, heads=4),
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        interpolation="bicubic",
        logit_scale=50.0,
    )
    generator = torch.Generator().manual_seed(seed)

    def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        values = {}
        for name, value in module.state_dict().items():
            if name.endswith(("ln_1.weight", "ln_2.weight", "ln_final.weight", "ln_pre.weight", "ln_post.weight")):
                values[name] = torch.ones(value.shape)
            elif name.endswith("bias"):
                values[name] = torch.zeros(value.shape)
            else:
                fan_in = value.shape[-1] if value.dim() > 1 else 1
                scale = 0.5 if "embedding" in name else fan_in**-0.5
                values[name] = torch.randn(value.shape, generator=generator) * scale
        return values

    text = TextTower(config.text, embed_dim=EMBED_DIM)
    vision = VisionTower(config.vision, embed_dim=EMBED_DIM)
    return BackbonePack.write(
        path, config=config, text_state=state(text), visual_state=state(vision), tokenizer=tokenizer
    )


@torch.no_grad()
def hidden_class_features(pack: BackbonePack, classes: tuple[str, ...], *, seed: int) -> torch.Tensor:
    """Unit features [C E] of the classes behind a random context that no template spells."""
    tower, tokenizer = pack.text_tower(), pack.tokenizer()
    generator = torch.Generator().manual_seed(1000 + seed)
    context = torch.randn(4, pack.config.text.width, generator=generator) * 0.5
    features = []
    for name in classes:
        ids = [*tokenizer.encode(name.replace("_", " ") + "."), tokenizer.eot_id]
        words = tower.embed(torch.tensor(ids))
        start = tower.embed(torch.tensor([tokenizer.sot_id]))
        sequence = torch.cat([start, context, words])[None]
        features.append(tower.encode_embeddings(sequence, read_index=torch.tensor([sequence.shape[1] - 1]))[0])
    return F.normalize(torch.stack(features), dim=-1)


def write_tiny_store(path: Path, recipe: Recipe = Recipe()) -> Path:
    """Writes the store with its pack inside and gives its path."""
    pack = make_pack(path.with_suffix(".pack"), seed=recipe.backbone_seed, text_width=recipe.text_width)
    means = hidden_class_features(pack, recipe.classes, seed=recipe.seed).numpy()
    rng = np.random.default_rng(recipe.seed)
    videos, features = [], []
    for index, name in enumerate(recipe.classes):
        for number in range(recipe.n_train + recipe.n_test):
            split = ("train" if number < recipe.n_train else "test") if recipe.with_splits else ""
            group = f"g{number % recipe.groups:02d}" if recipe.groups else ""
            own = means[index] + rng.normal(0, recipe.noise, EMBED_DIM) * EMBED_DIM**-0.5
            frames = own + rng.normal(0, recipe.noise, (recipe.n_frames, EMBED_DIM)) * EMBED_DIM**-0.5
            videos.append(_row(f"{name}/{number:03d}.mp4", name, split, group, recipe))
            features.append((7.0 * frames).astype(np.float32))
    for place, content in recipe.hashes:
        videos[place] = replace(videos[place], content_sha256=content)
    for place in recipe.failed:
        videos[place] = VideoRow.failed(videos[place], reason="truncated")
    spec = StoreSpec(
        taps=(TapSpec("pooled", (EMBED_DIM,), "float32"),),
        n_frames=recipe.n_frames,
        classes=recipe.classes,
        fingerprint=Fingerprint({"weights": pack.config.weights_sha256, "frames": recipe.n_frames}),
        pack_hash=pack.hash,
    )
    writer = StoreWriter.create(path, spec, videos)
    for unit in writer.pending_units():
        rows = [features[index] for index in unit.video_indices if videos[index].ok]
        writer.commit(unit, {"pooled": np.concatenate(rows)}, [videos[index] for index in unit.video_indices])
    writer.finalize()
    path.with_suffix(".pack").rename(path / "pack")
    return path


def _row(key: str, label: str, split: str, group: str, recipe: Recipe) -> VideoRow:
    return VideoRow(
        id=key,
        label=label,
        split=split,
        group=group,
        n_frames=recipe.n_frames,
        n_source_frames=30,
        fps=25.0,
        pts_seconds=tuple(0.1 * i for i in range(recipe.n_frames)),
        decoder="tiny",
    )
