"""What was changed about a store's videos after they were planned: a log, only ever appended to, beside the plan.

    relabel   other labels, splits or groups of some videos, and another list of classes; no row is touched
    prune     videos that no longer belong to the store; their rows stay in their shards, and nothing names them
    seen      a source file with another time of change and the same content, so that it is not read again every time

A file `plan/change-0000.json` is one change. It refers to videos by their index in the plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vidfeat.store.files import Files
from vidfeat.store.records import seal, unseal
from vidfeat.store.spec import FORMAT_VERSION

Kind = Literal["relabel", "prune", "seen"]


@dataclass(frozen=True)
class Change:
    """One change of the log.

    Attributes:
        index: its place in the log.
        n_passes: passes of the plan when it was made.
        videos: by index: [label, split, group] for relabel, [] for prune, [bytes, mtime in ns] for seen.
        classes: all classes in their order from now on; None: as before.
        why: what asked for it, for a person.
        at: when, ISO 8601 in UTC.
    """

    index: int
    kind: Kind
    n_passes: int
    videos: Mapping[int, tuple[Any, ...]] = field(hash=False)
    classes: tuple[str, ...] | None = None
    why: str = ""
    at: str = ""

    @property
    def path(self) -> str:
        return change_path(self.index)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "vidfeat-change",
            "format_version": FORMAT_VERSION,
            "change": self.index,
            "kind": self.kind,
            "n_passes": self.n_passes,
            "videos": [[index, *values] for index, values in sorted(self.videos.items())],
            "classes": None if self.classes is None else list(self.classes),
            "why": self.why,
            "at": self.at,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Change:
        return cls(
            index=document["change"],
            kind=document["kind"],
            n_passes=document["n_passes"],
            videos={index: tuple(values) for index, *values in document["videos"]},
            classes=None if document["classes"] is None else tuple(document["classes"]),
            why=document["why"],
            at=document["at"],
        )


def change_path(index: int) -> str:
    """The file of a change."""
    return f"plan/change-{index:04d}.json"


def write_change(files: Files, change: Change) -> None:
    """Appends a change to the log on disk."""
    files.write(change.path, seal(change.to_json()), step="plan")


def read_changes(files: Files) -> tuple[Change, ...]:
    """The log on disk.

    Raises:
        StoreCorruptError: a damaged file.
    """
    changes: list[Change] = []
    while True:
        path = change_path(len(changes))
        try:
            changes.append(Change.from_json(unseal(files.read(path), path=path)))
        except FileNotFoundError:
            return tuple(changes)
