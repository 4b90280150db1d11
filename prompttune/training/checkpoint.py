"""Checkpoints: everything an unfinished training needs to go on as if it had not stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from prompttune.base.tensor_files import read_tensors, write_tensors
from prompttune.config.record import fingerprint_tables
from prompttune.config.runs import Run
from prompttune.errors import CheckpointError, explain
from prompttune.splits.split import Split

KIND = "prompttune checkpoint"
VERSION = 2  # 1 held an optimiser for each run
# Keys that say where and how something is computed and written, and change nothing that is learned.
NOT_TRAINING = {"out", "log", "device", "graph", "compile", "runs_at_once"}


def training_hash(runs: Sequence[Run], splits: Sequence[Split], sources: Sequence[str]) -> str:
    """What a training is, in one hash: its runs' configurations, their videos, and the stores' fingerprints.

    Where results go, how often something is logged and the device do not change what is trained.
    """
    excluded = {*NOT_TRAINING, "store"}  # stores are told apart by their fingerprints, wherever they lie
    content = {
        "runs": [[run.name, fingerprint_tables(run.config, exclude=excluded)] for run in runs],
        "splits": [split.sha256 for split in splits],
        "sources": list(sources),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def write_checkpoint(path: Path, state: dict[str, Tensor], *, training: str) -> None:
    """Writes a trainer's state; a kill in the middle leaves the previous checkpoint."""
    write_tensors(path, state, {"format": KIND, "version": VERSION, "training": training})


def read_checkpoint(path: Path, *, training: str) -> dict[str, Tensor]:
    """The state written there.

    Raises:
        CheckpointError: no checkpoint, a damaged one, one of another training, or of another version.
    """
    tensors, document = read_tensors(path, kind=KIND, error=CheckpointError)
    if document.get("training") != training:
        raise CheckpointError(
            explain(
                "the checkpoint belongs to another training",
                where=path,
                expected=training,
                got=document.get("training"),
                fix="resume with the configuration, seeds and store it was written with, or --overwrite",
            )
        )
    if document.get("version") != VERSION:
        raise CheckpointError(
            explain(
                "the checkpoint was written by another version of prompttune",
                where=path,
                expected=f"layout {VERSION}",
                got=f"layout {document.get('version')}",
                fix="finish with the version that wrote it, or delete the file to train from the start",
            )
        )
    return tensors
