"""What a training will take, said before it runs: store bytes, operations and seconds per step, memory.

Operations and bytes are counted from the configuration and the store's index (`visual_cost`, `text_engine`); seconds
are operations over the rate at which this machine does a small piece of the same computation (`machine_rate`). Reading,
losses and optimisers are not counted: they are small beside the towers. Where they are not, in steps of milliseconds,
whole steps are timed instead, and thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from prompttune.base.machine import choose_threads, cpu_threads
from prompttune.config.runs import Run, trains_by_gradient
from prompttune.config.train_config import TrainConfig
from prompttune.cost.memory import free_bytes, largest_product_flop, visual_bytes_per_run
from prompttune.cost.rate import matrix_rate, step_seconds, text_rate, visual_rate
from prompttune.cost.visual import VisualCost, VisualStep, visual_step_cost
from prompttune.data.features import FeatureSource
from prompttune.data.protocols import Sources, open_sources, other_test_sets
from prompttune.data.store_needs import needed_taps, tap_bytes
from prompttune.losses.of_runs import loss_terms
from prompttune.model.anchor_videos import prompted_words
from prompttune.model.class_sampling import classes_per_step
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.learned_visual import LearnedVisual
from prompttune.parts.visual_prompts import placement
from prompttune.splits.split import Split
from prompttune.text.vocabulary import TextPass
from prompttune.training.run_group import make_trainer, plan_groups, planned, prepare

# Shorter steps are timed whole, if no more features than this must be read for it.
SHORT_STEP_SECONDS, FEATURE_BYTES = 0.25, 256 * 2**20
# What libraries take on the way, whatever the training: buffers of matrix products, code that is first touched.
LIBRARY_BYTES = 200 * 2**20


@dataclass(frozen=True)
class StepOperations:
    """Floating-point operations of one training step of all runs that go together; two per multiply-add.

    Attributes:
        visual, text: forward and backward.
        norms: what measuring each term's gradient adds, spread over all steps.
    """

    visual: float
    text: float
    norms: float

    @property
    def total(self) -> float:
        """All of a mean step."""
        return self.visual + self.text + self.norms


@dataclass(frozen=True)
class TrainingPlan:
    """What one command will take.

    Attributes:
        title: method, placement and store in words.
        taps: (store, tap, bytes) of everything that is read.
        runs, groups: how many runs, in how many groups one after the other; `together` in the largest.
        step: operations of one step of the largest group.
        n_steps: of each group.
        evaluation_flops: of all test videos, and the training videos, of the largest group.
        memory_bytes: of the largest group: features, weights, and what a step keeps.
        matrix_rate: operations per second of a bare matrix product here.
        step_seconds, evaluation_seconds: of the largest group; None where no prompts are learned.
    """

    title: str
    taps: tuple[tuple[str, str, int], ...]
    runs: int
    groups: int
    together: int
    step: StepOperations
    n_steps: int
    evaluation_flops: float
    memory_bytes: int
    free_bytes: int
    matrix_rate: float
    step_seconds: float
    evaluation_seconds: float

    @property
    def seconds(self) -> float:
        """Of the whole command, groups one after the other, each as long as the largest."""
        return self.groups * (self.n_steps * self.step_seconds + self.evaluation_seconds)

    def lines(self) -> Iterator[str]:
        """What `prompttune plan` prints."""
        yield self.title
        for store, tap, size in self.taps:
            yield f"  reads    {store} {tap}: {_bytes(size)}"
        yield (
            f"  step     {self.step.total / 1e9:.4g} GFLOP for {self.together} run(s) together (visual "
            f"{self.step.visual / 1e9:.4g}, text {self.step.text / 1e9:.4g}, gradient norms "
            f"{self.step.norms / 1e9:.4g}); {self.step_seconds:.3g} s"
        )
        yield f"  machine  {self.matrix_rate / 1e9:.4g} GFLOP/s in a bare float32 matrix product"
        memory = _bytes(self.memory_bytes + LIBRARY_BYTES)
        yield f"  memory   {memory}, of {_bytes(self.free_bytes)} free, for {self.together} run(s) together"
        yield (
            f"  total    {self.runs} run(s) in {self.groups} group(s) of {self.n_steps} steps: about "
            f"{self.seconds:.3g} s, of which evaluation {self.groups * self.evaluation_seconds:.3g} s"
        )


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def plan_training(runs: Sequence[Run]) -> TrainingPlan:
    """What training and evaluating these runs will take on this machine; measures for a few seconds, keeps nothing.

    Raises:
        NonFiniteLossError: a loss that is not finite in the first steps.
        FeatureError: stores that cannot serve the configuration, with the command that would make them.
        ConfigError: a run that does not fit the memory.
    """
    config = runs[0].config
    sources = open_sources(config)
    groups = plan_groups(runs, sources)
    members = max(groups, key=len)
    model, split = planned(members, sources)
    n_frames = int(sources.train.reader.n_frames_per_video.max())
    sent = _text_pass(model, split, config) if trains_by_gradient(config) else None
    step = step_operations(members, model, sent, n_frames=n_frames)
    evaluation = _evaluation_flops(model, split, sources, n_frames=n_frames)
    width = model.pack.config.vit.width if model.visual is not None else model.pack.config.text.width
    with cpu_threads(_threads(model, split, n_frames=n_frames)):
        seconds = _counted_seconds(model, step, sent, evaluation, n_frames=n_frames)
        is_short = seconds.step < SHORT_STEP_SECONDS and _feature_bytes(model, split, sources) < FEATURE_BYTES
        if trains_by_gradient(config) and is_short:
            trainer = make_trainer(prepare(members, sources))
            seconds = replace(seconds, step=step_seconds(trainer, at_least=config.log.every + 1))
    batch = config.optim.batch_size
    return TrainingPlan(
        title=_title(config),
        taps=tuple(_taps(config, sources)),
        runs=len(runs),
        groups=len(groups),
        together=len(members),
        step=step,
        n_steps=math.ceil(len(split.train) / batch) * config.optim.epochs if trains_by_gradient(config) else 0,
        evaluation_flops=evaluation,
        memory_bytes=_memory_bytes(model, split, sources, sent, n_frames=n_frames),
        free_bytes=free_bytes(model.device),
        matrix_rate=matrix_rate(width, device=model.device),
        step_seconds=seconds.step,
        evaluation_seconds=seconds.evaluation,
    )


@dataclass(frozen=True)
class _Seconds:
    """Of one step, and of the evaluation, of all runs that go together."""

    step: float
    evaluation: float


def _counted_seconds(
    model: PromptModel, step: StepOperations, sent: TextPass | None, evaluation_flops: float, *, n_frames: int
) -> _Seconds:
    """Operations over the rates of both towers here."""
    visual = text = 0.0
    if model.visual is not None:
        frames = _frames(model.config, n_frames)[0]
        visual = 1 / visual_rate(model.visual, n_frames=frames, n_runs=model.n_runs, device=model.device)
    if sent is not None:
        text = 1 / text_rate(sent, device=model.device)
    with_norms = 1 + step.norms / max(step.visual + step.text, 1.0)
    return _Seconds((step.visual * visual + step.text * text) * with_norms, evaluation_flops * visual)


def _threads(model: PromptModel, split: Split, *, n_frames: int) -> int:
    """CPU threads that training takes."""
    n_channels = model.pack.config.embed_dim
    numbers = n_channels * (n_frames if _keeps_frames(model.config) else 1)
    return choose_threads(largest_product_flop(model, split.classes, numbers_per_video=numbers, n_frames=n_frames))


def _keeps_frames(config: TrainConfig) -> bool:
    return config.head.temporal not in ("mean", "mean-of-normalised")


def _title(config: TrainConfig) -> str:
    visual = "" if config.visual is None else f" ({placement(config.visual.first_block)} visual prompts)"
    return f"{config.method}{visual} on {config.store}, {config.protocol.name}"


def _taps(config: TrainConfig, sources: Sources) -> Iterator[tuple[str, str, int]]:
    anchors = [sources.anchors] if sources.anchors is not None else []
    for source in (sources.train, *sources.tests.values(), *anchors):
        for tap in needed_taps(config):
            yield source.path, tap, tap_bytes(source, tap)


def _frames(config: TrainConfig, n_frames: int) -> list[int]:
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
            step=VisualStep(frames, n_runs, shared_frames=n_runs == 1, recompute=visual.recompute),
        )
        for frames in _frames(config, n_frames)
    ]


def _text_pass(model: PromptModel, split: Split, config: TrainConfig) -> TextPass | None:
    """Of the classes that one step takes, negative prompts included."""
    words = prompted_words(config)
    sent = model.text_pass([*split.classes, *words])
    if sent is None:
        return None
    size = {"n_classes": len(split.classes), "batch_size": config.optim.batch_size}
    return sent.of_first(classes_per_step(config.classes, **size) + len(words))


def step_operations(runs: Sequence[Run], model: PromptModel, sent: TextPass | None, *, n_frames: int) -> StepOperations:
    """Operations of one full step of these runs.

    Args:
        sent: what goes through the text tower, as `PromptModel.text_pass` has it.
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
    return StepOperations(visual, text, norms)


