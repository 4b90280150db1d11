"""What a comparison is: a strict TOML file, read into frozen tables and unfolded into cells.

A suite names stores, hard prompts to be trained first, methods, and one or several grids of stores x protocols x shots;
every cell of a grid is one `prompttune` training whose seeds go together along the run axis. In values,
`{stores.NAME}` and `{prompts.NAME}` stand for the path of a store and of a prompt file that the suite trains, `{data}`
for the folder that stores are relative to.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from prompttune.config.runs import Run, expand_runs
from prompttune.config.train_config import TrainConfig, merge, resolve
from prompttune.errors import ConfigError, explain
from prompttune.report.entries import HARD_PROMPT_CELL as PROMPTS
from prompttune.report.entries import slug

PLACEHOLDER = re.compile(r"\{(stores|prompts)\.([\w-]+)\}")


class Table(BaseModel):
    """A frozen table that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


SomeTable = TypeVar("SomeTable", bound=Table)


class Resources(Table):
    """What one cell needs of a machine; a Ray cluster reserves it.

    `memory_gib` is as the plan counts it where it is not given; `gpus` is 1 for a cell whose `device` is a GPU.
    """

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] | None = None
    memory_gib: Annotated[float, Field(gt=0)] | None = None


class MethodRow(Table):
    """One line of the result table: a label and the configuration behind it.

    `against`: the label that the report sets it against where results of several data sets are read together, if it is
    not the baseline.
    """

    label: str
    config: dict[str, Any]
    against: str = ""
    resources: Resources | None = None


class HardPrompt(Table):
    """A prompt file trained before the methods, on a store of its own; `seed` is the one whose prompts are used."""

    name: str
    store: str
    seed: int = 1
    config: dict[str, Any]
    resources: Resources | None = None


class Grid(Table):
    """What methods are run on; `methods` holds labels, none for all; `config` comes on top of the methods' own."""

    name: Annotated[str, Field(pattern=r"^[\w-]*$")] = ""
    stores: Annotated[tuple[str, ...], Field(min_length=1)]
    protocols: tuple[str, ...] = ("base-to-new",)
    shots: tuple[int, ...] = (16,)
    methods: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, Mapping | Grid) else value


class Suite(Table):
    """A whole comparison; `shared` lies under every method's and hard prompt's own configuration."""

    title: str
    command: str = "python -m benchmarks run SUITE.toml"
    shows: str
    cost: str
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    baseline: str
    stores: dict[str, str]
    world_seed: int | None = None
    shared: dict[str, Any] = Field(default_factory=dict)
    resources: Resources = Resources()
    hard_prompts: tuple[HardPrompt, ...] = ()
    methods: Annotated[tuple[MethodRow, ...], Field(min_length=1)]
    grid: Annotated[tuple[Grid, ...], Field(min_length=1), BeforeValidator(_listed)]

    @model_validator(mode="after")
    def _names_exist(self) -> Suite:
        problems = [*self._store_problems(), *self._label_problems(), *self._placeholder_problems()]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _store_problems(self) -> Iterator[str]:
        named = [(f"grid.{grid.name}", name) for grid in self.grid for name in grid.stores]
        named += [(f"hard_prompts.{prompt.name}", prompt.store) for prompt in self.hard_prompts]
        yield from (f"{where}: no store {name!r}" for where, name in named if name not in self.stores)

    def _label_problems(self) -> Iterator[str]:
        labels = [row.label for row in self.methods]
        for label in sorted({x for x in labels if labels.count(x) > 1}):
            yield f"methods: the label {label!r} stands twice"
        named = [("baseline", self.baseline)] + [(f"grid.{g.name}", label) for g in self.grid for label in g.methods]
        named += [(f"methods.{row.label}.against", row.against) for row in self.methods if row.against]
        for where, label in named:
            if label not in labels:
                yield f"{where}: no method is labelled {label!r}; there are {', '.join(labels)}"
        names = [draft.name for draft in _drafts(self)]
        for name in sorted({x for x in names if names.count(x) > 1}):
            yield f"grid: the cell {name} stands twice; give one of its grids a name"

    def _placeholder_problems(self) -> Iterator[str]:
        known = {"stores": set(self.stores), "prompts": {prompt.name for prompt in self.hard_prompts}}
        tables = [("shared", self.shared), *((f"methods.{row.label}", row.config) for row in self.methods)]
        tables += [(f"hard_prompts.{prompt.name}", prompt.config) for prompt in self.hard_prompts]
        tables += [(f"grid.{grid.name}", grid.config) for grid in self.grid]
        for where, config in tables:
            for kind, name in PLACEHOLDER.findall(repr(config)):
                if name not in known[kind]:
                    yield f"{where}: {{{kind}.{name}}} stands for nothing in this suite"


