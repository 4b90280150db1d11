"""A suite of short trainings on tiny stores, for the runner's tests: real stores, real trainings, seconds in all."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks.suite import Suite

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "prompttune"))
from tiny_store import Recipe, write_tiny_store

SHORT = {"optim": {"epochs": 3, "batch_size": 8, "lr": 0.01, "warmup_epochs": 1.0}, "log": {"every": 1}}


def write_stores(folder: Path) -> Path:
    """target.zarr, other.zarr and irrelevant.zarr in the folder, which is returned."""
    write_tiny_store(folder / "target.zarr")
    write_tiny_store(folder / "other.zarr", Recipe(classes=("cook", "paint", "dance", "sleep"), seed=1))
    write_tiny_store(folder / "irrelevant.zarr", Recipe(classes=("sky", "water"), seed=2, n_train=10))
    return folder


def method(label: str, name: str, **tables: Any) -> dict[str, Any]:
    """A method's row with short training on top of its defaults."""
    return {"label": label, "config": {"method": name} | (SHORT if name != "zero-shot" else {}) | tables}


COUPLED = {"coupling": {"hard_prompts": ["{prompts.other}"]}}
ZERO_SHOT = method("Zero-shot", "zero-shot")
COOP = method("CoOp", "coop")
GA2 = method("GA2", "ga2-text", **COUPLED)


def learning_rate(lr: float, label: str = "") -> dict[str, Any]:
    """CoOp at a learning rate of its own: what trains together with its like."""
    return method(label or f"CoOp {lr:g}", "coop", optim=SHORT["optim"] | {"lr": lr})


def tables(*methods: dict[str, Any], grid: Any = None, **given: Any) -> dict[str, Any]:
    """A suite's tables; zero-shot comes first, hard prompts are trained where a method takes them."""
    needed = any("{prompts.other}" in repr(one) for one in methods)
    prompts = [{"name": "other", "store": "other", "config": COOP["config"] | {"protocol": {"shots": 4}}}]
    return {
        "title": "A tiny suite",
        "shows": "that the runner works",
        "cost": "seconds",
        "seeds": [1, 2],
        "baseline": "Zero-shot",
        "stores": {"target": "target.zarr", "other": "other.zarr", "irrelevant": "irrelevant.zarr"},
        "hard_prompts": prompts if needed else [],
        "methods": [ZERO_SHOT, *methods],
        "grid": grid or {"stores": ["target"], "shots": [4]},
    } | given


def suite(*methods: dict[str, Any], **given: Any) -> Suite:
    """The suite of these tables."""
    return Suite.model_validate(tables(*methods, **given))


def to_toml(values: dict[str, Any]) -> str:
    """Tables as one TOML document of inline values."""
    return "".join(f"{key} = {_value(value)}\n" for key, value in values.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f'"{key}" = {_value(item)}' for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def learned(cells: Path) -> dict[str, tuple[Any, ...]]:
    """By run, what its training left behind: every learned number, the logged losses, the metrics."""
    import torch

    from prompttune.evaluation.results import Result
    from prompttune.prompts.file import read_prompt_file

    found: dict[str, tuple[Any, ...]] = {}
    for folder in sorted(path.parent for path in cells.glob("*/result.json")):
        for run in Result.read(folder).runs:
            path = folder / run.name / "prompt.safetensors"
            log = folder / run.name / "log.jsonl"
            numbers = read_prompt_file(path).learned if path.exists() else {}
            flat = torch.cat([numbers[name].flatten().float() for name in sorted(numbers)] or [torch.zeros(0)])
            found[f"{folder.name}/{run.name}"] = (flat, log.read_text() if log.exists() else "", run.metrics)
    return found
