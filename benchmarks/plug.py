"""Plug-and-play, over several worlds: every host alone, with anchors, with coupling, with both.

    hosts' trials -> each host's settings -> the plug's trials, one setting for all hosts -> all arms on every target

Everything is chosen on the worlds' *other* data sets: a host's settings when it runs alone, then one setting of each
plug by its mean gain over hosts and worlds. The targets' test videos are looked at once, by the chosen settings. While
tuning, target and other data set change places. A study may tune on further worlds instead, whose targets it then may
look at, since they are nobody's target.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from rich.console import Console

from benchmarks.evidence import METRICS, SearchedMethod, grid_of, require_whole, with_settings
from benchmarks.runner import RunOptions, run_suite
from benchmarks.suite import HardPrompt, Suite, Table, cells, read_table
from prompttune.base.console import plain_console
from prompttune.config.train_config import merge
from prompttune.evaluation.results import Result

RESULTS = Path(__file__).parent / "results"
SETTINGS = "settings.json"
ALONE, BOTH = "alone", "both"
LOCALLY = RunOptions()


class Plug(Table):
    """What is added to a host, and the few settings that its one setting for all hosts is chosen from."""

    config: dict[str, Any]
    search: dict[str, list[Any]] = Field(default_factory=dict)


class Host(SearchedMethod):
    """A method that the plugs are added to; `without` names plugs that it has no place for, and `reason` why."""

    without: tuple[str, ...] = ()
    reason: str = ""


class PlugStudy(Table):
    """The whole comparison; `stores` are relative to a world's folder `worldN`.

    `record` names the result in `benchmarks/results`. `together`: an arm with all plugs at once. `until = "plugs"` is a
    search: it ends with the trials on the other data sets and looks at no target. `tuned_on`: the data sets of each
    tuning world that settings are chosen on. Hard prompts of the store `other` are of the target while tuning; those of
    further stores stay what they are. `pairs`: arms of any two hosts, "HOST, ARM", that the record sets side by side.
    """

    title: str
    record: str = "plug"
    together: bool = True
    until: Literal["plugs", "final"] = "final"
    command: str
    shows: str
    cost: str
    worlds: Annotated[tuple[int, ...], Field(min_length=3)]
    tuning_worlds: Annotated[tuple[int, ...], Field(min_length=1)]
    seeds: Annotated[tuple[int, ...], Field(min_length=3)]
    trial_seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    trials: Annotated[int, Field(ge=1)]
    shots: Annotated[int, Field(ge=1)] = 16
    target: str = "target"
    other: str = "other"
    tuned_on: Annotated[tuple[str, ...], Field(min_length=1)] = ("other",)
    stores: dict[str, str]
    shared: dict[str, Any] = Field(default_factory=dict)
    hard_prompts: tuple[HardPrompt, ...] = ()
    plugs: dict[str, Plug] = Field(default_factory=dict)
    hosts: Annotated[tuple[Host, ...], Field(min_length=1)]
    pairs: tuple[tuple[str, str], ...] = ()

    @model_validator(mode="after")
    def _is_fair(self) -> PlugStudy:
        short = [host.label for host in self.hosts if host.search and len(grid_of(host.search)) < self.trials]
        if short:
            raise ValueError(f"every searched host needs at least trials = {self.trials} settings: {short}")
        if self.target in self.tuned_on and (seen := sorted(set(self.tuning_worlds) & set(self.worlds))):
            raise ValueError(f"tuned_on names the target of worlds that are compared: {seen}")
        if self.tuned_on != (self.other,) and any(prompt.store == self.other for prompt in self.hard_prompts):
            raise ValueError(f"hard prompts change places with the data set {self.other!r}: tuned_on that alone")
        if unplugged := sorted({name for host in self.hosts for name in host.without} - set(self.plugs)):
            raise ValueError(f"hosts go without plugs that there are not: {unplugged}")
        labels = [f"{host.label}, {arm}" for host in self.hosts for arm in self.arms(host)]
        if unknown := sorted({label for pair in self.pairs for label in pair} - set(labels)):
            raise ValueError(f"pairs name arms that there are not: {unknown}; there are {labels}")
        return self

    @property
    def all_arms(self) -> tuple[str, ...]:
        """What hosts may be run with beside alone."""
        return (*self.plugs, *((BOTH,) if self.together else ()))

    def arms(self, host: Host) -> tuple[str, ...]:
        """What the host is run with: alone, each plug it has a place for, and both."""
        fitting = [name for name in self.plugs if name not in host.without]
        return (ALONE, *fitting, *((BOTH,) if self.together and len(fitting) == len(self.plugs) else ()))


@dataclass(frozen=True)
class Settings:
    """What tuning chose.

    Attributes:
        hosts: by label, each host's settings when it runs alone: dotted key -> value.
        plugs: by plug, its settings for all hosts.
    """

    hosts: Mapping[str, Mapping[str, Any]]
    plugs: Mapping[str, Mapping[str, Any]]


Scores = dict[str, dict[int, NDArray[np.float64]]]  # label -> world -> harmonic mean of each seed


def load_study(path: str | Path) -> PlugStudy:
    """The study of a TOML file.

    Raises:
        ConfigError: no such file, no TOML, or keys that it does not have; all problems in one message.
    """
    return read_table(path, PlugStudy, what="plug study")


def run_study(
    study: PlugStudy, *, out: Path, data: Path, console: Console | None = None, options: RunOptions = LOCALLY
) -> Settings:
    """Tunes hosts, then plugs, then runs every arm on every world's target; the same call resumes.

    Args:
        out: gets `hosts/worldN`, `plugs/worldN` and `final/worldN`, each a suite's results folder, and settings.json.
        data: holds `worldN/STORE.zarr`, as `python -m benchmarks worlds` leaves them.

    Raises:
        ConfigError: a training that failed, with the place of its error.
    """
    console = console or plain_console()
    chosen = {host.label: settings_of(study, host)[0] for host in study.hosts}
    if study.trials > 1:
        scores = _run(study, "hosts", host_trials(study), out=out, data=data, console=console, options=options)
        for host in study.hosts:
            settings = settings_of(study, host)
            found = [_mean(scores[f"{host.label}, trial {place}"]) for place in range(len(settings))]
            chosen[host.label] = settings[int(np.argmax(found))]
    plugs = {name: grid_of(plug.search)[0] for name, plug in study.plugs.items()}
    if study.until == "plugs" or any(len(grid_of(plug.search)) > 1 for plug in study.plugs.values()):
        rows = plug_trials(study, Settings(chosen, {}))
        scores = _run(study, "plugs", rows, out=out, data=data, console=console, options=options)
        plugs = {name: _best_plug(study, name, plug, scores) for name, plug in study.plugs.items()}
    settings_found = Settings(chosen, plugs)
    out.mkdir(parents=True, exist_ok=True)
    (out / SETTINGS).write_text(json.dumps(vars(settings_found), indent=1, ensure_ascii=False) + "\n")
    if study.until == "final":
        _run(study, "final", final_rows(study, settings_found), out=out, data=data, console=console, options=options)
    return settings_found


def settings_of(study: PlugStudy, host: Host) -> list[dict[str, Any]]:
    """The host's trials: `study.trials` settings of its grid, drawn without replacement by a fixed seed."""
    grid = grid_of(host.search)
    return [grid[place] for place in sorted(np.random.default_rng(0).permutation(len(grid))[: study.trials])]


