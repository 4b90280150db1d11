"""Resolved configurations as records: what was trained, in words that later releases read the same way.

A key that is newer than the first release has a value with which it changes nothing; what was trained before there was
the key was trained with that value. So a record that lacks it means that value, and a fingerprint leaves the key out
where it has that value: run folders, checkpoints and shared folders of before belong to the same training as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic import BaseModel

# Dotted key -> the value that changes nothing, which is its default in no method in particular.
NEWER: Mapping[str, Any] = {
    "recipe": "default",
    "anchors.weighting": "fixed",
    "compile": False,
    "context.init_pad": False,
    "context.words_behind": "",
    "coupling.deep_hard": False,
    "head.tip_largest_alpha": 3.0,
    "head.tip_largest_beta": 7.0,
    "head.tip_keys": "first",
    "optim.drop_last": False,
    "templates.average": "unit",
}
# Tables that every resolved configuration has, and what somebody writes by hand never all has.
_TABLES = {"protocol", "context", "frames", "head", "losses", "targets", "classes", "optim", "templates", "log"}


def fingerprint_tables(config: BaseModel, *, exclude: Collection[str] = ()) -> dict[str, Any]:
    """The configuration as the tables that fingerprints and claims are made of.

    Args:
        exclude: top-level keys that are left out.
    """
    tables = config.model_dump(mode="json", exclude=set(exclude))
    for key, neutral in NEWER.items():
        table, _, name = key.rpartition(".")
        held = tables.get(table) if table else tables
        if isinstance(held, dict) and held.get(name) == neutral:
            del held[name]
    return tables


def is_whole(given: Mapping[str, Any]) -> bool:
    """Whether these tables are a resolved configuration, which no method's defaults may complete: what it lacks is
    newer than it.
    """
    return set(given) >= _TABLES
