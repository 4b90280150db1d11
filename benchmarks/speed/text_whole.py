"""Two figures of whole processes: a base-to-new run from start to result, and the memory of a step on 1,000 classes.

The run is as large as HMDB-51's: 26 base classes with 16 training clips each, 30 test clips for each of 51 classes, 32
frames a clip, features of ViT-B/16's width in a store as `vidfeat extract` writes it, with a pack of ViT-B/16's own
shapes and CLIP's vocabulary. Weights and features are random: what a run costs does not depend on them. It is the
command a user types, in a process of its own, timed from before its start to after its end.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vidfeat.backbone import BackbonePack

CLASS_NAMES = Path(__file__).with_name("class_names.json")
OTHER_CLASSES = ("apply_lipstick", "archery", "bowling", "haircut")
# Source: open_clip's model config ViT-B-16-quickgelu.
CLIP_VISION = {
    "image_size": 224,
    "patch_size": 16,
    "width": 768,
    "layers": 12,
    "heads": 12,
    "activation": "quick_gelu",
}
CLIP_TEXT = {
    "context_length": 77,
    "vocab_size": 49408,
    "width": 512,
    "layers": 12,
    "heads": 8,
    "activation": "quick_gelu",
}
N_CTX = 16
TRAIN_CLIPS, TEST_CLIPS, FRAMES = 16, 30, 32
SECONDS_GOAL, GIGABYTES_GOAL = 45.0, 3.0
N_CLASSES_FOR_MEMORY = 1000


@dataclass(frozen=True)
class Clips:
    """What a synthetic store holds: clips per class in training and test, and the classes that have training clips."""

    classes: Sequence[str]
    base: frozenset[str]
    train: int = TRAIN_CLIPS
    test: int = TEST_CLIPS
    n_frames: int = FRAMES

    def videos(self) -> list[tuple[str, str]]:
        """(class, split) of every clip."""
        train = [(name, "train") for name in self.classes if name in self.base for _ in range(self.train)]
        return train + [(name, "test") for name in self.classes for _ in range(self.test)]


def hmdb_clips() -> Clips:
    """Clips as HMDB-51's first split has them, few-shot: 416 for training, 1,530 for testing."""
    lists = json.loads(CLASS_NAMES.read_text("utf-8"))
    base, new = ([name.replace(" ", "_") for name in lists[f"HMDB-51 {part}"]] for part in ("base", "new"))
    return Clips(sorted([*base, *new]), frozenset(base))


def random_pack(
    path: Path,
    *,
    vision: Mapping[str, Any] = CLIP_VISION,
    text: Mapping[str, Any] = CLIP_TEXT,
    embed_dim: int = 512,
) -> BackbonePack:
    """A pack with random weights and CLIP's vocabulary, of ViT-B/16's shapes unless others are given."""
    from vidfeat.backbone import (
        BackboneConfig,
        BackbonePack,
        TextConfig,
        TextTower,
        Tokenizer,
        VisionConfig,
        VisionTower,
    )
    from vidfeat.clip.openclip import clip_merges

    config = BackboneConfig(
        name="ViT-B-16-quickgelu",
        pretrained="random",
        embed_dim=embed_dim,
        vision=VisionConfig(**vision),
        text=TextConfig(**text),
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
        logit_scale=100.0,
    )
    return BackbonePack.write(
        path,
        config=config,
        text_state=random_state(TextTower(config.open_text, embed_dim=config.embed_dim)),
        visual_state=random_state(VisionTower(config.vit, embed_dim=config.embed_dim)),
        tokenizer=Tokenizer(clip_merges(), context_length=config.text.context_length),
    )


