"""Writing a store: plan -> units -> commits -> finished. Killed anywhere, the same calls carry on where it stopped.

    writer = StoreWriter.open_or_create(path, spec, videos)      # the one coordinator
    for unit in writer.pending_units():
        writer.commit(unit, {"pooled": rows}, facts)             # here, or in any process through
        StoreWriter.attach(path)
    writer.finalize()

The protocol of one unit: all shards are encoded in memory; each is written to a temporary file, fsynced, renamed, its
directory fsynced; then the commit record goes the same way. Only the record makes the unit part of the store. Resume =
plan - records.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from vidfeat.errors import StoreCorruptError, StoreError, StoreIncompleteError, StoreNotFoundError, explain
from vidfeat.store.changes import Change, Kind, write_change
from vidfeat.store.commits import CommitRecord, FileRecord, TapRows, encode_commit, require_commit_of
from vidfeat.store.files import WRITE_ATTEMPTS, Content, Files, OnStep, Staged, StagedFileLost
from vidfeat.store.location import files_at
from vidfeat.store.passes import added_passes, first_pass, retry_passes
from vidfeat.store.sealing import MANIFEST_PATH, PACK_PREFIX, Manifest, unit_layouts, write_manifest, write_metadata
from vidfeat.store.spec import StoreSpec, VideoKey, VideoRow, require_same_fingerprint
from vidfeat.store.unit_plan import (
    Pass,
    Plan,
    Unit,
    read_plan,
    write_pass,
    write_spec,
)
from vidfeat.store.verify import VerifyReport


class StoreWriter:
    """The one coordinator of a store, or (`attach`) one of its workers. Made by the class methods alone."""

    def __init__(self, files: Files, plan: Plan) -> None:
        self._files = files
        self._set_plan(plan)

    def _set_plan(self, plan: Plan) -> None:
        self.plan = plan
        self._units = tuple(plan.units())
        self._taps = plan.taps
        self._videos = plan.videos

    def __repr__(self) -> str:
        taps = ", ".join(self._taps)
        return f"StoreWriter({self._files.url!r}, {len(self._videos)} videos, {len(self._units)} units, taps {taps})"

    # --- opening

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        spec: StoreSpec,
        videos: Sequence[VideoKey],
        *,
        frame_bounds: Sequence[int] | None = None,
        on_step: OnStep | None = None,
    ) -> StoreWriter:
        """A new store with its plan written and nothing extracted. A half-made creation is completed.

        frame_bounds: upper bound on each video's frames, when `spec.n_frames` is None (see `passes.first_pass`).

        Raises:
            StoreError: there is a store already, or the list of videos is unusable.
        """
        files = files_at(path, on_step=on_step)
        if read_plan(files) is not None:
            raise StoreError(explain("there is a store already", where=path, fix="open it, or choose another path"))
        one = first_pass(spec, videos, frame_bounds)
        files.sweep()
        write_spec(files, spec)
        write_pass(files, one)
        return cls._coordinator(files)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], spec: StoreSpec | None = None, *, on_step: OnStep | None = None
    ) -> StoreWriter:
        """The coordinator of an existing store: sweeps partial files, completes metadata. Only one process may hold it.

        Raises:
            StoreNotFoundError: no store there.
            FingerprintMismatchError: `spec` is given and has another fingerprint.
        """
        files = files_at(path, on_step=on_step)
        writer = cls.attach(path, on_step=on_step)
        if spec is not None:
            require_same_fingerprint(
                writer.plan.spec.fingerprint,
                spec.fingerprint,
                left_name=f"the store {path}",
                right_name="this extraction",
                fix="use the store's own settings, or write to a new store",
            )
        return cls._coordinator(files)

    @classmethod
    def attach(cls, path: str | os.PathLike[str], *, on_step: OnStep | None = None) -> StoreWriter:
        """A worker's view of a store: it may commit units and changes nothing else.

        Raises:
            StoreNotFoundError: no store there.
        """
        files = files_at(path, on_step=on_step)
        plan = read_plan(files)
        if plan is None:
            raise StoreNotFoundError(
                explain(
                    "there is no store to write to",
                    where=path,
                    fix="create it with `vidfeat extract SOURCE --out PATH`",
                )
            )
        return cls(files, plan)

    @classmethod
    def open_or_create(
        cls,
        path: str | os.PathLike[str],
        spec: StoreSpec,
        videos: Sequence[VideoKey],
        *,
        frame_bounds: Sequence[int] | None = None,
        on_step: OnStep | None = None,
    ) -> StoreWriter:
        """The coordinator of the store that is to hold `spec` and `videos`: created, resumed, or extended.

        Raises:
            FingerprintMismatchError: the store holds numbers of another origin.
            StoreError: the videos or taps contradict those in the store.
        """
        if read_plan(files_at(path)) is None:
            return cls.create(path, spec, videos, frame_bounds=frame_bounds, on_step=on_step)
        writer = cls.open(path, spec, on_step=on_step)
        writer.extend(spec, videos, frame_bounds=frame_bounds)
        return writer

    @classmethod
    def _coordinator(cls, files: Files) -> StoreWriter:
        plan = read_plan(files)
        assert plan is not None
        files.sweep()
        writer = cls(files, plan)
        if not writer.is_finished:
            write_metadata(files, plan)
        return writer

    # --- what there is to do

    @property
    def is_finished(self) -> bool:
        """Whether every unit is committed and the manifest written."""
        return self._files.size(MANIFEST_PATH) is not None

    def plan_units(self) -> tuple[Unit, ...]:
        """Every unit of the plan, by index."""
        return self._units

    def committed_units(self) -> tuple[Unit, ...]:
        """The units that have a commit record."""
        present = self._files.listing("commits")
        return tuple(unit for unit in self._units if unit.commit_path in present)

    def pending_units(self) -> tuple[Unit, ...]:
        """The units still to be extracted: plan - commit records."""
        present = self._files.listing("commits")
        return tuple(unit for unit in self._units if unit.commit_path not in present)

    def record(self, unit: Unit) -> CommitRecord | None:
        """The commit record of a unit, None when it is not committed.

        Raises:
            StoreCorruptError: the record is damaged or of another plan.
        """
        return self.records([unit]).get(unit.index)

    def records(self, units: Sequence[Unit]) -> dict[int, CommitRecord]:
        """The commit records of those units that are committed, by unit.

        Raises:
            StoreCorruptError: a record is damaged or of another plan.
        """
        contents = self._files.read_many([unit.commit_path for unit in units])
        fingerprint, records = self.plan.spec.fingerprint.sha256, {}
        for unit in units:
            path = unit.commit_path
            if path in contents:
                record = CommitRecord.from_bytes(contents[path], path=path)
                require_commit_of(record, unit, fingerprint_sha256=fingerprint, path=path)
                records[unit.index] = record
        return records

    def failures(self) -> dict[int, VideoRow]:
        """The videos whose latest commit is a failure, by video index; pruned ones are left out."""
        latest = {}
        for record in self.records(self._units).values():
            latest.update({video.index: video.facts for video in record.videos})
        pruned = self.plan.pruned
        return {index: facts for index, facts in latest.items() if not facts.ok and index not in pruned}

    # --- changing the plan (coordinator only)

    def extend(
        self, spec: StoreSpec, videos: Sequence[VideoKey], *, frame_bounds: Sequence[int] | None = None
    ) -> tuple[Unit, ...]:
        """Plans what `spec` and `videos` have and the store lacks, and gives the new units back; nothing missing: none.

        Raises:
            StoreError: something contradicts what is in the store (all problems named); nothing was changed.
        """
        passes = added_passes(self.plan, spec, videos, frame_bounds=frame_bounds)
        if passes:
            failed = frozenset(self.failures())
            passes = added_passes(self.plan, spec, videos, failed=failed, frame_bounds=frame_bounds)
        return self._append(passes)

    def retry(self, video_indices: Iterable[int], *, refresh: bool = False) -> tuple[Unit, ...]:
        """Plans some videos anew (failed ones, as a rule) with every tap and view, and gives the new units back.

        refresh: their files are others than before, and what was committed about them no longer counts.
        """
        chosen = sorted(set(video_indices))
        return self._append(retry_passes(self.plan, chosen, refresh=refresh)) if chosen else ()

    def change(
        self, kind: Kind, videos: Mapping[int, tuple[Any, ...]], *, classes: Sequence[str] | None = None, why: str = ""
    ) -> None:
        """Writes a change of the videos into the store's log, durably; it holds at once. Then comes `finalize`.

        Args:
            videos: by index, what `Change.videos` says for that kind.
            classes: all classes, in their order from now on.
        """
        plan = self.plan
        change = Change(
            index=len(plan.changes),
            kind=kind,
            n_passes=len(plan.passes),
            videos=videos,
            classes=None if classes is None else tuple(classes),
            why=why,
            at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self._files.remove(MANIFEST_PATH)
        write_change(self._files, change)
        self._set_plan(Plan(plan.spec, plan.passes, (*plan.changes, change)))
        write_metadata(self._files, self.plan)

    def _append(self, passes: Sequence[Pass]) -> tuple[Unit, ...]:
        if not passes:
            return ()
        n_before = len(self._units)
        self._files.remove(MANIFEST_PATH)
        for one in passes:
            write_pass(self._files, one)
        self._set_plan(Plan(self.plan.spec, (*self.plan.passes, *passes), self.plan.changes))
        write_metadata(self._files, self.plan)
        return self._units[n_before:]

    def discard(self, units: Iterable[int]) -> None:
        """Takes units back, record first, then shards. They are pending again; the store waits for `finalize`."""
        self._files.remove(MANIFEST_PATH)
        for index in sorted(set(units)):
            unit = self._units[index]
            self._files.remove(unit.commit_path)
            for path in unit_layouts(self.plan, unit):
                self._files.remove(path)
        write_metadata(self._files, self.plan)

    def repair(self, report: VerifyReport) -> tuple[Unit, ...]:
        """Takes back what `verify` found bad, and gives the units to extract again; then comes `finalize`.

        Raises:
            StoreCorruptError: the plan or the pack is damaged, which no extraction brings back.
        """
        lost = [problem for problem in report.problems if problem.repair == "restore"]
        if lost:
            raise StoreCorruptError(
                explain(
                    "what is damaged cannot be extracted again",
                    where=self._files.url,
                    got="; ".join(map(str, lost)),
                    fix="copy these files back from where the store came, or extract into a new store",
                )
            )
        if report.problems:
            self.discard(report.bad_units)
        return self.pending_units()

    # --- committing (any process)

    def commit(self, unit: Unit, arrays: Mapping[str, TapRows], videos: Sequence[VideoRow]) -> CommitRecord:
        """Makes one unit part of the store, durably, and gives its record back.

        arrays: for every tap of the unit, float rows [n *row_shape] by video, view, frame; failed videos have none. An
            array, or one array per (video, view).
        videos: the facts of `unit.video_indices`, in order, failed ones included.

        A unit that is committed already is left as it is: the first commit wins, so retries and twins do no harm.

        Raises:
            StoreError: wrong shapes, facts or values (NaN, infinity, float16 overflow; all problems named); or no room
                left.
        """
        planned = [self._videos[index] for index in unit.video_indices]
        contents, record = encode_commit(
            unit, spec=self.plan.spec, taps=self._taps, planned=planned, arrays=arrays, videos=videos
        )
        with ThreadPoolExecutor(1) as beside:  # the files are hashed while they are written
            hashed = beside.submit(lambda: {path: FileRecord.of(content) for path, content in contents.items()})
            for attempt in range(WRITE_ATTEMPTS):
                try:
                    return self._put(unit, contents, lambda: replace(record, files=hashed.result()))
                except StagedFileLost:
                    if attempt == WRITE_ATTEMPTS - 1:
                        raise
        raise AssertionError("unreachable")

    def _put(self, unit: Unit, contents: Mapping[str, Content], sealed: Callable[[], CommitRecord]) -> CommitRecord:
        staged: list[Staged] = []
        try:
            # The slow part first, outside the lock: only renames and the small record are serialised between workers.
            for path, content in contents.items():
                staged.append(self._files.stage(path, content, step="shard"))
            record = sealed()
            with self._files.lock():
                standing = self._standing(unit)
                if standing is not None:
                    return standing
                self._files.publish(staged)
                staged = []
                self._files.write(unit.commit_path, record.to_bytes(), step="record")
            return record
        finally:
            for leftover in staged:
                self._files.discard(leftover)

    def _standing(self, unit: Unit) -> CommitRecord | None:
        """The record of an earlier commit of this unit, if it and its files (by size) are sound."""
        try:
            record = self.record(unit)
        except StoreCorruptError:
            return None
        if record is None or any(self._files.size(path) != file.n_bytes for path, file in record.files.items()):
            return None
        return record

    # --- finishing (coordinator only)

    def write_pack_file(self, name: str, content: bytes) -> None:
        """Puts one file of the backbone pack into the store, durably, unless it is there; before `finalize`."""
        path = f"{PACK_PREFIX}/{name}"
        if self._files.size(path) != len(content) or self._files.read(path) != content:
            self._files.write(path, content, step="pack")

    def finalize(self, *, seen: Mapping[str, FileRecord] | None = None) -> Manifest:
        """Writes the index and the manifest, after which readers accept the store; harmless to repeat.

        What killed workers left behind is swept first: with every unit committed nobody has anything left to publish.

        Args:
            seen: size and hash of pack files that the caller wrote or read whole; the others are read and hashed.

        Raises:
            StoreIncompleteError: units are missing.
            StoreCorruptError: a commit record is damaged, or a committed file is missing or truncated.
        """
        records = self.records(self._units)
        if len(records) < len(self._units):
            raise StoreIncompleteError(
                explain(
                    "the extraction is not finished",
                    where=self._files.url,
                    expected=f"{len(self._units)} committed units",
                    got=f"{len(records)}",
                    fix="run the same extract command again",
                )
            )
        self._files.sweep()
        commits = {self._units[index].commit_path: FileRecord.of(one.to_bytes()) for index, one in records.items()}
        return write_manifest(self._files, self.plan, list(records.values()), commits, seen=seen or {})
