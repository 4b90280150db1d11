"""Which videos train and which test, among which classes: pure functions, hashed.

Videos are known by their row in the store's index. Training videos come from rows whose split is `train`, test videos
from rows whose split is `test`. A store without splits gets a seeded, stratified draw that keeps groups together. New
classes never train, no video is in two parts, and the hash covers all that a result depends on.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from prompttune.errors import SplitError, explain, some

TRAIN_SPLIT = "train"
TEST_SPLIT = "test"


@dataclass(frozen=True)
class VideoTable:
    """The columns of a store's index that a split depends on.

    Attributes:
        ids: N unique keys.
        labels: N class names.
        splits: N of "train", "test" or "" (no split given).
        groups: N group names, "" for none; videos of one group are never on both sides of a drawn split.
        classes: the store's class names in their order.
        usable: bool [N], False for a video whose extraction failed or that the split file does not name: in no part.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    classes: tuple[str, ...]
    usable: np.ndarray

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "splits": self.splits, "groups": self.groups, "usable": self.usable}
        problems = [f"{name} has {len(column)}" for name, column in columns.items() if len(column) != len(self.ids)]
        if problems:
            raise SplitError(explain("columns of unequal length", expected=len(self.ids), got="; ".join(problems)))
        twice = [key for key, count in Counter(self.ids).items() if count > 1]
        if twice:
            raise SplitError(explain("a video id is in the table twice", got=some(twice)))
        # A video that is in no part of any split may carry any label: a split file's classes need not be the store's.
        unknown = sorted({self.labels[row] for row in np.flatnonzero(self.usable)} - set(self.classes))
        if unknown:
            raise SplitError(
                explain(
                    "labels that are not in the class list",
                    expected=f"one of {len(self.classes)} classes: {some(self.classes)}",
                    got=some(unknown),
                    fix="correct the manifest's labels or its class list, then extract again",
                )
            )


