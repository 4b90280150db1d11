"""The plan: which videos, views and taps form which unit. Written before any extraction, only ever appended to.

A *pass* is one decision to extract something: the first run, then one more for every later addition (new videos, a new
tap, more views, a retry). A pass is cut into *units* of whole videos; a unit is one shard per tap and one commit. Units
of a later pass get new shards, so that no committed file is ever rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vidfeat.store.changes import Change, read_changes
from vidfeat.store.files import Files
from vidfeat.store.records import seal, unseal
from vidfeat.store.spec import FORMAT_VERSION, PLAN_VERSIONS, Fingerprint, StoreSpec, TapSpec, require_version

SPEC_PATH = "plan/spec.json"


class PlannedVideo(NamedTuple):
    """A video of the plan, in the manifest's words."""

    id: str
    label: str
    split: str
    group: str


@dataclass(frozen=True)
class PlannedTap:
    """A tap and the number of rows of each of its shard files."""

    spec: TapSpec
    shard_rows: int

    def to_json(self) -> dict[str, Any]:
        return {**self.spec.to_json(), "shard_rows": self.shard_rows}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> PlannedTap:
        return cls(TapSpec.from_json(document), document["shard_rows"])


@dataclass(frozen=True)
class Unit:
    """What one owner extracts and commits at once: whole videos, views `[view_start, view_stop)`, one shard per tap.

    `n_rows` bounds the rows of the unit; `shards` is the shard number of each tap. Rows lie in the shard by video, then
    view, then frame, videos in the order of `video_indices`, failed ones taking no rows.
    """

    index: int
    video_indices: tuple[int, ...]
    view_start: int
    view_stop: int
    n_rows: int
    shards: Mapping[str, int] = field(hash=False)

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple(self.shards)

    @property
    def n_views(self) -> int:
        return self.view_stop - self.view_start

    @property
    def commit_path(self) -> str:
        return f"commits/unit-{self.index:07d}.json"


