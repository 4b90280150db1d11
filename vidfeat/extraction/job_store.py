"""A job's store: created, opened, repaired, extended; and the backbone pack inside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vidfeat.errors import FAILURE_REASONS, PackError, PlanError, StoreError, explain
from vidfeat.extraction.options import ExtractOptions, OptionsError
from vidfeat.store import StoreSpec, StoreWriter, VerifyReport, open_store, require_same_fingerprint, verify
from vidfeat.store.location import files_at
from vidfeat.store.sealing import half_copied
from vidfeat.store.unit_plan import Plan, PlannedVideo, read_plan
from vidfeat.store.verify import Level
from vidfeat.video.manifest import Manifest, VideoItem
from vidfeat.video.source.rows import split_name

if TYPE_CHECKING:
    from vidfeat.backbone import BackbonePack
    from vidfeat.clip.openclip import LoadedClip

# What may lie in a folder that is to become a store: an earlier attempt's own files.
OWN_NAMES = {"pack", "plan", "commits", "zarr.json", "index"}
PACK = "pack"


def require_store_or_nothing(out: str) -> None:
    if "://" in out or not os.path.exists(out):
        return
    strangers = sorted(set(os.listdir(out)) - OWN_NAMES) if os.path.isdir(out) else [out]
    strangers = [name for name in strangers if not name.startswith(".")]
    if strangers and read_plan(files_at(out)) is None:
        raise half_copied(files_at(out)) or OptionsError(
            explain(
                "the output exists and is no store",
                where=out,
                got=", ".join(strangers[:5]),
                fix="give the path of a new store, such as --out features.zarr; of a store half copied, copy the rest",
            )
        )


def with_labels_of(standing: Plan, manifest: Manifest) -> Manifest:
    """The manifest with the label, split and group that the store has of its videos, and their classes."""
    planned = standing.videos
    known = {key: planned[index] for key, index in standing.live_videos.items()}
    items = tuple(
        replace(item, label=own.label, split=own.split, group=own.group) if (own := known.get(item.id)) else item
        for item in manifest.items
    )
    classes = tuple(dict.fromkeys(item.label for item in items)) if standing.classes else ()
    return replace(manifest, items=items, classes=classes)


def require_same(standing: Plan, spec: StoreSpec, out: str) -> None:
    require_same_fingerprint(
        standing.spec.fingerprint,
        spec.fingerprint,
        left_name=f"the store {out}",
        right_name="this extraction",
        fix="it holds imported features, which no extraction adds to; write to a new store"
        if "imported" in standing.spec.fingerprint.fields
        else "give the store's own settings, or write to a new store",
    )


def pack_at(out: str, clip: LoadedClip, standing: Plan | None, *, check: Level) -> BackbonePack:
    """The store's own pack; where there is none yet, one that its `save` will write there."""
    from vidfeat.backbone import BackbonePack

    if "://" in out:
        return _remote_pack(out, clip)
    directory = Path(out, PACK)
    if standing is not None and directory.exists():
        # The fingerprints agree, so it is this model's; no need to serialise the weights to compare them.
        try:
            pack = BackbonePack.load(directory, expected_hash=standing.spec.pack_hash or None)
            if check == "full":
                pack.verify()
            return pack
        except PackError:
            shutil.rmtree(directory)  # a damaged pack follows from the model, which is here
    pack = clip.pack_for(directory)
    if directory.exists():
        pack.save()  # of an earlier attempt that had no plan yet: the same, or refused before there is one
    return pack


def _remote_pack(out: str, clip: LoadedClip) -> BackbonePack:
    """The pack, whose image tower is in memory, and its files in the store that has none yet."""
    files = files_at(out)
    with tempfile.TemporaryDirectory(prefix="vidfeat-pack-") as folder:
        pack = clip.pack_for(Path(folder, PACK))
        pack.save()
        present = files.listing(PACK)
        for path in sorted(pack.path.iterdir()):
            name = f"{PACK}/{path.name}"
            if present.get(name) != path.stat().st_size:
                files.write(name, path.read_bytes(), step="pack")
    return pack


def create(options: ExtractOptions, spec: StoreSpec, manifest: Manifest) -> StoreWriter:
    bounds = frame_bounds(options, [item.path for item in manifest.items])
    return StoreWriter.create(options.out, spec, manifest.items, frame_bounds=bounds)


