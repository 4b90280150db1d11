"""What a plug study found, for the pages: effects with their intervals, and every line of a search.

The unit of chance is the world. Every arm has the same seeds in every world, so the mean over seeds of a world's paired
differences is one number per world, and the t test over worlds is the exact test of the intercept of the balanced mixed
model `difference ~ 1 + (1 | world)`; seeds within a world are no further evidence about other worlds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence import METRICS, grid_of, rounded
from benchmarks.plug import ALONE, PlugStudy, Settings, final_rows, plug_trials, read_scores
from prompttune.report.statistics import Difference, holm, paired_difference

SHORT = dict(zip(METRICS, ("base", "new", "HM"), strict=True))
Found = Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]  # label -> world -> metric -> a number per seed


def effects(study: PlugStudy, found: Found) -> Iterator[tuple[str, str, str, Difference]]:
    """(host, arm, metric, effect) of every arm beside the host alone; the host "all" is the mean over its hosts.

    Each effect is the mean over worlds, with the t interval of the worlds' means.
    """
    for arm in study.all_arms:
        hosts = [host.label for host in study.hosts if arm in study.arms(host)]
        for metric in METRICS:
            by_host = {host: _by_world(found, f"{host}, {arm}", f"{host}, {ALONE}", metric) for host in hosts}
            for host, by_world in by_host.items():
                yield host, arm, metric, paired_difference(by_world.tolist())
            yield "all", arm, metric, paired_difference(np.mean(list(by_host.values()), axis=0).tolist())


def _by_world(found: Found, label: str, against: str, metric: str) -> NDArray[np.float64]:
    """[worlds]: each world's mean over seeds of the paired differences."""
    worlds = found[label]
    return np.array([np.mean(np.subtract(worlds[w][metric], found[against][w][metric])) for w in worlds])


def write_search(study: PlugStudy, settings: Settings, *, out: Path, data: Path, path: Path) -> dict[str, Any]:
    """What a search found: every setting of every host with its mean over worlds and seeds, the best first.

    Each line has the paired differences to the first host alone, over worlds.
    """
    rows = plug_trials(study, settings)
    found = read_scores(study, "plugs", rows, out=out, data=data)
    baseline = f"{study.hosts[0].label}, {ALONE}"
    lines = [
        {
            "label": row["label"],
            **{metric: float(np.mean([by[metric] for by in found[row["label"]].values()])) for metric in METRICS},
            "against_baseline": _difference(found, row["label"], baseline),
            "config": row["config"],
        }
        for row in rows
    ]
    lines.sort(key=lambda line: -float(line["harmonic_mean"]))
    document = rounded(
        {
            "title": study.title,
            "command": study.command,
            "worlds": study.tuning_worlds,
            "tuned_on": study.tuned_on,
            "seeds": study.trial_seeds,
            "baseline": baseline,
            "settings": vars(settings),
            "lines": lines,
        }
    )
    document["readme"] = _search_table(study, document)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return document


def _difference(found: Found, label: str, against: str) -> dict[str, dict[str, Any]]:
    """metric -> the paired difference over worlds, and each world's own."""
    by_metric = {metric: _by_world(found, label, against, metric).tolist() for metric in METRICS}
    return {metric: {**vars(paired_difference(values)), "by_world": values} for metric, values in by_metric.items()}


