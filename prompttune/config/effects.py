"""Settings that would change nothing: refused where somebody asked for them by name, on a command line or from Python.

A resolved configuration holds every key, so a file may say what does not act; a `--set` that does not act is a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from prompttune.config.runs import Run, trains_by_gradient
from prompttune.config.train_config import TrainConfig
from prompttune.errors import ConfigError, explain

# Dotted key, or a table with its dot -> what it needs to act, in words and as a test. All that fit a key must hold.
_NEEDS: tuple[tuple[str, str, Callable[[TrainConfig], bool]], ...] = (
    ("optim.", "a method that trains by gradient", trains_by_gradient),
    ("losses", "a method that trains by gradient", trains_by_gradient),
    ("targets.", "a method that trains by gradient", trains_by_gradient),
    ("classes.", "a method that trains by gradient", trains_by_gradient),
    ("aggregation.", "a method that trains by gradient", trains_by_gradient),
    ("optim.momentum", 'optim.name = "sgd"', lambda c: c.optim.name == "sgd"),
    ("optim.betas", 'optim.name = "adam" or "adamw"', lambda c: c.optim.name != "sgd"),
    ("optim.eps", 'optim.name = "adam" or "adamw"', lambda c: c.optim.name != "sgd"),
    ("optim.warmup_lr", "optim.warmup_epochs above 0", lambda c: c.optim.warmup_epochs > 0),
    ("context.n_ctx", "a learned context (context.kind)", lambda c: c.context.kind != "none"),
    ("context.init", "a learned context (context.kind)", lambda c: c.context.kind != "none"),
    ("context.init_pad", 'words in context.init, or "template"', lambda c: c.context.init != "random"),
    ("context.words_behind", "a learned context (context.kind)", lambda c: c.context.kind != "none"),
    ("context.position", "a learned context (context.kind)", lambda c: c.context.kind != "none"),
    ("context.image_hidden", 'context.kind = "image"', lambda c: c.context.kind == "image"),
    ("context.class_tokens_hidden", "context.class_tokens_block", lambda c: c.context.class_tokens_block is not None),
    ("head.adapter_ratio", 'head.adapter = "clip-adapter"', lambda c: c.head.adapter == "clip-adapter"),
    ("head.tip_alpha", 'head.adapter = "tip-adapter"', lambda c: c.head.adapter == "tip-adapter"),
    ("head.tip_beta", 'head.adapter = "tip-adapter"', lambda c: c.head.adapter == "tip-adapter"),
    ("head.tip_keys", 'head.adapter = "tip-adapter"', lambda c: c.head.adapter == "tip-adapter"),
    ("head.tip_largest_alpha", "Tip-Adapter with validation shots (--val)", lambda c: _searches_tip(c)),
    ("head.tip_largest_beta", "Tip-Adapter with validation shots (--val)", lambda c: _searches_tip(c)),
    ("head.temporal_layers", 'head.temporal = "transformer"', lambda c: c.head.temporal == "transformer"),
    ("head.spotting_temperature", "concept spotting (head.temporal)", lambda c: c.head.temporal == "concept-spotting"),
    ("templates.average", "several templates.ensemble", lambda c: len(c.templates.ensemble) > 1),
    ("classes.n_negatives", "classes.sample other than all", lambda c: c.classes.sample != "all"),
    ("protocol.split_seed", "protocol.test_fraction", lambda c: c.protocol.test_fraction is not None),
    ("coupling.dropout_mask", "coupling.dropout above 0", lambda c: c.coupling is None or c.coupling.dropout != 0),
)
# What evaluation without training looks at; a prompt file says the rest.
_OF_EVALUATION = (
    "store",
    "device",
    "precision",
    "protocol.split_file",
    "protocol.test_fraction",
    "protocol.split_seed",
)
_OF_ZERO_SHOT = ("protocol.base_classes", "templates.", "head.temporal", "head.logit_scale")


def require_effect(keys: Iterable[str], runs: Sequence[Run]) -> None:
    """Refuses settings that change none of the runs.

    Args:
        keys: dotted keys that were asked for by name.
        runs: with everything resolved.

    Raises:
        ConfigError: naming each such key with what it needs.
    """
    problems = [
        f"\n    {key}: needs {need}"
        for key in keys
        for of_key, need, acts in _NEEDS
        if _is_of(key, of_key) and not any(acts(run.config) for run in runs)
    ]
    if problems:
        raise ConfigError(explain("settings that change nothing here", got="".join(problems), fix="leave them out"))


def require_effect_in_evaluation(keys: Iterable[str], *, zero_shot: bool) -> None:
    """Refuses settings that evaluation does not look at.

    Args:
        zero_shot: whether there is no prompt file, which holds templates, head and training classes itself.

    Raises:
        ConfigError: naming every such key.
    """
    known = (*_OF_EVALUATION, *(_OF_ZERO_SHOT if zero_shot else ()))
    without = [key for key in keys if not any(_is_of(key, name) for name in known)]
    if without:
        raise ConfigError(
            explain(
                "settings that change nothing here",
                expected=", ".join(f"{name}*" if name.endswith(".") else name for name in known),
                got=", ".join(without),
                fix="leave them out; they act in `prompttune train`",
            )
        )


def _searches_tip(config: TrainConfig) -> bool:
    return config.head.adapter == "tip-adapter" and config.protocol.val_shots > 0


def _is_of(key: str, name: str) -> bool:
    return key.startswith(name) if name.endswith(".") else key == name or key.startswith(f"{name}.")
