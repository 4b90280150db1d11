"""The plan: which videos, views and taps form which unit. Written before any extraction, only ever appended to.

A *pass* is one decision to extract something: the first run, then one more for every later addition (new videos, a new
tap, more views, a retry). A pass is cut into *units* of whole videos; a unit is one shard per tap and one commit. Units
of a later pass get new shards, so that no committed file is ever rewritten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from vidfeat.errors import StoreCorruptError, StoreError, explain
from vidfeat.store.files import Files
from vidfeat.store.records import seal, unseal
from vidfeat.store.spec import FORMAT_VERSION, Fingerprint, StoreSpec, TapSpec, VideoKey, require_video_list, same_key

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
        )


@dataclass(frozen=True)
class Plan:
    """All passes of a store, in order, and what never changes about it (`spec`, as given to the first pass)."""

    spec: StoreSpec
    passes: tuple[Pass, ...]

    @property
    def taps(self) -> dict[str, PlannedTap]:
        """Every tap of the store, by name, in the order in which they were added."""
        return {tap.spec.name: tap for one in self.passes for tap in one.new_taps}

    @property
    def videos(self) -> list[PlannedVideo]:
        return [video for one in self.passes for video in one.new_videos]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.passes[-1].classes if self.passes else ()

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
        "format_version": FORMAT_VERSION,
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
    if document["format_version"] != FORMAT_VERSION:
        raise StoreCorruptError(
            explain(
                "this store has another format version",
                where=files.url,
                expected=FORMAT_VERSION,
                got=document["format_version"],
                fix="read it with the version of vidfeat that wrote it",
            )
        )
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
    return Plan(spec, tuple(passes))


def first_pass(spec: StoreSpec, videos: Sequence[VideoKey], frame_bounds: Sequence[int] | None) -> Pass:
    """The pass that fills a new store.

    frame_bounds: for videos of different lengths, an upper bound on the frames of each (what probing found); units are
        packed by it. Without it every video is taken to have `spec.max_frames`.

    Raises:
        StoreError: the list of videos is unusable (all problems named).
    """
    require_video_list(videos, spec.classes)
    taps = _with_shard_rows(spec, spec.taps)
    limit = min(tap.shard_rows for tap in taps)
    return Pass(
        index=0,
        classes=spec.classes,
        taps=tuple(tap.spec.name for tap in taps),
        view_start=0,
        view_stop=spec.n_views,
        unit_sizes=_pack(_bounds(spec, videos, frame_bounds), n_views=spec.n_views, limit=limit, spec=spec),
        new_taps=taps,
        new_videos=tuple(PlannedVideo(video.id, video.label, video.split, video.group) for video in videos),
    )


def added_passes(
    plan: Plan,
    spec: StoreSpec,
    videos: Sequence[VideoKey],
    *,
    failed: frozenset[int] = frozenset(),
    frame_bounds: Sequence[int] | None = None,
) -> list[Pass]:
    """The passes that bring a store from `plan` to `spec` and `videos`; empty when nothing is missing.

    First new taps for the known videos, then new views for them, then the new videos with every tap and view. `failed`
    videos are left out of the first two. Videos of the store that `videos` does not name stay.

    Raises:
        StoreError: a known video with another label, split or group, classes that do not extend the store's, ...
    """
    _require_extension(plan, spec, videos)
    passes: list[Pass] = []
    known_taps = plan.taps
    new_taps = _with_shard_rows(spec, [tap for tap in spec.taps if tap.name not in known_taps])
    taps = {**known_taps, **{tap.spec.name: tap for tap in new_taps}}
    known_ids = {video.id for video in plan.videos}
    alive = tuple(index for index in range(len(known_ids)) if index not in failed)
    n_views = max(plan.n_views, spec.n_views)

    def add(chosen: Mapping[str, PlannedTap], views: tuple[int, int], bounds: Sequence[int], **rest: Any) -> None:
        limit = min(tap.shard_rows for tap in chosen.values())
        step = max(1, limit // spec.frames_bound)
        for start in range(*views, step):
            stop = min(start + step, views[1])
            sizes = _pack(bounds, n_views=stop - start, limit=limit, spec=spec)
            index = len(plan.passes) + len(passes)
            passes.append(Pass(index, spec.classes, tuple(chosen), start, stop, sizes, **rest))
            if "new_videos" in rest:  # they are new in their first pass alone
                first = len(plan.videos)
                rest = {"video_indices": tuple(range(first, first + len(rest["new_videos"])))}
            rest.pop("new_taps", None)

    known_bounds = [spec.frames_bound] * len(alive)
    if new_taps:
        chosen = {tap.spec.name: tap for tap in new_taps}
        add(chosen, (0, plan.n_views), known_bounds, new_taps=new_taps, video_indices=alive)
    if n_views > plan.n_views:
        add(taps, (plan.n_views, n_views), known_bounds, video_indices=alive)
    new = [position for position, video in enumerate(videos) if video.id not in known_ids]
    if new:
        bounds = _bounds(spec, videos, frame_bounds)
        added = tuple(PlannedVideo(v.id, v.label, v.split, v.group) for v in (videos[position] for position in new))
        add(taps, (0, n_views), [bounds[position] for position in new], new_videos=added)
    return passes


def retry_passes(plan: Plan, video_indices: Sequence[int]) -> list[Pass]:
    """The passes that extract some videos of the plan anew, with every tap and view."""
    taps = plan.taps
    limit = min(tap.shard_rows for tap in taps.values())
    step = max(1, limit // plan.spec.frames_bound)
    bounds = [plan.spec.frames_bound] * len(video_indices)
    passes: list[Pass] = []
    for start in range(0, plan.n_views, step):
        stop = min(start + step, plan.n_views)
        sizes = _pack(bounds, n_views=stop - start, limit=limit, spec=plan.spec)
        index = len(plan.passes) + len(passes)
        chosen = tuple(video_indices)
        passes.append(Pass(index, plan.classes, tuple(taps), start, stop, sizes, video_indices=chosen))
    return passes


def _require_extension(plan: Plan, spec: StoreSpec, videos: Sequence[VideoKey]) -> None:
    require_video_list(videos, spec.classes)
    problems = []
    for name in ("n_frames", "max_frames", "compressor", "pack_hash"):
        if getattr(spec, name) != getattr(plan.spec, name):
            problems.append(f"{name}: the store has {getattr(plan.spec, name)!r}, asked for {getattr(spec, name)!r}")
    if spec.classes[: len(plan.classes)] != plan.classes:
        problems.append("classes: those of the store, in their order, must come first")
    taps = plan.taps
    for tap in spec.taps:
        if tap.name in taps and taps[tap.name].spec != tap:
            problems.append(f"tap {tap.name}: the store has {taps[tap.name].spec}, asked for {tap}")
    known = {video.id: video for video in plan.videos}
    changed = [video for video in videos if video.id in known and not same_key(known[video.id], video)]
    problems += [
        f"video {v.id!r}: the store has {tuple(known[v.id])[1:]}, the manifest {(v.label, v.split, v.group)}"
        for v in changed[:20]
    ]
    if problems:
        raise StoreError(
            explain("this cannot be added to the store", got="; ".join(problems), fix="extract it into a new store")
        )


def _bounds(spec: StoreSpec, videos: Sequence[VideoKey], frame_bounds: Sequence[int] | None) -> Sequence[int]:
    if spec.n_frames is not None or frame_bounds is None:
        return [spec.frames_bound] * len(videos)
    if len(frame_bounds) != len(videos):
        raise ValueError(f"{len(frame_bounds)} frame_bounds for {len(videos)} videos")
    return [min(max(1, int(bound)), spec.frames_bound) for bound in frame_bounds]


def _with_shard_rows(spec: StoreSpec, taps: Sequence[TapSpec]) -> tuple[PlannedTap, ...]:
    """The taps with the rows of a shard: about `shard_bytes` of the largest, room for one whole video at least."""
    if not taps:
        return ()
    target = max(1, spec.shard_bytes // max(tap.row_bytes for tap in taps))
    one_video = spec.frames_bound * spec.n_views
    rows = max(one_video, min(target, spec.max_unit_videos * one_video))
    if spec.n_frames is not None:
        rows -= rows % spec.n_frames
    return tuple(PlannedTap(tap, rows) for tap in taps)


def _pack(bounds: Sequence[int], *, n_views: int, limit: int, spec: StoreSpec) -> tuple[int, ...]:
    """Videos of each unit: in order, as many as fit in `limit` rows, at most `max_unit_videos`."""
    sizes: list[int] = []
    rows = limit + 1
    for bound in bounds:
        if rows + bound * n_views > limit or sizes[-1] == spec.max_unit_videos:
            sizes.append(0)
            rows = 0
        sizes[-1] += 1
        rows += bound * n_views
    return tuple(sizes)
