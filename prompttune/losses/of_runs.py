"""The loss terms of a group of runs: names and weights of the configuration to weighted terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pkgutil import resolve_name

from prompttune.config.methods import LOSS_TERMS
from prompttune.config.runs import Run
from prompttune.config.train_config import TrainConfig
from prompttune.errors import ConfigError
from prompttune.losses.anchors import anchor_term
from prompttune.losses.terms import LossTerm, WeightedTerm, with_options


def anchor_term_names(config: TrainConfig) -> list[str]:
    """The names the anchors' losses are logged by; none without anchors."""
    return [f"anchor-{loss}" for loss in config.anchors.weights] if config.anchors is not None else []


def loss_term(name: str, **options: object) -> LossTerm:
    """The term of that name in `LOSS_TERMS`.

    Raises:
        ConfigError: options that the term does not have.
    """
    return with_options(resolve_name(LOSS_TERMS[name]), f"the loss term {name!r}", options)


def loss_terms(runs: Sequence[Run]) -> list[WeightedTerm]:
    """Every term that has weight in some run, with one weight per run.

    Raises:
        ConfigError: no term, or options that a term does not have.
    """
    config = runs[0].config
    terms = []
    options: dict[str, Mapping[str, object]] = {**config.loss_options}
    options["cross-entropy"] = {"label_smoothing": config.targets.label_smoothing}
    for name in LOSS_TERMS:
        weights = tuple(run.config.losses.get(name, 0.0) for run in runs)
        if any(weights):
            terms.append(WeightedTerm(name, loss_term(name, **options.get(name, {})), weights))
    if config.anchors is not None:
        for loss, name in zip(config.anchors.weights, anchor_term_names(config), strict=True):
            term = anchor_term(loss, **(config.anchors.options if loss == config.anchors.loss else {}))
            weights = tuple(run.config.anchors.weights[loss] for run in runs if run.config.anchors is not None)
            terms.append(WeightedTerm(name, term, weights))
    if not terms:
        raise ConfigError(f"the method {config.method} trains, but no loss term has weight: see the losses table")
    return terms
