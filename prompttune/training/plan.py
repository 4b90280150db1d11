"""What a training will take, said before it runs: store bytes, operations and seconds per step, memory.

Operations and bytes are counted (`cost.step`); seconds are operations over the rate at which this machine does a small
piece of the same computation (`cost.rate`). Where what is not counted is not small, in steps of milliseconds, whole
steps are timed instead, and thrown away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from prompttune.base.machine import choose_threads, cpu_threads, note_slow_precision, peak_bytes, training_device
from prompttune.config.runs import Run, trains_by_gradient
from prompttune.config.train_config import TrainConfig
from prompttune.cost.memory import free_bytes, largest_product_flop
from prompttune.cost.rate import matrix_rate, step_seconds, text_rate, visual_rate
from prompttune.cost.step import (
    StepOperations,
    evaluation_flops,
    feature_bytes,
    frames_of_passes,
    keeps_frames,
    memory_bytes,
    step_operations,
    step_text_pass,
)
from prompttune.data.protocols import Sources, open_sources
from prompttune.data.store_needs import needed_taps, tap_bytes
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.visual_prompts import placement
from prompttune.splits.split import Split
from prompttune.text.vocabulary import TextPass
from prompttune.training.run_group import make_trainer, plan_groups, planned, prepare
from prompttune.training.schedules import steps_per_epoch
from prompttune.training.step_graph import why_eager

# Shorter steps are timed whole, if no more features than this must be read for it.
SHORT_STEP_SECONDS, FEATURE_BYTES = 0.25, 256 * 2**20
# What libraries take on the way, whatever the training: buffers of matrix products, code that is first touched.
LIBRARY_BYTES = 200 * 2**20


@dataclass(frozen=True)
class TrainingPlan:
    """What one command will take.

    Attributes:
        title: method, placement and store in words.
        taps: (store, tap, bytes) of everything that is read.
        runs, groups: how many runs, in how many groups one after the other; `together` in the largest.
        step: operations of one step of the largest group.
        text_path: which exact path learned prompts take through the text tower, and its rows; empty without any.
        n_steps: of each group.
        evaluation_flops: of all test videos, and the training videos, of the largest group.
        memory_bytes: of the largest group: features, weights, and what a step keeps.
        process_bytes: the same with what Python and the libraries take before anything is read.
        matrix_rate: operations per second of a bare matrix product here.
        eager: why a step is launched kernel by kernel, None where it is one CUDA graph; empty on a CPU, which knows
            none.
        compiled: steps go through kernels that torch.compile makes.
        step_seconds, evaluation_seconds: of the largest group; None where no prompts are learned.
    """

    title: str
    taps: tuple[tuple[str, str, int], ...]
    runs: int
    groups: int
    together: int
    step: StepOperations
    text_path: str
    n_steps: int
    evaluation_flops: float
    memory_bytes: int
    process_bytes: int
    free_bytes: int
    matrix_rate: float
    eager: str | None
    compiled: bool
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
        if self.eager != "":
            yield "  graph    " + ("each step is one CUDA graph" if self.eager is None else f"none: {self.eager}")
        if self.compiled:
            yield (
                "  compile  kernels are made as training begins, for each kind of batch: minutes that are not counted "
                "below; nor is what they gain: the seconds are those of a step without"
            )
        if self.text_path:
            yield f"  text     {self.text_path}"
        yield f"  machine  {self.matrix_rate / 1e9:.4g} GFLOP/s in a bare float32 matrix product"
        yield (
            f"  memory   {_bytes(self.memory_bytes)} for {self.together} run(s) together, about "
            f"{_bytes(self.process_bytes)} with the libraries, of {_bytes(self.free_bytes)} free"
        )
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
    training_device(config.device)  # refused before anything is read
    note_slow_precision(config.precision, config.device)
    libraries = peak_bytes() + LIBRARY_BYTES
    sources = open_sources(config)
    groups = plan_groups(runs, sources)
    members = max(groups, key=len)
    model, split = planned(members, sources)
    n_frames = int(sources.train.reader.n_frames_per_video.max())
    sent = step_text_pass(model, split.classes)
    step = step_operations(members, model, sent, n_frames=n_frames)
    evaluation = evaluation_flops(model, split, sources, n_frames=n_frames)
    backbone = model.pack.config
    width = backbone.vit.width if model.visual is not None else getattr(backbone.text, "width", backbone.embed_dim)
    with cpu_threads(_threads(model, split, n_frames=n_frames)):
        seconds = _counted_seconds(model, step, sent, evaluation, n_frames=n_frames)
        is_short = seconds.step < SHORT_STEP_SECONDS and feature_bytes(model, split, sources) < FEATURE_BYTES
        if trains_by_gradient(config) and is_short:
            plain = [replace(run, config=run.config.model_copy(update={"compile": False})) for run in members]
            trainer = make_trainer(prepare(plain, sources))
            seconds = replace(seconds, step=step_seconds(trainer, at_least=config.log.every + 1))
    memory = memory_bytes(model, split, sources, n_frames=n_frames)
    n_epochs = config.optim.epochs if trains_by_gradient(config) else 0
    return TrainingPlan(
        title=_title(config),
        taps=tuple(_taps(config, sources)),
        runs=len(runs),
        groups=len(groups),
        together=len(members),
        step=step,
        text_path="" if sent is None else sent.engine.path(sent.prompts, sent.context),
        n_steps=n_epochs * steps_per_epoch(config.optim, len(split.train)),
        evaluation_flops=evaluation,
        memory_bytes=memory,
        process_bytes=libraries + memory,
        free_bytes=free_bytes(model.device),
        eager="" if model.device.type == "cpu" or not trains_by_gradient(config) else why_eager(config, model.device),
        compiled=config.compile,
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
        frames = frames_of_passes(model.config, n_frames)[0]
        visual = 1 / visual_rate(model.visual, n_frames=frames, n_runs=model.n_runs, device=model.device)
    if sent is not None:
        text = 1 / text_rate(sent, device=model.device)
    with_norms = 1 + step.norms / max(step.visual + step.text, 1.0)
    return _Seconds((step.visual * visual + step.text * text) * with_norms, evaluation_flops * visual)


def _threads(model: PromptModel, split: Split, *, n_frames: int) -> int:
    """CPU threads that training takes."""
    n_channels = model.pack.config.embed_dim
    numbers = n_channels * (n_frames if keeps_frames(model.config) else 1)
    return choose_threads(largest_product_flop(model, split.classes, numbers_per_video=numbers, n_frames=n_frames))


def _title(config: TrainConfig) -> str:
    visual = "" if config.visual is None else f" ({placement(config.visual.first_block)} visual prompts)"
    return f"{config.method}{visual} on {config.store}, {config.protocol.name}"


def _taps(config: TrainConfig, sources: Sources) -> Iterator[tuple[str, str, int]]:
    anchors = [sources.anchors] if sources.anchors is not None else []
    for source in (sources.train, *sources.tests.values(), *anchors):
        for tap in needed_taps(config):
            yield source.path, tap, tap_bytes(source, tap)
