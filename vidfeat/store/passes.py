"""What the next pass of a plan must be: for a new store, for what one lacks, for videos that are tried again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vidfeat.errors import StoreError, explain
from vidfeat.store.spec import StoreSpec, TapSpec, VideoKey, require_video_list, same_key
from vidfeat.store.unit_plan import Pass, Plan, PlannedTap, PlannedVideo

_SHOWN = 10


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
    known_ids = plan.live_videos
    alive = tuple(index for index in plan.live if index not in failed)
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


def retry_passes(plan: Plan, video_indices: Sequence[int], *, refresh: bool = False) -> list[Pass]:
    """The passes that extract some videos of the plan anew, with every tap and view.

    refresh: from other files; what is committed about these videos does not count any more.
    """
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
        one = Pass(index, plan.classes, tuple(taps), start, stop, sizes, video_indices=chosen, refresh=refresh)
        passes.append(one)
    return passes


def _require_extension(plan: Plan, spec: StoreSpec, videos: Sequence[VideoKey]) -> None:
    require_video_list(videos, spec.classes)
    problems = []
    for name in ("n_frames", "max_frames", "compressor", "pack_hash"):
        if getattr(spec, name) != getattr(plan.spec, name):
            problems.append(f"{name}: the store has {getattr(plan.spec, name)!r}, asked for {getattr(spec, name)!r}")
    other_classes = spec.classes[: len(plan.classes)] != plan.classes
    if other_classes:
        problems.append("classes: those of the store, in their order, must come first")
    taps = plan.taps
    for tap in spec.taps:
        if tap.name in taps and taps[tap.name].spec != tap:
            problems.append(f"tap {tap.name}: the store has {taps[tap.name].spec}, asked for {tap}")
    planned = plan.videos
    known = {key: planned[index] for key, index in plan.live_videos.items()}
    changed = [video for video in videos if video.id in known and not same_key(known[video.id], video)]
    problems += [
        f"video {v.id!r}: the store has {tuple(known[v.id])[1:]}, the manifest {(v.label, v.split, v.group)}"
        for v in changed
    ]
    if problems:
        fix = (
            "the same command with --keep-labels keeps the store's; vidfeat relabel STORE --labels LIST gives it others"
            if changed or other_classes
            else "extract into a new store"
        )
        shown = [f"\n  - {problem}" for problem in problems[:_SHOWN]]
        more = [f"\n  ... and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else []
        raise StoreError(explain("this cannot be added to the store", got="".join(shown + more), fix=fix))


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
