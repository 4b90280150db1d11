"""Configurations of the visual methods that fit the tiny tower of `visual_store`: 3 text blocks, 4 vision blocks."""

from __future__ import annotations

from typing import Any

DEPTH = 3

# Short contexts, as the tiny tokenizer spells most words in letters.
TABLES: dict[str, dict[str, Any]] = {
    "vpt": {},
    "vpt-deep": {"visual": {"depth": 4}},
    "ivlp": {"context": {"prompt_depth": DEPTH}, "visual": {"depth": DEPTH}},
    "maple": {"context": {"prompt_depth": DEPTH}, "visual": {"depth": DEPTH}},
    "promptsrc": {
        "context": {"prompt_depth": DEPTH},
        "visual": {"depth": DEPTH},
        "aggregation": {"mean": 3.0, "std": 1.0},
    },
    "vifi-vl": {"context": {"prompt_depth": DEPTH}, "visual": {"depth": DEPTH}},
    "ga2": {"context": {"prompt_depth": DEPTH}, "visual": {"depth": DEPTH}},
}


def tables_of(method: str, hard_prompt: str) -> dict[str, Any]:
    """The method's tables, with what it requires."""
    tables = {"method": method, **TABLES[method]}
    if method == "ga2":
        tables["coupling"] = {"hard_prompts": [hard_prompt]}
    return tables
