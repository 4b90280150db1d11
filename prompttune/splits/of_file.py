"""A split file on a store: its ids matched to rows, its labels held against the store's, its draws and test sets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from prompttune.errors import SplitError, explain, some
from prompttune.splits.file import SplitFile, letters, listed, read_split_file, video_ids
from prompttune.splits.split import TEST_SPLIT, TRAIN_SPLIT, Split, TestSet, VideoTable, draw_shots
from vidfeat.id_matching import match_ids

CHECK_HINT = (
    "prompttune splits check FILE --store STORE says all of it; splits import --allow-missing leaves videos out"
)


class FileSplits:
    """A split file on one store.

    Args:
        path: the split file.
        table: the store's columns.

    Raises:
        SplitError: a file that cannot be used, videos that the store does not have, or other labels than the store's.
    """

    def __init__(self, path: str, table: VideoTable) -> None:
        self.path = path
        self.file = read_split_file(path)
        labels = self.file.labels()
        self._rows = _matched_rows(path, self.file, table)
        problems = label_problems({key: (labels[key], table.labels[row]) for key, row in self._rows.items()})
        if problems:
            raise SplitError(explain("split file and store label videos differently", where=path, got=listed(problems)))
        self._table = self._labelled(table, labels)

    def _labelled(self, table: VideoTable, labels: dict[str, str]) -> VideoTable:
        """The store's columns with the file's labels and classes; videos that the file does not name are unusable."""
        own = list(table.labels)
        inside = np.zeros(len(own), dtype=bool)
        for key, row in self._rows.items():
            own[row] = labels[key]
            inside[row] = True
        # Shots are drawn after these, part by part.
        splits = [""] * len(own)
        for part, _, videos in self.file.parts():
            for row in self._rows_of(videos.values()):
                splits[row] = TRAIN_SPLIT if part.startswith(TRAIN_SPLIT) else TEST_SPLIT
        return replace(
            table,
            labels=tuple(own),
            splits=tuple(splits),
            classes=self.file.class_names(),
            usable=table.usable & inside,
        )

    def _rows_of(self, ids: Iterable[Sequence[str]]) -> list[int]:
        return sorted(self._rows[key] for some_ids in ids for key in some_ids)

    def table(self) -> VideoTable:
        """The store's columns as the file has them: every draw's videos train, every test set's test."""
        return self._table

    def tests(self, prefix: str = "test") -> tuple[TestSet, ...]:
        """The test sets: base and new under these names, a single one as `prefix`, several as `prefix/name`."""
        found = []
        listed = self.file.n_listed()
        for name_in_file, part in self.file.tests.items():
            rows = [row for row in self._rows_of(part.videos.values()) if self._table.usable[row]]
            if not rows:
                raise SplitError(
                    explain(f"no video of the test set {name_in_file} could be extracted", where=self.path)
                )
            own = prefix if len(self.file.tests) == 1 else f"{prefix}/{name_in_file}"
            name = name_in_file if self.file.is_base_to_new and prefix == "test" else own
            found.append(TestSet(name, np.array(rows, dtype=np.int64), part.classes, listed[name_in_file]))
        return tuple(found)

    def split(self, protocol: str, *, seed: int, shots: int | None, val_shots: int, up_to: bool = False) -> Split:
        """One run's videos: the seed's draw, `shots` of each class of it, and the file's test sets.

        Raises:
            SplitError: a protocol that the file is not made for, or fewer videos than `shots`.
        """
        self.require_protocol(protocol)
        if protocol == "zero-shot" or self.file.train is None:
            return self.without_training(protocol)
        drawn = set(self._rows_of(self.file.draw(seed).values()))
        splits = tuple(
            side if side != TRAIN_SPLIT or row in drawn else "" for row, side in enumerate(self._table.splits)
        )
        table = replace(self._table, splits=splits)
        classes = self.file.train.classes
        train, val = draw_shots(table, classes, shots=shots, val_shots=val_shots, seed=seed, up_to=up_to)
        return Split(protocol, classes, train, val, self.tests(), table)

    def without_training(self, protocol: str) -> Split:
        """The file's test sets, with no training videos."""
        self.require_protocol(protocol)
        none = np.zeros(0, dtype=np.int64)
        return Split(protocol, (), none, none, self.tests(), self._table)

    def require_protocol(self, protocol: str) -> None:
        """
        Raises:
            SplitError: the file has not the parts that the protocol needs.
        """
        if protocol == "zero-shot":
            return
        problem = None
        if self.file.is_base_to_new != (protocol == "base-to-new"):
            problem = "base and new test sets" if protocol == "base-to-new" else "test sets of the training classes"
        elif self.file.train is None:
            problem = "training videos"
        elif protocol != "base-to-new":
            wrong = [name for name, part in self.file.tests.items() if part.classes != self.file.train.classes]
            problem = f"test sets of the training classes (not so: {some(wrong)})" if wrong else None
        if problem is not None:
            names = "base-to-new, zero-shot" if self.file.is_base_to_new else "few-shot, fully-supervised, zero-shot"
            fits = "zero-shot" if self.file.train is None else names
            raise SplitError(
                explain(
                    f"the split file does not fit the protocol {protocol}",
                    where=self.path,
                    expected=problem,
                    got="; ".join(self.file.summary()),
                    fix=f"--set protocol.name=..., one of {fits}",
                )
            )


def _matched_rows(path: str, file: SplitFile, table: VideoTable) -> dict[str, int]:
    matches = match_ids((key for _, _, videos in file.parts() for key in video_ids(videos)), table.ids)
    problems = []
    if matches.missing:
        problems.append(f"{len(matches.missing)} videos are not in the store: {some(matches.missing, 5)}")
    if matches.ambiguous:
        cases = [f"{key} ({some(ids, 3)})" for key, ids in matches.ambiguous.items()]
        problems.append(f"{len(cases)} videos could be several of the store: {some(cases, 3)}")
    by_row: dict[int, str] = {}
    same = [f"{by_row[row]} and {key}" for key, row in matches.rows.items() if by_row.setdefault(row, key) != key]
    if same:
        problems.append(f"{len(same)} videos of the file are one video of the store: {some(same, 3)}")
    if problems:
        raise SplitError(
            explain("split file and store have different videos", where=path, got=listed(problems), fix=CHECK_HINT)
        )
    return dict(matches.rows)


def label_problems(labels: dict[str, tuple[str, str]]) -> list[str]:
    """Where two sources label a video differently, by pair of labels; case, blanks and underscores do not count.

    Args:
        labels: by video, the one source's label and the other's.
    """
    differing: dict[tuple[str, str], list[str]] = {}
    for key, pair in labels.items():
        if pair[0] != pair[1] and letters(pair[0]) != letters(pair[1]):
            differing.setdefault(pair, []).append(key)
    found = sorted(differing.items(), key=lambda item: -len(item[1]))
    lines = [f"{one!r} in the file, {other!r} there: {some(keys, 2)}" for (one, other), keys in found]
    return lines if len(lines) <= 8 else [*lines[:8], f"... and {len(lines) - 8} more pairs of labels"]
