"""check_anchors: is any video of an anchor store in the task, and how near do they lie to its classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidfeat.store import open_store
from vidfeat.tools.anchors.features import TEMPLATES, class_features, class_similarity, video_features
from vidfeat.tools.anchors.reports import against_json, quantiles, store_json, write_report
from vidfeat.tools.anchors.selection import class_names
from vidfeat.tools.anchors.task import open_task, require_comparable
from vidfeat.tools.anchors.vetting import NEAR_DUPLICATE, Hit, Progress, identity_hits, near_duplicates


@dataclass(frozen=True)
class CheckOptions:
    """What to check against what.

    Attributes:
        anchors: the store to check; any store will do, also a pool.
        against, classes, templates, near_duplicate, allow_missing_hashes, root: as in `SelectOptions`. Without classes,
            in a file or in the stores, there are no class similarities.
        report_path: a JSON file to write, None for none.
    """

    anchors: str | os.PathLike[str]
    against: tuple[str | os.PathLike[str], ...]
    classes: Path | None = None
    templates: tuple[str, ...] = TEMPLATES
    near_duplicate: float = NEAR_DUPLICATE
    allow_missing_hashes: bool = False
    root: Path | None = None
    report_path: Path | None = None


@dataclass(frozen=True)
class AnchorCheck:
    """What was found.

    Attributes:
        hits: every video with its first hit: by content, name or repetition, else its best near-duplicate.
        report: all of it, as JSON.
    """

    hits: tuple[Hit, ...]
    report: Mapping[str, Any]


def check_anchors(options: CheckOptions, *, on_progress: Progress | None = None) -> AnchorCheck:
    """The hits of a store in the lists and stores of a task, and how similar its videos are to the classes.

    Raises:
        AnchorError: stores of another pack, without pooled features or content hashes; lists that cannot be read.
        StoreError, PackError, ManifestError: a store, pack or class file that cannot be used.
    """
    anchors, task = open_store(options.anchors), open_task(options.against, root=options.root)
    require_comparable(anchors, task, allow_missing_hashes=options.allow_missing_hashes)
    usable = np.flatnonzero(anchors.ok)
    known = identity_hits(anchors, task)
    near, best = near_duplicates(
        anchors, usable, task.stores, threshold=options.near_duplicate, on_progress=on_progress
    )
    already = {hit.video_index for hit in known}
    hits = (*known, *(hit for hit in near if hit.video_index not in already))
    names = class_names(options.classes, task)
    similarity = None
    if names and len(usable):
        classes = class_features(anchors, names, templates=options.templates)
        similarity = quantiles(class_similarity(video_features(anchors, usable), classes).highest)
    report = {
        "format": "vidfeat-anchors-check",
        "format_version": 1,
        "anchors": store_json(anchors),
        "against": against_json(task),
        "near_duplicate": options.near_duplicate,
        "near_duplicate_scores": quantiles(best),
        "n_classes": len(names),
        "class_similarity": similarity,
        "hits": [hit.to_json() for hit in hits],
    }
    if options.report_path is not None:
        write_report(options.report_path, report)
    return AnchorCheck(hits, report)
