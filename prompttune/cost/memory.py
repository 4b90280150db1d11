"""How many runs fit the memory, and how large the products of a step are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from prompttune.config.runs import Run
from prompttune.cost.step import kept_bytes_per_run, step_text_pass
from prompttune.errors import ConfigError, explain
from prompttune.model.class_sampling import classes_per_step
from prompttune.model.prompt_model import PromptModel

SHARE_OF_FREE_MEMORY = 0.5  # the rest is for features, weights, the allocator and other people


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
    batch_size = model.config.optim.batch_size
    n_classes = len(classes)
    taken = classes_per_step(model.config.classes, n_classes=n_classes, batch_size=batch_size)
    sent, in_tower = model.text_pass(classes), 0
    if sent is not None:
        text = model.pack.config.open_text
        in_tower = 2 * (sent.n_rows * taken // n_classes) * text.width * text.mlp_width
    in_head = 2 * batch_size * numbers_per_video * model.pack.config.embed_dim
    in_vision = 0
    if model.config.visual is not None:
        vision = model.pack.config.vit
        in_vision = 2 * batch_size * n_frames * vision.n_tokens * vision.width * vision.mlp_width
    return model.n_runs * max(in_tower, in_head, in_vision)


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
    needed = kept_bytes_per_run(model, step_text_pass(model, classes), n_frames=n_frames)
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
