"""The last step of an extraction: metadata and index derived from plan and commits, then the manifest.

Nothing here depends on when, where, or in how many attempts the units were extracted, so a finished store is the same
bytes whichever way it came about.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidfeat.errors import StoreCorruptError, explain
from vidfeat.store.commits import CommitRecord, FileRecord
from vidfeat.store.files import WRITE_ATTEMPTS, Files, StagedFileLost
from vidfeat.store.index import build_index, index_files
from vidfeat.store.records import seal, unseal
from vidfeat.store.shards import ArrayLayout, group_metadata, scales_layout, tap_layout
from vidfeat.store.spec import FORMAT_VERSION
from vidfeat.store.unit_plan import SPEC_PATH, Plan, Unit

MANIFEST_PATH = "manifest.json"
PACK_PREFIX = "pack"


@dataclass(frozen=True)
class Manifest:
    """Every file of a finished store but the manifest itself, with size and sha256."""

    files: Mapping[str, FileRecord]

    def to_bytes(self) -> bytes:
        return seal(
            {
                "format": "vidfeat-manifest",
                "format_version": FORMAT_VERSION,
                "n_files": len(self.files),
                "n_bytes": sum(file.n_bytes for file in self.files.values()),
                "files": {path: file.to_json() for path, file in self.files.items()},
            }
        )

    @classmethod
    def from_bytes(cls, content: bytes) -> Manifest:
        """The manifest in `manifest.json`. Raises: StoreCorruptError."""
        document = unseal(content, path=MANIFEST_PATH)
        return cls({path: FileRecord(**file) for path, file in document["files"].items()})


def half_copied(files: Files) -> StoreCorruptError | None:
    """What to say of a store whose manifest is here and whose other files are not all; None when none is missing."""
    try:
        listed = Manifest.from_bytes(files.read(MANIFEST_PATH)).files
    except (FileNotFoundError, NotADirectoryError, StoreCorruptError):
        return None
    missing = sorted(set(listed) - set(files.listing()))
    if not missing:
        return None
    return StoreCorruptError(
        explain(
            f"{len(missing)} of the {len(listed)} files that the manifest lists are missing: the store is half copied",
            where=files.url,
            expected=f"{len(listed)} files",
            got="no " + ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else ""),
            fix="copy the store again from where it is whole; what is here already is kept by `rsync -a`",
        )
    )


def metadata_files(plan: Plan) -> dict[str, bytes]:
    """Every zarr.json of the store but those below `index/`, and the root's, by path."""
    files: dict[str, bytes] = {}
    for tap, n_shards in zip(plan.taps.values(), plan.n_shards().values(), strict=True):
        spec = tap.spec
        common: dict[str, Any] = {"n_frames": plan.spec.n_frames, "shard_rows": tap.shard_rows}
        axes = ["row", "token", "channel"] if len(spec.row_shape) == 2 else ["row", "channel"]
        names = axes if len(spec.row_shape) <= 2 else ["row", *(f"axis_{i}" for i in range(1, len(spec.row_shape) + 1))]
        layout = tap_layout(
            spec, n_frames=plan.spec.n_frames, shard_rows=tap.shard_rows, compressor=plan.spec.compressor
        )
        files[f"{layout.path}/zarr.json"] = layout.metadata(n_shards, dimension_names=names, attributes=common)
        if spec.dtype == "int8":
            scales = scales_layout(spec, n_frames=plan.spec.n_frames, shard_rows=tap.shard_rows)
            names = ["row", "step_zero", "channel"]
            files[f"{scales.path}/zarr.json"] = scales.metadata(n_shards, dimension_names=names, attributes=common)
    for path in [path.removesuffix("/zarr.json") for path in files]:
        while "/" in path:
            path = path.rpartition("/")[0]
            files.setdefault(f"{path}/zarr.json", group_metadata({}))
    return files


def root_metadata(plan: Plan, nodes: Mapping[str, bytes] | None) -> bytes:
    """The root group's zarr.json: what the store is, and, when finished, the metadata of everything below it.

    The inlined metadata spares a remote reader one request per array, and keeps Zarr libraries from probing `commits`,
    `plan` and `pack`, which are no Zarr nodes.
    """
    spec = plan.spec
    attributes = {
        "vidfeat": {
            "format_version": FORMAT_VERSION,
            "taps": [tap.to_json() for tap in plan.taps.values()],
            "n_frames": spec.n_frames,
            "max_frames": spec.max_frames,
            "n_views": plan.n_views,
            "n_videos": len(plan.live),
            "classes": list(plan.classes),
            "compressor": spec.compressor,
            "pack_hash": spec.pack_hash,
            "fingerprint": dict(spec.fingerprint.fields),
            "fingerprint_sha256": spec.fingerprint.sha256,
        }
    }
    if nodes is None:
        return group_metadata(attributes)
    inlined = {path.removesuffix("/zarr.json"): json.loads(content) for path, content in nodes.items()}
    return group_metadata(attributes, consolidated=dict(sorted(inlined.items())))


