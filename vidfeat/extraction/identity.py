"""Are a source's files still those a store was extracted from? By path, size and time; by content on doubt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vidfeat.errors import DecodeError, StoreError, explain
from vidfeat.extraction.options import OptionsError
from vidfeat.extraction.recipe import file_sha256, stat_facts
from vidfeat.id_matching import file_below
from vidfeat.store import StoreSpec, StoreWriter, VideoRow, open_store
from vidfeat.video.manifest import Manifest

SHOWN = 5


@dataclass(frozen=True)
class SourceChanges:
    """What became of the files of a store's videos. Videos by their index in the plan.

    Attributes:
        changed: how a file differs from the one that was read.
        seen: size and mtime of files that have another time of change and the same content.
        gone: videos that the source does not name and whose file is not below its root any more.
        moved: for those of `gone` whose very content the source has under a new id, that id.
    """

    changed: Mapping[int, str]
    seen: Mapping[int, tuple[int, int]]
    gone: tuple[int, ...]
    moved: Mapping[int, str]


def compare(out: str, writer: StoreWriter, manifest: Manifest) -> SourceChanges:
    """What became of the files of the store's videos, as far as the store recorded what they were.

    Videos whose refresh is planned and pending are left out of `changed`.
    """
    plan = writer.plan
    items = {item.id: item for item in manifest.items}
    valid_from = plan.valid_from()
    pending = [(unit.index, index) for unit in writer.pending_units() for index in unit.video_indices]
    refreshing = {index for unit, index in pending if index in valid_from and unit >= valid_from[index]}
    facts = _standing_facts(out, writer)
    changed: dict[int, str] = {}
    seen: dict[int, tuple[int, int]] = {}
    gone: list[int] = []
    n_there = 0
    for key, index in plan.live_videos.items():
        path = items[key].path if key in items else file_below(manifest.root, key)
        now = stat_facts(path)
        n_there += bool(now)
        if not now and key not in items:
            gone.append(index)
        elif now and index in facts and facts[index].source_mtime_ns and index not in refreshing:
            how = _difference(facts[index], path, now)
            if how is None:
                seen[index] = now["n_source_bytes"], now["source_mtime_ns"]
            elif how:
                changed[index] = how
    if not n_there:  # a source with another root says nothing about these files
        gone = []
    return SourceChanges(changed, seen, tuple(gone), _moved(gone, facts, manifest, set(plan.live_videos)))


def _standing_facts(out: str, writer: StoreWriter) -> dict[int, VideoRow]:
    """What the store says about its videos, by index in the plan: its index, or the commits where it has none."""
    plan = writer.plan
    if writer.is_finished:
        try:
            return dict(zip(plan.live, open_store(out, check="never").videos(), strict=True))
        except (StoreError, ValueError):
            pass  # damaged: it is rebuilt from the commits, which are read instead
    valid_from, facts = plan.valid_from(), {}
    for unit in writer.records(writer.committed_units()).values():
        for video in unit.videos:
            if unit.unit >= valid_from.get(video.index, 0):
                facts[video.index] = video.facts
    return facts


def _difference(before: VideoRow, path: str, now: Mapping[str, int]) -> str | None:
    """How a file differs from what was read: "" not at all, None in its time of change alone."""
    if now["n_source_bytes"] != before.n_source_bytes:
        return f"{now['n_source_bytes']:,} bytes, was {before.n_source_bytes:,}"
    if now["source_mtime_ns"] == before.source_mtime_ns:
        return ""
    if not before.content_sha256:
        return "changed since it failed"
    try:
        return None if file_sha256(path) == before.content_sha256 else "another content of the same size"
    except DecodeError as error:
        return str(error)


def _moved(gone: Sequence[int], facts: Mapping[int, VideoRow], manifest: Manifest, known: set[str]) -> dict[int, str]:
    by_size: dict[int, list[int]] = {}
    for index in gone:
        if index in facts and facts[index].content_sha256 and facts[index].source_mtime_ns:
            by_size.setdefault(facts[index].n_source_bytes, []).append(index)
    found: dict[int, str] = {}
    for item in manifest.items if by_size else ():
        alike = by_size.get(stat_facts(item.path).get("n_source_bytes", -1)) if item.id not in known else None
        if alike:
            try:
                digest = file_sha256(item.path)
            except DecodeError:
                continue
            found.update({index: item.id for index in alike if facts[index].content_sha256 == digest})
    return found


def apply(writer: StoreWriter, found: SourceChanges, manifest: Manifest, *, prune: bool) -> None:
    """Writes into the store's log what needs no extraction: times of change, and the pruned videos."""
    if found.seen:
        writer.change("seen", found.seen, why="the same content under another time of change")
    if prune and found.gone:
        writer.change("prune", dict.fromkeys(found.gone, ()), why=f"not below {manifest.root} any more")


def require_unchanged(writer: StoreWriter, found: SourceChanges, spec: StoreSpec) -> None:
    """Nothing, or OptionsError where taps or views of a changed file would join those of the file it was.

    Raises:
        OptionsError: naming the files.
    """
    plan = writer.plan
    adds = any(tap.name not in plan.taps for tap in spec.taps) or spec.n_views > plan.n_views
    pending = {index for unit in writer.pending_units() for index in unit.video_indices}
    mixed = [index for index in found.changed if adds or index in pending]
    if mixed:
        raise OptionsError(
            explain(
                f"{len(mixed)} files are not those that the store was extracted from, and more of them is to be added",
                got=_named(writer, {index: found.changed[index] for index in mixed}),
                fix="the same command with --refresh extracts them anew; or put the files back as they were",
            )
        )


def notes(writer: StoreWriter, found: SourceChanges, *, refresh: bool, prune: bool) -> list[str]:
    """What is to be said about the changes, and what can be done."""
    said = []
    if found.changed:
        done = "extracted anew" if refresh else "the store keeps the old ones; --refresh extracts them anew"
        said.append(
            f"{len(found.changed)} x file changed since it was extracted: {_named(writer, found.changed)}; {done}"
        )
    if found.moved:
        done = "the old names are dropped" if prune else "the store has them twice; --prune drops the old names"
        videos = writer.plan.videos
        shown = [f"{videos[index].id} -> {new}" for index, new in found.moved.items()]
        said.append(f"{len(shown)} x video moved: {_some(shown)}; {done}")
    lost = {index: "" for index in found.gone if index not in found.moved}
    if lost:
        done = "dropped" if prune else "their features stay in the store; --prune drops them"
        said.append(f"{len(lost)} x video of the store is gone from the source: {_named(writer, lost)}; {done}")
    return said


def _named(writer: StoreWriter, how: Mapping[int, str]) -> str:
    videos = writer.plan.videos
    return _some([f"{videos[index].id} ({what})" if what else videos[index].id for index, what in how.items()])


def _some(cases: Sequence[str]) -> str:
    return ", ".join(cases[:SHOWN]) + (f" and {len(cases) - SHOWN} more" if len(cases) > SHOWN else "")
