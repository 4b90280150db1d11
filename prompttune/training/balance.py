"""Anchor losses whose weight follows the task: their gradient is a share of the gradient of everything else.

    g = g_task + sum_a f_a g_a,   f_a = w_a |g_task| / |g_a|, at most w_a LIMIT, 0 for rounding   (per run, step)

g_task is the gradient of all terms but the anchors', g_a that of an anchor loss, w_a its weight in the configuration,
which here is the share. So one setting means the same to a host whose task pulls hard and to one whose own terms hold
it, while a fixed weight is a different share for each. Costs one more backward pass for each anchor loss.

The limit keeps an anchor that is all but content from being shouted; one whose gradient is rounding stays without
effect, and is told so at the end as ever.

Source: ours, after Chen et al. 2018 (GradNorm), which learns weights towards equal gradient norms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.config.runs import Run
from prompttune.losses.of_runs import anchor_term_names
from prompttune.losses.terms import StepLosses
from prompttune.training.gradients import INERT_RELATIVE_NORM

LIMIT = 1000.0  # text-anchor takes 130 to weigh as much as cross-entropy on the small world


@dataclass(frozen=True)
class Balance:
    """Makes the anchors' gradients shares of the task's.

    Attributes:
        shares: anchor term -> w_a of each run, float32 `[R]`.
    """

    shares: Mapping[str, Tensor]

    def gradients(
        self, losses: StepLosses, parameters: Sequence[Tensor], *, scale: float
    ) -> tuple[list[Tensor | None], dict[str, Tensor]]:
        """The gradient of each parameter `[R ...]`, and by which factor `[R]` each anchor term came to count.

        Args:
            losses: the step's weighted terms; their graph is used up.
            parameters: every trained tensor `[R ...]`.
            scale: of the loss, see `DeviceStep`.
        """
        task = torch.stack([value for name, value in losses.terms.items() if name not in self.shares]).sum()
        found = torch.autograd.grad(task * scale, parameters, retain_graph=True, allow_unused=True)
        summed: list[Tensor | None] = list(found)
        reference, factors = _norms(summed, like=parameters[0]), {}
        for place, (name, share) in enumerate(self.shares.items(), start=1):
            value = losses.terms[name]
            factors[name] = torch.zeros_like(reference)
            if not value.requires_grad:
                continue
            more = place < len(self.shares)
            own = torch.autograd.grad(value.sum() * scale, parameters, retain_graph=more, allow_unused=True)
            norm = _norms(own, like=parameters[0])
            # `value` has its weight in it: w |g_task| / |w g_a| times it, at most LIMIT times it.
            speaks = norm > INERT_RELATIVE_NORM * share * reference
            factor = torch.where(speaks, share * reference / norm, 0.0).clamp(max=LIMIT)
            factors[name] = factor
            for index, gradient in enumerate(own):
                if gradient is not None:
                    scaled = gradient * factor.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype)
                    held = summed[index]
                    summed[index] = scaled if held is None else held + scaled
        return summed, factors


def make_balance(runs: Sequence[Run], *, device: torch.device) -> Balance | None:
    """The balance that the runs ask for; None where anchors have fixed weights or there are none."""
    anchors = runs[0].config.anchors
    if anchors is None or anchors.weighting == "fixed":
        return None
    shares = {}
    for loss, name in zip(anchors.weights, anchor_term_names(runs[0].config), strict=True):
        weights = [run.config.anchors.weights[loss] for run in runs if run.config.anchors is not None]
        shares[name] = torch.tensor(weights, dtype=torch.float32).to(device)
    return Balance(shares)


def _norms(gradients: Sequence[Tensor | None], *, like: Tensor) -> Tensor:
    """Each run's norm over all of its parameters `[R]`."""
    own = [gradient.float().flatten(1) for gradient in gradients if gradient is not None]
    if not own:
        return torch.zeros(len(like), device=like.device)
    return torch.linalg.vector_norm(torch.cat(own, dim=1), dim=1)