@dataclass(frozen=True)
class Pass:
    """One planned run: its videos x views x taps, and how many videos each of its units takes."""

    index: int
    classes: tuple[str, ...]
    taps: tuple[str, ...]
    view_start: int
    view_stop: int
    unit_sizes: tuple[int, ...]
    new_taps: tuple[PlannedTap, ...] = ()
    new_videos: tuple[PlannedVideo, ...] = ()
    video_indices: tuple[int, ...] | None = None  # None: the new videos
    refresh: bool = False  # other files than before: what was committed earlier about these videos no longer counts

    @property
    def path(self) -> str:
        return f"plan/pass-{self.index:04d}.json"

    def to_json(self) -> dict[str, Any]:
        return {
            "format": "vidfeat-pass",
            "format_version": FORMAT_VERSION,
            "pass": self.index,
            "classes": list(self.classes),
            "taps": list(self.taps),
            "view_start": self.view_start,
            "view_stop": self.view_stop,
            "unit_sizes": list(self.unit_sizes),
            "new_taps": [tap.to_json() for tap in self.new_taps],
            "new_videos": [list(video) for video in self.new_videos],
            "video_indices": None if self.video_indices is None else list(self.video_indices),
            **({"refresh": True} if self.refresh else {}),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Pass:
        indices = document["video_indices"]
        return cls(
            index=document["pass"],
            classes=tuple(document["classes"]),
            taps=tuple(document["taps"]),
            view_start=document["view_start"],
            view_stop=document["view_stop"],
            unit_sizes=tuple(document["unit_sizes"]),
            new_taps=tuple(map(PlannedTap.from_json, document["new_taps"])),
            new_videos=tuple(PlannedVideo(*video) for video in document["new_videos"]),
            video_indices=None if indices is None else tuple(indices),
            refresh=document.get("refresh", False),
        )


@dataclass(frozen=True)
class Plan:
    """All passes of a store, in order, what was changed since, and what never changes (`spec`, as given first)."""

    spec: StoreSpec
    passes: tuple[Pass, ...]
    changes: tuple[Change, ...] = ()

    @property
    def taps(self) -> dict[str, PlannedTap]:
        """Every tap of the store, by name, in the order in which they were added."""
        return {tap.spec.name: tap for one in self.passes for tap in one.new_taps}

    @property
    def videos(self) -> list[PlannedVideo]:
        """Every video that was ever planned, by index, as it is labelled now, the `pruned` among them."""
        videos = [video for one in self.passes for video in one.new_videos]
        for change in self.changes:
            if change.kind == "relabel":
                for index, (label, split, group) in change.videos.items():
                    videos[index] = PlannedVideo(videos[index].id, label, split, group)
        return videos

    @property
    def pruned(self) -> frozenset[int]:
        """Indices of the videos that were dropped."""
        return frozenset(index for change in self.changes if change.kind == "prune" for index in change.videos)

    @property
    def live(self) -> list[int]:
        """Indices of the videos that are the store's, in its order: row i of the index is video live[i]."""
        pruned = self.pruned
        return [index for index in range(sum(len(one.new_videos) for one in self.passes)) if index not in pruned]

    @property
    def live_videos(self) -> dict[str, int]:
        """Index by id of the videos that are the store's."""
        videos = self.videos
        return {videos[index].id: index for index in self.live}

    @property
    def seen(self) -> dict[int, tuple[int, int]]:
        """(bytes, mtime in ns) of source files that were found unchanged under another time of change."""
        return {i: (v[0], v[1]) for change in self.changes if change.kind == "seen" for i, v in change.videos.items()}

    @property
    def classes(self) -> tuple[str, ...]:
        for change in reversed(self.changes):
            if change.classes is not None and change.n_passes == len(self.passes):
                return change.classes
        return self.passes[-1].classes if self.passes else ()

    def valid_from(self) -> dict[int, int]:
        """For each video that was refreshed, the first unit whose commit counts, by the video's index."""
        starts: dict[int, int] = {}
        index = 0
        for one in self.passes:
            # The views of one refresh may take several passes; what counts begins with the first view.
            if one.refresh and one.view_start == 0 and one.video_indices is not None:
                starts.update(dict.fromkeys(one.video_indices, index))
            index += len(one.unit_sizes)
        return starts

    @property
    def n_views(self) -> int:
        return max((one.view_stop for one in self.passes), default=0)

    def units(self) -> Iterator[Unit]:
        """Every unit of every pass, by index."""
        n_videos, index = 0, 0
        n_shards = dict.fromkeys(self.taps, 0)
        for one in self.passes:
            chosen: Sequence[int] = range(n_videos, n_videos + len(one.new_videos))
            n_videos += len(one.new_videos)
            chosen = chosen if one.video_indices is None else one.video_indices
            n_rows = min(self.taps[name].shard_rows for name in one.taps)
            start = 0
            for size in one.unit_sizes:
                shards = {name: n_shards[name] for name in one.taps}
                yield Unit(index, tuple(chosen[start : start + size]), one.view_start, one.view_stop, n_rows, shards)
                index, start = index + 1, start + size
                for name in one.taps:
                    n_shards[name] += 1

    def n_shards(self) -> dict[str, int]:
        """Number of shards of each tap."""
        return {name: sum(len(one.unit_sizes) for one in self.passes if name in one.taps) for name in self.taps}


def write_spec(files: Files, spec: StoreSpec) -> None:
    """Writes what never changes about a store."""
    document = {
        "format": "vidfeat-store",
        "format_version": max(PLAN_VERSIONS),
        "n_frames": spec.n_frames,
        "max_frames": spec.max_frames,
        "compressor": spec.compressor,
        "shard_bytes": spec.shard_bytes,
        "max_unit_videos": spec.max_unit_videos,
        "pack_hash": spec.pack_hash,
        "fingerprint": dict(spec.fingerprint.fields),
    }
    files.write(SPEC_PATH, seal(document), step="plan")


def write_pass(files: Files, one: Pass) -> None:
    """Appends a pass to the plan on disk."""
    files.write(one.path, seal(one.to_json()), step="plan")


def read_plan(files: Files) -> Plan | None:
    """The plan on disk, or None when a store was never completely created there.

    Raises:
        StoreCorruptError: a damaged file, or a store of another format version.
    """
    try:
        document = unseal(files.read(SPEC_PATH), path=SPEC_PATH)
    except FileNotFoundError:
        return None
    require_version(document.get("format_version"), PLAN_VERSIONS, files.url)
    passes: list[Pass] = []
    while True:
        path = f"plan/pass-{len(passes):04d}.json"
        try:
            passes.append(Pass.from_json(unseal(files.read(path), path=path)))
        except FileNotFoundError:
            break
    if not passes:
        return None
    spec = StoreSpec(
        taps=tuple(tap.spec for tap in passes[0].new_taps),
        n_frames=document["n_frames"],
        n_views=passes[0].view_stop,
        classes=passes[0].classes,
        fingerprint=Fingerprint(document["fingerprint"]),
        pack_hash=document["pack_hash"],
        max_frames=document["max_frames"],
        compressor=document["compressor"],
        shard_bytes=document["shard_bytes"],
        max_unit_videos=document["max_unit_videos"],
    )
    return Plan(spec, tuple(passes), read_changes(files))
