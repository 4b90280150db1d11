"""What the command line prints: the table of methods, the classes of videos."""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from prompttune.config.methods import METHODS, Method
from prompttune.config.train_config import resolve

if TYPE_CHECKING:
    from prompttune.api.classify import Classified


_COMMENT_WIDTH = 77  # behind "# " it fits 80 columns


def methods_table() -> Table:
    """Every method: what it is, what must be given besides a store, which path of the text engine it takes."""
    table = Table(
        title="methods",
        show_lines=True,
        caption_justify="left",
        caption="text path: of a causal text tower with a start of text (CLIP, PE-Core, EVA02, CoCa). Others (SigLIP, "
        "CLIPA, MobileCLIP's S and L) compute every position of every class; `prompttune plan` says a store's own path "
        "and its operations, `vidfeat models NAME` a model's.",
    )
    for title in ("name", "what it is", "needs", "text path"):
        table.add_column(title, overflow="fold", no_wrap=title == "name")
    for method in METHODS.values():
        needs = ["pooled features", *_tokens_needed(method), *method.required_keys]
        table.add_row(method.name, method.summary, "\n".join(needs), method.text)
    return table


def _tokens_needed(method: Method) -> list[str]:
    from vidfeat.store import Tap

    visual = method.defaults.get("visual")
    return [] if visual is None else [f"{Tap(visual.get('first_block', 0)).flag}, or @k for late(k)"]


def describe_method(name: str) -> str:
    """A method's source, its release, what differs from it and its recipes as comments, then its configuration as TOML.

    Raises:
        ConfigError: an unknown method.
    """
    config = resolve({"method": name, "store": "STORE.zarr", **(METHODS[name].requires if name in METHODS else {})})
    return "\n".join([*(f"# {line}".rstrip() for line in _about(METHODS[name])), config.to_toml()])


def _about(method: Method) -> Iterator[str]:
    yield from _wrapped(f"{method.summary}. Source: {method.source}")
    if method.release:
        yield from _wrapped(f"Release: {method.release}")
    for title, lines in (
        ("Not as in the release:", method.differs),
        ("Recipes, by --set recipe=NAME:", [_recipe(name, tables) for name, tables in method.recipes.items()]),
    ):
        if lines:
            yield title
        for line in lines:
            yield from _wrapped(f"- {line}", indent="  ")


def _wrapped(text: str, *, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _COMMENT_WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _recipe(name: str, tables: Mapping[str, Any]) -> str:
    settings = [f"{table}.{key} = {value}" for table, keys in tables.items() for key, value in keys.items()]
    return f"{name}: {', '.join(settings)}"


def method_rows() -> list[dict[str, Any]]:
    """The same, a row each."""
    return [
        {
            "name": method.name,
            "summary": method.summary,
            "source": method.source,
            "release": method.release,
            "differs": list(method.differs),
            "recipes": {name: dict(tables) for name, tables in method.recipes.items()},
            "needs": ["pooled features", *_tokens_needed(method), *method.required_keys],
            "fit": method.fit,
            "text": method.text,
        }
        for method in METHODS.values()
    ]


def classified_rows(found: Sequence[Classified]) -> list[dict[str, Any]]:
    """One row per video and class: video, rank, class, score."""
    return [
        {"video": video.id, "rank": rank, "class": name, "score": round(score, 6)}
        for video in found
        for rank, (name, score) in enumerate(zip(video.classes, video.scores, strict=True), 1)
    ]


def classified_table(found: Sequence[Classified]) -> Table:
    """Every video with its most likely classes and their probabilities, one class per line."""
    table = Table(box=box.SIMPLE_HEAD)
    for head in ("video", "class", "score"):
        table.add_column(head, overflow="fold", no_wrap=head == "score")
    for video in found:
        for place, (name, score) in enumerate(zip(video.classes, video.scores, strict=True)):
            table.add_row(video.id if place == 0 else "", name, f"{100 * score:.1f} %")
    return table


def write_classified(path: Path, found: Sequence[Classified]) -> None:
    """Writes the same as a CSV `video,rank,class,score`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name need not be UTF-8; its own bytes are written back.
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.DictWriter(file, ("video", "rank", "class", "score"))
        writer.writeheader()
        writer.writerows(row | {"score": f"{row['score']:.6f}"} for row in classified_rows(found))
