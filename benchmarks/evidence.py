"""The evidence: every method tuned with the same budget on *another* data set, then compared on the target.

    trials on the tuning store -> each method's best trial -> all methods on the target, five seeds -> table, figures

A method's trials are drawn by a seed from the grid it names, as many for every method, and are judged by their mean
harmonic mean on the tuning store. The target's test videos are looked at once, by the chosen settings. While tuning,
the two data sets change places: hard prompts come from the target's training videos of base classes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator
from rich.console import Console

from benchmarks.runner import Outcome, RunOptions, run_suite
from benchmarks.suite import HardPrompt, MethodRow, Suite, Table, cells, read_table
from prompttune.base.console import plain_console
from prompttune.config.runs import nested
from prompttune.config.train_config import merge
from prompttune.errors import ConfigError, explain
from prompttune.evaluation.results import Result

if TYPE_CHECKING:
    from prompttune.report.comparison import Line
    from prompttune.report.entries import Entry

RESULT = Path(__file__).parent / "results" / "evidence.json"
LOCALLY = RunOptions()
METRICS = ("base", "new", "harmonic_mean")


class SearchedMethod(MethodRow):
    """A line of the comparison and the grid its trials are drawn from: dotted key -> values."""

    search: dict[str, list[Any]] = Field(default_factory=dict)


class Evidence(Table):
    """A comparison with tuning; `stores` names at least the target and the store that is tuned on."""

    title: str
    command: str
    shows: str
    cost: str
    seeds: Annotated[tuple[int, ...], Field(min_length=3)]
    baseline: str
    target: str
    tuned_on: str
    trials: Annotated[int, Field(ge=1)]
    trial_seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    shots: Annotated[int, Field(ge=1)] = 16
    pairs: tuple[tuple[str, str], ...] = ()
    stores: dict[str, str]
    shared: dict[str, Any] = Field(default_factory=dict)
    hard_prompts: tuple[HardPrompt, ...] = ()
    methods: Annotated[tuple[SearchedMethod, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _same_budget(self) -> Evidence:
        short = [
            f"{row.label}: {n}" for row in self.methods if row.search and (n := len(grid_of(row.search))) < self.trials
        ]
        if short:
            raise ValueError(f"every searched method needs at least trials = {self.trials} settings: {short}")
        labels = {row.label for row in self.methods}
        if unknown := sorted({label for pair in self.pairs for label in pair} - labels):
            raise ValueError(f"pairs name methods that are not compared: {unknown}")
        return self


@dataclass(frozen=True)
class Choice:
    """What tuning gave for one method.

    Attributes:
        label: the method's.
        trials: each trial's settings, dotted key -> value, and its mean harmonic mean on the tuning store.
        chosen: the place of the best trial.
    """

    label: str
    trials: tuple[tuple[dict[str, Any], float], ...]
    chosen: int

    @property
    def settings(self) -> dict[str, Any]:
        return self.trials[self.chosen][0]


def load_evidence(path: str | Path) -> Evidence:
    """The comparison a TOML file describes.

    Raises:
        ConfigError: no such file, no TOML, or keys that it does not have; all problems in one message.
    """
    return read_table(path, Evidence, what="comparison")


def run_evidence(
    evidence: Evidence, *, out: Path, data: Path, console: Console | None = None, options: RunOptions = LOCALLY
) -> list[Choice]:
    """Tunes, compares, and leaves both suites' results below `out`; the same call resumes.

    Args:
        out: gets `trials/` and `final/`, each a suite's results folder.
        data: folder that the stores are relative to.
        options: of both suites.

    Raises:
        ConfigError: a trial or a final run that failed, with the place of its error.
    """
    console = console or plain_console()
    tuning = tuning_suite(evidence)
    require_whole(run_suite(tuning, out=out / "trials", data=data, console=console, options=options), out / "trials")
    choices = choose(evidence, tuning, out=out / "trials", data=data)
    for choice in choices:
        settings = ", ".join(f"{key} = {value}" for key, value in choice.settings.items()) or "nothing to choose"
        console.print(f"{choice.label}: {settings}")
    final = final_suite(evidence, choices)
    require_whole(run_suite(final, out=out / "final", data=data, console=console, options=options), out / "final")
    return choices


def tuning_suite(evidence: Evidence) -> Suite:
    """The trials of all methods on the tuning store, hard prompts from the target."""
    rows = [
        {"label": f"{row.label}, trial {place}", "config": with_settings(row.config, settings)}
        for row in evidence.methods
        for place, settings in enumerate(trials_of(evidence, row))
    ]
    return _suite(evidence, rows, store=evidence.tuned_on, source=evidence.target, seeds=evidence.trial_seeds)


def final_suite(evidence: Evidence, choices: Sequence[Choice]) -> Suite:
    """All methods with what they chose on the target, hard prompts from the tuning store."""
    chosen = {choice.label: choice.settings for choice in choices}
    rows = [{"label": row.label, "config": with_settings(row.config, chosen[row.label])} for row in evidence.methods]
    return _suite(evidence, rows, store=evidence.target, source=evidence.tuned_on, seeds=evidence.seeds)


def _suite(
    evidence: Evidence, rows: Sequence[Mapping[str, Any]], *, store: str, source: str, seeds: Sequence[int]
) -> Suite:
    return Suite.model_validate(
        {
            "title": f"{evidence.title} ({store})",
            "command": evidence.command,
            "shows": evidence.shows,
            "cost": evidence.cost,
            "seeds": list(seeds),
            "baseline": evidence.baseline if store == evidence.target else rows[0]["label"],
            "stores": evidence.stores,
            "hard_prompts": [
                {
                    **prompt.model_dump(),
                    "store": source,
                    "config": merge({"protocol": {"shots": evidence.shots}, **evidence.shared}, prompt.config),
                }
                for prompt in evidence.hard_prompts
            ],
            "methods": [{"label": row["label"], "config": merge(evidence.shared, row["config"])} for row in rows],
            "grid": {"stores": [store], "shots": [evidence.shots]},
        }
    )


def trials_of(evidence: Evidence, row: SearchedMethod) -> list[dict[str, Any]]:
    """The method's trials: `evidence.trials` settings of its grid, drawn without replacement by a fixed seed."""
    if not row.search:
        return [{}]
    grid = grid_of(row.search)
    order = np.random.default_rng(0).permutation(len(grid))[: evidence.trials]
    return [grid[place] for place in sorted(order)]