def host_trials(study: PlugStudy) -> list[dict[str, Any]]:
    """Rows of the first stage: every host alone with each of its settings."""
    return [
        {"label": f"{host.label}, trial {place}", "config": with_settings(host.config, settings)}
        for host in study.hosts
        for place, settings in enumerate(settings_of(study, host))
    ]


def plug_trials(study: PlugStudy, chosen: Settings) -> list[dict[str, Any]]:
    """Rows of the second stage: every host as tuned, alone and with each setting of each plug it has a place for."""
    rows = []
    for host in study.hosts:
        base = with_settings(host.config, chosen.hosts[host.label])
        rows.append({"label": f"{host.label}, {ALONE}", "config": base})
        rows += [
            {
                "label": f"{host.label}, {name} {place}",
                "config": with_settings(merge(base, plug.config), settings),
                "against": f"{host.label}, {ALONE}",
            }
            for name, plug in study.plugs.items()
            if name not in host.without
            for place, settings in enumerate(grid_of(plug.search))
        ]
    return rows


def final_rows(study: PlugStudy, chosen: Settings) -> list[dict[str, Any]]:
    """Rows of the comparison: hosts x arms."""
    rows = []
    for host in study.hosts:
        for arm in study.arms(host):
            config = with_settings(host.config, chosen.hosts[host.label])
            for name, plug in study.plugs.items():
                if arm in (name, BOTH):
                    config = with_settings(merge(config, plug.config), chosen.plugs[name])
            row = {"label": f"{host.label}, {arm}", "config": config}
            rows.append(row if arm == ALONE else row | {"against": f"{host.label}, {ALONE}"})
    return rows


