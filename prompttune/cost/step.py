"""The one estimate of what a training step of runs that go together costs: operations, and bytes that stay or are kept.

Counted from the configuration and the store's index, before anything is read: `prompttune plan`, how many runs go
together (`cost.memory`) and the plan of a suite (`benchmarks.trial`) all ask here. Losses, heads and optimisers are not
counted: they are small beside the towers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from prompttune.config.runs import Run, trains_by_gradient
from prompttune.config.train_config import TrainConfig
from prompttune.cost.visual import BYTES_PER_FLOAT, VisualCost, VisualStep, training_step, visual_step_cost
from prompttune.data.features import FeatureSource
from prompttune.data.protocols import Sources, other_test_sets
from prompttune.losses.of_runs import loss_terms
from prompttune.model.anchor_videos import prompted_words
from prompttune.model.class_sampling import classes_per_step
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.learned_visual import LearnedVisual
from prompttune.splits.split import Split
from prompttune.text.engine.text_engine import takes_full_length
from prompttune.text.vocabulary import TextPass


@dataclass(frozen=True)
class StepOperations:
    """Floating-point operations of one training step of all runs that go together; two per multiply-add.

    Attributes:
        visual, text: forward and backward.
        norms: what measuring each term's gradient adds, spread over all steps, and anchors that are balanced by theirs.
    """

    visual: float
    text: float
    norms: float

    @property
    def total(self) -> float:
        """All of a mean step."""
        return self.visual + self.text + self.norms


def step_text_pass(model: PromptModel, classes: Sequence[str]) -> TextPass | None:
    """What one step sends through the text tower of these training classes, negative prompts included; None where no
    context is learned by gradient."""
    config = model.config
    if not trains_by_gradient(config):
        return None
    words = prompted_words(config)
    sent = model.text_pass([*classes, *words])
    if sent is None:
        return None
    size = {"n_classes": len(classes), "batch_size": config.optim.batch_size}
    return sent.of_first(classes_per_step(config.classes, **size) + len(words))


def frames_of_passes(config: TrainConfig, n_frames: int) -> list[int]:
    """Frames of one run in each pass of a step through the vision tower: the batch's, then the anchors'."""
    used = config.frames.used or n_frames
    videos = math.ceil(config.optim.batch_size / config.optim.accumulate)
    anchors = [config.anchors.n_anchors * used] if config.anchors is not None else []
    return [videos * used, *anchors]


def visual_costs(visual: LearnedVisual, config: TrainConfig, *, n_runs: int, n_frames: int) -> list[VisualCost]:
    """The passes of one micro-step of `n_runs` runs through the vision tower."""
    return [
        visual_step_cost(
            visual.tower.config,
            embed_dim=visual.tower.embed_dim,
            visual=visual.config,
            step=training_step(visual, frames, n_runs, shared_frames=n_runs == 1),
        )
        for frames in frames_of_passes(config, n_frames)
    ]


def step_operations(runs: Sequence[Run], model: PromptModel, sent: TextPass | None, *, n_frames: int) -> StepOperations:
    """Operations of one full step of these runs.

    Args:
        sent: what goes through the text tower, as `step_text_pass` has it.
        n_frames: stored frames of a video.
    """
    config = runs[0].config
    if not trains_by_gradient(config):
        return StepOperations(0.0, 0.0, 0.0)
    n_passes = config.optim.accumulate
    costs = []
    if model.visual is not None:
        costs = visual_costs(model.visual, config, n_runs=model.n_runs, n_frames=n_frames)
    visual = n_passes * sum(cost.flops for cost in costs)
    # With image-conditional contexts a micro-batch has its own share of the videos, so it is the same in all.
    text = 0.0
    if sent is not None:
        text = float(sent.flops * model.n_runs * (1 if sent.n_images > 1 else n_passes))
    n_terms = len(loss_terms(runs))
    norms = 0.0
    if n_terms > 1:
        backward = n_passes * sum(cost.backward_flops for cost in costs)
        if sent is not None:
            backward += text * sent.engine.flops(sent.prompts, sent.context).backward * sent.n_images / sent.flops
        norms = n_terms * backward / config.log.every
        if config.anchors is not None and config.anchors.weighting == "balanced":
            norms += len(config.anchors.weights) * backward
    return StepOperations(visual, text, norms)


def evaluation_flops(model: PromptModel, split: Split, sources: Sources, *, n_frames: int) -> float:
    """Forward operations of every test video, and of each run's training videos; 0 without visual prompts."""
    visual = model.visual
    if visual is None:
        return 0.0
    others = other_test_sets(sources.tests)
    n_tests = sum(len(test.videos) for test in (*split.tests, *others.values()))

    def forward(videos: int, *, shared: bool) -> float:
        step = VisualStep(max(1, videos * n_frames), model.n_runs, shared_frames=shared)
        cost = visual_step_cost(visual.tower.config, embed_dim=visual.tower.embed_dim, visual=visual.config, step=step)
        return cost.forward_flops

    return forward(n_tests, shared=True) + forward(len(split.train), shared=model.n_runs == 1)


