"""The one training loop: any method, R runs at once, resumable at every step.

Each run has its own optimiser, learning rate, data order and random numbers; the runs share the passes through the text
tower and nothing else. `Trainer.state` is everything a step depends on, so a trainer that loads it goes on exactly as
the one that gave it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prompttune.base.run_axis import RunGenerators, parameters_of_run
from prompttune.config.runs import Run
from prompttune.data.features import Batch
from prompttune.data.frames import TrainingVideos
from prompttune.errors import NonFiniteLossError, explain
from prompttune.losses.mixup import FeatureMixup
from prompttune.losses.terms import StepLosses, StepTensors, WeightedTerm
from prompttune.model.anchor_videos import AnchorVideos
from prompttune.model.class_sampling import ClassSampler, step_accuracy, step_losses
from prompttune.model.prompt_model import PromptModel, Vocabulary, autocast
from prompttune.training.aggregation import PromptAggregation
from prompttune.training.gradients import gradient_norms, prograd_backward
from prompttune.training.optimisers import below, load_optimiser_state, make_optimiser, optimiser_state
from prompttune.training.schedules import learning_rate, steps_per_epoch

KNOWLEDGE_TERM = "zero-shot-consistency"


@dataclass(frozen=True)
class StepRecord:
    """What one step did; every tensor is float32 [R] on the CPU.

    Attributes:
        step, epoch: counted from 0.
        terms: weighted value of each loss term.
        term_gradient_norms: gradient norm of each weighted term over the run's parameters; empty on most steps.
        gradient_norm: norm of the gradient the optimiser used.
        accuracy: share of the batch predicted right among the step's classes, before the step.
        lr: learning rates.
    """

    step: int
    epoch: int
    terms: Mapping[str, Tensor]
    term_gradient_norms: Mapping[str, Tensor]
    gradient_norm: Tensor
    accuracy: Tensor
    lr: Tensor


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
    """Trains R runs of one model, a step at a time."""

    def __init__(self, model: PromptModel, inputs: TrainingInputs) -> None:
        config = inputs.runs[0].config
        seeds = [run.seed for run in inputs.runs]
        self.model, self.inputs, self.config = model, inputs, config
        self.parameters = [parameters_of_run(model, run) for run in range(len(seeds))]
        self.optimisers = [
            make_optimiser(run.config.optim, list(parameters.values()))
            for run, parameters in zip(inputs.runs, self.parameters, strict=True)
        ]
        self.steps_per_epoch = steps_per_epoch(config.optim, len(inputs.videos))
        self.n_steps = self.steps_per_epoch * config.optim.epochs
        self.step_index = 0
        self.between_steps = True
        self.order_generators = RunGenerators(seeds, "order")
        self.order = torch.zeros(len(seeds), len(inputs.videos), dtype=torch.int64)
        alpha = config.targets.mixup_alpha
        self.mixup = FeatureMixup(alpha=alpha, seeds=seeds) if alpha > 0 else None
        self.class_sampler: ClassSampler | None = None
        if config.classes.sample != "all":
            self.class_sampler = ClassSampler(config.classes, frozen=inputs.vocabulary.frozen, seeds=seeds)
        self.aggregation = self._make_aggregation()
        self.selection = Selection(torch.full((len(seeds),), -1.0), torch.zeros(len(seeds), dtype=torch.int64))
        self.device = inputs.videos.values.device
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=config.precision == "fp16" and self.device.type == "cuda"
        )
        self.seconds = 0.0

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
            NonFiniteLossError: a loss or gradient that is not finite; the parameters are those before that step.
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
        rates = self._set_learning_rates()
        self.model.train()
        picks = self._next_picks()
        classes = self._draw_classes(picks)
        with_norms = len(self.inputs.terms) > 1 and step % self.config.log.every == 0
        sums: dict[str, Tensor] = {}
        norms: dict[str, Tensor] = {}
        accuracy = torch.zeros(len(self.optimisers))
        for micro in picks.chunk(self.config.optim.accumulate, dim=1):
            share = micro.shape[1] / picks.shape[1]
            steps = self._forward(self.inputs.videos.batch(micro), classes)
            losses = step_losses(steps, self.inputs.terms)
            self._check_losses(losses)
            if with_norms:
                found = gradient_norms(losses.terms, self._parameter_lists())
                norms = {name: norms.get(name, 0.0) + share * value.cpu() for name, value in found.items()}
            self._backward(losses, share)
            for name, value in losses.terms.items():
                sums[name] = sums.get(name, torch.zeros(())) + share * value.detach().float().cpu()
            accuracy = accuracy + share * step_accuracy(steps).cpu()
        gradient_norm = self._update()
        self.step_index += 1
        if self.step_index % self.steps_per_epoch == 0:
            self._end_epoch(epoch)
        self.between_steps = True
        return StepRecord(step, epoch, sums, norms, gradient_norm, accuracy, torch.tensor(rates))

    def finish(self) -> None:
        """Puts the selected or aggregated prompts in place of the last step's."""
        if self.aggregation is not None:
            self.aggregation.apply(self.model)
        if self.inputs.validate is not None and self.selection.parameters:
            for run, best in enumerate(self.selection.parameters):
                _load(self.parameters[run], best)

    def _set_learning_rates(self) -> list[float]:
        rates = []
        for run, optimiser in zip(self.inputs.runs, self.optimisers, strict=True):
            rate = learning_rate(
                run.config.optim, self.step_index, n_steps=self.n_steps, steps_per_epoch=self.steps_per_epoch
            )
            for group in optimiser.param_groups:
                group["lr"] = rate
            rates.append(rate)
        return rates

    def _next_picks(self) -> Tensor:
        """Positions of the next batch among each run's training videos, int64 [R B]; a new order each epoch."""
        place = self.step_index % self.steps_per_epoch
        if place == 0:
            self.order = self.order_generators.permutation(len(self.inputs.videos))
        size = self.config.optim.batch_size
        return self.order[:, place * size : (place + 1) * size]

    def _draw_classes(self, picks: Tensor) -> Tensor | None:
        """The classes [R K] that the step on these videos takes; None for all of them."""
        if self.class_sampler is None:
            return None
        labels = self.inputs.videos.labels
        return self.class_sampler.draw(labels.gather(1, picks.to(labels.device)))

    def _forward(self, batch: Batch, classes: Tensor | None) -> tuple[StepTensors, ...]:
        mix = self.mixup.draw(batch.labels.shape[1]) if self.mixup is not None else None
        anchors = self.inputs.anchors.draw() if self.inputs.anchors is not None else None
        with autocast(self.device, self.config.precision):
            return self.model.steps(batch, self.inputs.vocabulary, anchors=anchors, mix=mix, classes=classes)

    def _backward(self, losses: StepLosses, share: float) -> None:
        if self.config.optim.gradient == "prograd":
            knowledge = losses.terms[KNOWLEDGE_TERM]
            main = self.scaler.scale((losses.total - knowledge) * share)
            prograd_backward(main=main, knowledge=self.scaler.scale(knowledge), parameters=self._parameter_lists())
            return
        self.scaler.scale(losses.total.sum() * share).backward()

    def _update(self) -> Tensor:
        """One step of every run's optimiser; the gradients' norms [R] before it."""
        for optimiser in self.optimisers:
            self.scaler.unscale_(optimiser)
        gradients = [[p.grad for p in run.values() if p.grad is not None] for run in self.parameters]
        norms = torch.stack([torch.nn.utils.get_total_norm(run) for run in gradients]).float().cpu()
        if not self.scaler.is_enabled() and not torch.isfinite(norms).all():
            self._fail(int((~torch.isfinite(norms)).nonzero()[0]), "the gradient", norms)
        for optimiser in self.optimisers:
            self.scaler.step(optimiser)
            optimiser.zero_grad(set_to_none=True)
        self.scaler.update()
        return norms

    def _check_losses(self, losses: StepLosses) -> None:
        if bool(torch.isfinite(losses.total).all()):
            return
        for name, value in losses.terms.items():
            bad = (~torch.isfinite(value)).nonzero()
            if len(bad):
                self._fail(int(bad[0]), f"the term {name!r}", value.detach().cpu())
        self._fail(int((~torch.isfinite(losses.total)).nonzero()[0]), "the sum of the terms", losses.total.detach())

    def _fail(self, run: int, what: str, values: Tensor) -> None:
        name = self.inputs.runs[run].name
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
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

    def _parameter_lists(self) -> list[list[nn.Parameter]]:
        return [list(parameters.values()) for parameters in self.parameters]

    def _make_aggregation(self) -> PromptAggregation | None:
        options = self.config.aggregation
        if options is None:
            return None
        return PromptAggregation(self.model, n_epochs=self.config.optim.epochs, mean=options.mean, std=options.std)

    def state(self) -> dict[str, Tensor]:
        """Every tensor a later step depends on, by name."""
        state = {"step_index": torch.tensor(self.step_index), "order": self.order}
        state["seconds"] = torch.tensor(self.seconds, dtype=torch.float64)
        state["generators.order"] = self.order_generators.state()
        if self.mixup is not None:
            state["generators.mixup"] = self.mixup.state()
        if self.class_sampler is not None:
            state["generators.classes"] = self.class_sampler.state()
        if self.inputs.anchors is not None:
            state |= {f"anchors.{name}": value for name, value in self.inputs.anchors.state().items()}
        state |= {f"videos.{name}": value for name, value in self.inputs.videos.state().items()}
        if self.aggregation is not None:
            state |= {f"aggregation.{name}": value for name, value in self.aggregation.state().items()}
        if self.scaler.is_enabled():
            state |= {f"scaler.{name}": torch.tensor(value) for name, value in self.scaler.state_dict().items()}
        state |= {f"model.{name}": value for name, value in self.model.trained_state().items()}
        for run, optimiser in enumerate(self.optimisers):
            state |= optimiser_state(optimiser, self.parameters[run], f"optimiser.{run}.")
        state |= {"selection.accuracy": self.selection.accuracy, "selection.epoch": self.selection.epoch}
        for run, best in enumerate(self.selection.parameters):
            state |= {f"selection.parameters.{run}.{name}": value for name, value in best.items()}
        return {name: value.detach().cpu().clone() for name, value in state.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes on from where `state` was taken; nothing is left of what this trainer did before."""
        self.step_index = int(state["step_index"])
        self.seconds = float(state["seconds"])
        self.order = state["order"].clone()
        self.order_generators.load_state(state["generators.order"])
        if self.mixup is not None:
            self.mixup.load_state(state["generators.mixup"])
        if self.class_sampler is not None:
            self.class_sampler.load_state(state["generators.classes"])
        if self.inputs.anchors is not None:
            self.inputs.anchors.load_state(below(state, "anchors."))
        self.inputs.videos.load_state(below(state, "videos."))
        if self.aggregation is not None:
            self.aggregation.load_state(below(state, "aggregation."))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict({name: value.item() for name, value in below(state, "scaler.").items()})
        self.model.load_trained_state(below(state, "model."))
        for run, optimiser in enumerate(self.optimisers):
            load_optimiser_state(optimiser, self.parameters[run], below(state, f"optimiser.{run}."))
        self.selection = Selection(state["selection.accuracy"].clone(), state["selection.epoch"].clone())
        best = [below(state, f"selection.parameters.{run}.") for run in range(len(self.optimisers))]
        if any(best):
            self.selection.parameters = [{name: v.to(self.device) for name, v in run.items()} for run in best]


def _copy(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@torch.no_grad()
def _load(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])
