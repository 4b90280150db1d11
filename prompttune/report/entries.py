"""Results folder -> lines that may stand in one table: same videos, same classes, same protocol, same shots."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prompttune.errors import RunFolderError, explain
from prompttune.evaluation.results import RESULT, CellResult, Result, RunResult

HARD_PROMPT_CELL = "prompts-"  # how the runner's folders of hard prompts begin, which are no line of the table


@dataclass(frozen=True)
class Entry:
    """One line of a table: runs of one method that differ in their seed alone.

    Attributes:
        label: its name in tables, unique among those it is compared with.
        folder: the run folder, holding a folder per run.
        result: everything that `result.json` says.
        cell: the numbers over its runs.
        runs: one per seed; a method that trains nothing has one.
        against: label of the line that its suite sets it against; empty for the comparison's baseline.
    """

    label: str
    folder: Path
    result: Result
    cell: CellResult
    runs: tuple[RunResult, ...]
    against: str = ""

    @property
    def is_trained(self) -> bool:
        """Whether training videos were looked at, so that its seed means anything."""
        return any(run.n_train > 0 for run in self.runs)

    @property
    def shots(self) -> int:
        return int(self.result.config.get("protocol", {}).get("shots") or 0)

    @property
    def n_parameters(self) -> int:
        return self.runs[0].n_parameters

    @property
    def seconds(self) -> float:
        """Wall clock of training per seed, evaluation left out."""
        return sum(run.train_seconds / run.runs_together for run in self.runs) / len(self.runs)


@dataclass(frozen=True)
class Group:
    """Entries that are compared: they were tested on the same videos among the same classes.

    Attributes:
        store: name of the store, without its ending; with folders before it where several stores have that name.
        path: the store's, as its results name it.
        model: the backbone's name and weights.
        protocol: how videos were split.
        shots: training videos per class; 0 where the protocol has none.
        classes: class names by test set.
        entries: in the order of the suite, else of the folders.
        tested_on: beginning of a hash over the test videos, where another group of that title has others; else empty.
    """

    store: str
    path: Path
    model: str
    protocol: str
    shots: int
    classes: dict[str, tuple[str, ...]]
    entries: tuple[Entry, ...]
    tested_on: str = ""

    @property
    def title(self) -> str:
        return f"{self.store}: {self.setting}" + (f", test videos {self.tested_on}" if self.tested_on else "")

    @property
    def setting(self) -> str:
        """Protocol and shots, in words."""
        return f"{self.protocol}, {self.shots} shots" if self.shots else self.protocol

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the accuracies, test sets before the harmonic mean."""
        names = dict.fromkeys(name for entry in self.entries for run in entry.runs for name in run.metrics)
        return tuple(sorted(names, key=lambda name: name == "harmonic_mean"))

    @property
    def main_metric(self) -> str:
        """What differences are taken of: the harmonic mean, else the accuracy on the first test set."""
        return self.metrics[-1] if self.metrics[-1] == "harmonic_mean" else self.metrics[0]


def read_groups(results: str | Path) -> list[Group]:
    """Every finished result at or below a folder, sorted into what may be compared.

    Args:
        results: a suite's results folder (`cells/NAME/result.json`), a folder of such folders, or any folder that run
            folders are in.

    Raises:
        RunFolderError: no result there, or one that cannot be read.
    """
    root = Path(results)
    paths = sorted(root.rglob(RESULT)) if root.is_dir() else []
    paths = [path for path in paths if not path.parent.name.startswith(HARD_PROMPT_CELL)]
    if not paths:
        raise RunFolderError(
            explain(
                "there are no finished runs here",
                where=root,
                expected="a folder that holds run folders, each with a result.json",
                fix="python -m benchmarks run SUITE.toml, or prompttune train ... --out below this folder",
            )
        )
    suites = {path: _suite_above(path, root) for path in paths}
    entries = [entry for path, suite in suites.items() for entry in _entries(path.parent, suite)]
    labels = dict.fromkeys(label for suite in suites.values() for label in suite.labels)
    order = {label: place for place, label in enumerate(labels)}
    entries.sort(key=lambda entry: (order.get(entry.label, len(order)), entry.is_trained))
    return _with_tests_apart(_with_stores_apart(_groups(entries)))


def slug(text: str) -> str:
    """Lower-case letters, digits and dashes: a folder's name for a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True)
class SuiteTable:
    """What the `table.json` of a suite's results folder says.

    Attributes:
        title: the suite's own; empty when it was no suite.
        labels: of its methods, in its order.
        against: by label, the label of the line that it is set against.
    """

    title: str = ""
    labels: tuple[str, ...] = ()
    against: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> SuiteTable:
        """The folder's; an empty one when no suite was run into it."""
        try:
            document = json.loads((folder / "table.json").read_text(encoding="utf-8"))
            labels = dict.fromkeys(str(row[0]) for row in document["rows"])
            return cls(str(document["title"]), tuple(labels), dict(document.get("against", {})))
        except (OSError, ValueError, KeyError, IndexError, TypeError):
            return cls()


