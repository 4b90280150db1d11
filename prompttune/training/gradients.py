"""Gradients of single loss terms: their norms per run, what stays at zero, and ProGrad's projection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prompttune.errors import explain

# Rounding leaves an inert term with 1e-8 to 1e-6 of the main term's gradient in float32 (measured for the released
# anchor term: 3.4e-8 against 0.466); a term that acts at any usable weight is far above.
INERT_RELATIVE_NORM = 1e-5


def gradient_norms(terms: Mapping[str, Tensor], parameters: Sequence[Sequence[Tensor]]) -> dict[str, Tensor]:
    """The norm of each term's gradient over each run's parameters, name -> `[R]`; the graph is kept for `backward`.

    Costs one backward pass per term: called when logging is due, not at every step.

    Args:
        terms: name -> value per run `[R]`, as in `StepLosses.terms`.
        parameters: the parameters of run r at `parameters[r]`.
    """
    flat = [parameter for run in parameters for parameter in run]
    norms = {}
    for name, value in terms.items():
        gradients: Sequence[Tensor | None] = [None] * len(flat)
        if value.requires_grad:
            gradients = torch.autograd.grad(value.sum(), flat, retain_graph=True, allow_unused=True)
        squares, start = [], 0
        for run in parameters:
            own = [g.float().square().sum() for g in gradients[start : start + len(run)] if g is not None]
            squares.append(torch.stack(own).sum() if own else value.new_zeros(()))
            start += len(run)
        norms[name] = torch.stack(squares).sqrt().detach()
    return norms


@dataclass(frozen=True)
class InertTerm:
    """A loss term that did nothing.

    Attributes:
        name: the term.
        runs: the runs in which it did nothing.
        largest_norm: its largest gradient norm there.
        reference_norm: the largest of the reference term's there.
    """

    name: str
    runs: tuple[int, ...]
    largest_norm: float
    reference_norm: float

    def message(self) -> str:
        """What to tell the user."""
        return explain(
            f"the loss term {self.name!r} had no gradient in the whole training",
            where=f"runs {', '.join(map(str, self.runs))}",
            expected=f"a gradient norm above {INERT_RELATIVE_NORM:g} of the reference term's {self.reference_norm:.3g}",
            got=f"{self.largest_norm:.3g} at most",
            fix="remove the term, or give it something to act on: the additive anchor needs as many negative prompts "
            "as classes, image terms need visual prompts, a hinge needs a margin that is not met already",
        )


def inert_terms(
    norms: Mapping[str, Tensor],
    *,
    weights: Mapping[str, float | Sequence[float]] | None = None,
    reference: str = "cross-entropy",
    accepted: Collection[str] = (),
) -> tuple[InertTerm, ...]:
    """The terms whose gradient stayed at zero, up to rounding, in every logged step of at least one run.

    Args:
        norms: name -> gradient norms `[n_logged R]` of the weighted terms.
        weights: name -> weight, or one per run; a run that gives a term no weight has asked for its silence.
        reference: the term against whose norms rounding is judged; absolute zero is asked for where there is none.
        accepted: terms known to be inert and wanted all the same (the released anchor term).
    """
    found = []
    for name, values in norms.items():
        if name in accepted or name == reference or len(values) == 0:
            continue
        largest = values.amax(dim=0)
        against = norms[reference].amax(dim=0) if reference in norms else torch.zeros_like(largest)
        weight = torch.as_tensor((weights or {}).get(name, 1.0)).expand(len(largest))
        dead = ((largest <= INERT_RELATIVE_NORM * against) & (weight != 0)).nonzero().flatten().tolist()
        if dead:
            found.append(InertTerm(name, tuple(dead), float(largest[dead].max()), float(against[dead].max())))
    return tuple(found)


def project_off(gradient: Tensor, knowledge: Tensor, *, strength: float = 1.0) -> Tensor:
    """`g - strength (g.k/|k|) k/|k|` where `g.k < 0`, else `g` itself: a step that does not unlearn what k keeps.

    Source: Zhu et al. 2023 (ProGrad), equation 6; trainers/prograd.py `prograd_backward_and_update`. A knowledge
    gradient of zero length, where theirs divides by zero, leaves g as it is.
    """
    dot = (gradient * knowledge).sum()
    squared = knowledge.square().sum()
    if dot >= 0 or squared == 0:
        return gradient
    return gradient - strength * (dot / squared) * knowledge


def prograd_backward(
    *, main: Tensor, knowledge: Tensor, parameters: Sequence[Sequence[nn.Parameter]], strength: float = 1.0
) -> Tensor:
    """The share of each run's tensors whose gradient was projected `[R]`; adds ProGrad's gradient to every `.grad`.

    The projection is done per parameter tensor and per run, as in the authors' code.

    Args:
        main: what is minimised `[R]` (cross-entropy and all other terms).
        knowledge: what must not rise `[R]` (`ZeroShotConsistency`).
        parameters: the parameters of run r at `parameters[r]`.
        strength: lambda, 1 in the paper.
    """
    flat = [parameter for run in parameters for parameter in run]
    keep = torch.autograd.grad(knowledge.sum(), flat, retain_graph=True, allow_unused=True)
    step = torch.autograd.grad(main.sum(), flat, allow_unused=True)
    projected = []
    for parameter, g, k in zip(flat, step, keep, strict=True):
        if g is None:
            projected.append(False)
            continue
        update = g if k is None else project_off(g, k, strength=strength)
        projected.append(update is not g)
        parameter.grad = update if parameter.grad is None else parameter.grad + update
    shares, start = [], 0
    for run in parameters:
        shares.append(sum(projected[start : start + len(run)]) / max(len(run), 1))
        start += len(run)
    return torch.tensor(shares)
