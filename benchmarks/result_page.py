"""Writes docs/result-format.md out of the result's own field descriptions, so that the page cannot lag behind the code.

`python -m benchmarks readme` writes it along with the README's tables; a test says when it is out of date.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompttune.evaluation.results import SCHEMA_VERSION, Result

PAGE = Path(__file__).parents[1] / "docs" / "result-format.md"

HEAD = f"""# `result.json`, version {SCHEMA_VERSION}

What every `prompttune train`, every cell of a suite and `prompttune eval --out` leave in their run folder. This page is
written by `python -m benchmarks readme` from the field descriptions of `prompttune/evaluation/results.py`; a test pins
it. The version changes when a key changes its meaning; a reader of another version refuses the file, by name.
Accuracies are shares in [0, 1], times are seconds.

Read it with `prompttune.evaluation.results.Result.read(FOLDER)`, many at once as a pandas frame with
`prompttune.load_results(FOLDERS)` (one row per run), or with any JSON library.

Beside it in the run folder: `runs.json` (whose folder it is, with every setting), and per run a folder of its name with
`config.toml` (does the same run again), `prompt.safetensors` (what was learned), `log.jsonl` (a line per logged step),
`predictions.npz` (ids, labels and logits of every test video;
`prompttune.evaluation.results.confusion("RUN/seed1", "new")` makes the confusion matrix of them), TensorBoard's
event file with `log.tensorboard = true`.
"""


def render_page() -> str:
    """The page's text."""
    schema = Result.model_json_schema()
    parts = [HEAD, *_tables("Result", schema)]
    for name, definition in schema["$defs"].items():
        parts += _tables(name, definition)
    return "\n".join(parts)


def _tables(name: str, definition: dict[str, Any]) -> Iterator[str]:
    about = str(definition.get("description", "")).partition("\n")[0]
    yield f"## {name}\n\n{about}\n"
    yield "| key | type | what it is |\n| :-- | :-- | :-- |"
    for key, value in definition["properties"].items():
        optional = "" if key in definition.get("required", []) else " May be absent in files of earlier releases."
        about = str(value.get("description", "")).replace("|", "\\|")
        yield f"| `{key}` | {_type(value)} | {about}{'.' if optional else ''}{optional} |"
    yield ""


def _type(value: dict[str, Any]) -> str:
    if "$ref" in value:
        name = value["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in value:
        return " or ".join(_type(one) for one in value["anyOf"])
    if value.get("type") == "array":
        return f"list of {_type(value.get('items', {}))}"
    if value.get("type") == "object":
        inner = value.get("additionalProperties")
        return f"object of {_type(inner)}" if isinstance(inner, dict) else "object"
    return str(value.get("type", "any value"))
