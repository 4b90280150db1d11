"""Vetting: which videos of a pool are, in part or whole, videos of the task; by content hash, by name, by features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vidfeat.store import StoreReader
from vidfeat.tools.anchors.features import Frames, frame_blocks
from vidfeat.tools.anchors.task import Task, content_hashes, file_name, source_name

# The lower end of what is used to find duplicates by CLIP features (0.95 to 0.99): a video that is left out for nothing
# costs one of many candidates, a leak costs the experiment. See `docs/anchors.md`.
NEAR_DUPLICATE = 0.95
# Cosines of this many pairs of frames at once: a tile that stays in a core's cache while it is reduced.
_TILE_PAIRS = 2**19

Reason = Literal["content-hash", "same-name", "same-source", "near-duplicate", "repeated"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Hit:
    """A video of the pool that is, or may be, one of the task.

    Attributes:
        video_index: its position in the pool; `video` is its id.
        reason: `content-hash` = the same bytes; `same-name` = the file name of a listed video; `same-source` = a clip
            of a source that the task has clips of, too (Kinetics' names tell); `near-duplicate` = frames above the
            threshold; `repeated` = the same bytes as an earlier video of the pool itself.
        other: id of the video it hits, in the store or list `where`.
        score: for near-duplicates, how far the one is contained in the other, in cosine.
    """

    video_index: int
    video: str
    reason: Reason
    other: str
    where: str
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        facts = {"id": self.video, "reason": self.reason, "other": self.other, "where": self.where}
        return facts if self.score is None else {**facts, "score": round(self.score, 5)}


@dataclass(frozen=True)
class Matches:
    """For each of some videos the video of a store that it matches best.

    Attributes:
        score: float32 [B], the containment score, see `containment`.
        video_index: int64 [B], position in the store.
    """

    score: np.ndarray
    video_index: np.ndarray


def identity_hits(pool: StoreReader, task: Task) -> list[Hit]:
    """The videos of the pool that are known to be in the task without looking at features; at most one hit each.

    By content hash in every store and list, then by name in the lists, then by Kinetics' names in both, then as an
    earlier video's repetition. Failed videos of the task count too, where their bytes are known.
    """
    by_hash, names, sources = _hashes_of(task), _names_of(task), _sources_of(task)
    seen: dict[bytes, str] = {}
    hits = []
    for index, (video, digest) in enumerate(zip(pool.ids.tolist(), content_hashes(pool), strict=True)):
        if not pool.ok[index]:
            continue
        source = source_name(video)
        for reason, found in (
            ("content-hash", by_hash.get(digest) if digest else None),
            ("same-name", names.get(file_name(video))),
            ("same-source", sources.get(source) if source else None),
            ("repeated", (seen[digest], str(pool.path)) if digest in seen else None),
        ):
            if found is not None:
                hits.append(Hit(index, video, reason, *found))  # type: ignore[arg-type]
                break
        if digest:
            seen.setdefault(digest, video)
    return hits


def _hashes_of(task: Task) -> dict[bytes, tuple[str, str]]:
    """Content hash -> (id, store or list); the first one that has it."""
    found: dict[bytes, tuple[str, str]] = {}
    for store in task.stores:
        for video, digest in zip(store.ids.tolist(), content_hashes(store), strict=True):
            if digest:
                found.setdefault(digest, (video, str(store.path)))
    for one in task.lists:
        for entry, text in one.hashes.items():
            found.setdefault(bytes.fromhex(text), (entry, one.path))
    return found


def _names_of(task: Task) -> dict[str, tuple[str, str]]:
    """File name -> (entry, list). Stores are left out: they have hashes and features, and names such as `001.mp4`."""
    found: dict[str, tuple[str, str]] = {}
    for one in task.lists:
        for entry in one.entries:
            found.setdefault(file_name(entry), (entry, one.path))
    return found


def _sources_of(task: Task) -> dict[str, tuple[str, str]]:
    """Source of a Kinetics clip -> (id, store or list)."""
    found: dict[str, tuple[str, str]] = {}
    named = [(one.entries, one.path) for one in task.lists]
    named += [(tuple(store.ids.tolist()), str(store.path)) for store in task.stores]
    for ids, where in named:
        for video in ids:
            source = source_name(video)
            if source is not None:
                found.setdefault(source, (video, where))
    return found


def containment(left: Frames, right: Frames) -> np.ndarray:
    """How far one of two videos is contained in the other, float32 [A B], a cosine in [-1, 1].

    For each frame of the one its best match among the other's frames; the mean of these; the larger of both directions.
    So a trimmed copy scores as a copy does, whichever of the two is the shorter.

    Source: the Chamfer similarity of Kordopatis-Zilos et al., "ViSiL", ICCV 2019, eq. 1, on global frame features, in
    both directions.
    """
    cosines = left.values @ right.values.T
    best_right = np.maximum.reduceat(cosines, right.offsets[:-1], axis=1)
    best_left = np.maximum.reduceat(cosines, left.offsets[:-1], axis=0)
    in_right = np.add.reduceat(best_right, left.offsets[:-1], axis=0) / left.lengths[:, None].astype(np.float32)
    in_left = np.add.reduceat(best_left, right.offsets[:-1], axis=1) / right.lengths.astype(np.float32)
    return np.maximum(in_right, in_left)


def best_matches(
    pool: StoreReader, videos: np.ndarray, other: StoreReader, *, on_progress: Progress | None = None
) -> Matches:
    """The best match in `other` of each of the pool's `videos` (positions, int64 [B]), every frame with every frame.

    Both stores are streamed, so memory does not grow with their size; the work is 2 E operations for each pair of
    frames. Failed videos of `other` have no frames and match nothing.
    """
    score = np.full(len(videos), -np.inf, np.float32)
    index = np.full(len(videos), -1, np.int64)
    others = np.flatnonzero(other.ok)
    for block in frame_blocks(pool, videos):
        for against in frame_blocks(other, others):
            for left in _parts(block, _TILE_PAIRS // 2**10):
                for right in _parts(against, 2**10):
                    _keep_better(score, index, left, others[right.positions], containment(left, right))
        if on_progress is not None:
            on_progress(int(block.positions[-1]) + 1, len(videos))
    return Matches(score, index)


def _parts(frames: Frames, n_frames: int) -> Iterator[Frames]:
    """Runs of videos of about `n_frames` frames, at least one video each."""
    cuts = np.flatnonzero(np.diff((frames.offsets[1:] - 1) // n_frames)) + 1
    for start, stop in zip([0, *cuts.tolist()], [*cuts.tolist(), len(frames)], strict=True):
        yield frames.part(start, stop)


def _keep_better(
    score: np.ndarray, index: np.ndarray, left: Frames, right_videos: np.ndarray, scores: np.ndarray
) -> None:
    column = scores.argmax(axis=1)
    found = scores[np.arange(len(scores)), column]
    better = found > score[left.positions]  # equals keep the earlier video
    score[left.positions[better]] = found[better]
    index[left.positions[better]] = right_videos[column[better]]


def near_duplicates(
    pool: StoreReader,
    videos: np.ndarray,
    stores: Sequence[StoreReader],
    *,
    threshold: float,
    on_progress: Progress | None = None,
) -> tuple[list[Hit], np.ndarray]:
    """The hits among the pool's `videos` [B], by position, and the best score of each in any store, float32 [B]."""
    best = np.full(len(videos), -np.inf, np.float32)
    hits: dict[int, Hit] = {}
    for position, store in enumerate(stores):

        def report(done: int, total: int, before: int = position * len(videos)) -> None:
            if on_progress is not None:
                on_progress(before + done, total * len(stores))

        matches = best_matches(pool, videos, store, on_progress=report)
        better = matches.score > best
        best[better] = matches.score[better]
        for row in np.flatnonzero(better & (matches.score >= threshold)).tolist():
            index = int(videos[row])
            other = str(store.ids[matches.video_index[row]])
            score = float(matches.score[row])
            hits[index] = Hit(index, str(pool.ids[index]), "near-duplicate", other, str(store.path), score)
    return [hits[index] for index in sorted(hits)], best
