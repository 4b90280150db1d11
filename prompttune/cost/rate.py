"""How fast this machine computes, measured in a second or two: operations per second of what a step is made of.

A step's seconds are its counted operations over a measured rate. The rate is that of the very computation, on few
frames or few classes; `matrix_rate`, a bare matrix product, is what the machine could do at most.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean, median
from typing import Protocol

import torch

from prompttune.cost.visual import training_step, visual_step_cost
from prompttune.parts.learned_visual import LearnedVisual
from prompttune.text.vocabulary import TextPass

SECONDS = 0.6  # of measuring, each; a first round that warms up is thrown away
MEASURED_FLOPS = 2e10  # at most this much is measured at a time, at least one frame or one class


def timed(work: Callable[[], object], *, device: torch.device, seconds: float = SECONDS) -> float:
    """Median seconds of `work`, over at least 3 rounds and about `seconds`."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    once()
    rounds: list[float] = []
    stop = time.perf_counter() + seconds
    while len(rounds) < 3 or time.perf_counter() < stop:
        rounds.append(once())
    return median(rounds)


def matrix_rate(width: int, *, device: torch.device, n_rows: int = 2048) -> float:
    """Operations per second of float32 matrix products [n_rows width] x [width 4 width]."""
    left, right = torch.randn(n_rows, width, device=device), torch.randn(width, 4 * width, device=device)
    return 2 * n_rows * width * 4 * width / timed(lambda: left @ right, device=device)


def visual_rate(visual: LearnedVisual, *, n_frames: int, n_runs: int, device: torch.device) -> float:
    """Operations per second, forward and backward, of the prompted vision tower.

    Args:
        visual: of `n_runs` runs.
        n_frames: of one run's step; fewer are taken where that many would take too long.
    """
    vision = visual.tower.config
    n_maps = 0 if visual.from_text is None else visual.config.depth
    shape = (n_runs, visual.config.n_prompts, visual.text_width)
    text_rows = [torch.randn(shape, device=device, requires_grad=True) for _ in range(n_maps)]

    def cost(frames: int) -> float:
        step = training_step(visual, frames, n_runs, shared_frames=n_runs == 1)
        return visual_step_cost(vision, embed_dim=visual.tower.embed_dim, visual=visual.config, step=step).flops

    measured = max(1, min(n_frames, int(MEASURED_FLOPS / (cost(n_frames) / n_frames))))
    tokens = torch.randn(n_runs, 1, measured, vision.n_tokens, vision.width, device=device)

    def step() -> None:
        visual(tokens, text_rows).square().mean().backward()
        visual.zero_grad()

    return cost(measured) / timed(step, device=device)


def text_rate(sent: TextPass, *, device: torch.device) -> float:
    """Operations per second, forward and backward, of the text engine on (some of) these classes, for all runs."""
    n_runs, per_class = sent.context.ctx.shape[0], sent.flops / sent.n_images / sent.prompts.n_classes
    few = sent.of_first(max(1, int(MEASURED_FLOPS / (per_class * n_runs))))
    ctx = few.context.ctx.detach().clone().requires_grad_()
    context = replace(few.context, ctx=ctx)

    def step() -> None:
        few.engine.encode(few.prompts, context).square().mean().backward()
        ctx.grad = None

    return few.flops / few.n_images * n_runs / timed(step, device=device)


class Steps(Protocol):
    """A training that can be taken step by step: `training.trainer.Trainer`, which stands above this room."""

    device: torch.device

    @property
    def finished(self) -> bool: ...
    def step(self) -> object: ...


def step_seconds(trainer: Steps, *, at_least: int) -> float:
    """Mean seconds of whole training steps, from drawing the batch to the optimiser; the trainer is used up by it.

    Args:
        at_least: steps, if it has so many: as lie between two that measure each term's gradient. The first, which makes
            what later ones keep, is left out.
    """
    taken: list[float] = []
    while not trainer.finished and (len(taken) < at_least or sum(taken[1:]) < SECONDS):
        started = time.perf_counter()
        trainer.step()
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        taken.append(time.perf_counter() - started)
    return fmean(taken[1:] or taken or [0.0])