def suite_of(study: PlugStudy, stage: str, world: int, rows: Sequence[Mapping[str, Any]]) -> Suite:
    """One stage in one world; in all but the last, target and other data set change places."""
    stores, source = ((study.target,), study.other) if stage == "final" else (study.tuned_on, study.target)
    shared = {"protocol": {"shots": study.shots}, **study.shared}
    return Suite.model_validate(
        {
            "title": f"{study.title}: {stage}, world {world}",
            "command": study.command,
            "shows": study.shows,
            "cost": study.cost,
            "seeds": list(study.seeds if stage == "final" else study.trial_seeds),
            "baseline": rows[0]["label"],
            "stores": {name: f"world{world}/{path}" for name, path in study.stores.items()},
            "hard_prompts": [
                {
                    **prompt.model_dump(),
                    "store": source if prompt.store == study.other else prompt.store,
                    "config": merge(shared, prompt.config),
                }
                for prompt in study.hard_prompts
            ],
            "methods": [{**row, "config": merge(study.shared, row["config"])} for row in rows],
            "grid": {"stores": list(stores), "shots": [study.shots]},
        }
    )


def _run(
    study: PlugStudy, stage: str, rows: Sequence[Mapping[str, Any]], *, out: Path, data: Path, console: Console,
    options: RunOptions,
) -> Scores:  # fmt: skip
    for world in study.worlds if stage == "final" else study.tuning_worlds:
        folder = out / stage / f"world{world}"
        suite = suite_of(study, stage, world, rows)
        require_whole(run_suite(suite, out=folder, data=data, console=console, options=options), folder)
    return {
        label: {world: np.array(by_metric["harmonic_mean"]) for world, by_metric in found.items()}
        for label, found in read_scores(study, stage, rows, out=out, data=data).items()
    }


def read_scores(
    study: PlugStudy, stage: str, rows: Sequence[Mapping[str, Any]], *, out: Path, data: Path
) -> dict[str, dict[int, dict[str, list[float]]]]:
    """label -> world -> metric -> a number per seed, in the seeds' order: the mean over the data sets of the stage."""
    found: dict[str, dict[int, dict[str, list[float]]]] = {}
    for world in study.worlds if stage == "final" else study.tuning_worlds:
        suite = suite_of(study, stage, world, rows)
        by_label: dict[str, list[NDArray[np.float64]]] = {}
        for cell in cells(suite, out=out / stage / f"world{world}", data=data):
            if cell.kind == "method":
                by_label.setdefault(cell.label, []).append(_of_seeds(Result.read(cell.folder)))
        for label, of_sets in by_label.items():
            means = np.mean(of_sets, axis=0)
            found.setdefault(label, {})[world] = dict(zip(METRICS, means.tolist(), strict=True))
    return found


def _of_seeds(result: Result) -> NDArray[np.float64]:
    """[3, seeds]: base, new and their harmonic mean, in the seeds' order."""
    runs = sorted(result.runs, key=lambda run: run.seed)
    base, new = (np.array([run.metrics[metric] for run in runs]) for metric in METRICS[:2])
    return np.stack([base, new, 2 * base * new / np.maximum(base + new, np.finfo(np.float64).tiny)])


def _mean(by_world: Mapping[int, NDArray[np.float64]]) -> float:
    return float(np.mean([values.mean() for values in by_world.values()]))


def _best_plug(study: PlugStudy, name: str, plug: Plug, scores: Scores) -> dict[str, Any]:
    """The setting with the largest mean gain over the hosts that have a place for the plug."""
    settings = grid_of(plug.search)
    hosts = [host.label for host in study.hosts if name not in host.without]
    gains = [
        np.mean([_mean(scores[f"{host}, {name} {place}"]) - _mean(scores[f"{host}, {ALONE}"]) for host in hosts])
        for place in range(len(settings))
    ]
    return settings[int(np.argmax(gains))]