def suite_title(root: Path) -> str:
    """The suite's own title, else the folder's name."""
    return SuiteTable.read(root).title or f"Results in {root.resolve().name}"


def _suite_above(path: Path, root: Path) -> SuiteTable:
    """The suite that a result belongs to: of the nearest folder that has a table, no higher than `root`."""
    folders = [folder for folder in path.parents if folder.is_relative_to(root)]
    return next((found for folder in folders if (found := SuiteTable.read(folder)).labels), SuiteTable())


def _entries(folder: Path, suite: SuiteTable) -> Iterable[Entry]:
    result = Result.read(folder)
    # The runner names a cell's folder SLUG-STORE-PROTOCOL-SHOTS; of two labels that fit, the longer is meant.
    fitting = [label for label in suite.labels if folder.name.startswith(f"{slug(label)}-")]
    name = max(fitting, key=len) if fitting else result.method_name
    for cell in result.cells:
        axes = " ".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in cell.overrides.items())
        runs = tuple(run for run in result.runs if run.overrides == cell.overrides)
        yield Entry(f"{name} {axes}".strip(), folder, result, cell, runs, suite.against.get(name, ""))


def _groups(entries: Sequence[Entry]) -> list[Group]:
    tested: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        tested.setdefault(_tested_on(entry), []).append(entry)
    groups = []
    for members in tested.values():
        shots = sorted({entry.shots for entry in members if entry.is_trained}) or [members[0].shots]
        groups += [_group(_at_shots(members, n), n) for n in shots]
    return groups


def _tested_on(entry: Entry) -> tuple[object, ...]:
    result = entry.result
    classes = tuple((name, tuple(names)) for name, names in sorted(result.classes.items()))
    return (result.store.fingerprint, result.store.path, result.protocol, classes, _test_videos(entry))


def _test_videos(entry: Entry) -> tuple[str, ...]:
    """Hashes of the videos of the test sets, which all runs of an entry share: its split file or its draw decides."""
    return tuple(test.videos_sha256 for _, test in sorted(entry.runs[0].tests.items()))


def _at_shots(members: Sequence[Entry], shots: int) -> list[Entry]:
    """The entries at K shots; what trains nothing stands in every table, once: a suite tests it at every K."""
    untrained = {_answer(entry): entry for entry in members if not entry.is_trained}
    untrained |= {_answer(entry): entry for entry in members if not entry.is_trained and entry.shots == shots}
    kept = [entry for entry in members if entry.is_trained and entry.shots == shots]
    return [entry for entry in members if entry in kept or untrained.get(_answer(entry)) is entry]


def _answer(entry: Entry) -> tuple[str, str]:
    """What makes two entries that train nothing one: their label and, to the last bit, what they were tested to give.
    Zero-shot CLIP under two templates is two entries.
    """
    return entry.label, repr([run.tests for run in entry.runs])


def _group(entries: Sequence[Entry], shots: int) -> Group:
    first = entries[0].result
    has_shots = first.protocol in ("base-to-new", "few-shot")
    return Group(
        store=Path(first.store.path).stem,
        path=Path(first.store.path),
        model=first.store.model,
        protocol=first.protocol,
        shots=shots if has_shots else 0,
        classes={name: tuple(names) for name, names in first.classes.items()},
        entries=tuple(_distinct(entries)),
    )


def _with_stores_apart(groups: Sequence[Group]) -> list[Group]:
    """Groups whose titles differ: folders before the names of stores that are called alike."""
    paths = {group.title: set[Path]() for group in groups}
    for group in groups:
        paths[group.title].add(group.path)
    return [replace(group, store=_short_name(group.path, paths[group.title])) for group in groups]


def _with_tests_apart(groups: Sequence[Group]) -> list[Group]:
    """Groups whose titles differ: hashes behind those that differ in their test videos or classes alone."""
    titles = [group.title for group in groups]
    return [
        replace(group, tested_on=_tests_hash(group)) if titles.count(group.title) > 1 else group for group in groups
    ]


def _tests_hash(group: Group) -> str:
    content = json.dumps([sorted(group.classes.items()), _test_videos(group.entries[0])])
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:6]


def _short_name(path: Path, alike: Iterable[Path]) -> str:
    """The fewest last parts of a path that tell it from the others, without its ending."""
    parts = path.with_suffix("").parts
    others = [other.with_suffix("").parts for other in alike if other != path]
    n_parts = next((n for n in range(1, len(parts)) if all(other[-n:] != parts[-n:] for other in others)), len(parts))
    return "/".join(parts[-n_parts:])


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with labels that differ: the folder's name is added to those that do not."""
    labels = [entry.label for entry in entries]
    return [
        replace(entry, label=f"{entry.label} ({entry.folder.name})") if labels.count(entry.label) > 1 else entry
        for entry in entries
    ]
