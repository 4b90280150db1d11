"""From a protocol's name to videos: which split of which store trains, which test sets of which stores test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prompttune.config.train_config import NONE, ProtocolConfig, TrainConfig
from prompttune.data.features import FeatureSource, open_source
from prompttune.data.store_needs import require_served
from prompttune.errors import ConfigError, explain
from prompttune.splits.file import read_split_file
from prompttune.splits.of_file import FileSplits
from prompttune.splits.split import (
    Split,
    TestSet,
    VideoTable,
    base_and_new,
    base_to_new,
    draw_splits,
    few_shot,
    fully_supervised,
    zero_shot,
)


@dataclass(frozen=True)
class Sources:
    """The stores one command reads.

    Attributes:
        train: the store of the configuration; its own test videos test, too.
        tests: further test sets by name; their test videos test among all of their classes. A store with a split file
            of several test sets is there once for each, as `store/test set`.
        anchors: irrelevant videos, or None.
    """

    train: FeatureSource
    tests: Mapping[str, FeatureSource]
    anchors: FeatureSource | None

    def fingerprints(self) -> list[str]:
        """Of every store, the training store first."""
        anchors = [self.anchors] if self.anchors is not None else []
        return [source.fingerprint for source in (self.train, *self.tests.values(), *anchors)]


def open_sources(config: TrainConfig) -> Sources:
    """Every store the configuration names, all of one backbone.

    Raises:
        ConfigError: two test stores of one name.
        FeatureError: a store of another backbone than the training store's, or without what the method reads.
    """
    train = open_source(config.store)
    pack: dict[str, Any] = {
        "pack_hash": train.pack.hash,
        "needed_by": f"the training store {config.store}",
        "model": train.pack.config,
    }
    names = [Path(path).stem for path in config.protocol.test_stores]
    if len(set(names)) != len(names) or set(names) & {"base", "new", "test", "val"}:
        raise ConfigError(
            explain("test stores need names of their own", where="protocol.test_stores", got=", ".join(names))
        )
    opened = {name: open_source(path, **pack) for name, path in zip(names, config.protocol.test_stores, strict=True)}
    files = config.protocol.test_split_files or (NONE,) * len(names)
    tests: dict[str, FeatureSource] = {}
    for (name, source), file in zip(opened.items(), files, strict=True):
        tests |= {name: source} if file == NONE else sources_of_tests(source, file, name=name)
    anchors = open_source(config.anchors.store, **pack) if config.anchors is not None else None
    require_served(config, [train, *tests.values(), *([anchors] if anchors is not None else [])])
    return Sources(train, tests, anchors)


def split_file_hashes(protocol: ProtocolConfig) -> dict[str, str]:
    """Hash of the content of every split file the protocol names, by path.

    Raises:
        SplitError: a file that cannot be used.
    """
    named = [protocol.split_file, *protocol.test_split_files]
    return {path: read_split_file(path).sha256 for path in named if path is not None and path != NONE}


def sources_of_tests(source: FeatureSource, split_file: str, *, name: str) -> dict[str, FeatureSource]:
    """The store once per test set of its split file, cut down to that test set's videos and classes."""
    splits = FileSplits(split_file, source.table)
    found = {}
    for test in splits.tests(name):
        usable = np.zeros(len(source.table.ids), dtype=bool)
        usable[test.videos] = True
        table = replace(splits.table(), usable=usable, classes=test.classes)
        found[test.name] = replace(source, table=table, n_listed=test.n_listed)
    return found


def split_table(protocol: ProtocolConfig, table: VideoTable) -> VideoTable:
    """The store's columns with a train and test side: the split file's, its own, or drawn by `test_fraction`."""
    if protocol.split_file is not None:
        return FileSplits(protocol.split_file, table).table()
    if protocol.test_fraction is None:
        return table
    return draw_splits(table, test_fraction=protocol.test_fraction, seed=protocol.split_seed)


def make_split(protocol: ProtocolConfig, table: VideoTable, *, seed: int, trains: bool = True) -> Split:
    """One run's videos under a protocol; the test sets alone, in a split that trains nothing, unless it `trains`."""
    if not trains:
        return without_training(protocol, table)
    val_shots, up_to = protocol.val_shots, protocol.up_to
    if protocol.split_file is not None:
        shots = None if protocol.name == "fully-supervised" else protocol.shots
        splits = FileSplits(protocol.split_file, table)
        return splits.split(protocol.name, seed=seed, shots=shots, val_shots=val_shots, up_to=up_to)
    if protocol.name == "base-to-new":
        base, shots = protocol.base_classes, protocol.shots
        return base_to_new(table, shots=shots, base_classes=base, seed=seed, val_shots=val_shots, up_to=up_to)
    if protocol.name == "few-shot":
        return few_shot(table, shots=protocol.shots, seed=seed, val_shots=val_shots, up_to=up_to)
    if protocol.name == "fully-supervised":
        return fully_supervised(table, seed=seed, val_shots=val_shots)
    return zero_shot(table)


def without_training(protocol: ProtocolConfig, table: VideoTable) -> Split:
    """The protocol's test sets, with no training videos drawn."""
    if protocol.split_file is not None:
        return FileSplits(protocol.split_file, table).without_training(protocol.name)
    if protocol.name != "base-to-new":
        return replace(zero_shot(table), protocol=protocol.name)
    none = np.zeros(0, dtype=np.int64)
    return Split(protocol.name, (), none, none, base_and_new(table, protocol.base_classes), table)


def other_test_sets(tests: Mapping[str, FeatureSource]) -> dict[str, TestSet]:
    """The test sets of further stores: their test videos, all videos where they have no splits, among all classes.

    This is cross-dataset evaluation: what trains never sees these stores.
    """
    return {
        name: replace(zero_shot(source.table).tests[0], name=name, n_listed=source.n_listed)
        for name, source in tests.items()
    }
