"""Rows of one array, gathered from its shards: memory-mapped where local and uncompressed, through zarr elsewhere."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from vidfeat.errors import StoreCorruptError, explain
from vidfeat.store.files import Files, LocalFiles
from vidfeat.store.shards import CRC_BYTES, EMPTY, ArrayLayout

if TYPE_CHECKING:
    from vidfeat.store.sealing import Manifest

# Linux allows 65530 mappings per process; beyond this many shards the least recently used are unmapped.
_MAX_MAPPED_SHARDS = 8192
# Above this size of an inner chunk a copy per chunk beats one fancy-indexed gather.
_LARGE_CHUNK_BYTES = 64 * 2**10


@dataclass(frozen=True)
class Segments:
    """What to read: for each item rows `[starts[i], starts[i] + lengths[i])` of an array; int64 [B] both.

    `offsets` int64 [B+1] says where each item lies in the result.
    """

    starts: np.ndarray
    lengths: np.ndarray
    offsets: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        offsets = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(self.lengths, out=offsets[1:])
        object.__setattr__(self, "offsets", offsets)


class RowSource(ABC):
    """Read access to one array of a finished store."""

    def __init__(self, files: Files, layout: ArrayLayout, sizes: dict[int, int]) -> None:
        self._files = files
        self._layout = layout
        self._sizes = sizes

    @classmethod
    def open(cls, files: Files, layout: ArrayLayout, manifest: Manifest, *, check: str) -> RowSource:
        """The fastest source for this array. `check` as in `open_store`."""
        prefix = layout.path + "/c."
        sizes = {
            int(path[len(prefix) :].partition(".")[0]): file.n_bytes
            for path, file in manifest.files.items()
            if path.startswith(prefix)
        }
        if isinstance(files, LocalFiles) and layout.compressor is None:
            return MappedRows(files, layout, sizes, check=check)
        return ZarrRows(files, layout, sizes)

    @abstractmethod
    def read(self, segments: Segments) -> np.ndarray:
        """Rows [sum of lengths, *row_shape], in the order of the segments. Raises: StoreCorruptError."""

    def _require_size(self, shard: int, size: int | None) -> None:
        path, expected = self._layout.shard_path(shard), self._sizes.get(shard)
        if size is None or size != expected:
            raise StoreCorruptError(
                explain(
                    "a shard is missing" if size is None else "a shard has the wrong size",
                    where=f"{self._files.url}/{path}",
                    expected=f"{expected} bytes",
                    got="no file" if size is None else f"{size} bytes",
                    fix="run `vidfeat verify`, then the extract command again: it redoes just the units that are bad",
                )
            )


class _MappedShard:
    """One shard in memory: a strided view over its chunks, and which of them have been checked."""

    def __init__(self, path: str, layout: ArrayLayout, mapping: mmap.mmap) -> None:
        self._path = path
        self._stride = layout.stride
        n_bytes = len(mapping)
        self._bytes = np.frombuffer(mapping, np.uint8)
        index = layout.read_index(self._bytes[n_bytes - layout.index_bytes :], path=path)
        written = int(np.count_nonzero(index[:, 0] != EMPTY))
        expected = np.arange(written, dtype=np.uint64) * np.uint64(layout.stride)
        regular = (
            n_bytes == written * layout.stride + layout.index_bytes
            and np.array_equal(index[:written, 0], expected)
            and (index[:written, 1] == layout.stride).all()
        )
        if not regular:
            raise StoreCorruptError(
                explain(
                    "a shard is not laid out as this store's writer does",
                    where=path,
                    expected=f"chunks of {layout.stride} bytes one after the other, then the index",
                    got=f"{written} chunks in {n_bytes} bytes",
                    fix="do not rewrite a store with other Zarr libraries; extract it again",
                )
            )
        self.n_chunks = written
        dtype = np.dtype(layout.dtype).newbyteorder("<")
        inner = np.empty((1, layout.chunk_rows, *layout.row_shape), dtype).strides[1:]
        shape = (written, layout.chunk_rows, *layout.row_shape)
        self.chunks: np.ndarray = np.ndarray(shape, dtype, mapping, strides=(layout.stride, *inner))
        self._checked = bytearray(written)

    def check(self, chunks: Iterable[int], *, again: bool) -> None:
        """Returns when the checksums of these chunks are right; each is computed once unless `again`."""
        checked = self._checked
        for chunk in chunks:
            if checked[chunk] and not again:
                continue
            content = self._bytes[chunk * self._stride : (chunk + 1) * self._stride]
            if google_crc32c.value(content[:-CRC_BYTES]) != int.from_bytes(content[-CRC_BYTES:].tobytes(), "little"):
                where = f"{self._path}, chunk {chunk}, bytes [{chunk * self._stride}, {(chunk + 1) * self._stride})"
                raise StoreCorruptError(
                    explain(
                        "stored values are not those that were committed",
                        where=where,
                        expected="crc32c as stored behind the chunk",
                        got="another one",
                        fix="run `vidfeat verify --level full`, then extract again: it redoes just that unit",
                    )
                )
            checked[chunk] = 1


class MappedRows(RowSource):
    """Local uncompressed shards, memory-mapped through their index."""

    def __init__(self, files: LocalFiles, layout: ArrayLayout, sizes: dict[int, int], *, check: str) -> None:
        super().__init__(files, layout, sizes)
        self._root = files.root
        self._check = check
        self._large_chunks = layout.chunk_bytes >= _LARGE_CHUNK_BYTES
        self._shards: OrderedDict[int, _MappedShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shards": OrderedDict()}  # a mapping belongs to its process

    def _shard(self, number: int) -> _MappedShard:
        shard = self._shards.get(number)
        if shard is not None:
            return shard
        path = self._root / self._layout.shard_path(number)
        try:
            with open(path, "rb") as handle:
                self._require_size(number, os.fstat(handle.fileno()).st_size)
                mapping = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            self._require_size(number, None)
            raise
        shard = self._shards[number] = _MappedShard(str(path), self._layout, mapping)
        if len(self._shards) > _MAX_MAPPED_SHARDS:
            self._shards.popitem(last=False)
        return shard

    def read(self, segments: Segments) -> np.ndarray:
        layout = self._layout
        out = np.empty((int(segments.offsets[-1]), *layout.row_shape), layout.dtype)
        if len(out):
            # In units of chunks: a video is a whole number of them.
            chunks = out.reshape(-1, layout.chunk_rows, *layout.row_shape)
            gather = self._copy_runs if self._large_chunks else self._gather_small
            gather(segments.starts // layout.chunk_rows, segments.lengths, segments.offsets, chunks)
        return out

    def _copy_runs(self, firsts: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
        """One copy per video. Plain integers: for a few videos numpy's calls would cost more than the loop."""
        per_shard, chunk_rows = self._layout.chunks_per_shard, self._layout.chunk_rows
        always, check = self._check == "always", self._check != "never"
        for first, length, offset in sorted(zip(firsts.tolist(), lengths.tolist(), offsets.tolist(), strict=False)):
            number, local = divmod(first, per_shard)
            stop, target = local + length // chunk_rows, offset // chunk_rows
            shard = self._shard(number)
            if stop > shard.n_chunks:
                raise self._beyond_the_end(number)
            if check:
                shard.check(range(local, stop), again=always)
            out[target : target + stop - local] = shard.chunks[local:stop]

    def _gather_small(self, firsts: np.ndarray, lengths: np.ndarray, offsets: np.ndarray, out: np.ndarray) -> None:
        """One fancy-indexed gather per shard, for rows so small that a copy each would be all calls."""
        per_shard, chunk_rows = self._layout.chunks_per_shard, self._layout.chunk_rows
        counts = lengths // chunk_rows
        wanted = np.arange(len(out)) + np.repeat(firsts - offsets[:-1] // chunk_rows, counts)
        order = np.argsort(wanted, kind="stable")
        wanted = wanted[order]
        numbers = wanted // per_shard
        changes = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for start, stop in pairwise([0, *changes.tolist(), len(order)]):
            number = int(numbers[start])
            local, shard = wanted[start:stop] - number * per_shard, self._shard(number)
            if int(local[-1]) >= shard.n_chunks:
                raise self._beyond_the_end(number)
            if self._check != "never":
                shard.check(local.tolist(), again=self._check == "always")
            out[order[start:stop]] = shard.chunks[local]

    def _beyond_the_end(self, number: int) -> StoreCorruptError:
        return StoreCorruptError(
            explain(
                "the index names rows that a shard does not hold",
                where=self._layout.shard_path(number),
                fix="run `vidfeat verify --level full`, then the extract command again",
            )
        )


class ZarrRows(RowSource):
    """Any other store (compressed, remote), through zarr-python. Zarr tests the checksums of what it reads, always.

    Zarr reads a missing shard as fill values, so every shard's size is compared with the manifest before its first
    read.
    """

    def __init__(self, files: Files, layout: ArrayLayout, sizes: dict[int, int]) -> None:
        super().__init__(files, layout, sizes)
        self._array: Any = None
        self._process = 0
        self._present: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None, "_present": set()}

    def _open(self) -> Any:
        if self._array is None or self._process != os.getpid():
            import zarr

            location: Any = self._files.url
            if not self._files.is_local:
                location = zarr.storage.FsspecStore.from_url(self._files.url, read_only=True)
            self._array = zarr.open_array(location, path=self._layout.path, mode="r", zarr_format=3)
            self._process = os.getpid()
        return self._array

    def read(self, segments: Segments) -> np.ndarray:
        array, offsets = self._open(), segments.offsets
        out = np.empty((int(offsets[-1]), *self._layout.row_shape), np.dtype(self._layout.dtype))
        for item in np.argsort(segments.starts, kind="stable").tolist():
            start, length = int(segments.starts[item]), int(segments.lengths[item])
            number = start // self._layout.shard_rows
            if number not in self._present:
                self._require_size(number, self._files.size(self._layout.shard_path(number)))
                self._present.add(number)
            try:
                out[offsets[item] : offsets[item + 1]] = array[start : start + length]
            except (ValueError, RuntimeError) as error:  # what zarr raises for a checksum or a codec
                raise StoreCorruptError(
                    explain(
                        "a shard is damaged",
                        where=f"{self._files.url}/{self._layout.shard_path(number)}, rows [{start}, {start + length})",
                        got=str(error),
                        fix="run `vidfeat verify --level full`, then the extract command again",
                    )
                ) from error
        return out