def keeps_frames(config: TrainConfig) -> bool:
    """Whether features stay in memory frame by frame: the head looks at frames."""
    return config.head.temporal not in ("mean", "mean-of-normalised")


def kept_bytes_per_run(model: PromptModel, sent: TextPass | None, *, n_frames: int) -> int:
    """Bytes that one more run adds to a step: what the text tower keeps for the backward pass, tokens of the
    vision tower and what it keeps of them.

    Args:
        sent: as `step_text_pass` has it.
        n_frames: stored frames of a video.
    """
    text = 0 if sent is None else sent.kept_bytes
    visual, config = model.visual, model.config
    if visual is None:
        return text
    vision, frames = visual.tower.config, sum(frames_of_passes(config, n_frames))
    step = training_step(visual, frames, 1, shared_frames=False)
    cost = visual_step_cost(vision, embed_dim=visual.tower.embed_dim, visual=visual.config, step=step)
    at_once = min(frames, visual.config.frames_per_chunk or frames)
    # As stored (float16 as a rule), and in float32 as many as are computed at once.
    tokens = vision.n_tokens * vision.width * (2 * frames + BYTES_PER_FLOAT * at_once)
    return text + int(cost.kept_bytes + tokens)


def memory_bytes(model: PromptModel, split: Split, sources: Sources, *, n_frames: int) -> int:
    """Weights of the towers that run, as they are and as they are run, features that stay in memory, and what a step of
    all runs keeps."""
    sent = step_text_pass(model, split.classes)
    half = model.config.precision != "fp32"
    weights = 0
    if sent is not None:
        weights += _bytes(sent.engine.tower.parameters())
        if not takes_full_length(sent.engine.tower, sent.prompts):
            # Both ways round (`FrozenMatrix`): once more, or twice in half precision.
            weights += _bytes(p for block in sent.engine.tower.blocks for p in block.parameters())
    kept = model.n_runs * kept_bytes_per_run(model, sent, n_frames=n_frames)
    if model.visual is not None:
        weights += _bytes(model.visual.tower.parameters())
        weights += _bytes(model.visual.tower.blocks.parameters()) // 2 if half else 0
        # While one block is differentiated, its gradients are about as many as what it keeps.
        n_blocks = model.visual.tower.n_layers - model.visual.config.first_block
        kept += model.n_runs * kept_bytes_per_run(model, None, n_frames=n_frames) // n_blocks
    learned = 4 * model.n_parameters * model.n_runs * BYTES_PER_FLOAT  # with gradient and two moments
    return weights + kept + learned + feature_bytes(model, split, sources)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def feature_bytes(model: PromptModel, split: Split, sources: Sources) -> int:
    """Pooled features in float32: averaged over frames where nothing looks at frames."""
    config, embed_dim = model.config, model.pack.config.embed_dim
    with_frames = keeps_frames(config)
    n_videos = len(split.train) + len(split.val) + sum(len(test.videos) for test in split.tests)
    n_videos += sum(int(source.table.usable.sum()) for source in sources.tests.values())

    def per_video(source: FeatureSource, *, drawn: bool) -> int:
        counts = source.reader.n_frames_per_video[source.reader.ok]
        frames = int(np.max(counts)) if len(counts) and (with_frames or (drawn and config.frames.used)) else 1
        views = source.reader.n_views if drawn and config.frames.views == "random" else 1
        return 4 * embed_dim * frames * views

    total = n_videos * per_video(sources.train, drawn=False) + len(split.train) * per_video(sources.train, drawn=True)
    if sources.anchors is not None:
        total += int(sources.anchors.table.usable.sum()) * per_video(sources.anchors, drawn=True)
    return total