def clip_state(vision: Mapping[str, Any], text: Mapping[str, Any], *, embed_dim: int) -> dict[str, Any]:
    """The state of a CLIP with random weights under open_clip's names, as checkpoints hold it."""
    import torch

    from vidfeat.backbone import TextConfig, TextTower, VisionConfig, VisionTower

    visual = random_state(VisionTower(VisionConfig(**vision), embed_dim=embed_dim))
    state = random_state(TextTower(TextConfig(**text), embed_dim=embed_dim))
    scale = {"logit_scale": torch.tensor(4.6)}
    return state | {f"visual.{name}": value for name, value in visual.items()} | scale


def random_state(tower: nn.Module) -> dict[str, Any]:
    """Random weights by name; norms as they start."""
    import torch

    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in tower.state_dict().items():
        if "ln_" in name:
            state[name] = torch.full(value.shape, 1.0 if name.endswith("weight") else 0.0)
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.02
    return state


def write_store(path: Path, pack: BackbonePack, clips: Clips) -> Path:
    """A store of pooled features, random around a mean for each class, and the pack inside it."""
    import numpy as np

    from vidfeat.store import POOLED, Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow

    rng = np.random.default_rng(0)
    means = {name: rng.normal(0, 0.5, pack.config.embed_dim) for name in clips.classes}
    videos = [
        VideoRow(
            id=f"{label}/{number:05d}.avi",
            label=label,
            split=split,
            n_frames=clips.n_frames,
            n_source_frames=90,
            fps=30.0,
            pts_seconds=tuple(3.0 * i / clips.n_frames for i in range(clips.n_frames)),
            decoder="none",
        )
        for number, (label, split) in enumerate(clips.videos())
    ]
    spec = StoreSpec(
        taps=(TapSpec(POOLED, (pack.config.embed_dim,)),),
        n_frames=clips.n_frames,
        classes=tuple(clips.classes),
        fingerprint=Fingerprint({"weights": pack.config.weights_sha256, "frames": clips.n_frames}),
        pack_hash=pack.hash,
    )
    writer = StoreWriter.create(path, spec, videos)
    shutil.copytree(pack.path, path / "pack", copy_function=os.link)
    for unit in writer.pending_units():
        shape = (clips.n_frames, pack.config.embed_dim)
        rows = [means[videos[i].label] + rng.normal(0, 0.5, shape) for i in unit.video_indices]
        writer.commit(unit, {POOLED: np.concatenate(rows)}, [videos[i] for i in unit.video_indices])
    writer.finalize()
    return path


def whole_run(work: Path, *, n_threads: int, n_rounds: int) -> dict[str, Any]:
    """Wall-clock seconds of the command below, from before its start to after its end, each of `n_rounds` times.

    Args:
        work: an empty folder; it holds the stores and run folders afterwards.
        n_threads: CPU threads the command is given.
        n_rounds: how often it runs.
    """
    pack, clips = random_pack(work / "pack"), hmdb_clips()
    store = write_store(work / "hmdb.zarr", pack, clips)
    other = write_store(work / "other.zarr", pack, Clips(OTHER_CLASSES, frozenset(OTHER_CLASSES), test=1))
    _train(["--method", "coop", "--store", other, "--seeds", "7", "--set", "epochs=1"], work / "hard", n_threads)
    hard = work / "hard" / "seed7" / "prompt.safetensors"
    base = json.dumps(sorted(clips.base))
    arguments: list[str | Path] = [
        "--method",
        "ga2-text",
        "--store",
        store,
        "--seeds",
        "1,2,3",
        "--set",
        f"hard_prompts={hard}",
    ]
    arguments += ["--set", f"base_classes={base}"]
    seconds, trained = [], []
    for index in range(n_rounds):
        seconds.append(_train(arguments, work / f"run{index}", n_threads))
        result = json.loads((work / f"run{index}" / "result.json").read_text("utf-8"))
        trained.append(result["runs"][0]["train_seconds"])
    return {
        "command": "prompttune train --method ga2-text --seeds 1,2,3 --set hard_prompts=FILE --set base_classes=...",
        "n_train": len(clips.base) * clips.train,
        "n_test": len(clips.classes) * clips.test,
        "seconds": seconds,
        "of_which_training": trained,
        "goal_seconds": SECONDS_GOAL,
    }


