"""What a training step will cost, counted beforehand: how many runs fit the memory, how large its products are."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch

from prompttune.config.runs import Run
from prompttune.config.train_config import TrainConfig
from prompttune.cost.visual import BYTES_PER_FLOAT, VisualStep, visual_step_cost
from prompttune.errors import ConfigError, explain
from prompttune.model.class_sampling import classes_per_step
from prompttune.model.prompt_model import PromptModel

# What a block keeps of every row for its backward pass, in widths of the tower: input, two norms, query, key and value,
# attention, the sum after it, and the MLP's 4 widths before and after its activation.
KEPT_WIDTHS_PER_ROW = 16
SHARE_OF_FREE_MEMORY = 0.5  # the rest is for features, weights, the allocator and other people


def step_bytes_per_run(model: PromptModel, classes: Sequence[str]) -> int:
    """Bytes that one more run adds to a training step: what the text tower keeps for its backward pass.

    Args:
        model: of any number of runs, of the configuration in question.
        classes: the training classes.
    """
    rows = model.text_rows(classes)
    config = model.pack.config.text
    kept_layers = 1 if model.config.recompute else config.layers
    n_classes = len(classes)
    batch_size = model.config.optim.batch_size
    taken = classes_per_step(model.config.classes, n_classes=n_classes, batch_size=batch_size)
    chunk = min(model.config.class_chunk or taken, taken) if model.config.recompute else taken
    return int(rows * chunk / max(n_classes, 1) * kept_layers * config.width * KEPT_WIDTHS_PER_ROW * 4)


def largest_product_flop(
    model: PromptModel, classes: Sequence[str], *, numbers_per_video: int, n_frames: int = 1
) -> int:
    """Floating-point operations of the largest matrix product in a training step of all the model's runs.

    That is a tower's MLP on all rows that go through it, or what the head does to a batch where that is larger.

    Args:
        model: of all runs that go together.
        classes: the training classes.
        numbers_per_video: of the features that the head is given, E or F * E.
        n_frames: frames of a video, which count where they go through the vision tower.
    """
    text, batch_size = model.pack.config.text, model.config.optim.batch_size
    n_classes = len(classes)
    taken = classes_per_step(model.config.classes, n_classes=n_classes, batch_size=batch_size)
    rows = model.text_rows(classes) * taken // n_classes if classes else 0  # zero-shot has no training classes
    in_tower = 2 * rows * text.width * text.mlp_width
    in_head = 2 * batch_size * numbers_per_video * model.pack.config.embed_dim
    in_vision = 0
    if model.config.visual is not None:
        vision = model.pack.config.vit
        in_vision = 2 * batch_size * n_frames * vision.n_tokens * vision.width * vision.mlp_width
    return model.n_runs * max(in_tower, in_head, in_vision)


def visual_bytes_per_run(model: PromptModel, n_frames: int) -> int:
    """Bytes that one more run adds to a step by its visual prompts: tokens read, and what the tower keeps of them.

    Args:
        n_frames: stored frames of a video.
    """
    visual, config = model.visual, model.config
    if visual is None:
        return 0
    vision = visual.tower.config
    frames = frames_per_step(config, n_frames)
    step = VisualStep(frames, 1, shared_frames=False, recompute=visual.recompute)
    cost = visual_step_cost(vision, embed_dim=visual.tower.embed_dim, visual=visual.config, step=step)
    at_once = min(frames, config.visual.frames_per_chunk or frames) if config.visual is not None else frames
    # As stored (float16 as a rule), and in float32 as many as are computed at once.
    return int(cost.kept_bytes + vision.n_tokens * vision.width * (2 * frames + BYTES_PER_FLOAT * at_once))


def frames_per_step(config: TrainConfig, n_frames: int) -> int:
    """Frames that one run's step sends through the vision tower, anchors' included, of videos of `n_frames` stored."""
    videos = math.ceil(config.optim.batch_size / config.optim.accumulate)
    anchors = config.anchors.n_anchors if config.anchors is not None else 0
    return (videos + anchors) * (config.frames.used or n_frames)


def free_bytes(device: torch.device) -> int:
    """Memory that can be had on the device, in bytes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 * 2**30


def runs_that_fit(runs: Sequence[Run], model: PromptModel, classes: Sequence[str], n_frames: int = 1) -> int:
    """How many of the runs to train at once: as `runs_at_once` says, else all that fit half of the free memory.

    Raises:
        ConfigError: not even one fits, with what would make it fit.
    """
    config = runs[0].config
    if config.runs_at_once:
        return min(config.runs_at_once, len(runs))
    needed = step_bytes_per_run(model, classes) + visual_bytes_per_run(model, n_frames)
    free = free_bytes(model.device)
    if needed > free:
        raise ConfigError(
            explain(
                "one run alone does not fit the memory",
                expected=f"at most {free / 2**30:.1f} GiB free on {model.device}",
                got=f"about {needed / 2**30:.1f} GiB for {len(classes)} classes",
                fix="--set recompute=true --set class_chunk=64 (slower, memory no longer grows with the classes)"
                if model.visual is None
                else "--set visual.frames_per_chunk=16 (slower, memory no longer grows with the frames), a smaller "
                "optim.batch_size or more optim.accumulate, frames.used, or a later visual.first_block",
            )
        )
    return max(1, min(len(runs), int(SHARE_OF_FREE_MEMORY * free / max(needed, 1))))
