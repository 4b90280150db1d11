"""What a comparison is: a strict TOML file, read into frozen tables and unfolded into cells.

A suite names stores, hard prompts to be trained first, methods, and a grid of stores x protocols x shots; every cell of
the grid is one `prompttune` training whose seeds go together along the run axis. In values, `{stores.NAME}` and
`{prompts.NAME}` stand for the path of a store and of a prompt file that the suite trains.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from prompttune.config import TrainConfig, merge, resolve
from prompttune.errors import ConfigError, explain

PLACEHOLDER = re.compile(r"\{(stores|prompts)\.([\w-]+)\}")


class Table(BaseModel):
    """A frozen table that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MethodRow(Table):
    """One line of the result table: a label and the configuration behind it."""

    label: str
    config: dict[str, Any]


class HardPrompt(Table):
    """A prompt file trained before the methods, on a store of its own; `seed` is the one whose prompts are used."""

    name: str
    store: str
    seed: int = 1
    config: dict[str, Any]


class Grid(Table):
    """What every method is run on."""

    stores: Annotated[tuple[str, ...], Field(min_length=1)]
    protocols: tuple[str, ...] = ("base-to-new",)
    shots: tuple[int, ...] = (16,)


class Suite(Table):
    """A whole comparison."""

    title: str
    command: str = "python -m benchmarks run SUITE.toml"
    shows: str
    cost: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    baseline: str
    stores: dict[str, str]
    world_seed: int | None = None
    hard_prompts: tuple[HardPrompt, ...] = ()
    methods: Annotated[tuple[MethodRow, ...], Field(min_length=1)]
    grid: Grid

    @model_validator(mode="after")
    def _names_exist(self) -> Suite:
        problems = [f"grid.stores: no store {name!r}" for name in self.grid.stores if name not in self.stores]
        problems += [
            f"hard_prompts.{p.name}: no store {p.store!r}" for p in self.hard_prompts if p.store not in self.stores
        ]
        labels = [row.label for row in self.methods]
        problems += [
            f"methods: the label {label!r} stands twice" for label in sorted({x for x in labels if labels.count(x) > 1})
        ]
        if self.baseline not in labels:
            problems.append(f"baseline: no method is labelled {self.baseline!r}; there are {', '.join(labels)}")
        known = {"stores": set(self.stores), "prompts": {prompt.name for prompt in self.hard_prompts}}
        for row in self.methods:
            for kind, name in PLACEHOLDER.findall(repr(row.config)):
                if name not in known[kind]:
                    problems.append(f"methods.{row.label}: {{{kind}.{name}}} stands for nothing in this suite")
        if problems:
            raise ValueError("; ".join(problems))
        return self


@dataclass(frozen=True)
class Cell:
    """One training: a method on a store under a protocol with K shots, all seeds together.

    Attributes:
        name: its folder below the suite's results, unique in the suite.
        kind: "prompts" for hard prompts that others wait for, else "method".
        given: the tables it was given, placeholders filled; `config` is what they resolve to.
    """

    name: str
    kind: str
    label: str
    store: str
    protocol: str
    shots: int
    given: Mapping[str, Any]
    config: TrainConfig


def load_suite(path: str | Path) -> Suite:
    """The suite of a TOML file.

    Raises:
        ConfigError: a file that is missing, no TOML, or holds what a suite does not know; all problems in one message.
    """
    try:
        return Suite.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(explain("no such suite", where=path, fix="ls benchmarks/suites")) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(explain("this suite is not TOML", where=path, got=error)) from None
    except ValidationError as error:
        problems = "".join(f"\n    {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(explain("this suite cannot be run", where=path, got=problems)) from None


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes: a folder's name for a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cells(suite: Suite, *, out: Path, data: Path) -> list[Cell]:
    """Every training of the suite in the order of need: hard prompts first.

    Args:
        out: folder of the suite's results; a cell's run folder is `out / "cells" / name`.
        data: folder that relative store paths are relative to.

    Raises:
        ConfigError: when a method's configuration is not valid; all methods' problems in one message.
    """
    folder = out / "cells"
    places = {f"stores.{name}": str(data / path) for name, path in suite.stores.items()}
    for prompt in suite.hard_prompts:
        places[f"prompts.{prompt.name}"] = str(prompt_file(folder / f"prompts-{slug(prompt.name)}", prompt.seed))
    made: list[Cell] = []
    problems: list[str] = []
    for draft in _drafts(suite):
        given = _fill(
            merge(draft.given, {"store": f"{{stores.{draft.store}}}", "out": str(folder / draft.name)}), places
        )
        try:
            config = resolve(given)
        except ConfigError as error:
            problems.append(f"{draft.label}: {error}")
        else:
            made.append(
                Cell(draft.name, draft.kind, draft.label, draft.store, draft.protocol, draft.shots, given, config)
            )
    if problems:
        raise ConfigError("\n".join(problems))
    return made


def prompt_file(run_folder: Path, seed: int) -> Path:
    """Where a training of one setting leaves the prompts of one seed."""
    return run_folder / f"seed{seed}" / "prompt.safetensors"


@dataclass(frozen=True)
class _Draft:
    name: str
    kind: str
    label: str
    store: str
    protocol: str
    shots: int
    given: dict[str, Any]


def _drafts(suite: Suite) -> Iterator[_Draft]:
    for prompt in suite.hard_prompts:
        given = merge(prompt.config, {"seeds": [prompt.seed]})
        shots = int(given.get("protocol", {}).get("shots", 16))
        protocol = str(given.get("protocol", {}).get("name", "base-to-new"))
        yield _Draft(f"prompts-{slug(prompt.name)}", "prompts", prompt.name, prompt.store, protocol, shots, given)
    for row, store, protocol, shots in itertools.product(
        suite.methods, suite.grid.stores, suite.grid.protocols, suite.grid.shots
    ):
        given = merge(row.config, {"seeds": list(suite.seeds), "protocol": {"name": protocol, "shots": shots}})
        yield _Draft(
            f"{slug(row.label)}-{store}-{protocol}-{shots}", "method", row.label, store, protocol, shots, given
        )


def _fill(value: Any, places: Mapping[str, str]) -> Any:
    """`value` with every placeholder replaced by the path it stands for."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: places[f"{match[1]}.{match[2]}"], value)
    if isinstance(value, Mapping):
        return {key: _fill(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, places) for item in value]
    return value
