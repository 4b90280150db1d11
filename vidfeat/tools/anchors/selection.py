"""select_anchors: from a pool store to n irrelevant videos, with an account of every video that was left out.

The rule, in this order, over the pool's videos that are ok:
1. content hashes, names and repetitions (`vetting.identity_hits`) take videos out;
2. of the others, those whose cosine with the nearest class text is at most `max_similarity`, or else at most the
   quantile `similarity_quantile` of the whole pool, are candidates;
3. near-duplicates of the task, frame by frame, take candidates out;
4. greedy k-center chooses n, beginning with the candidate that is least similar to any class, or with a `seed` at a
   random one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vidfeat.errors import explain
from vidfeat.store import StoreReader, open_store
from vidfeat.store.files import LocalFiles
from vidfeat.tools.anchors.copying import copy_videos
from vidfeat.tools.anchors.features import TEMPLATES, ClassSimilarity, class_features, class_similarity, video_features
from vidfeat.tools.anchors.k_center import k_center
from vidfeat.tools.anchors.reports import against_json, finite, quantiles, store_json, write_report
from vidfeat.tools.anchors.task import AnchorError, Task, open_task, require_comparable
from vidfeat.tools.anchors.vetting import NEAR_DUPLICATE, Hit, Progress, identity_hits, near_duplicates
from vidfeat.video.manifest import load_classes


@dataclass(frozen=True)
class SelectOptions:
    """What to choose from what, and by which rule.

    Attributes:
        pool: the store to choose from.
        against: every store and list of the task: training, validation and test, base and new classes.
        n: how many.
        out: the store to write, None for none.
        list_path: a CSV of ids to write, None for none.
        classes: a CSV `id,name` of all classes; None: those of the stores in `against`.
        templates: texts with `{}` for the class name.
        similarity_quantile: videos above this quantile of class similarity are no candidates; in (0, 1].
        max_similarity: a cosine instead of the quantile.
        near_duplicate: containment score from which on a video counts as one of the task, in cosine.
        seed: None begins with the least similar candidate; a number draws the beginning.
        allow_missing_hashes: go by features and names where content hashes are not known.
        root: the folder of the lists' videos; with it their files are hashed, too.
    """

    pool: str | os.PathLike[str]
    against: tuple[str | os.PathLike[str], ...]
    n: int
    out: str | os.PathLike[str] | None = None
    list_path: Path | None = None
    classes: Path | None = None
    templates: tuple[str, ...] = TEMPLATES
    similarity_quantile: float = 0.5
    max_similarity: float | None = None
    near_duplicate: float = NEAR_DUPLICATE
    seed: int | None = None
    allow_missing_hashes: bool = False
    root: Path | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.n < 1:
            problems.append(f"n {self.n} (at least 1)")
        if not 0 < self.similarity_quantile <= 1:
            problems.append(f"similarity_quantile {self.similarity_quantile} (above 0, at most 1)")
        if not -1 <= self.near_duplicate <= 1:
            problems.append(f"near_duplicate {self.near_duplicate} (a cosine)")
        if self.out is None and self.list_path is None:
            problems.append("neither --out STORE nor --list CSV: nothing to write")
        if problems:
            fix = (
                "vidfeat anchors select POOL.zarr --against TASK.zarr -n 256 --out anchors.zarr (or --list anchors.csv)"
            )
            raise AnchorError(explain("these options choose no anchors", got="; ".join(problems), fix=fix))

    @property
    def report_path(self) -> Path:
        """The report, beside what is written; of a remote store in the current directory."""
        beside = os.fspath(self.out if self.out is not None else self.list_path or "")
        path = Path(beside.rstrip("/").rpartition("/")[2]) if "://" in beside else Path(beside)
        return path.with_suffix(".report.json")


@dataclass(frozen=True)
class AnchorSelection:
    """What was chosen, and why nothing else was.

    Attributes:
        video_indices: int64 [n], positions in the pool in the order of choice; `ids` are their ids.
        hits: every video vetted out.
        counts: videos left after each step of the rule, by the step's name, in order.
        report: all of it, as written to `report_path`.
    """

    video_indices: np.ndarray
    ids: tuple[str, ...]
    hits: tuple[Hit, ...]
    counts: Mapping[str, int]
    report: Mapping[str, Any]
    report_path: Path


@dataclass(frozen=True)
class _Vetted:
    """The candidates that are left, and what it took.

    Attributes:
        usable: int64 [U], the pool's videos that are ok; `features` [U E] and `similarity` are theirs.
        clean: int64 [K], rows of `usable` that may be chosen.
        best: float32 [U], best near-duplicate score; NaN where it was not needed.
        cut: the class similarity up to which a video is a candidate.
    """

    usable: np.ndarray
    features: np.ndarray
    similarity: ClassSimilarity
    clean: np.ndarray
    best: np.ndarray
    cut: float
    hits: tuple[Hit, ...]
    counts: dict[str, int]


def select_anchors(options: SelectOptions, *, on_progress: Progress | None = None) -> AnchorSelection:
    """The anchors, chosen by the rule above and written with their report.

    on_progress: called with (done, all) while videos are compared frame by frame.

    Raises:
        AnchorError: stores of another pack, without pooled features or content hashes; lists that cannot be read; fewer
            candidates than `n`.
        StoreError, PackError, ManifestError: a store, pack or class file that cannot be used.
    """
    pool, task = open_store(options.pool), open_task(options.against, root=options.root)
    require_comparable(pool, task, allow_missing_hashes=options.allow_missing_hashes)
    names = class_names(options.classes, task)
    if not names:
        raise AnchorError(explain("no class names", where="--against", fix="--classes CSV with the columns id,name"))
    classes = class_features(pool, names, templates=options.templates)
    vetted = _vet(pool, task, classes, options, on_progress)
    _require_enough(vetted, options)
    chosen = vetted.clean[_spread_out(vetted, options)]
    indices = vetted.usable[chosen]
    report = _report(pool, task, names, vetted, chosen, options)
    if options.out is not None:
        copy_videos(pool, indices.tolist(), options.out)
    ids = tuple(str(pool.ids[index]) for index in indices)
    if options.list_path is not None:
        _write_list(options.list_path, pool, indices)
    write_report(options.report_path, report)
    return AnchorSelection(indices, ids, vetted.hits, vetted.counts, report, options.report_path)


def class_names(classes: Path | None, task: Task) -> tuple[str, ...]:
    """The names in the file `classes`, or else those of the task's stores."""
    return task.classes if classes is None else load_classes(classes)


