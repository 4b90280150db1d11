"""Extract some videos of a store again, and compare: the check that the numbers are what the fingerprint says."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vidfeat.errors import DecodeError, StoreError, explain
from vidfeat.extraction.options import OptionsError
from vidfeat.extraction.recipe import Recipe
from vidfeat.extraction.worker import VideoTask
from vidfeat.store import StoreReader, open_store, token_layers
from vidfeat.video.manifest import load_manifest

if TYPE_CHECKING:
    from vidfeat.clip.encode import Encoder

# Largest difference as a share of the largest value of a video's rows. The same pixels in another batch differ by about
# 1e-6 in float32 arithmetic; float16 storage rounds by 2^-11 of each value; int8 by 1/255 of a channel's range, which
# can be the whole range of the rows. Arithmetic in half precision is good to about 1 %.
TOLERANCES = {"float32": 1e-4, "float16": 1e-3, "int8": 1e-2}
HALF_PRECISION_TOLERANCE = 2e-2


@dataclass(frozen=True)
class DeepOptions:
    """Which videos are extracted again, and from where.

    Attributes:
        source, root, classes: as `load_manifest` takes them.
        n_videos: how many are drawn.
        seed: which are drawn.
    """

    source: str | os.PathLike[str]
    root: str | os.PathLike[str] | None = None
    classes: str | os.PathLike[str] | None = None
    n_videos: int = 4
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class DeepReport:
    """What extracting again found.

    Attributes:
        problems: one line for each (video, tap, view) that is not what the store holds, and for each changed file.
        worst: by tap, the largest difference found, as a share of the largest value of the video's rows.
    """

    videos: tuple[str, ...]
    problems: tuple[str, ...]
    worst: Mapping[str, float]
    tolerances: Mapping[str, float]
    seconds: float


@dataclass
class _Findings:
    problems: list[str] = field(default_factory=list)
    worst: dict[str, float] = field(default_factory=dict)


def verify_deep(path: str | os.PathLike[str], options: DeepOptions) -> DeepReport:
    """The comparison of some stored videos with what their files give now.

    Raises:
        OptionsError: a source that does not hold the videos drawn.
        StoreError: a store that was not written by `vidfeat extract`.
    """
    from vidfeat.backbone import BackbonePack
    from vidfeat.clip.encode import Encoder

    started = time.monotonic()
    store = open_store(path, check="always")
    recipe = recipe_of_store(store)
    chosen = _draw(store, options)
    paths = _paths(store, chosen, options)
    pack = BackbonePack.load(store.pack_path, expected_hash=store.pack_hash)
    precision = store.fingerprint.fields["precision"]
    encoder = Encoder(pack, layers=token_layers(store.taps), device=options.device, precision=precision)
    tolerances = {
        name: max(TOLERANCES[tap.dtype], 0.0 if precision == "fp32" else HALF_PRECISION_TOLERANCE)
        for name, tap in store.taps.items()
    }
    findings = _Findings(worst=dict.fromkeys(store.taps, 0.0))
    for index in chosen:
        task = VideoTask(index, index, str(store.ids[index]), paths[index], (0, store.n_views))
        _compare(store, task, recipe, encoder, tolerances, findings)
    ids = tuple(str(store.ids[index]) for index in chosen)
    return DeepReport(ids, tuple(findings.problems), findings.worst, tolerances, time.monotonic() - started)


def recipe_of_store(store: StoreReader) -> Recipe:
    """The recipe in a store's fingerprint.

    Raises:
        StoreError: the store does not say how its videos became pixels.
    """
    try:
        return Recipe.from_json(dict(store.fingerprint.fields), n_views=store.n_views)
    except (KeyError, ValueError, TypeError) as error:
        raise StoreError(
            explain(
                "this store's fingerprint holds no recipe to extract its videos again",
                where=store.path,
                got="features made elsewhere"
                if "imported" in store.fingerprint.fields
                else f"{type(error).__name__}: {error}",
                fix=f"vidfeat verify {store.path} --level full, which compares what is stored with what was committed",
            )
        ) from error


def _draw(store: StoreReader, options: DeepOptions) -> list[int]:
    good = np.flatnonzero(store.ok)
    n_videos = min(options.n_videos, len(good))
    return sorted(np.random.default_rng(options.seed).choice(good, size=n_videos, replace=False).tolist())


def _paths(store: StoreReader, chosen: list[int], options: DeepOptions) -> dict[int, str]:
    manifest = load_manifest(options.source, root=options.root, classes=options.classes)
    known = {item.id: item.path for item in manifest.items}
    missing = [str(store.ids[index]) for index in chosen if str(store.ids[index]) not in known]
    if missing:
        raise OptionsError(
            explain("the source does not hold these videos of the store", where=options.source, got=", ".join(missing))
        )
    return {index: known[str(store.ids[index])] for index in chosen}


def _compare(
    store: StoreReader,
    task: VideoTask,
    recipe: Recipe,
    encoder: Encoder,
    tolerances: Mapping[str, float],
    findings: _Findings,
) -> None:
    stored = store.videos()[task.video_index]
    try:
        video = recipe.load(task)
    except DecodeError as error:
        findings.problems.append(f"{task.video_id}: {error.reason} now: {str(error).splitlines()[0]}")
        return
    for name in ("content_sha256", "n_frames", "pts_seconds", "decoder"):
        if getattr(video.facts, name) != getattr(stored, name):
            was, now = getattr(stored, name), getattr(video.facts, name)
            findings.problems.append(f"{task.video_id}: {name} is {now!r} now, was {was!r}")
    if video.facts.n_frames != stored.n_frames:
        return
    pieces = [encoder.encode(np.ascontiguousarray(piece)).by_name() for piece in video.arrays()]
    for tap in store.taps:
        again = np.concatenate([piece[tap] for piece in pieces]).astype(np.float32)
        for view, now in enumerate(np.split(again, store.n_views)):
            held = store.rows(tap, [task.video_index], view=view).values.astype(np.float32)
            difference = float(np.abs(now - held).max() / max(np.abs(now).max(), 1e-12))
            findings.worst[tap] = max(findings.worst[tap], difference)
            if not difference <= tolerances[tap]:
                findings.problems.append(
                    f"{task.video_id}, {tap}, view {view}: differs by {difference:.2g} of its largest value "
                    f"(tolerance {tolerances[tap]:g})"
                )
