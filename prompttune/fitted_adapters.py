"""Adapters made of the training videos: attached to a model before it trains, tuned on its validation videos after.

`attach_adapter` gives a model its Tip-Adapter cache or fits its linear probe; `tune_adapter` searches Tip-Adapter's
alpha and beta. Both see the runs' own training and validation videos and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prompttune.adapters import LinearProbe, ProbeVideos, TipAdapter, fit_linear_probe
from prompttune.data import FeatureTable, labels_of
from prompttune.errors import ConfigError, explain
from prompttune.frames import TrainingVideos
from prompttune.run_axis import RunParameter
from prompttune.splits import Split

if TYPE_CHECKING:
    from prompttune.model import PromptModel


class ClassCache(nn.Module):
    """Tip-Adapter's cache under class names: adds to the logits of the classes it has, and nothing to others."""

    def __init__(self, tip: TipAdapter, classes: Sequence[str]) -> None:
        super().__init__()
        self.tip, self.classes = tip, tuple(classes)

    def logits(self, zero_shot: Tensor, video_features: Tensor, names: Sequence[str]) -> Tensor:
        """Logits `[R B C]` of the classes `names`, of their zero-shot logits and unit video features `[R B E]`."""
        cache = self.tip(video_features)
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


def attach_adapter(model: PromptModel, *, splits: Sequence[Split], features: FeatureTable) -> None:
    """Gives the model the adapter of its configuration, made of the runs' training videos; none where none is asked
    for.

    Args:
        model: of R runs.
        splits: one per run.
        features: of at least their training and validation videos.

    Raises:
        ConfigError: a linear probe without validation videos to choose its strength on.
    """
    kind = model.config.head.adapter
    if kind == "tip-adapter" and len(splits[0].train):
        head, videos = model.config.head, TrainingVideos(features, splits)
        keys = model.video_features(videos.values[videos.positions])
        tip = TipAdapter(
            keys=keys,
            labels=videos.labels,
            n_classes=len(splits[0].classes),
            train_keys=head.train_keys,
            alpha=head.tip_alpha,
            beta=head.tip_beta,
        )
        model.fitted = ClassCache(tip, splits[0].classes).to(model.device)
    elif kind == "linear-probe" and len(splits[0].train):
        probe = model.fitted
        assert isinstance(probe, ClassProbe)
        for run, split in enumerate(splits):
            probe.fill(run, fit_linear_probe(_probe_videos(model, split, features)))


@torch.no_grad()
def tune_adapter(model: PromptModel, *, splits: Sequence[Split], features: FeatureTable) -> None:
    """Searches alpha and beta of a Tip-Adapter on the runs' validation videos; without them they stay as configured."""
    if not isinstance(model.fitted, ClassCache) or not len(splits[0].val):
        return
    positions = torch.stack([features.positions(split.val) for split in splits]).to(features.values.device)
    labels = torch.stack([labels_of(split.table, split.val, split.classes) for split in splits])
    videos = model.video_features(features.values[positions])
    zero_shot = model.logits(videos, model.class_features(model.vocabulary(splits[0].classes)))
    model.fitted.tip.search(video_features=videos, labels=labels.to(videos.device), zero_shot_logits=zero_shot)


@torch.no_grad()
def _probe_videos(model: PromptModel, split: Split, features: FeatureTable) -> ProbeVideos:
    def unit(rows: object) -> Tensor:
        values = features.values[features.positions(rows).to(features.values.device)]  # type: ignore[arg-type]
        return nn.functional.normalize(values, dim=-1)

    if not len(split.val):
        raise ConfigError(
            explain(
                "a linear probe chooses its strength on validation videos",
                where="protocol.val_shots",
                expected="at least 1; 4 of 16 shots in CoOp's protocol",
                got=0,
                fix="--val 4",
            )
        )
    return ProbeVideos(
        features=unit(split.train),
        labels=labels_of(split.table, split.train, split.classes),
        val_features=unit(split.val),
        val_labels=labels_of(split.table, split.val, split.classes),
    )