def write_metadata(files: Files, plan: Plan) -> None:
    """Brings the Zarr metadata of an unfinished store in line with its plan; files already right are left alone."""
    _write_different(files, {**metadata_files(plan), "zarr.json": root_metadata(plan, None)})


def derived_files(plan: Plan, records: Sequence[CommitRecord], *, axis_names: bool = True) -> dict[str, bytes]:
    """Every file of a finished store that follows from its plan and commits: all zarr.json, and the index."""
    nodes = {**metadata_files(plan), "index/zarr.json": group_metadata({})}
    index = index_files(build_index(plan, records), axis_names=axis_names)
    nodes.update({path: content for path, content in index.items() if path.endswith("/zarr.json")})
    return {**nodes, **index, "zarr.json": root_metadata(plan, nodes)}


def unit_layouts(plan: Plan, unit: Unit) -> dict[str, tuple[str | None, ArrayLayout]]:
    """Every shard file of a unit: its path -> (tap, layout); for the scales of an int8 tap the tap is None."""
    spec, taps = plan.spec, plan.taps
    layouts: dict[str, tuple[str | None, ArrayLayout]] = {}
    for name, shard in unit.shards.items():
        tap = taps[name]
        layout = tap_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows, compressor=spec.compressor)
        layouts[layout.shard_path(shard)] = name, layout
        if tap.spec.dtype == "int8":
            scales = scales_layout(tap.spec, n_frames=spec.n_frames, shard_rows=tap.shard_rows)
            layouts[scales.shard_path(shard)] = None, scales
    return layouts


def write_manifest(
    files: Files,
    plan: Plan,
    records: list[CommitRecord],
    commits: Mapping[str, FileRecord],
    *,
    seen: Mapping[str, FileRecord],
) -> Manifest:
    """Writes index, metadata and, last, the manifest, and gives the manifest back.

    Files of the pack that have the size they have in `seen` are not read again.

    Raises:
        StoreCorruptError: a committed file is missing or has another size.
    """
    _require_sizes(files, records)
    derived = derived_files(plan, records)
    for path in set(files.listing("index")) - set(derived):
        files.remove(path)
    _write_different(files, derived)
    listed = {path: FileRecord.of(content) for path, content in derived.items()}
    for record in records:
        listed.update(record.files)
    listed.update(commits)
    planned = [SPEC_PATH, *(one.path for one in plan.passes), *(one.path for one in plan.changes)]
    pack = files.listing(PACK_PREFIX)
    known = {path: seen[path] for path, size in pack.items() if path in seen and seen[path].n_bytes == size}
    listed.update(known)
    given = files.read_many([*planned, *(path for path in pack if path not in known)])
    listed.update({path: FileRecord.of(content) for path, content in given.items()})
    manifest = Manifest(listed)
    files.write(MANIFEST_PATH, manifest.to_bytes(), step="manifest")
    return manifest


def _require_sizes(files: Files, records: list[CommitRecord]) -> None:
    sizes = files.listing()
    wrong = [
        f"{path} (unit {record.unit}): {sizes.get(path, 'no')} bytes instead of {file.n_bytes}"
        for record in records
        for path, file in record.files.items()
        if sizes.get(path) != file.n_bytes
    ]
    if wrong:
        raise StoreCorruptError(
            explain(
                f"{len(wrong)} committed files are missing or have another size",
                where=files.url,
                got="; ".join(wrong[:10]),
                fix="run `vidfeat verify`, then the extract command again: it redoes just those units",
            )
        )


def _write_different(files: Files, contents: Mapping[str, bytes]) -> None:
    """Writes those of the files that do not have their content yet."""
    for attempt in range(WRITE_ATTEMPTS):
        try:
            return _write_once(files, contents)
        except StagedFileLost:
            if attempt == WRITE_ATTEMPTS - 1:
                raise


def _write_once(files: Files, contents: Mapping[str, bytes]) -> None:
    sizes = files.listing()
    standing = files.read_many([path for path, content in contents.items() if sizes.get(path) == len(content)])
    staged = []
    try:
        for path, content in contents.items():
            if standing.get(path) != content:
                staged.append(files.stage(path, content, step="metadata"))
        files.publish(staged)
        staged = []
    finally:
        for one in staged:
            files.discard(one)