def _train(arguments: Sequence[str | Path], out: Path, n_threads: int) -> float:
    """Seconds of `prompttune train` in a process of its own, which may keep and use its imports' bytecode."""
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "prompttune.cli", "train", *map(str, arguments), "--out", str(out)]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return seconds


_STEP_ON_MANY_CLASSES = """
import resource, sys, torch
from benchmarks.speed.text_whole import CLIP_TEXT, N_CTX, random_state
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine
from vidfeat.backbone import TextConfig, TextTower, Tokenizer
from vidfeat.clip.openclip import clip_merges
n_classes, recompute = int(sys.argv[1]), sys.argv[2] == "recompute"
names = [f"class number {i // 100} {i // 10 % 10} {i % 10}" for i in range(n_classes)]
tower = TextTower(TextConfig(**CLIP_TEXT), embed_dim=512)
tower.load_state_dict(random_state(tower))
ctx = (0.02 * torch.randn(1, N_CTX, 512)).requires_grad_()
prompts = ClassPrompts.build(names, Tokenizer(clip_merges(), context_length=77), n_ctx=N_CTX)
engine = TextEngine(tower, class_chunk=100 if recompute else None, checkpoint=recompute)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine.encode(prompts, TextContext(ctx=ctx)).square().mean().backward()
assert ctx.grad.abs().sum() > 0
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def step_memory(n_classes: int = N_CLASSES_FOR_MEMORY) -> dict[str, Any]:
    """Peak resident gigabytes of a process that takes one training step on `n_classes` classes, and before that step;
    with all activations kept, and recomputed 100 classes at a time."""
    gigabytes = {}
    for kind in ("kept", "recompute"):
        command = [sys.executable, "-c", _STEP_ON_MANY_CLASSES, str(n_classes), kind]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        unit = 1e-9 if sys.platform == "darwin" else 1024e-9  # ru_maxrss counts bytes there, KiB elsewhere
        before, peak = (int(value) * unit for value in done.stdout.split()[-2:])
        gigabytes[kind] = {"before": before, "peak": peak}
    return {"n_classes": n_classes, "gigabytes": gigabytes, "goal_gigabytes": GIGABYTES_GOAL}


def misses(memory: dict[str, Any] | None, run: dict[str, Any] | None) -> list[str]:
    """Goals these figures miss, in words."""
    found = []
    if memory is not None and memory["gigabytes"]["kept"]["peak"] >= GIGABYTES_GOAL:
        peak = memory["gigabytes"]["kept"]["peak"]
        found.append(f"a step on {memory['n_classes']} classes: {peak:.2f} GB, goal below {GIGABYTES_GOAL:.0f} GB")
    if run is not None and (seconds := statistics.median(run["seconds"])) > SECONDS_GOAL:
        found.append(f"a whole run as large as HMDB-51's: {seconds:.0f} s, goal {SECONDS_GOAL:.0f} s")
    return found


def sentences(memory: dict[str, Any] | None, run: dict[str, Any] | None) -> str:
    """The figures as sentences for the README's note; empty where nothing was measured."""
    text = ""
    if memory is not None:
        peaks = {kind: values["peak"] for kind, values in memory["gigabytes"].items()}
        text += (
            f" One run's step on {memory['n_classes']:,} classes: a process of {peaks['kept']:.1f} GB at its peak, "
            f"{peaks['recompute']:.1f} GB where 100 classes at a time are recomputed."
        )
    if run is not None:
        seconds = statistics.median(run["seconds"])
        text += (
            f" A whole base-to-new run as large as HMDB-51's ({run['n_train']} training and {run['n_test']:,} test "
            f"clips, GA2-CLIP's text half, 12 epochs, 3 seeds): {seconds:.0f} s from start to result."
        )
    return text