@dataclass(frozen=True)
class TestSet:
    """Videos that are only ever evaluated, and the classes they are told apart among.

    Attributes:
        name: "base", "new", "test" or the name of another store.
        videos: rows, int64 [n].
        classes: class names, the columns of the logits.
        n_listed: how many videos its split file lists, those left out included; None without a file. Not in any hash.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    name: str
    videos: np.ndarray
    classes: tuple[str, ...]
    n_listed: int | None = None

    def __repr__(self) -> str:
        return f"TestSet({self.name}: {len(self.videos)} videos of {len(self.classes)} classes)"


@dataclass(frozen=True)
class Split:
    """One run's videos; checks at birth that no video is in two parts and that only training classes train.

    Attributes:
        protocol: the protocol's name.
        classes: the classes trained on, the columns of the training logits; empty where nothing trains.
        train: rows, int64 [n].
        val: rows carved from the training shots, int64 [m].
        tests: the test sets.
        sha256: hash over the ids, labels and classes of all parts.
    """

    protocol: str
    classes: tuple[str, ...]
    train: np.ndarray
    val: np.ndarray
    tests: tuple[TestSet, ...]
    table: VideoTable = field(repr=False)

    def __post_init__(self) -> None:
        test_rows = {int(row) for test in self.tests for row in test.videos}
        parts = {"train": set(map(int, self.train)), "val": set(map(int, self.val)), "test": test_rows}
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            shared = parts[one] & parts[other]
            if shared:
                names = some([self.table.ids[row] for row in sorted(shared)])
                raise SplitError(explain(f"videos are both in {one} and in {other}", got=names))
        foreign = {self.table.labels[row] for row in parts["train"] | parts["val"]} - set(self.classes)
        if foreign:
            raise SplitError(explain("classes that must not train are in the training videos", got=some(foreign)))

    def __repr__(self) -> str:
        parts = [f"{name} {n}" for name, n in self.n_videos().items() if n]
        return f"Split({self.protocol}: {', '.join(parts)} videos; {len(self.classes)} classes train)"

    @property
    def sha256(self) -> str:
        def rows(part: Iterable[int]) -> list[list[str]]:
            return [[self.table.ids[row], self.table.labels[row]] for row in part]

        content = {
            "protocol": self.protocol,
            "classes": self.classes,
            "train": rows(self.train),
            "val": rows(self.val),
            "tests": [[test.name, test.classes, rows(test.videos)] for test in self.tests],
        }
        text = json.dumps(content, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

    def test(self, name: str) -> TestSet:
        """The test set of that name."""
        return next(test for test in self.tests if test.name == name)

    def shots(self) -> dict[str, int]:
        """How many videos of each training class train or validate."""
        counts = _counts(self.table, (*self.train, *self.val))
        return {name: counts[name] for name in self.classes}

    def n_videos(self) -> Mapping[str, int]:
        """How many videos each part has."""
        return {"train": len(self.train), "val": len(self.val)} | {t.name: len(t.videos) for t in self.tests}


def draw_splits(table: VideoTable, *, test_fraction: float, seed: int) -> VideoTable:
    """The table with its split column drawn: stratified by class, groups kept together.

    Groups (a video without one is its own) are visited in a seeded order and go to the test side as long as they bring
    the classes they hold nearer to `test_fraction`. Every class keeps at least one training group.

    Raises:
        SplitError: when the table has splits already, or a class ends with no video on one side.
    """
    _require_labels(table)
    if any(table.splits):
        raise SplitError(explain("the store has splits of its own", fix="leave protocol.test_fraction out"))
    members: dict[str, list[int]] = {}
    for row in np.flatnonzero(table.usable):
        members.setdefault(table.groups[row] or f"\0{table.ids[row]}", []).append(int(row))
    wanted = {name: count * test_fraction for name, count in _counts(table, np.flatnonzero(table.usable)).items()}
    taken: Counter[str] = Counter()
    order = sorted(members)
    np.random.default_rng(seed).shuffle(order)
    test_rows: set[int] = set()
    for group in order:
        held = Counter(table.labels[row] for row in members[group])
        gain = sum(_gain(wanted[name] - taken[name], count) for name, count in held.items())
        if gain > 0:
            test_rows.update(members[group])
            taken.update(held)
    splits = tuple(TEST_SPLIT if row in test_rows else TRAIN_SPLIT for row in range(len(table.ids)))
    drawn = VideoTable(table.ids, table.labels, splits, table.groups, table.classes, table.usable)
    empty = [
        f"{name}: {part} has none"
        for part in (TRAIN_SPLIT, TEST_SPLIT)
        for name in wanted
        if _counts(drawn, _rows(drawn, part))[name] == 0
    ]
    if empty:
        raise SplitError(
            explain(
                "classes with no video on one side of the drawn split", got=some(empty), fix="more videos or groups"
            )
        )
    return drawn


def base_to_new(
    table: VideoTable,
    *,
    shots: int | None,
    seed: int,
    val_shots: int = 0,
    up_to: bool = False,
    base_classes: Sequence[str] | None = None,
) -> Split:
    """K shots of the base classes train; base and new test videos are told apart among their own classes.

    Args:
        shots: training videos per base class, `val_shots` of them held out for validation; None for all.
        up_to: a class with fewer gives all it has.
        base_classes: the base classes; None for the first half, rounded up, of the store's class list.

    Raises:
        SplitError: a class with fewer videos than asked for, unknown base classes, no new classes.

    Source: Zhou et al. 2022 (CoCoOp), KaiyangZhou/CoOp datasets/oxford_pets.py `subsample_classes`: the first
    ceil(n/2) labels are base. There labels are sorted; here they keep the class list's order.
    """
    tests = base_and_new(table, base_classes)
    base = tests[0].classes
    train, val = draw_shots(table, base, shots=shots, val_shots=val_shots, seed=seed, up_to=up_to)
    return Split("base-to-new", base, train, val, tests, table)


def base_and_new(table: VideoTable, base_classes: Sequence[str] | None = None) -> tuple[TestSet, TestSet]:
    """The test sets "base" and "new", each among its own classes; arguments as for `base_to_new`.

    Raises:
        SplitError: unknown base classes, no base or no new classes, or no test videos of either.
    """
    _require_labels(table)
    base = tuple(base_classes) if base_classes is not None else table.classes[: (len(table.classes) + 1) // 2]
    unknown = sorted(set(base) - set(table.classes))
    if unknown:
        raise SplitError(explain("base_classes are not in the store", expected=some(table.classes), got=some(unknown)))
    base = tuple(name for name in table.classes if name in set(base))
    new = tuple(name for name in table.classes if name not in set(base))
    if not base or not new:
        raise SplitError(
            explain("base-to-new needs base and new classes", got=f"{len(base)} base, {len(new)} new", fix="few-shot?")
        )
    return _test_set(table, "base", base), _test_set(table, "new", new)


def few_shot(table: VideoTable, *, shots: int | None, seed: int, val_shots: int = 0, up_to: bool = False) -> Split:
    """K shots of every class (all it has, where `up_to` and it has fewer) train, all test videos test.

    Raises:
        SplitError: a class with fewer training videos than asked for, or no test video.
    """
    train, val = draw_shots(table, table.classes, shots=shots, val_shots=val_shots, seed=seed, up_to=up_to)
    return Split("few-shot", table.classes, train, val, (_test_set(table, "test", table.classes),), table)


def fully_supervised(table: VideoTable, *, seed: int, val_shots: int = 0) -> Split:
    """All training videos train (`val_shots` per class held out), all test videos test."""
    train, val = draw_shots(table, table.classes, shots=None, val_shots=val_shots, seed=seed)
    return Split("fully-supervised", table.classes, train, val, (_test_set(table, "test", table.classes),), table)


def zero_shot(table: VideoTable) -> Split:
    """Nothing trains; the test videos test among all classes: all videos when the store has no splits."""
    _require_labels(table)
    none = np.zeros(0, dtype=np.int64)
    if any(table.splits):
        return Split("zero-shot", (), none, none, (_test_set(table, "test", table.classes),), table)
    test = TestSet("test", np.flatnonzero(table.usable).astype(np.int64), table.classes)
    return Split("zero-shot", (), none, none, (test,), table)


def draw_shots(
    table: VideoTable, classes: Sequence[str], *, shots: int | None, val_shots: int, seed: int, up_to: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that train and rows that validate: `shots` of each class (None for all), `val_shots` of them to validate.

    Args:
        up_to: a class with fewer than `shots` gives all it has, as in CoOp's loaders (Dassl
            `generate_fewshot_dataset`, repeat=False); one video more than `val_shots` it must have.

    Raises:
        SplitError: classes with fewer training videos than asked for.
    """
    _require_labels(table)
    rows_of: dict[str, list[int]] = {name: [] for name in classes}
    for row in _rows(table, TRAIN_SPLIT):
        rows_of.get(table.labels[row], []).append(int(row))
    needed = val_shots + 1 if shots is None or up_to else shots
    short = [f"{name}: {len(rows)}" for name, rows in rows_of.items() if len(rows) < needed]
    if short:
        without = "" if any(table.splits) else "; the store has no splits, so set protocol.test_fraction"
        raise SplitError(
            explain(
                "classes with fewer training videos than asked for",
                expected=f"{needed} per class",
                got=some(short),
                fix=f"fewer shots, or more videos{without}"
                if shots is None or up_to
                else f"--shots up-to-{shots} takes all that such a class has; or fewer shots, or more videos{without}",
            )
        )
    train: list[int] = []
    val: list[int] = []
    for name, rows in rows_of.items():
        # One generator per class: a class's shots depend on the seed and its own videos, and K shots are among 2K.
        drawn = [rows[place] for place in np.random.default_rng([seed, _stable(name)]).permutation(len(rows))][:shots]
        val += sorted(drawn[:val_shots])
        train += sorted(drawn[val_shots:])
    return np.array(train, dtype=np.int64), np.array(val, dtype=np.int64)


