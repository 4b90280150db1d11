"""Adapters made of the training videos: attached to a model before it trains, tuned on its validation videos after.

`attach_adapter` gives a model its Tip-Adapter cache or fits its linear probe; `tune_adapter` searches Tip-Adapter's
alpha and beta. Both see the runs' own training and validation videos and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompttune.data.features import FeatureTable, labels_of
from prompttune.data.frames import TrainingVideos
from prompttune.errors import ConfigError, explain
from prompttune.model.prompt_model import PromptModel
from prompttune.parts.adapters import ProbeVideos, TipAdapter, TipGrid, fit_linear_probe
from prompttune.parts.class_adapters import ClassCache, ClassProbe
from prompttune.splits.split import Split


def attach_adapter(
    model: PromptModel, *, splits: Sequence[Split], features: FeatureTable, keys: FeatureTable | None = None
) -> None:
    """Gives the model the adapter of its configuration, made of the runs' training videos; none where none is asked
    for.

    Args:
        model: of R runs.
        splits: one per run.
        features: of at least their training and validation videos.
        keys: what Tip-Adapter's keys are made of, where that is not `features`.

    Raises:
        ConfigError: a linear probe without validation videos to choose its strength on.
    """
    kind = model.config.head.adapter
    if kind == "tip-adapter" and len(splits[0].train):
        head, videos = model.config.head, TrainingVideos(features if keys is None else keys, splits)
        tip = TipAdapter(
            keys=model.video_features(videos.values[videos.positions]),
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
    head = model.config.head
    grid = TipGrid(largest_beta=head.tip_largest_beta, largest_alpha=head.tip_largest_alpha)
    model.fitted.tip.search(
        video_features=videos, labels=labels.to(videos.device), zero_shot_logits=zero_shot, grid=grid
    )


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