def choose(evidence: Evidence, tuning: Suite, *, out: Path, data: Path) -> list[Choice]:
    """Each method's best trial by the mean harmonic mean over the trial seeds; the first of equals."""
    scores = {
        cell.label: Result.read(cell.config.out).cells[0].metrics["harmonic_mean"].mean
        for cell in cells(tuning, out=out, data=data)
        if cell.kind == "method"
    }
    choices = []
    for row in evidence.methods:
        settings = trials_of(evidence, row)
        found = [scores[f"{row.label}, trial {place}"] for place in range(len(settings))]
        choices.append(Choice(row.label, tuple(zip(settings, found, strict=True)), int(np.argmax(found))))
    return choices


def grid_of(search: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every setting of a grid: dotted key -> value."""
    return [dict(zip(search, values, strict=True)) for values in itertools.product(*search.values())]


def with_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with dotted keys set on top."""
    tables = dict(config)
    for key, value in settings.items():
        tables = merge(tables, nested(key, value))
    return tables


def require_whole(outcome: Outcome, folder: Path) -> None:
    """Refuses to go on from a suite in which a cell failed.

    Raises:
        ConfigError: with the first failure.
    """
    if outcome.failures:
        name, failure = next(iter(outcome.failures.items()))
        what = f"{len(outcome.failures)} cells failed"
        raise ConfigError(
            explain(what, where=folder, got=f"{name}: {failure.message}", fix="the same command tries again")
        )


def write_record(evidence: Evidence, choices: Sequence[Choice], *, out: Path, path: Path = RESULT) -> dict[str, Any]:
    """`benchmarks/results/evidence.json`: means, paired differences with intervals, and what tuning chose.

    The comparison's `pairs` go to `evidence_pairs.json` beside it.
    """
    from prompttune.report.comparison import compare
    from prompttune.report.entries import read_groups
    from prompttune.report.statistics import holm

    (group,) = read_groups(out / "final")
    comparison = compare(group, baseline=evidence.baseline)
    chosen = {choice.label: choice for choice in choices}
    lines = [_line_record(line, group.entries, settings=chosen[line.label].settings) for line in comparison.lines]
    for metric in METRICS:
        tested = [x for x in lines if x["against"].get(evidence.baseline, {}).get(metric, {}).get("p") is not None]
        adjusted = holm([x["against"][evidence.baseline][metric]["p"] for x in tested])
        for record, p in zip(tested, adjusted, strict=True):
            record["against"][evidence.baseline][metric]["p_holm"] = p
    document = {
        "title": evidence.title,
        "command": evidence.command,
        "seeds": evidence.seeds,
        "tuned_on": evidence.tuned_on,
        "trials_per_method": evidence.trials,
        "trial_seeds": evidence.trial_seeds,
        "lines": lines,
        "trials": {choice.label: [{**s, "harmonic_mean": hm} for s, hm in choice.trials] for choice in choices},
        "readme": _readme_table(evidence, lines),
    }
    document = rounded(document)
    table = {"title": evidence.title, "command": evidence.command, "readme": _pair_table(evidence, document["lines"])}
    for where, content in ((path, document), (path.with_name("evidence_pairs.json"), table)):
        where.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return document


def _line_record(line: Line, entries: Sequence[Entry], *, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the record keeps of one method: means, the anchors' gradient, differences to every other method."""
    from prompttune.report.comparison import differences
    from prompttune.report.statistics import paired_difference

    entry = line.entry
    record: dict[str, Any] = {"label": line.label, "n_parameters": entry.n_parameters}
    record |= {"seconds": round(entry.seconds, 2), "n_seeds": len(entry.runs)}
    record |= {metric: {"mean": s.mean, "std": s.std} for metric, s in line.metrics.items() if metric in METRICS}
    record["settings"] = dict(settings)
    record["anchor_gradient_share"] = anchor_gradient_share(entry.folder)
    record["against"] = {
        other.label: {
            metric: vars(paired_difference(pairs)) for metric in METRICS if (pairs := differences(entry, other, metric))
        }
        for other in entries
        if other is not entry
    }
    return record


def anchor_gradient_share(run_folder: Path) -> float | None:
    """The weighted anchor term's gradient norm as a share of cross-entropy's: the median over logged steps and seeds.

    Of several anchor terms the largest at each step, as norms do not add; None for a method without anchors.
    """
    shares = []
    for log in sorted(run_folder.glob("seed*/log.jsonl")):
        for line in log.read_text(encoding="utf-8").splitlines():
            norms = json.loads(line).get("term_gradient_norms") or {}
            anchors = [norm for name, norm in norms.items() if name.startswith("anchor-")]
            if anchors and norms["cross-entropy"] > 0:
                shares.append(max(anchors) / norms["cross-entropy"])
    return float(np.median(shares)) if shares else None


def rounded(value: Any) -> Any:
    """Numbers to six significant digits, all the way down: what differences of accuracies can carry."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value


def _in_words(difference: Mapping[str, Any], *, with_p: bool = False) -> str:
    """A difference in points with its interval, and the paired t test's p where asked for."""
    words = f"{100 * difference['mean']:+.1f}"
    if difference["low"] is not None:
        words += f" [{100 * difference['low']:+.1f}, {100 * difference['high']:+.1f}]"
    return words + (f", p = {difference['p']:.2g}" if with_p and difference["p"] is not None else "")


def _pair_table(evidence: Evidence, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    against = {line["label"]: line["against"] for line in lines}
    return {
        "columns": ["method", "minus", "base", "new", "HM"],
        "rows": [
            [one, other, *(_in_words(against[one][other][metric], with_p=True) for metric in METRICS)]
            for one, other in evidence.pairs
        ],
        "note": f"Points, paired over {len(evidence.seeds)} seeds, with 95 % t intervals and the paired t test's p, "
        "each for itself.",
        "command": evidence.command,
    }


def _readme_table(evidence: Evidence, lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def cell(record: Mapping[str, Any], metric: str) -> str:
        std = record[metric]["std"]
        return f"{100 * record[metric]['mean']:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")

    def difference(record: Mapping[str, Any], metric: str) -> str:
        found = record["against"].get(evidence.baseline, {}).get(metric)
        return _in_words(found) if found else "-"

    return {
        "columns": ["method", "base", "new", "HM", "new: difference", "HM: difference", "anchor gradient", "s / seed"],
        "rows": [
            [
                record["label"],
                *(cell(record, metric) for metric in METRICS),
                difference(record, "new"),
                difference(record, "harmonic_mean"),
                "-" if record["anchor_gradient_share"] is None else f"{record['anchor_gradient_share']:.2g}",
                f"{record['seconds']:.1f}",
            ]
            for record in lines
        ],
        "note": f"Top-1 in per cent, mean ± standard deviation over {len(evidence.seeds)} seeds; differences are "
        f"against {evidence.baseline}, paired by seed, with 95 % t intervals. Anchor gradient: norm of the weighted "
        f"term's gradient beside cross-entropy's, median over steps. Each method's settings are the best of "
        f"{evidence.trials} trials on the store `{evidence.tuned_on}`.",
        "command": evidence.command,
    }
