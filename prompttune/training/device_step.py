"""One training step as the device sees it: no read from it, no transfer to it, as many kernels for 32 runs as for one.

    videos, mix, anchors of a micro-batch (on the device) -> losses -> gradients [R P] -> update          every step
    row [T + 3, R]: weighted terms, their sum, gradient norm, accuracy                     -> the host   when it asks

What is not finite is found on the device: from the step that has it on, `ok` is false, the parameters stay as they were
and the row stays that step's, until the host looks (`read`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.base.devices import autocast, launches_cost
from prompttune.base.run_axis import named_run_parameters
from prompttune.base.run_layers import RunDropout
from prompttune.config.runs import Run
from prompttune.losses.terms import StepLosses, StepTensors, WeightedTerm
from prompttune.model.class_sampling import step_accuracy, step_losses
from prompttune.model.prompt_model import PromptModel
from prompttune.text.vocabulary import Vocabulary
from prompttune.training.balance import make_balance
from prompttune.training.compiled_pass import CompiledPass, Pass, Passed
from prompttune.training.gradients import gradient_norms, prograd_gradients
from prompttune.training.micro_batch import MicroBatch
from prompttune.training.optimisers import FlatParameters, LossScale, make_optimiser

KNOWLEDGE_TERM = "zero-shot-consistency"


@dataclass(frozen=True)
class StepRow:
    """What was read of the last steps; float32 on the host.

    Attributes:
        terms: weighted value of each term, name -> [R].
        total, gradient_norm, accuracy: [R].
        term_gradient_norms: of the last step that took them, name -> [R].
        n_done: steps since the read before that were finite, one behind the other.
    """

    terms: Mapping[str, Tensor]
    total: Tensor
    gradient_norm: Tensor
    accuracy: Tensor
    term_gradient_norms: Mapping[str, Tensor]
    n_done: int


class DeviceStep:
    """Trains a model of R runs step by step.

    Args:
        model: moved to its device; its parameters become views of one tensor.
        runs: theirs are learning rates, momenta and weight decays.
        vocabulary: the training classes.
        terms: weighted loss terms.
        rates: learning rates [n_steps R], float64.
    """

    def __init__(
        self,
        model: PromptModel,
        runs: Sequence[Run],
        *,
        vocabulary: Vocabulary,
        terms: Sequence[WeightedTerm],
        rates: Tensor,
    ) -> None:
        self.model, self.config, self.vocabulary, self.terms = model, model.config, vocabulary, terms
        self.names = [term.name for term in terms]
        self._reads_frozen = any(term.reads_frozen for term in terms)
        self.parameters = FlatParameters({name: held.values for name, held in named_run_parameters(model)})
        self.optimiser = make_optimiser(self.parameters, [run.config.optim for run in runs], rates)
        device = self.parameters.values.device
        self.scale = LossScale() if self.config.precision == "fp16" and device.type == "cuda" else None
        self.balance = make_balance(runs, device=device)
        dropouts = [module for module in model.modules() if isinstance(module, RunDropout)]
        self._passes: Pass = CompiledPass(self._pass, dropouts) if self.config.compile else self._pass
        self._row = torch.zeros(len(terms) + 3, len(runs), device=device)
        self._norms = torch.zeros(len(terms), len(runs), device=device)
        self._ones = torch.ones(len(runs), device=device)
        self._ok = torch.ones((), dtype=torch.bool, device=device)
        self._n_done = torch.zeros((), dtype=torch.int64, device=device)

    def __call__(self, micros: Iterable[MicroBatch], step: int, *, with_norms: bool) -> None:
        """Step `step` on the micro-batches of its videos; each is taken when the one before is done with."""
        self.run(micros, self.optimiser.coefficients(step), with_norms=with_norms)

    def run(self, micros: Iterable[MicroBatch], coefficients: Tensor, *, with_norms: bool) -> None:
        """A step with the optimiser's coefficients of it."""
        gradients: Tensor | None = None
        row: Tensor | None = None
        norms: Tensor | None = None
        for micro in micros:
            own, seen, own_norms = self._passes(micro, with_norms=with_norms)
            if own_norms is not None:
                norms = _add(norms, own_norms, micro.share)
            gradients = own if gradients is None else gradients.add_(own)
            row = _add(row, seen, micro.share)
        assert gradients is not None  # a step has videos
        assert row is not None
        if norms is not None:
            self._norms.copy_(norms)
        self._finish(gradients, row, coefficients)

    def _pass(self, micro: MicroBatch, *, with_norms: bool) -> Passed:
        """Forward and back."""
        steps = self._forward(micro)
        losses = step_losses(steps, self.terms)
        found = gradient_norms(losses.terms, self.parameters.leaves) if with_norms else {}
        total = losses.total
        if self.balance is None:
            own = self.parameters.flat(self._gradients(losses, total, micro.share))
        else:
            scale = micro.share * (self.scale.scale if self.scale is not None else 1.0)
            balanced, factors = self.balance.gradients(losses, self.parameters.leaves, scale=scale)
            own, losses = self.parameters.flat(balanced), losses.scaled(factors)
            found = {name: norm * factors.get(name, 1.0) for name, norm in found.items()}
            total = losses.total
        seen = [*(value.detach() for value in losses.terms.values()), total.detach(), step_accuracy(steps)]
        return Passed(own, torch.stack(seen).float(), torch.stack(list(found.values())) if found else None)

    @torch.no_grad()
    def _finish(self, gradients: Tensor, row: Tensor, coefficients: Tensor) -> None:
        """The update, if everything is finite; `row [T + 2, R]` lacks the gradients' norms."""
        finite = None
        if self.scale is not None:
            gradients, finite = self.scale.unscaled(gradients)
        norm = torch.linalg.vector_norm(gradients, dim=1).float()
        whole = torch.cat([row[:-1], norm.unsqueeze(0), row[-1:]])
        torch.where(self._ok, whole, self._row, out=self._row)
        checked = whole if self.scale is None else row
        # The largest of all, which one that is no number is too.
        self._ok.logical_and_(torch.linalg.vector_norm(checked, ord=torch.inf) < torch.inf)
        self._n_done.add_(self._ok)
        may = self.parameters.may_move(self._ok if finite is None else self._ok & finite)
        self.optimiser.update(gradients, coefficients, may)

    def read(self) -> StepRow:
        """Waits for the device and says how far it came; the next read counts from here."""
        numbers = torch.cat([self._row.flatten(), self._norms.flatten(), self._n_done.view(1)]).cpu()
        self._n_done.zero_()
        n_terms = len(self.names)
        row, norms = numbers[:-1].split([self._row.numel(), self._norms.numel()])
        row, norms = row.view(n_terms + 3, -1), norms.view(n_terms, -1)
        return StepRow(
            terms=dict(zip(self.names, row, strict=False)),
            total=row[-3],
            gradient_norm=row[-2],
            accuracy=row[-1],
            term_gradient_norms=dict(zip(self.names, norms, strict=True)),
            n_done=int(numbers[-1]),
        )

    def reset(self) -> None:
        """Forgets what was not finite."""
        self._ok.fill_(True)
        self._n_done.zero_()

    def _forward(self, micro: MicroBatch) -> tuple[StepTensors, ...]:
        with autocast(self.model.device, self.config.precision):
            return self.model.steps(
                micro.batch,
                self.vocabulary,
                anchors=micro.anchors,
                mix=micro.mix,
                classes=micro.classes,
                with_frozen=self._reads_frozen,
            )

    def _gradients(self, losses: StepLosses, total: Tensor, share: float) -> Sequence[Tensor | None]:
        scale = self.scale.scale if self.scale is not None else 1.0
        if self.config.optim.gradient == "prograd":
            knowledge = losses.terms[KNOWLEDGE_TERM]
            main = (total - knowledge) * (share * scale)
            return prograd_gradients(main=main, knowledge=knowledge * scale, parameters=self.parameters.leaves)
        if launches_cost(total):
            weights = self._ones if share * scale == 1.0 else self._ones * (share * scale)
            return torch.autograd.grad(total, self.parameters.leaves, grad_outputs=weights, allow_unused=True)
        # The same to the bit in two operations more. PyTorch compares the shape of gradients that it is given with
        # sympy, whose import takes half a second.
        whole = (total if share * scale == 1.0 else total * (share * scale)).sum()
        return torch.autograd.grad(whole, self.parameters.leaves, allow_unused=True)


def _add(sums: Tensor | None, values: Tensor, share: float) -> Tensor:
    """`sums + share values`."""
    own = values if share == 1.0 else values * share
    return own if sums is None else sums + own
