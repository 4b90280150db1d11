"""The one training loop: any method, R runs at once, resumable at every step.

Each run has its own learning rate, data order and random numbers; the runs share the passes through the towers and
nothing else. The host draws and sends, `DeviceStep` computes, and the host looks at what came out every few steps.
`Trainer.state` is everything a step depends on, so a trainer that loads it goes on exactly as the one that gave it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from prompttune.base.run_axis import RunGenerators, parameters_of_run
from prompttune.base.run_layers import RunDropout
from prompttune.config.runs import Run
from prompttune.data.frames import TrainingVideos
from prompttune.errors import NonFiniteLossError, explain, note
from prompttune.losses.mixup import FeatureMixup
from prompttune.losses.terms import WeightedTerm
from prompttune.model.anchor_videos import AnchorVideos
from prompttune.model.class_sampling import ClassSampler
from prompttune.model.prompt_model import PromptModel
from prompttune.text.vocabulary import Vocabulary
from prompttune.training.aggregation import PromptAggregation, doubt_about
from prompttune.training.device_step import DeviceStep, StepRow
from prompttune.training.micro_batch import MicroBatch
from prompttune.training.optimisers import below
from prompttune.training.schedules import learning_rate, steps_per_epoch
from prompttune.training.step_graph import GraphedStep


@dataclass(frozen=True)
class StepRecord:
    """What one step did; every tensor is float32 [R] on the CPU. Where the device is not asked at every step
    (`Trainer.read_every`), terms, norms and accuracy are those of the last step that was read.

    Attributes:
        step, epoch: counted from 0.
        terms: weighted value of each loss term.
        term_gradient_norms: gradient norm of each weighted term over the run's parameters; empty on most steps.
        gradient_norm: norm of the gradient the optimiser used.
        accuracy: share of the batch predicted right among the step's classes, before the step.
        lr: learning rates.
        eager: why the step was no CUDA graph; empty where it was one, and on a CPU.
    """

    step: int
    epoch: int
    terms: Mapping[str, Tensor]
    term_gradient_norms: Mapping[str, Tensor]
    gradient_norm: Tensor
    accuracy: Tensor
    lr: Tensor
    eager: str = ""


@dataclass
class Selection:
    """The best epoch of each run on its validation videos.

    Attributes:
        accuracy: best accuracy per run so far [R], -1 before the first.
        epoch: its epoch, int64 [R].
        parameters: its parameters, run r's at `parameters[r]`.
    """

    accuracy: Tensor
    epoch: Tensor
    parameters: list[dict[str, Tensor]] = field(default_factory=list)


Validate = Callable[[], Tensor]


@dataclass(frozen=True)
class TrainingInputs:
    """What a trainer trains on.

    Attributes:
        runs: the runs, equal in all but seed, `runs.PER_RUN_KEYS` and loss weights.
        vocabulary: the training classes.
        videos: the runs' training videos.
        terms: weighted loss terms.
        anchors: irrelevant videos, or None.
        validate: accuracy on the validation videos [R]; None where nothing is selected.
    """

    runs: Sequence[Run]
    vocabulary: Vocabulary
    videos: TrainingVideos
    terms: Sequence[WeightedTerm]
    anchors: AnchorVideos | None = None
    validate: Validate | None = None


class Trainer:
    """Trains R runs of one model, a step at a time.

    Args:
        model: of these runs.
        inputs: what it trains on.
        read_every: steps between two looks at what the device found; None for every step on the CPU, where a look costs
            nothing, and `log.every` elsewhere.
    """

    def __init__(self, model: PromptModel, inputs: TrainingInputs, *, read_every: int | None = None) -> None:
        config = inputs.runs[0].config
        seeds = [run.seed for run in inputs.runs]
        self.model, self.inputs, self.config = model, inputs, config
        self.device = inputs.videos.device
        self.read_every = read_every or (1 if self.device.type == "cpu" else config.log.every)
        self.steps_per_epoch = steps_per_epoch(config.optim, len(inputs.videos))
        self.n_steps = self.steps_per_epoch * config.optim.epochs
        self.rates = self._learning_rates()
        self.device_step = DeviceStep(
            model, inputs.runs, vocabulary=inputs.vocabulary, terms=inputs.terms, rates=self.rates
        )
        self.step_index = 0
        self.between_steps = True
        self.order_generators = RunGenerators(seeds, "order")
        self.order = torch.zeros(len(seeds), len(inputs.videos), dtype=torch.int64)
        alpha = config.targets.mixup_alpha
        self.mixup = FeatureMixup(alpha=alpha, seeds=seeds) if alpha > 0 else None
        self.class_sampler: ClassSampler | None = None
        if config.classes.sample != "all":
            self.class_sampler = ClassSampler(config.classes, frozen=inputs.vocabulary.frozen, seeds=seeds)
        self.dropouts = [module for module in model.modules() if isinstance(module, RunDropout)]
        self.graphed = GraphedStep(self.device_step, self.dropouts)
        self.parameters = [parameters_of_run(model, run) for run in range(len(seeds))]
        self.aggregation = self._make_aggregation()
        self.selection = Selection(torch.full((len(seeds),), -1.0), torch.zeros(len(seeds), dtype=torch.int64))
        self.seconds = 0.0
        self._row: StepRow | None = None
        self._read_at = 0
        self._drawn_at_read: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """The epoch of the next step."""
        return self.step_index // self.steps_per_epoch if self.steps_per_epoch else 0

    @property
    def finished(self) -> bool:
        return self.step_index >= self.n_steps

    def train(self, on_step: Callable[[StepRecord], None] | None = None, *, until: int | None = None) -> None:
        """Steps until the training, or step `until`, is done; then, at its end, takes the selected prompts.

        Raises:
            NonFiniteLossError: a loss or gradient that is not finite; everything is as it was before that step.
        """
        stop = self.n_steps if until is None else min(until, self.n_steps)
        while self.step_index < stop:
            started = time.perf_counter()
            record = self.step()
            self.seconds += time.perf_counter() - started
            if on_step is not None:
                on_step(record)

    def step(self) -> StepRecord:
        """Trains on the next batch of every run. Cut off on the way, it leaves `between_steps` False: some runs and
        generators have moved on and others not, and `state()` is the state of no step.
        """
        self.between_steps = False
        step, epoch = self.step_index, self.epoch
        if step == self._read_at:
            self._drawn_at_read = self._drawn_state()
        self.model.train()
        logged = step % self.config.log.every == 0
        with_norms = logged and len(self.inputs.terms) > 1
        self._do(step, with_norms=with_norms)
        self.step_index += 1
        ends_epoch = self.step_index % self.steps_per_epoch == 0
        looks = ends_epoch and (self.aggregation is not None or self.inputs.validate is not None)
        if logged or looks or self.finished or self.step_index - self._read_at >= self.read_every:
            self._read()
        if ends_epoch:
            self._end_epoch(epoch)
        self.between_steps = True
        row = self._row
        assert row is not None  # step 0 is logged
        norms = row.term_gradient_norms if with_norms else {}
        eager = "" if self.device.type == "cpu" else self.graphed.reason or ""
        rates = self.rates[step].float()
        return StepRecord(step, epoch, row.terms, norms, row.gradient_norm, row.accuracy, rates, eager)

    def _do(self, step: int, *, with_norms: bool) -> None:
        if self.graphed.reason is not None:
            self.device_step(self._draw(step), step, with_norms=with_norms)
            return
        (micro,) = self._draw(step)
        self.graphed(micro, step, with_norms=with_norms)

    def _draw(self, step: int) -> Iterator[MicroBatch]:
        """Everything random of a step, drawn on the host and sent to the device, one micro-batch after the other."""
        place = step % self.steps_per_epoch
        if place == 0:
            self.order = self.order_generators.permutation(len(self.inputs.videos))
            self.inputs.videos.set_order(self.order)
        first = place * self.config.optim.batch_size
        stop = min(first + self.config.optim.batch_size, len(self.inputs.videos))
        classes = None
        if self.class_sampler is not None:
            classes = self.class_sampler.draw(self.inputs.videos.labels_at(first, stop))
        size = math.ceil((stop - first) / self.config.optim.accumulate)
        for start in range(first, stop, size):
            n_videos = min(size, stop - start)
            batch = self.inputs.videos.in_order(start, start + n_videos)
            mix = self.mixup.draw(n_videos, device=self.device) if self.mixup is not None else None
            anchors = self.inputs.anchors.draw() if self.inputs.anchors is not None else None
            for dropout in self.dropouts:
                dropout.send_ahead(n_videos, self.device)
            yield MicroBatch(n_videos / (stop - first), batch, anchors, mix, classes)

    def _read(self) -> None:
        """Waits for the device.

        Raises:
            NonFiniteLossError: a step since the last look was not finite; everything is as it was before that step.
        """
        self._row = row = self.device_step.read()
        done = self._read_at + row.n_done
        if done == self.step_index:
            self._read_at = done
            return
        self.device_step.reset()
        # The host has drawn for steps that came to nothing: back to the last look, and on to the step that failed.
        self._load_drawn_state(self._drawn_at_read)
        for step in range(self._read_at, done):
            for _ in self._draw(step):
                pass
        self.step_index = self._read_at = done
        self._fail(row)

    def _fail(self, row: StepRow) -> None:
        what, values = "the gradient", row.gradient_norm
        if not torch.isfinite(row.total).all():
            what, values = "the sum of the terms", row.total
        for name, found in row.terms.items():
            if not torch.isfinite(found).all():
                what, values = f"the term {name!r}", found
                break
        run = int((~torch.isfinite(values)).nonzero()[0])
        name = self.inputs.runs[run].name
        raise NonFiniteLossError(
            explain(
                f"{what} is not finite",
                where=f"step {self.step_index} of {self.n_steps} (epoch {self.epoch}), run {name}",
                got=float(values[run]),
                fix='a smaller optim.lr, a larger optim.eps (Adam in half precision), or precision = "fp32"',
            ),
            step=self.step_index,
            run=name,
            term=what.removeprefix("the term ").strip("'"),
        )

    def _learning_rates(self) -> Tensor:
        """Of every step and run, float64 [n_steps R]."""
        rates = [
            [
                learning_rate(run.config.optim, step, n_steps=self.n_steps, steps_per_epoch=self.steps_per_epoch)
                for run in self.inputs.runs
            ]
            for step in range(self.n_steps)
        ]
        return torch.tensor(rates, dtype=torch.float64).view(self.n_steps, len(self.inputs.runs))

    def finish(self) -> None:
        """Puts the selected or aggregated prompts in place of the last step's."""
        if self.aggregation is not None:
            self.aggregation.apply(self.model)
        if self.inputs.validate is not None and self.selection.parameters:
            for run, best in enumerate(self.selection.parameters):
                _load(self.parameters[run], best)

    def _end_epoch(self, epoch: int) -> None:
        if self.aggregation is not None:
            self.aggregation.update(self.model, epoch)
        if self.inputs.validate is None:
            return
        accuracy = self.inputs.validate().float().cpu()
        if not self.selection.parameters:
            self.selection.parameters = [_copy(parameters) for parameters in self.parameters]
        # The later of two equal epochs: it has trained longer on the same evidence.
        for run in (accuracy >= self.selection.accuracy).nonzero().flatten().tolist():
            self.selection.accuracy[run] = accuracy[run]
            self.selection.epoch[run] = epoch
            self.selection.parameters[run] = _copy(self.parameters[run])

    def _make_aggregation(self) -> PromptAggregation | None:
        options = self.config.aggregation
        if options is None:
            return None
        n_epochs = self.config.optim.epochs
        if doubt := doubt_about(n_epochs, mean=options.mean, std=options.std):
            note(doubt)
        return PromptAggregation(self.model, n_epochs=n_epochs, mean=options.mean, std=options.std)

    def _drawn_state(self) -> dict[str, Tensor]:
        """What the host's draws of later steps depend on, by name."""
        state = {"order": self.order, "generators.order": self.order_generators.state()}
        if self.mixup is not None:
            state["generators.mixup"] = self.mixup.state()
        if self.class_sampler is not None:
            state["generators.classes"] = self.class_sampler.state()
        if self.inputs.anchors is not None:
            state |= {f"anchors.{name}": value for name, value in self.inputs.anchors.state().items()}
        state |= {f"videos.{name}": value for name, value in self.inputs.videos.state().items()}
        return state | {f"dropout.{place}": one.get_extra_state() for place, one in enumerate(self.dropouts)}

    def _load_drawn_state(self, state: Mapping[str, Tensor]) -> None:
        self.order = state["order"].clone()
        self.inputs.videos.set_order(self.order)
        self.order_generators.load_state(state["generators.order"])
        if self.mixup is not None:
            self.mixup.load_state(state["generators.mixup"])
        if self.class_sampler is not None:
            self.class_sampler.load_state(state["generators.classes"])
        if self.inputs.anchors is not None:
            self.inputs.anchors.load_state(below(state, "anchors."))
        self.inputs.videos.load_state(below(state, "videos."))
        for place, dropout in enumerate(self.dropouts):
            dropout.set_extra_state(state[f"dropout.{place}"])

    def state(self) -> dict[str, Tensor]:
        """Every tensor a later step depends on, by name.

        Raises:
            NonFiniteLossError: as `train`.
        """
        if self._read_at != self.step_index:
            self._read()
        state = {"step_index": torch.tensor(self.step_index), **self._drawn_state()}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        if self.aggregation is not None:
            state |= {f"aggregation.{name}": value for name, value in self.aggregation.state().items()}
        if self.device_step.scale is not None:
            state |= {f"scale.{name}": value for name, value in self.device_step.scale.state().items()}
        state |= {f"model.{name}": value for name, value in self.model.trained_state().items()}
        state |= {f"optimiser.{name}": value for name, value in self.device_step.optimiser.named_state().items()}
        state |= {"selection.accuracy": self.selection.accuracy, "selection.epoch": self.selection.epoch}
        for run, best in enumerate(self.selection.parameters):
            state |= {f"selection.parameters.{run}.{name}": value for name, value in best.items()}
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from where `state` was taken; nothing is left of what this trainer did before."""
        self.step_index = self._read_at = int(state["step_index"])
        self.seconds = float(state["seconds"])
        self.device_step.reset()
        if self.aggregation is not None:
            self.aggregation.load_state(below(state, "aggregation."))
        if self.device_step.scale is not None:
            self.device_step.scale.load_state(below(state, "scale."))
        self.model.load_trained_state(below(state, "model."))
        self._load_drawn_state(state)
        self.device_step.optimiser.load_named_state(below(state, "optimiser."))
        self.selection = Selection(state["selection.accuracy"].clone(), state["selection.epoch"].clone())
        best = [below(state, f"selection.parameters.{run}.") for run in range(len(self.inputs.runs))]
        if any(best):
            self.selection.parameters = [{name: v.to(self.device) for name, v in run.items()} for run in best]


def _copy(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: parameter.clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _load(parameters: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
