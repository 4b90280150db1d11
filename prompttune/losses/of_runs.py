"""The loss terms of a group of runs: names and weights of the configuration to weighted terms."""

from __future__ import annotations

from collections.abc import Sequence

from prompttune.config.runs import Run
from prompttune.config.train_config import TrainConfig
from prompttune.errors import ConfigError
from prompttune.losses.anchors import anchor_term
from prompttune.losses.terms import LOSS_TERMS, CrossEntropy, WeightedTerm


def anchor_term_names(config: TrainConfig) -> list[str]:
    """The names the anchors' losses are logged by; none without anchors."""
    return [f"anchor-{loss}" for loss in config.anchors.weights] if config.anchors is not None else []


def loss_terms(runs: Sequence[Run]) -> list[WeightedTerm]:
    """Every term that has weight in some run, with one weight per run.

    Raises:
        ConfigError: no term, or options that an anchor loss does not have.
    """
    config = runs[0].config
    terms = []
    known = {**LOSS_TERMS, "cross-entropy": CrossEntropy(label_smoothing=config.targets.label_smoothing)}
    for name, term in known.items():
        weights = tuple(run.config.losses.get(name, 0.0) for run in runs)
        if any(weights):
            terms.append(WeightedTerm(name, term, weights))
    if config.anchors is not None:
        for loss, name in zip(config.anchors.weights, anchor_term_names(config), strict=True):
            options = config.anchors.options if loss == config.anchors.loss else {}
            try:
                term = anchor_term(loss, **options)
            except ValueError as error:
                raise ConfigError(str(error)) from None
            weights = tuple(run.config.anchors.weights[loss] for run in runs if run.config.anchors is not None)
            terms.append(WeightedTerm(name, term, weights))
    if not terms:
        raise ConfigError(f"the method {config.method} trains, but no loss term has weight: see the losses table")
    return terms
