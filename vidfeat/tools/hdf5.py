"""A store in one HDF5 file and back, exactly.

Layout of an exported file (format_version 1):

    /                  attributes: format "vidfeat-hdf5", format_version, store (JSON: taps, n_frames, fingerprint, ...)
    /videos/COLUMN     [N]: id, label, split, group, reason, detail, decoder (UTF-8), ok, n_frames, n_source_frames,
                       fps, content_sha256 [N 32]; pts_offsets [N+1] and pts_seconds
    /videos/row_start  int64 [N V]: first row of video i in view v, in every dataset below /taps; -1 for a failed video
    /videos/crc32c     uint32 [N V T]: checksum of the video's rows as stored, T in the order of `store.taps`
    /taps/NAME         [rows, *row_shape]: rows by view, then video, then frame, failed videos taking none
    /scales/NAME       float32 [rows, 2, D] (step, zero) of an int8 tap; /videos/int8_min_cosine, int8_max_error [N V T]
    /pack/FILE         uint8: the backbone pack
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vidfeat.errors import StoreCorruptError, StoreError, explain
from vidfeat.store import Fingerprint, StoreReader, StoreSpec, StoreWriter, TapSpec, Unit, VideoRow, open_store
from vidfeat.store.commits import QuantizedRows, TapRows
from vidfeat.store.index import SOURCE_COLUMNS, TEXT_COLUMNS, Index
from vidfeat.store.quantize import Quantized
from vidfeat.store.records import canonical_json
from vidfeat.store.shards import crc32c
from vidfeat.tools.hdf5_file import FORMAT, opened

if TYPE_CHECKING:
    import h5py

    from vidfeat.backbone import BackbonePack

FORMAT_VERSION = 1
_NUMBER_COLUMNS = ("ok", "n_frames", "n_source_frames", "fps", "content_sha256", "pts_offsets", "pts_seconds")
_VIEW_COLUMNS = ("crc32c", "int8_min_cosine", "int8_max_error")
_SPEC_FIELDS = ("n_frames", "max_frames", "n_views", "compressor", "pack_hash", "shard_bytes", "max_unit_videos")
_BLOCK_BYTES = 64 * 2**20


def export_hdf5(store: str | os.PathLike[str], path: str | os.PathLike[str]) -> Path:
    """The HDF5 file that now holds everything the store does. Written beside `path`, verified, then renamed.

    Raises:
        StoreError: `path` exists, or the store cannot be read.
    """
    import h5py

    target, reader = Path(path), open_store(store, check="always")
    if target.exists():
        raise StoreError(explain("the file exists", where=target, fix="choose another name, or remove it first"))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    try:
        with h5py.File(partial, "w", libver=("earliest", "v110")) as h5:
            _write_facts(h5, reader, store)
            for tap in reader.taps:
                _write_tap(h5, reader, tap)
            _write_pack(h5, reader)
        with opened(partial) as h5:
            for tap in reader.taps:
                _verify_tap(h5, reader, tap)
        _sync(partial)
        os.replace(partial, target)
        _sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return target


def import_hdf5(
    path: str | os.PathLike[str], store: str | os.PathLike[str], *, pack: BackbonePack | None = None
) -> Path | str:
    """The store that now holds exactly what a file of `export_hdf5` does; run again it carries on where it stopped.

    Args:
        pack: the backbone, for a file that has none in it; another one than the file's is refused.

    Raises:
        StoreError: the file is damaged or no export, or `store` holds something else.
    """
    with opened(path) as h5:
        if h5.attrs.get("format") != FORMAT:
            raise StoreError(explain("this HDF5 file was not written by `vidfeat export`", where=path))
        _Import(h5, path, pack).run(store)
    return open_store(store).path


# --- export


def _write_facts(h5: h5py.File, reader: StoreReader, store: str | os.PathLike[str]) -> None:
    import h5py

    spec = StoreWriter.attach(store).plan.spec
    about = {name: getattr(spec, name) for name in _SPEC_FIELDS} | {
        "n_views": reader.n_views,
        "classes": list(reader.classes),
        "fingerprint": dict(reader.fingerprint.fields),
        "taps": [tap.to_json() for tap in reader.taps.values()],
    }
    h5.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, store=canonical_json(about).decode())
    videos = h5.create_group("videos")
    index = Index({name: reader.index_column(name) for name in reader.index_names})
    for name in TEXT_COLUMNS:
        # As bytes: a file name may hold some that are no UTF-8.
        texts = [text.encode("utf-8", "surrogateescape") for text in index.text(name)]
        videos.create_dataset(name, data=np.array(texts, object), dtype=h5py.string_dtype())
    for name in (*_NUMBER_COLUMNS, *_VIEW_COLUMNS, *(name for name in SOURCE_COLUMNS if name in index.columns)):
        videos.create_dataset(name, data=index[name])
    videos.create_dataset("row_start", data=_row_starts(reader))


def _row_starts(reader: StoreReader) -> np.ndarray:
    """int64 [N V]: rows by view, then video."""
    lengths = np.where(reader.ok, reader.n_frames_per_video, 0).astype(np.int64)
    first = np.cumsum(lengths) - lengths
    starts = first[:, None] + lengths.sum() * np.arange(reader.n_views)
    return np.where(reader.ok[:, None], starts, -1)


def _blocks(reader: StoreReader, tap: str) -> Iterator[tuple[int, np.ndarray]]:
    """(view, indices of videos that are ok), about 64 MiB of rows each."""
    videos = np.flatnonzero(reader.ok)
    n_bytes = np.cumsum(reader.n_frames_per_video[videos] * reader.taps[tap].row_bytes)
    cuts = np.flatnonzero(np.diff(n_bytes // _BLOCK_BYTES)) + 1
    for view in range(reader.n_views):
        for block in np.split(videos, cuts):
            if len(block):
                yield view, block


def _write_tap(h5: h5py.File, reader: StoreReader, tap: str) -> None:
    spec = reader.taps[tap]
    n_rows = int(reader.n_frames_per_video[reader.ok].sum()) * reader.n_views
    values = h5.create_dataset(f"taps/{tap}", (n_rows, *spec.row_shape), spec.dtype)
    scales = None
    if spec.dtype == "int8":
        scales = h5.create_dataset(f"scales/{tap}", (n_rows, 2, spec.row_shape[-1]), "float32")
    start = 0
    for view, block in _blocks(reader, tap):
        rows = reader.stored_rows(tap, block, view=view)
        values[start : start + len(rows.values)] = rows.values
        if scales is not None:
            scales[start : start + len(rows.values)] = rows.scales
        start += len(rows.values)


def _verify_tap(h5: h5py.File, reader: StoreReader, tap: str) -> None:
    start = 0
    for view, block in _blocks(reader, tap):
        rows = reader.stored_rows(tap, block, view=view)
        stop = start + len(rows.values)
        same = h5[f"taps/{tap}"][start:stop].tobytes() == rows.values.tobytes()
        if rows.scales is not None:
            same = same and h5[f"scales/{tap}"][start:stop].tobytes() == rows.scales.tobytes()
        if not same:
            raise StoreError(explain("the HDF5 file does not hold what was written to it", where=h5.filename, got=tap))
        start = stop


def _write_pack(h5: h5py.File, reader: StoreReader) -> None:
    for name, content in reader.pack_files():
        h5.create_dataset(f"pack/{name}", data=np.frombuffer(content, np.uint8))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- import


class _Import:
    """An exported file on its way back into a store."""

    def __init__(self, h5: h5py.File, path: str | os.PathLike[str], pack: BackbonePack | None) -> None:
        self._h5, self._path, self._pack = h5, path, pack
        if h5.attrs["format_version"] != FORMAT_VERSION:
            raise self._error(f"format_version {h5.attrs['format_version']}, this version reads {FORMAT_VERSION}")
        about = json.loads(h5.attrs["store"])
        self.spec = StoreSpec(
            taps=tuple(map(TapSpec.from_json, about["taps"])),
            classes=tuple(about["classes"]),
            fingerprint=Fingerprint(about["fingerprint"]),
            **{name: about[name] for name in _SPEC_FIELDS},
        )
        if pack is not None:
            if self.spec.pack_hash not in ("", pack.hash):
                raise self._error(f"its pack is {self.spec.pack_hash}, the one given is {pack.hash}")
            self.spec = replace(self.spec, pack_hash=pack.hash)
        self.videos = self._read_videos()
        self._row_start = h5["videos/row_start"][:]
        self._columns = {name: h5[f"videos/{name}"][:] for name in _VIEW_COLUMNS}
        self._require_shapes()

    def _error(self, got: str) -> StoreError:
        return StoreError(explain("this HDF5 file is damaged", where=self._path, got=got, fix="export it again"))

    def _read_videos(self) -> list[VideoRow]:
        names = [*_NUMBER_COLUMNS, *(name for name in SOURCE_COLUMNS if f"videos/{name}" in self._h5)]
        columns = {name: self._h5[f"videos/{name}"][:] for name in names}
        texts = {name: self._h5[f"videos/{name}"].asstr(errors="surrogateescape")[:] for name in TEXT_COLUMNS}
        n_videos = len(columns["ok"])
        lengths = {name: len(values) for name, values in {**columns, **texts}.items() if not name.startswith("pts")}
        if set(lengths.values()) != {n_videos} or len(columns["pts_offsets"]) != n_videos + 1:
            raise self._error(f"columns of different lengths: {lengths}")
        for name, values in texts.items():
            parts = [value.encode("utf-8", "surrogatepass") for value in values]
            columns[f"{name}_offsets"] = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(int)
            columns[f"{name}_utf8"] = np.frombuffer(b"".join(parts), np.uint8)
        return Index(columns).rows()

    def _require_shapes(self) -> None:
        n_videos, n_views = len(self.videos), self.spec.n_views
        lengths = np.array([video.n_frames for video in self.videos], np.int64)
        n_rows = int(lengths.sum()) * n_views
        problems = []
        if self._row_start.shape != (n_videos, n_views):
            problems.append(f"videos/row_start has the shape {self._row_start.shape}")
        elif (self._row_start + lengths[:, None]).max(initial=0) > n_rows:
            problems.append("videos/row_start reaches beyond the last row")
        for name, values in self._columns.items():
            if values.shape != (n_videos, n_views, len(self.spec.taps)):
                problems.append(f"videos/{name} has the shape {values.shape}")
        for tap in self.spec.taps:
            values = self._h5[f"taps/{tap.name}"]
            if values.shape != (n_rows, *tap.row_shape) or values.dtype != tap.dtype:
                problems.append(f"taps/{tap.name} is {values.dtype} {values.shape}, not {tap.dtype} {n_rows} rows")
        if problems:
            raise self._error("; ".join(problems))

    def run(self, store: str | os.PathLike[str]) -> None:
        """Fills the store."""
        bounds = [max(1, video.n_frames) for video in self.videos]
        writer = StoreWriter.open_or_create(store, self.spec, self.videos, frame_bounds=bounds)
        for name, dataset in self._h5["pack"].items() if "pack" in self._h5 else ():
            writer.write_pack_file(name, dataset[:].tobytes())
        if self._pack is not None:
            for name, content in self._pack.files():
                writer.write_pack_file(name, content)
        for unit in writer.pending_units():
            facts = [self.videos[index] for index in unit.video_indices]
            writer.commit(unit, {tap: self._rows(unit, tap) for tap in unit.taps}, facts)
        writer.finalize()

    def _rows(self, unit: Unit, tap: str) -> TapRows:
        views = range(unit.view_start, unit.view_stop)
        items = [(index, view) for index in unit.video_indices if self.videos[index].ok for view in views]
        position = [spec.name for spec in self.spec.taps].index(tap)
        spec, parts, scales, errors = self.spec.taps[position], [], [], []
        for index, view in items:
            start = int(self._row_start[index, view])
            rows = slice(start, start + self.videos[index].n_frames)
            parts.append(self._h5[f"taps/{tap}"][rows])
            if crc32c(parts[-1]) != int(self._columns["crc32c"][index, view, position]):
                what = f"the rows of {self.videos[index].id!r} in taps/{tap} fail their checksum"
                raise StoreCorruptError(explain(what, where=self._path, fix="copy or export the file again"))
            if spec.dtype == "int8":
                scales.append(self._h5[f"scales/{tap}"][rows])
                pair = [self._columns[name][index, view, position] for name in ("int8_min_cosine", "int8_max_error")]
                errors.append((float(pair[0]), float(pair[1])))
        if spec.dtype != "int8":
            return parts
        values = np.concatenate(parts) if parts else np.empty((0, *spec.row_shape), np.int8)
        steps = np.concatenate(scales) if scales else np.empty((0, 2, spec.row_shape[-1]), np.float32)
        return QuantizedRows(Quantized(values, steps), tuple(errors))
