"""Is every byte of a store the one that was committed? And if not: what to extract again, what to rebuild.

    fast   the manifest's own checksum, the size of every file, every commit record, every shard index
    full   also every file's sha256, every chunk's crc32c, every value finite, the index built anew and compared

Everything but the shards follows from plan + commits, so it is computed again, not only compared with checksums.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from vidfeat.errors import StoreCorruptError, StoreError, StoreNotFoundError, explain
from vidfeat.store.commits import CommitRecord, FileRecord, require_commit_of
from vidfeat.store.files import Files
from vidfeat.store.location import files_at
from vidfeat.store.sealing import MANIFEST_PATH, PACK_PREFIX, Manifest, derived_files, half_copied, unit_layouts
from vidfeat.store.shards import CRC_BYTES, EMPTY, ArrayLayout, crc32c
from vidfeat.store.unit_plan import Plan, Unit, read_plan

Level = Literal["fast", "full"]
Repair = Literal["extract-again", "rebuild", "restore"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        path: file inside the store.
        what: what is wrong with it, in words.
        repair: "extract-again" (`unit` must be discarded and extracted anew), "rebuild" (finalize writes it anew), or
            "restore" (the plan or the pack: copy it back from where it came).
        unit: the unit it belongs to, None when it belongs to none.
    """

    path: str
    what: str
    repair: Repair
    unit: int | None = None

    def __str__(self) -> str:
        unit = "" if self.unit is None else f" (unit {self.unit})"
        return f"{self.path}{unit}: {self.what}"


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        problems: everything that is wrong; empty means that the store can be trusted at this level.
        notes: what is harmless and odd: files that are not part of the store.
        n_files, n_bytes: how much was looked at (bytes that were read at level full, sizes at level fast).
    """

    path: str
    level: Level
    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    n_files: int
    n_bytes: int
    seconds: float

    @property
    def bad_units(self) -> tuple[int, ...]:
        """Units to give to `StoreWriter.discard` and to extract again."""
        return tuple(sorted({problem.unit for problem in self.problems if problem.unit is not None}))

    @property
    def needs_rebuild(self) -> bool:
        """Whether `StoreWriter.finalize` must write metadata, index or manifest anew."""
        return any(problem.repair == "rebuild" for problem in self.problems)

    def require_sound(self) -> None:
        """Returns when nothing is wrong. Raises: StoreCorruptError, naming all problems."""
        if self.problems:
            shown = "; ".join(map(str, self.problems[:20]))
            more = f"; and {len(self.problems) - 20} more" if len(self.problems) > 20 else ""
            raise StoreCorruptError(
                explain(
                    f"the store has {len(self.problems)} problems",
                    where=self.path,
                    got=shown + more,
                    fix="run the extract command again: it redoes just what is bad",
                )
            )


@dataclass
class _Findings:
    """What has been found so far."""

    problems: list[Problem] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0

    def add(self, path: str, what: str, repair: Repair, unit: int | None = None) -> None:
        if not any(problem.path == path for problem in self.problems):  # the first finding about a file says enough
            self.problems.append(Problem(path, what, repair, unit))


def verify(path: str | os.PathLike[str], *, level: Level = "fast") -> VerifyReport:
    """What is wrong with a store, finished or not; an unfinished one has its manifest among the problems.

    Raises:
        StoreNotFoundError: no store there.
        ValueError: no such level.
    """
    if level not in ("fast", "full"):
        raise ValueError(explain("no such level", expected="'fast' or 'full'", got=level))
    started, files, findings = time.monotonic(), files_at(path), _Findings()
    present = files.listing()
    try:
        plan = read_plan(files)
    except StoreCorruptError as error:
        findings.add("plan", str(error).replace("\n", ";"), "restore")
        plan = None
    else:
        if plan is None:
            raise half_copied(files) or StoreNotFoundError(
                explain("there is no store", where=path, fix="another path; of a store half copied, copy the rest")
            )
    notes: list[str] = []
    if plan is not None:
        manifest = _read_manifest(files, findings)
        records = _check_records(files, plan, findings)
        expected = _expected_files(files, plan, records, manifest, findings)
        _check_files(files, expected, present, findings, read_all=level == "full")
        _check_shards(files, plan, records, present, findings, full=level == "full")
        notes = [f"{name} is not part of the store" for name in sorted(set(present) - set(expected) - {MANIFEST_PATH})]
    seconds = time.monotonic() - started
    problems = tuple(sorted(findings.problems, key=lambda problem: (problem.unit is None, problem.unit, problem.path)))
    return VerifyReport(os.fspath(path), level, problems, tuple(notes), findings.n_files, findings.n_bytes, seconds)


def _read_manifest(files: Files, findings: _Findings) -> Manifest | None:
    findings.n_files += 1
    try:
        content = files.read(MANIFEST_PATH)
        findings.n_bytes += len(content)
        return Manifest.from_bytes(content)
    except FileNotFoundError:
        findings.add(MANIFEST_PATH, "missing: the extraction has not finished", "rebuild")
    except StoreCorruptError:
        findings.add(MANIFEST_PATH, "fails its own checksum", "rebuild")
    return None


def _check_records(files: Files, plan: Plan, findings: _Findings) -> dict[int, tuple[CommitRecord, FileRecord]]:
    """The sound commit records by unit, each with the size and sha256 of its file."""
    records = {}
    fingerprint = plan.spec.fingerprint.sha256
    contents = files.read_many([unit.commit_path for unit in plan.units()])
    for unit in plan.units():
        path = unit.commit_path
        content = contents.get(path)
        if content is None:
            findings.add(path, "missing: the unit is not committed", "extract-again", unit.index)
            continue
        try:
            record = CommitRecord.from_bytes(content, path=path)
            require_commit_of(record, unit, fingerprint_sha256=fingerprint, path=path)
        except StoreCorruptError as error:
            findings.add(path, str(error).splitlines()[0], "extract-again", unit.index)
            continue
        records[unit.index] = record, FileRecord.of(content)
    return records


def _expected_files(
    files: Files,
    plan: Plan,
    records: Mapping[int, tuple[CommitRecord, FileRecord]],
    manifest: Manifest | None,
    findings: _Findings,
) -> dict[str, tuple[FileRecord, Repair, int | None]]:
    """Every file the store must have, what it must be, and how it is repaired; compares the manifest with it."""
    expected: dict[str, tuple[FileRecord, Repair, int | None]] = {}
    units = list(plan.units())
    for unit in units:
        if unit.index in records:
            record, own = records[unit.index]
            expected[unit.commit_path] = own, "extract-again", unit.index
            for name, file in record.files.items():
                expected[name] = file, "extract-again", unit.index
        else:  # not to be taken for strangers
            for name in [unit.commit_path, *unit_layouts(plan, unit)]:
                if manifest is not None and name in manifest.files:
                    expected[name] = manifest.files[name], "extract-again", unit.index
    if len(records) == len(units):
        try:
            expected.update({name: (file, "rebuild", None) for name, file in _derived(plan, records, manifest).items()})
        except StoreError as error:
            findings.add("index", str(error).replace("\n", ";"), "restore")
    for name, file in manifest.files.items() if manifest is not None else ():
        repair: Repair = "restore" if name.startswith(("plan/", f"{PACK_PREFIX}/")) else "rebuild"
        known = expected.setdefault(name, (file, repair, None))
        if known[0] != file:
            findings.add(MANIFEST_PATH, f"does not agree with what {name} must be", "rebuild")
    if manifest is not None and set(expected) - set(manifest.files):
        missing = sorted(set(expected) - set(manifest.files))
        findings.add(MANIFEST_PATH, f"does not list {', '.join(missing[:5])}", "rebuild")
    return expected


def _derived(
    plan: Plan, records: Mapping[int, tuple[CommitRecord, FileRecord]], manifest: Manifest | None
) -> dict[str, FileRecord]:
    """Size and sha256 of every derived file; as stores had them before their index named its axes, if this one does."""
    sound = [record for record, _ in records.values()]

    def files(axis_names: bool) -> dict[str, FileRecord]:
        made = derived_files(plan, sound, axis_names=axis_names)
        return {path: FileRecord.of(content) for path, content in made.items()}

    today, listed = files(True), {} if manifest is None else manifest.files
    if "zarr.json" not in listed or listed["zarr.json"] == today["zarr.json"]:
        return today
    before = files(False)
    return before if listed["zarr.json"] == before["zarr.json"] else today


def _check_files(
    files: Files,
    expected: Mapping[str, tuple[FileRecord, Repair, int | None]],
    present: Mapping[str, int],
    findings: _Findings,
    *,
    read_all: bool,
) -> None:
    """Sizes of all files; sha256 of all but the shards, which `_check_shards` reads anyway, when `read_all`."""
    for name, (file, repair, unit) in expected.items():
        findings.n_files += 1
        findings.n_bytes += present.get(name, 0)
        if name not in present:
            findings.add(name, "missing", repair, unit)
        elif present[name] != file.n_bytes:
            findings.add(name, f"{present[name]} bytes instead of {file.n_bytes}", repair, unit)
        elif read_all and unit is None and FileRecord.of(files.read(name)) != file:
            findings.add(name, "sha256 is another one", repair, unit)


def _check_shards(
    files: Files,
    plan: Plan,
    records: Mapping[int, tuple[CommitRecord, FileRecord]],
    present: Mapping[str, int],
    findings: _Findings,
    *,
    full: bool,
) -> None:
    for unit in plan.units():
        if unit.index not in records:
            continue
        record = records[unit.index][0]
        for name, (tap, layout) in unit_layouts(plan, unit).items():
            if present.get(name) != record.files[name].n_bytes:
                continue  # reported with the sizes
            if full:
                content = files.read(name)
                what = None
                if FileRecord.of(content) != record.files[name]:
                    what = "sha256 is another one"
                what = _shard_problem(content, layout, unit, record, tap) or what
            else:
                what = _index_problem(files.read_tail(name, layout.index_bytes), layout)
            if what is not None:
                findings.add(name, what, "extract-again", unit.index)


def _index_problem(tail: bytes, layout: ArrayLayout) -> str | None:
    try:
        layout.read_index(tail, path="")
    except StoreCorruptError:
        return "its index fails its checksum"
    return None


def _shard_problem(
    content: bytes, layout: ArrayLayout, unit: Unit, record: CommitRecord, tap: str | None
) -> str | None:
    """What is wrong inside a shard: index, a chunk's checksum, a value, or a video's checksum. `tap` None: scales."""
    problem = _index_problem(content[-layout.index_bytes :], layout)
    if problem is not None:
        return problem
    chunks = []
    for slot, chunk in enumerate(_chunks(content, layout)):
        if chunk is None:
            return f"chunk {slot} fails its checksum"
        if chunk.dtype.kind == "f" and not np.isfinite(chunk).all():
            return f"chunk {slot} holds NaN or infinity"
        chunks.append(chunk)
    ok = [video for video in record.videos if video.facts.ok]
    n_rows = sum(video.facts.n_frames for video in ok) * unit.n_views
    if len(chunks) * layout.chunk_rows != n_rows:
        return f"{len(chunks)} chunks of {layout.chunk_rows} rows for {n_rows} rows"
    if tap is None:
        return None
    for video in ok:
        n_frames = video.facts.n_frames
        for view in range(unit.n_views):
            first = (video.row_start + view * n_frames) // layout.chunk_rows
            rows = np.concatenate(chunks[first : first + n_frames // layout.chunk_rows])
            if crc32c(rows) != video.crc32c[tap][view]:
                return f"the rows of {video.facts.id!r} fail the checksum in the commit record"
    return None


def _chunks(content: bytes, layout: ArrayLayout) -> Iterator[np.ndarray | None]:
    """The written chunks of a shard, [chunk_rows *row_shape] each, in slot order; None for one that is damaged."""
    data = np.frombuffer(content, np.uint8)
    shape = (layout.chunk_rows, *layout.row_shape)
    for offset, length in layout.read_index(content[-layout.index_bytes :], path="").tolist():
        if offset == EMPTY:
            continue
        encoded = data[offset : offset + length]
        body, stored = encoded[:-CRC_BYTES], encoded[-CRC_BYTES:].tobytes()
        if len(encoded) != length or crc32c(body).to_bytes(CRC_BYTES, "little") != stored:
            yield None
            return
        if layout.compressor is not None:
            from numcodecs.zstd import Zstd

            body = np.frombuffer(Zstd().decode(body), np.uint8)
        yield body.view(np.dtype(layout.dtype).newbyteorder("<")).reshape(shape)
