"""What the lines of a comparison were set to: where two of them differ, and what is not their method's default."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompttune.config.methods import METHODS
from prompttune.config.runs import flat, nested
from prompttune.config.train_config import merge, resolve
from prompttune.errors import ConfigError
from prompttune.evaluation.results import NO_SETTING
from prompttune.report.comparison import Comparison
from prompttune.report.entries import Entry


@dataclass(frozen=True)
class Setting:
    """One key of the configuration.

    Attributes:
        key: dotted.
        values: by label, in words; "-" where a line's configuration has no such key.
        defaults: the default of the line's method, where the value is another.
    """

    key: str
    values: Mapping[str, str]
    defaults: Mapping[str, str]


def told_settings(comparison: Comparison) -> list[Setting]:
    """The keys in which two lines differ, or a line differs from its method's default, in the configuration's order.

    Seeds, folders and what changes no number are no settings, nor is the store, which all lines have in common.
    """
    entries = [line.entry for line in comparison.lines]
    set_to = {entry.label: _settings(entry) for entry in entries}
    defaults = {entry.label: _defaults(entry) for entry in entries}
    found = []
    for key in dict.fromkeys(key for own in set_to.values() for key in own):
        values = {label: _word(own[key]) if key in own else "-" for label, own in set_to.items()}
        usual = {label: _word(own[key]) for label, own in defaults.items() if key in own}
        others = {label: usual[label] for label in usual if key in set_to[label] and usual[label] != values[label]}
        if others or len(set(values.values())) > 1:
            found.append(Setting(key, values, others))
    return found


def _settings(entry: Entry) -> dict[str, Any]:
    config = {key: value for key, value in entry.result.config.items() if key not in NO_SETTING}
    for key, value in entry.cell.overrides.items():
        config = merge(config, nested(key, value))
    return flat(config)


def _defaults(entry: Entry) -> dict[str, Any]:
    """Of the line's method and recipe; none where this release does not know them."""
    name, recipe = entry.result.method, entry.result.config.get("recipe")
    given: dict[str, Any] = {"method": name, "store": "any"} | ({} if recipe is None else {"recipe": recipe})
    given = merge(given, METHODS[name].requires if name in METHODS else {})
    try:
        return flat(resolve(given).model_dump(mode="json"))
    except ConfigError:
        return {}


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