@dataclass(frozen=True)
class Cell:
    """One training: a method on a store under a protocol with K shots, all seeds together.

    Attributes:
        name: its folder below the suite's results, unique in the suite.
        kind: "prompts" for hard prompts that others wait for, else "method".
        grid: name of its grid; empty for the only one.
        given: the tables it was given, placeholders filled; `config` is what they resolve to.
        needs: names of the cells whose prompt files it takes.
    """

    name: str
    kind: str
    label: str
    store: str
    protocol: str
    shots: int
    grid: str
    given: Mapping[str, Any]
    config: TrainConfig
    needs: tuple[str, ...]
    resources: Resources

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return Path(self.config.out)

    @property
    def facts(self) -> dict[str, Any]:
        """Which one it is, for rows that programs read."""
        return {"cell": self.name} | {k: getattr(self, k) for k in ("label", "store", "protocol", "shots", "grid")}

    def runs(self) -> list[Run]:
        """One per seed."""
        return expand_runs(self.given, {})


def load_suite(path: str | Path) -> Suite:
    """The suite of a TOML file.

    Raises:
        ConfigError: a file that is missing, no TOML, or holds what a suite does not know; all problems in one message.
    """
    return read_table(path, Suite, what="suite")


def read_table(path: str | Path, kind: type[SomeTable], *, what: str) -> SomeTable:
    """The table of a TOML file, as `kind` checks it.

    Args:
        what: what messages call it.

    Raises:
        ConfigError: as `load_suite`.
    """
    try:
        return kind.model_validate(tomllib.loads(Path(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ConfigError(explain(f"no such {what}", where=path, fix="ls benchmarks/suites")) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(explain(f"this {what} is not TOML", where=path, got=error)) from None
    except ValidationError as error:
        problems = "".join(f"\n    {'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise ConfigError(explain(f"this {what} cannot be run", where=path, got=problems)) from None


def cells(suite: Suite, *, out: Path, data: Path) -> list[Cell]:
    """Every training of the suite in the order of need: hard prompts first.

    Args:
        out: folder of the suite's results; a cell's run folder is `out / "cells" / name`.
        data: folder that relative store paths are relative to.

    Raises:
        ConfigError: when a method's configuration is not valid; all methods' problems in one message.
    """
    folder = out / "cells"
    places = {f"stores.{name}": path if "://" in path else str(data / path) for name, path in suite.stores.items()}
    places["data"] = str(data)
    for prompt in suite.hard_prompts:
        places[f"prompts.{prompt.name}"] = str(prompt_file(folder / f"{PROMPTS}{slug(prompt.name)}", prompt.seed))
    made: list[Cell] = []
    problems: dict[str, None] = {}
    for draft in _drafts(suite):
        given = _fill(
            merge(draft.given, {"store": f"{{stores.{draft.store}}}", "out": str(folder / draft.name)}), places
        )
        try:
            config = resolve(given)
        except ConfigError as error:
            problems[f"{draft.label}: {error}"] = None
        else:
            made.append(_cell(draft, given, config))
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
    grid: str
    given: dict[str, Any]
    resources: Resources


def _cell(draft: _Draft, given: Mapping[str, Any], config: TrainConfig) -> Cell:
    needed = [name for kind, name in PLACEHOLDER.findall(repr(draft.given)) if kind == "prompts"]
    return Cell(
        name=draft.name,
        kind=draft.kind,
        label=draft.label,
        store=draft.store,
        protocol=draft.protocol,
        shots=draft.shots,
        grid=draft.grid,
        given=given,
        config=config,
        needs=tuple(dict.fromkeys(f"{PROMPTS}{slug(name)}" for name in needed)),
        resources=draft.resources,
    )


def _drafts(suite: Suite) -> Iterator[_Draft]:
    for prompt in suite.hard_prompts:
        given = merge(merge(suite.shared, prompt.config), {"seeds": [prompt.seed]})
        protocol = {"name": "base-to-new", "shots": 16} | given.get("protocol", {})
        shots = protocol["shots"] if isinstance(protocol["shots"], int) else 0
        name, resources = f"{PROMPTS}{slug(prompt.name)}", prompt.resources or suite.resources
        yield _Draft(name, "prompts", prompt.name, prompt.store, protocol["name"], shots, "", given, resources)
    for grid in suite.grid:
        rows = [row for row in suite.methods if not grid.methods or row.label in grid.methods]
        for row, store, protocol, shots in itertools.product(rows, grid.stores, grid.protocols, grid.shots):
            placed = {"seeds": list(suite.seeds), "protocol": {"name": protocol, "shots": shots}}
            given = merge(merge(merge(suite.shared, row.config), placed), grid.config)
            name = "-".join(filter(None, (slug(row.label), store, protocol, str(shots), grid.name)))
            resources = row.resources or suite.resources
            yield _Draft(name, "method", row.label, store, protocol, shots, grid.name, given, resources)


def _fill(value: Any, places: Mapping[str, str]) -> Any:
    """`value` with every placeholder replaced by the path it stands for."""
    if isinstance(value, str):
        return PLACEHOLDER.sub(lambda match: places[f"{match[1]}.{match[2]}"], value).replace("{data}", places["data"])
    if isinstance(value, Mapping):
        return {key: _fill(item, places) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_fill(item, places) for item in value]
    return value