def open_existing(options: ExtractOptions) -> StoreWriter:
    # Other jobs of an array may be writing now: only a lone one may sweep what a killed one left behind.
    return StoreWriter.open(options.out) if options.units is None else StoreWriter.attach(options.out)


def take_back_what_is_bad(writer: StoreWriter, options: ExtractOptions) -> VerifyReport | None:
    """Makes units pending again whose bytes are not those committed; what was found, None if not looked."""
    if options.units is not None:
        return None
    report = verify(options.out, level=options.check)
    bad = set(report.bad_units) & {unit.index for unit in writer.committed_units()}
    if bad:
        writer.discard(bad)
    return report


def extend(writer: StoreWriter, options: ExtractOptions, spec: StoreSpec, manifest: Manifest) -> None:
    may_retry = options.retry is not None or _has_failures(writer, options.out)
    spec = replace(spec, classes=tuple(dict.fromkeys((*writer.plan.classes, *manifest.classes))))
    known, planned = writer.plan.live_videos, writer.plan.videos
    bounds = frame_bounds(options, ["" if item.id in known else item.path for item in manifest.items])
    items = [_spelled_as(planned[known[item.id]], item) if item.id in known else item for item in manifest.items]
    writer.extend(spec, items, frame_bounds=bounds)
    if not may_retry:
        return
    # What the machine failed to read is tried again by every run; in an array of jobs, once no share is left to do.
    again = {"machine"} if options.units is None or not writer.pending_units() else set()
    _plan_retry(writer, again if options.retry is None else again | {options.retry})


def _spelled_as(planned: PlannedVideo, item: VideoItem) -> VideoItem:
    """The item with the split as the store spells it, where both mean the same: "Validation", "val"."""
    return replace(item, split=planned.split) if split_name(planned.split) == item.split else item


def _has_failures(writer: StoreWriter, out: str | os.PathLike[str]) -> bool:
    """Whether the store may hold failed videos: a finished one's index says so at once, if it is sound."""
    try:
        return not writer.is_finished or not open_store(out, check="never").ok.all()
    except StoreError:
        return True


def _plan_retry(writer: StoreWriter, reasons: set[str]) -> None:
    known = {*FAILURE_REASONS, "all"}
    if not reasons <= known:
        expected, got = ", ".join((*FAILURE_REASONS, "all")), ", ".join(reasons - known)
        raise OptionsError(explain("--retry does not know this reason", expected=expected, got=got))
    if not reasons:
        return
    # A retry that was interrupted is still pending; asking again must not plan it twice.
    planned = {index for unit in writer.pending_units() for index in unit.video_indices}
    failures = writer.failures().items()
    writer.retry(i for i, facts in failures if reasons & {"all", facts.reason} and i not in planned)


def frame_bounds(options: ExtractOptions, paths: Sequence[str]) -> list[int] | None:
    """Upper bounds of the frames sampled from each file, by probing; None when the policy fixes their number.

    An empty path (a video that is in the store already) and a file that cannot be probed count 1: the one takes no
    room, the other will be recorded as a failure.

    Raises:
        PlanError: videos that have more than `max_frames`.
    """
    if options.sampling.n_sampled is not None:
        return None
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max(1, options.machine.n_workers)) as threads:
        bounds = list(threads.map(partial(_frame_bound, options), paths))
    over = [(bound, path) for bound, path in zip(bounds, paths, strict=True) if bound > options.max_frames]
    if over:
        shown = ", ".join(f"{path} ({bound})" for bound, path in sorted(over, reverse=True)[:5])
        raise PlanError(
            explain(
                f"{len(over)} videos have more frames than a store's shard has room for",
                expected=f"at most {options.max_frames} sampled frames",
                got=shown,
                fix=f"--max-frames {max(over)[0]}, or sample fewer frames",
            )
        )
    return bounds


def _frame_bound(options: ExtractOptions, path: str) -> int:
    from vidfeat.errors import DecodeError
    from vidfeat.video.decode import probe
    from vidfeat.video.sampling import sample_indices

    if not path:
        return 1
    try:
        facts = probe(path)
        return len(sample_indices(options.sampling, n_source_frames=facts.n_frames_expected, fps=facts.fps))
    except DecodeError as error:
        # Nothing is known of a file that the machine failed to read: its frames may be as many as there is room for.
        return options.max_frames if error.reason == "machine" else 1
    except ValueError:
        return 1