def _vet(
    pool: StoreReader, task: Task, classes: np.ndarray, options: SelectOptions, on_progress: Progress | None
) -> _Vetted:
    usable = np.flatnonzero(pool.ok)
    if not len(usable):
        raise AnchorError(explain("the pool has no usable video", where=pool.path, got=f"{len(pool)} failed ones"))
    features = video_features(pool, usable)
    similarity = class_similarity(features, classes)
    known = identity_hits(pool, task)
    fresh = ~np.isin(usable, [hit.video_index for hit in known])
    if options.max_similarity is not None:
        cut = options.max_similarity
    else:
        cut = float(np.quantile(similarity.highest, options.similarity_quantile, method="lower"))
    candidates = np.flatnonzero(fresh & (similarity.highest <= cut))
    hits, best = near_duplicates(
        pool, usable[candidates], task.stores, threshold=options.near_duplicate, on_progress=on_progress
    )
    scores = np.full(len(usable), np.nan, np.float32)
    scores[candidates] = best
    clean = candidates[~np.isin(usable[candidates], [hit.video_index for hit in hits])]
    counts = {
        "in the pool": len(pool),
        "usable": len(usable),
        "no content, name or repetition hit": int(fresh.sum()),
        "candidates: far from every class": len(candidates),
        "no near-duplicate": len(clean),
    }
    return _Vetted(usable, features, similarity, clean, scores, cut, (*known, *hits), counts)


def _spread_out(vetted: _Vetted, options: SelectOptions) -> np.ndarray:
    """Positions in `vetted.clean`, by k-center."""
    if options.seed is None:
        first = int(vetted.similarity.highest[vetted.clean].argmin())
    else:
        first = int(np.random.default_rng(options.seed).integers(len(vetted.clean)))
    return k_center(vetted.features[vetted.clean], options.n, first=first)


def _require_enough(vetted: _Vetted, options: SelectOptions) -> None:
    if options.n <= len(vetted.clean):
        return
    counts = "".join(f"\n  - {count} {what}" for what, count in vetted.counts.items())
    steps = list(vetted.counts.values())
    lost = {"identity": steps[1] - steps[2], "classes": steps[2] - steps[3], "near": steps[3] - steps[4]}
    knob = {
        "identity": "a larger pool: this one overlaps with the task",
        "classes": f"a larger --similarity-quantile or --max-similarity (the cut was a cosine of {vetted.cut:.4f})",
        "near": f"look at the scores in a `vidfeat anchors check` of the pool before raising --near-duplicate "
        f"(it was {options.near_duplicate})",
    }[max(lost, key=lambda name: lost[name])]
    raise AnchorError(
        explain(
            f"only {len(vetted.clean)} videos of the pool can be anchors",
            where=options.pool,
            expected=f"at least -n {options.n}",
            got=counts,
            fix=f"-n {len(vetted.clean)}, a larger pool, or {knob}" if len(vetted.clean) else knob,
        )
    )


def _report(
    pool: StoreReader, task: Task, names: tuple[str, ...], vetted: _Vetted, chosen: np.ndarray, options: SelectOptions
) -> dict[str, Any]:
    similarity, features = vetted.similarity, vetted.features[chosen]
    cosines = features @ features.T
    np.fill_diagonal(cosines, -np.inf)
    rows = [
        {
            "id": str(pool.ids[vetted.usable[row]]),
            "label": str(pool.labels[vetted.usable[row]]),
            "class_similarity": round(float(similarity.highest[row]), 5),
            "nearest_class": names[similarity.class_index[row]],
            "near_duplicate_score": finite(vetted.best[row]),
        }
        for row in chosen.tolist()
    ]
    return {
        "format": "vidfeat-anchors",
        "format_version": 1,
        "pool": store_json(pool),
        "against": against_json(task),
        "classes": list(names),
        "rule": {
            "n": options.n,
            "templates": list(options.templates),
            "similarity_quantile": None if options.max_similarity is not None else options.similarity_quantile,
            "max_similarity": round(vetted.cut, 5),
            "near_duplicate": options.near_duplicate,
            "first": "least similar to any class" if options.seed is None else f"random, seed {options.seed}",
            "allow_missing_hashes": options.allow_missing_hashes,
        },
        "counts": vetted.counts,
        "class_similarity": {
            "of the pool": quantiles(similarity.highest),
            "of the chosen": quantiles(similarity.highest[chosen]),
        },
        "near_duplicate_scores": quantiles(vetted.best),
        "largest_cosine_between_chosen": finite(cosines.max()),
        "chosen": rows,
        "vetted_out": [hit.to_json() for hit in vetted.hits],
    }


def _write_list(path: Path, pool: StoreReader, indices: np.ndarray) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label"])
    writer.writerows([str(pool.ids[index]), str(pool.labels[index])] for index in indices)
    LocalFiles(path.parent).write(path.name, text.getvalue().encode("utf-8", "surrogateescape"), step="list")
