"""Split files from labelled videos: a store or a CSV -> a seeded, stratified, grouped draw -> shots per seed."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prompttune.errors import SplitError, explain, some
from prompttune.splits.class_files import ClassFile, one_class_two_spellings, read_text
from prompttune.splits.file import SplitFile, TestPart, TrainPart, Videos, listed
from prompttune.splits.lists import KINETICS_COLUMNS, header_of, kinetics_rows, labels_are_ids
from prompttune.splits.split import TestSet, VideoTable, base_and_new, draw_shots, draw_splits, zero_shot
from vidfeat.class_lines import delimiter_of, split_name

_COLUMNS = ("path", "label", "split", "group")


@dataclass(frozen=True)
class MakeOptions:
    """How a split is drawn.

    Attributes:
        base_classes: makes a base-to-new split with these base classes; () for the first half of the class list; None
            for one test set among all classes.
        test_fraction: share of the videos that test, where the source has no splits of its own.
        seed: of that draw.
        redraw: draws although the source has splits.
        shots: training videos per class in each draw; None for one draw of all training videos.
        up_to: a class with fewer gives all it has.
        seeds: one draw each, called by the seed; a run of that seed draws the same shots.
        group_pattern: a regular expression; what its groups (or the whole) match in an id is the video's group.
    """

    base_classes: tuple[str, ...] | None = None
    test_fraction: float = 0.3
    seed: int = 0
    redraw: bool = False
    shots: int | None = None
    up_to: bool = False
    seeds: tuple[int, ...] = (1, 2, 3)
    group_pattern: str | None = None


def make_split_file(table: VideoTable, options: MakeOptions, *, source: str) -> SplitFile:
    """The split of a labelled source: its own train and test videos, or drawn ones, and K shots per seed.

    Raises:
        SplitError: classes without videos on one side, too few for the shots, ids without a group.
    """
    made_by: dict[str, Any] = {"command": "prompttune splits make", "source": source}
    if options.group_pattern is not None:
        table = with_groups(table, options.group_pattern)
    drawn = options.redraw or not any(table.splits)
    if drawn:
        table = replace(table, splits=("",) * len(table.ids))
        table = draw_splits(table, test_fraction=options.test_fraction, seed=options.seed)
    tests: Sequence[TestSet] = zero_shot(table).tests
    if options.base_classes is not None:
        tests = base_and_new(table, options.base_classes or None)
    classes = tests[0].classes
    wanted: Mapping[str, Any] = {"all": {"shots": None, "seed": 0}}
    if options.shots is not None:
        wanted = {str(seed): {"shots": options.shots, "seed": seed} for seed in options.seeds}
    draws = {
        name: _by_class(table, draw_shots(table, classes, **asked, val_shots=0, up_to=options.up_to)[0], classes)
        for name, asked in wanted.items()
    }
    acted = {"base_classes"} | (set() if drawn else {"test_fraction", "seed"})
    acted |= {"seeds", "up_to"} if options.shots is None else set() if options.up_to else {"up_to"}
    made_by |= {key: value for key, value in asdict(options).items() if key not in acted}
    failed = [table.ids[row] for row in np.flatnonzero(~table.usable)]
    return SplitFile(
        train=TrainPart(classes=classes, draws=draws),
        tests={t.name: TestPart(classes=t.classes, videos=_by_class(table, t.videos, t.classes)) for t in tests},
        made_by=made_by | ({"failed_videos": failed} if failed else {}),
    )


def _by_class(table: VideoTable, rows: np.ndarray, classes: Sequence[str]) -> Videos:
    found: dict[str, list[str]] = {name: [] for name in classes}
    for row in rows:
        found[table.labels[row]].append(table.ids[row])
    return {name: tuple(ids) for name, ids in found.items() if ids}


def with_groups(table: VideoTable, pattern: str) -> VideoTable:
    r"""The table with each video's group taken from its id, as `v_(\w+)_g(\d+)_` takes `Typing g04` of UCF-101's names.

    Raises:
        SplitError: no regular expression, or ids that it does not match.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise SplitError(explain("the group pattern is no regular expression", got=f"{pattern!r}: {error}")) from None
    matches = [expression.search(key) for key in table.ids]
    without = [key for key, match in zip(table.ids, matches, strict=True) if match is None]
    if without:
        raise SplitError(
            explain(f"{len(without)} ids do not match the group pattern", expected=pattern, got=some(without, 5))
        )
    groups = tuple(" ".join(filter(None, match.groups())) or match.group() for match in matches if match is not None)
    return replace(table, groups=groups)


def read_labelled_csv(path: Path, *, classes: ClassFile | None = None) -> VideoTable:
    """The labelled videos of a CSV `path,label[,split][,group]`, or of Kinetics' official CSV.

    Args:
        classes: the class list, and what the labels mean where they are ids; else the labels as they appear.

    Raises:
        SplitError: a file without these columns, lines that do not fit them, labels outside the class list.
    """
    lines = [line for line in read_text(path, "source").split("\n") if line.strip()] or [""]
    header, delimiter = header_of(lines[0]), delimiter_of(lines[0])
    if set(KINETICS_COLUMNS) <= set(header):
        header, delimiter = ["path", "label", "split"], ","
        lines = [",".join(header), *(_csv_line(row.values()) for row in kinetics_rows(lines, path))]
    if not {"path", "label"} <= set(header) or not set(header) <= set(_COLUMNS):
        raise SplitError(
            explain(
                "this is neither a store nor a CSV of labelled videos",
                where=path,
                expected="the header path,label[,split][,group]",
                got=some(header),
                fix="for a list without a header: prompttune splits import",
            )
        )
    rows, problems = _csv_rows(csv.reader(lines[1:], delimiter=delimiter, skipinitialspace=True), header)
    labels = tuple(row["label"] for row in rows)
    if classes is not None and labels_are_ids(labels):
        by_id = {str(number): name for number, name in classes.names.items()}
        problems += [f"label {label} is no id of {classes.path}" for label in sorted(set(labels) - set(by_id))]
        labels = tuple(by_id.get(label, label) for label in labels)
    elif classes is None:
        problems += one_class_two_spellings(labels)
    if problems or not rows:
        raise SplitError(explain("lines that cannot be used", where=path, got=listed(problems[:8] or ["none at all"])))
    return VideoTable(
        ids=tuple(row["path"] for row in rows),
        labels=labels,
        splits=tuple(row.get("split", "") for row in rows),
        groups=tuple(row.get("group", "") for row in rows),
        classes=classes.classes if classes is not None else tuple(dict.fromkeys(labels)),
        usable=np.ones(len(rows), dtype=bool),
    )


def _csv_rows(lines: Iterable[list[str]], header: Sequence[str]) -> tuple[list[dict[str, str]], list[str]]:
    """The good lines by column, and what is wrong with the others."""
    rows, problems = [], []
    for number, cells in enumerate(lines, 2):
        row = {name: cell.strip() for name, cell in zip(header, cells, strict=False)}
        side = split_name(row.get("split", ""))
        if len(cells) != len(header) or not row["path"] or not row["label"]:
            problems.append(f"line {number}: {cells}")
        elif side is None:
            problems.append(f"line {number}: split {row['split']!r} is not train, test or val")
        else:
            rows.append(row | {"split": side})
    return rows, problems


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().strip()