def _require_labels(table: VideoTable) -> None:
    """Refuses videos without a class, of which every one would be right: they are all of the class ""."""
    without = [table.ids[row] for row in np.flatnonzero(table.usable) if not table.labels[row]]
    if without:
        raise SplitError(
            explain(
                f"{len(without)} of {len(table.ids)} videos have no class",
                got=some(without, 3),
                fix="vidfeat relabel STORE --labels LIST, a CSV path,label; prompttune classify needs no labels",
            )
        )


def _test_set(table: VideoTable, name: str, classes: tuple[str, ...]) -> TestSet:
    wanted = set(classes)
    rows = [row for row in _rows(table, TEST_SPLIT) if table.labels[row] in wanted]
    if not rows:
        raise SplitError(
            explain(
                f"no test videos for the {name} classes",
                expected="rows of the store whose split is 'test'",
                got=dict(Counter(table.splits)),
                fix="give the manifest a split column, or set protocol.test_fraction",
            )
        )
    return TestSet(name, np.array(rows, dtype=np.int64), classes)


def _rows(table: VideoTable, split: str) -> np.ndarray:
    return np.array([row for row in np.flatnonzero(table.usable) if table.splits[row] == split], dtype=np.int64)


def _counts(table: VideoTable, rows: Iterable[int]) -> Counter[str]:
    return Counter(table.labels[row] for row in rows)


def _gain(missing: float, count: int) -> float:
    """How much nearer to the wanted number of test videos `count` more bring a class that misses `missing`."""
    return abs(missing) - abs(missing - count)


def _stable(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
