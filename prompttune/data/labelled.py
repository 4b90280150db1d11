"""Labelled videos from what a person names: a store, or a CSV."""

from __future__ import annotations

from pathlib import Path

from prompttune.data.features import open_source
from prompttune.splits.class_files import ClassFile
from prompttune.splits.making import read_labelled_csv
from prompttune.splits.split import VideoTable


def read_labelled(source: str | Path, *, classes: ClassFile | None = None) -> VideoTable:
    """The labelled videos of a store (a folder or an address) or of a CSV (`splits.making.read_labelled_csv`)."""
    if Path(source).is_dir() or "://" in str(source):
        return open_source(source).table
    return read_labelled_csv(Path(source), classes=classes)