def write_record(study: PlugStudy, settings: Settings, *, out: Path, data: Path, path: Path) -> dict[str, Any]:
    """The result: scores, effects with intervals and Holm's p over hosts, and what tuning chose."""
    found = read_scores(study, "final", final_rows(study, settings), out=out, data=data)
    lines = [
        {"host": host, "arm": arm, "metric": metric, **vars(effect)}
        for host, arm, metric, effect in effects(study, found)
    ]
    for arm in study.all_arms:
        for metric in METRICS:
            tested = [x for x in lines if (x["arm"], x["metric"]) == (arm, metric) and x["host"] != "all"]
            for line, p in zip(tested, holm([line["p"] for line in tested]), strict=True):
                line["p_holm"] = p
    document = rounded(
        {
            "title": study.title,
            "command": study.command,
            "worlds": study.worlds,
            "seeds": study.seeds,
            "settings": vars(settings),
            "no_place": {host.label: [*host.without, host.reason] for host in study.hosts if host.without},
            "scores": {label: {str(w): by for w, by in worlds.items()} for label, worlds in found.items()},
            "effects": lines,
        }
    )
    document["readme"] = _table(study, document) if study.all_arms else _table_of_scores(study, document)
    beside = {"means": _table_of_means(study, document)} if study.all_arms else {}
    if study.pairs:
        pairs = [{"label": a, "against": b, "difference": _difference(found, a, b)} for a, b in study.pairs]
        document["pairs"] = rounded(pairs)
        beside["pairs"] = _table_of_pairs(study, document)
    for name, content in {"": document, **{f"_{of}": {"readme": table} for of, table in beside.items()}}.items():
        path.with_name(f"{path.stem}{name}.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return document


def _table(study: PlugStudy, document: Mapping[str, Any]) -> dict[str, Any]:
    def alone(host: str, metric: str) -> str:
        scores = document["scores"][f"{host}, {ALONE}"].values()
        return f"{100 * np.mean([np.mean(by[metric]) for by in scores]):.1f}"

    gains = _gains(document)
    rows = [
        [host.label, SHORT[metric], alone(host.label, metric)]
        + [gains.get((host.label, arm, metric), "no place") for arm in study.all_arms]
        for host in study.hosts
        for metric in METRICS
    ]
    return {
        "columns": ["host", "accuracy", "alone", *(f"+ {arm}" for arm in study.all_arms)],
        "rows": rows,
        "note": f"{_gained(study)}, each for itself; p values after Holm over hosts are in "
        f"benchmarks/results/{study.record}.json. A plug has one setting for all hosts.",
        "command": study.command,
    }


def _table_of_scores(study: PlugStudy, document: Mapping[str, Any]) -> dict[str, Any]:
    def cell(by_world: Mapping[str, Mapping[str, Sequence[float]]], metric: str) -> str:
        worlds = [100 * float(np.mean(by[metric])) for by in by_world.values()]
        return f"{np.mean(worlds):.1f} ({', '.join(f'{value:.1f}' for value in worlds)})"

    return {
        "columns": ["method", *SHORT.values()],
        "rows": [
            [label.removesuffix(f", {ALONE}"), *(cell(by_world, metric) for metric in METRICS)]
            for label, by_world in document["scores"].items()
        ],
        "note": f"Top-1 in per cent: the mean over {len(study.worlds)} worlds and {len(study.seeds)} seeds, and each "
        "world's.",
        "command": study.command,
    }


def _table_of_means(study: PlugStudy, document: Mapping[str, Any]) -> dict[str, Any]:
    gains = _gains(document)
    rows = [[f"+ {arm}", *(gains["all", arm, metric] for metric in METRICS)] for arm in study.all_arms]
    return {
        "columns": ["mean over hosts", *SHORT.values()],
        "rows": rows,
        "note": f"{_gained(study)}; {len(study.hosts)} hosts, of which an arm leaves out those without a place for it.",
        "command": study.command,
    }


def _search_table(study: PlugStudy, document: Mapping[str, Any]) -> dict[str, Any]:
    several = any(len(grid_of(plug.search)) > 1 for plug in study.plugs.values())
    rows = [
        [
            line["label"].removesuffix(f", {ALONE}").removesuffix("" if several else " 0"),
            *(f"{100 * line[metric]:.1f}" for metric in METRICS),
            *(_points(line["against_baseline"][metric]) for metric in METRICS[1:]),
        ]
        for line in document["lines"]
    ]
    baseline, n_worlds = study.hosts[0].label, len(study.tuning_worlds)
    return {
        "columns": ["trained with", *SHORT.values(), f"new minus {baseline}", f"HM minus {baseline}"],
        "rows": rows,
        "note": f"Top-1 in per cent, means over {_n_of(n_worlds, 'world')}, each the mean of its "
        f"{' and '.join(study.tuned_on)} set, and {_n_of(len(study.trial_seeds), 'seed')}"
        + ("; a number behind a name is the place of its setting in the file" if several else "")
        + (". Differences with 95 % t intervals over worlds, each for itself." if n_worlds > 1 else "."),
        "command": study.command,
    }


def _n_of(count: int, name: str) -> str:
    return f"{count} {name}" + ("s" if count != 1 else "")


def _table_of_pairs(study: PlugStudy, document: Mapping[str, Any]) -> dict[str, Any]:
    rows = [
        [
            pair["label"].removesuffix(f", {ALONE}"),
            pair["against"].removesuffix(f", {ALONE}"),
            *(_points(pair["difference"][metric]) for metric in METRICS),
            f"{100 * min(pair['difference']['new']['by_world']):+.1f}",
        ]
        for pair in document["pairs"]
    ]
    return {
        "columns": ["method", "minus", *SHORT.values(), "new, worst world"],
        "rows": rows,
        "note": f"Points: means over {len(study.worlds)} worlds of differences paired by seed ({len(study.seeds)} "
        "seeds), with 95 % t intervals over worlds, each for itself.",
        "command": study.command,
    }


def _gains(document: Mapping[str, Any]) -> dict[tuple[str, str, str], str]:
    """Each effect in points with its interval, by host, arm and metric."""
    return {(line["host"], line["arm"], line["metric"]): _points(line) for line in document["effects"]}


def _points(difference: Mapping[str, Any]) -> str:
    mean, low, high = (
        None if difference[key] is None else f"{100 * difference[key]:+.1f}" for key in ("mean", "low", "high")
    )
    return f"{mean}" if low is None else f"{mean} [{low}, {high}]"


def _gained(study: PlugStudy) -> str:
    return (
        f"Points gained over the host alone, HM the harmonic mean of base and new: means over {len(study.worlds)} "
        f"worlds of differences paired by seed ({len(study.seeds)} seeds), with 95 % t intervals over worlds"
    )
