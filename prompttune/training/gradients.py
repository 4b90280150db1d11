"""Gradients of single loss terms: their norms per run, what stays at zero, and ProGrad's projection."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.errors import explain

# Rounding leaves an inert term with 1e-8 to 1e-6 of the main term's gradient in float32 (measured for the released
# anchor term: 3.4e-8 against 0.466); a term that acts at any usable weight is far above.
INERT_RELATIVE_NORM = 1e-5


def gradient_norms(terms: Mapping[str, Tensor], parameters: Sequence[Tensor]) -> dict[str, Tensor]:
    """Each term's gradient norm over each run's parameters, `[R]`; the graph stays.

    Args:
        terms: name -> value per run `[R]`.
        parameters: every trained tensor `[R ...]`.
    """
    norms = {}
    for name, value in terms.items():
        found: Sequence[Tensor | None] = [None]
        if value.requires_grad:
            found = torch.autograd.grad(value.sum(), parameters, retain_graph=True, allow_unused=True)
        own = [gradient.float().flatten(1) for gradient in found if gradient is not None]
        norms[name] = torch.linalg.vector_norm(torch.cat(own, dim=1), dim=1) if own else value.detach() * 0
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
    """Run by run, of `[R ...]`: `g - strength (g.k/|k|) k/|k|` where `g.k < 0`, else `g` itself: a step that does not
    unlearn what k keeps.

    Source: Zhu et al. 2023 (ProGrad), equation 6; trainers/prograd.py `prograd_backward_and_update`. A knowledge
    gradient of zero length, where theirs divides by zero, leaves g as it is.
    """
    per_run = (-1, *[1] * (gradient.dim() - 1))
    dot = (gradient * knowledge).flatten(1).sum(dim=1).view(per_run)
    squared = knowledge.square().flatten(1).sum(dim=1).view(per_run)
    opposed = (dot < 0) & (squared != 0)
    return torch.where(opposed, gradient - strength * (dot / squared) * knowledge, gradient)


def prograd_gradients(
    *, main: Tensor, knowledge: Tensor, parameters: Sequence[Tensor], strength: float = 1.0
) -> list[Tensor | None]:
    """ProGrad's gradient of each parameter; None where the loss does not reach it.

    The projection is done per parameter tensor and per run, as in the authors' code.

    Args:
        main: what is minimised `[R]` (cross-entropy and all other terms).
        knowledge: what must not rise `[R]` (`ZeroShotConsistency`).
        parameters: every trained tensor `[R ...]`.
        strength: lambda, 1 in the paper.
    """
    keep = torch.autograd.grad(knowledge.sum(), parameters, retain_graph=True, allow_unused=True)
    step = torch.autograd.grad(main.sum(), parameters, allow_unused=True)
    return [
        g if g is None or k is None else project_off(g, k, strength=strength) for g, k in zip(step, keep, strict=True)
    ]