def _evaluation_flops(model: PromptModel, split: Split, sources: Sources, *, n_frames: int) -> float:
    """Forward operations of every test video, and of each run's training videos; 0 without visual prompts."""
    visual = model.visual
    if visual is None:
        return 0.0
    others = other_test_sets(sources.tests)
    n_tests = sum(len(test.videos) for test in (*split.tests, *others.values()))

    def forward(videos: int, *, shared: bool) -> float:
        step = VisualStep(max(1, videos * n_frames), model.n_runs, shared_frames=shared)
        cost = visual_step_cost(
            visual.tower.config, embed_dim=visual.tower.embed_dim, visual=visual.config, step=step
        )
        return cost.forward_flops

    return forward(n_tests, shared=True) + forward(len(split.train), shared=model.n_runs == 1)


def _memory_bytes(model: PromptModel, split: Split, sources: Sources, sent: TextPass | None, *, n_frames: int) -> int:
    """Weights of the towers that run, features that stay in memory, and what a step of all runs keeps."""
    towers = [sent.engine.tower] if sent is not None else []
    weights = sum(p.numel() * p.element_size() for tower in towers for p in tower.parameters())
    kept = 0 if sent is None else sent.kept_bytes * model.n_runs
    if model.visual is not None:
        weights += sum(p.numel() * p.element_size() for p in model.visual.tower.parameters())
        # While one block is differentiated, its gradients are about as many as what it keeps.
        n_blocks = model.visual.tower.n_layers - model.visual.config.first_block
        kept += int(visual_bytes_per_run(model, n_frames) * model.n_runs * (1 + 1 / n_blocks))
    learned = 4 * model.n_parameters * model.n_runs * 4  # with gradient and two moments
    return int(weights + kept + learned + _feature_bytes(model, split, sources))


def _feature_bytes(model: PromptModel, split: Split, sources: Sources) -> int:
    """Pooled features in float32: averaged over frames where nothing looks at frames."""
    config, embed_dim = model.config, model.pack.config.embed_dim
    keeps_frames = _keeps_frames(config)
    n_videos = len(split.train) + len(split.val) + sum(len(test.videos) for test in split.tests)
    n_videos += sum(int(source.table.usable.sum()) for source in sources.tests.values())

    def per_video(source: FeatureSource, *, drawn: bool) -> int:
        counts = source.reader.n_frames_per_video[source.reader.ok]
        frames = int(np.max(counts)) if len(counts) and (keeps_frames or (drawn and config.frames.used)) else 1
        views = source.reader.n_views if drawn and config.frames.views == "random" else 1
        return 4 * embed_dim * frames * views

    total = n_videos * per_video(sources.train, drawn=False) + len(split.train) * per_video(sources.train, drawn=True)
    if sources.anchors is not None:
        total += int(sources.anchors.table.usable.sum()) * per_video(sources.anchors, drawn=True)
    return total
