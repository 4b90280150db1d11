"""Adapters under class names: a cache or a probe made of training videos, asked for the logits of any names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompttune.base.run_axis import RunParameter
from prompttune.errors import ConfigError, explain
from prompttune.parts.adapters import LinearProbe, TipAdapter


class ClassCache(nn.Module):
    """Tip-Adapter's cache under class names: adds to the logits of the classes it has, and nothing to others."""

    def __init__(self, tip: TipAdapter, classes: Sequence[str]) -> None:
        super().__init__()
        self.tip, self.classes = tip, tuple(classes)

    def logits(self, zero_shot: Tensor, video_features: Tensor, names: Sequence[str]) -> Tensor:
        """Logits `[R B C]` of the classes `names`, of their zero-shot logits and unit video features `[R B E]`."""
        cache = self.tip(video_features)
        if tuple(names) == self.classes:
            return zero_shot + cache
        place = {name: index for index, name in enumerate(self.classes)}
        columns = torch.tensor([place.get(name, len(place)) for name in names], device=cache.device)
        absent = cache.new_zeros(*cache.shape[:-1], 1)
        return zero_shot + torch.cat([cache, absent], dim=-1)[..., columns]


class ClassProbe(nn.Module):
    """Linear probes of R runs under class names; zero until they are fitted."""

    def __init__(self, classes: Sequence[str], *, embed_dim: int, n_runs: int) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.weight = RunParameter(torch.zeros(n_runs, len(self.classes), embed_dim))
        self.bias = RunParameter(torch.zeros(n_runs, len(self.classes)))

    @torch.no_grad()
    def fill(self, run: int, probe: LinearProbe) -> None:
        """Takes the fitted probe of one run."""
        self.weight.runs[run].copy_(probe.weight)
        self.bias.runs[run].copy_(probe.bias)

    def logits(self, zero_shot: Tensor, video_features: Tensor, names: Sequence[str]) -> Tensor:
        """Logits `[R B C]` of the classes `names`; the zero-shot ones play no part.

        Raises:
            ConfigError: a class it was not fitted on.
        """
        place = {name: index for index, name in enumerate(self.classes)}
        if unknown := [name for name in names if name not in place]:
            raise ConfigError(
                explain(
                    "a linear probe knows the classes it was fitted on and no others",
                    expected=", ".join(self.classes[:6]) + (", ..." if len(self.classes) > 6 else ""),
                    got=", ".join(unknown[:6]) + (", ..." if len(unknown) > 6 else ""),
                    fix='protocol.name = "few-shot" or "fully-supervised"',
                )
            )
        columns = torch.tensor([place[name] for name in names], device=video_features.device)
        return torch.einsum("rbe,rce->rbc", video_features, self.weight()[:, columns]) + self.bias()[:, None, columns]


FittedAdapter = ClassCache | ClassProbe
