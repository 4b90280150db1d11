"""Rows of one array, gathered from its shards: memory-mapped where local and uncompressed, through zarr elsewhere."""

from __future__ import annotations

import mmap
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np

from vidfeat.errors import StoreCorruptError, explain
from vidfeat.store.files import Files, LocalFiles
from vidfeat.store.sealing import Manifest, half_copied
from vidfeat.store.shards import CRC_BYTES, EMPTY, ArrayLayout

# Linux allows 65530 mappings per process; beyond this many shards the least recently used are unmapped.
_MAX_MAPPED_SHARDS = 8192
# A copy per video beats one fancy-indexed gather above this size of an inner chunk, and for fewer videos than that.
_LARGE_CHUNK_BYTES = 64 * 2**10
FEW_VIDEOS = 16


@dataclass(frozen=True)
class Segments:
    """What to read: for each item rows `[starts[i], starts[i] + lengths[i])` of an array; int64 [B] or plain ints.

    `offsets` int64 [B+1] says where each item lies in the result. `n_each`: the length of all items, None when they
    differ.
    """

    starts: np.ndarray | list[int]
    lengths: np.ndarray | list[int]
    offsets: np.ndarray
    n_each: int | None = None

    @classmethod
    def of_length(cls, starts: np.ndarray | list[int], n_rows: int) -> Segments:
        """Items of one length."""
        n_items = len(starts)
        offsets = np.arange(0, n_items * n_rows + 1, n_rows)
        return cls(
            starts, [n_rows] * n_items if isinstance(starts, list) else np.full(n_items, n_rows), offsets, n_rows
        )

    @classmethod
    def of_lengths(cls, starts: np.ndarray, lengths: np.ndarray) -> Segments:
        """Items of their own lengths each."""
        offsets = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(starts, lengths, offsets)


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
        if size == expected:
            return
        problem = half_copied(self._files) if size is None else None
        raise problem or StoreCorruptError(
            explain(
                "a shard is missing" if size is None else "a shard has the wrong size",
                where=f"{self._files.url}/{path}",
                expected=f"{expected} bytes",
                got="no file" if size is None else f"{size} bytes",
                fix="run `vidfeat verify`, then the extract command again: it redoes just the units that are bad; "
                "or, of a store that was copied, copy it again",
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
        self._flags = bytearray(b"\1") * written  # 1: not checked yet; plain bytes for few chunks, an array for many
        self._unchecked = np.frombuffer(self._flags, bool)

    def check(self, first: int, stop: int, *, again: bool) -> None:
        """Returns when the checksums of chunks [first, stop) are right; each is computed once unless `again`."""
        if again or any(self._flags[first:stop]):
            self.check_each(np.arange(first, stop), again=again)

    def check_each(self, chunks: np.ndarray, *, again: bool) -> None:
        """The same for chunks int64 [n] in ascending order."""
        for chunk in (chunks if again else chunks[self._unchecked[chunks]]).tolist():
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
            self._unchecked[chunk] = False


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
        if self._large_chunks or len(segments.starts) <= FEW_VIDEOS:
            chunks = self._copy_each(segments)
        else:
            # In units of chunks: a video is a whole number of them.
            firsts = np.asarray(segments.starts) // layout.chunk_rows
            one_each = segments.n_each == layout.chunk_rows
            chunks = self._gather(firsts, None if one_each else np.asarray(segments.lengths) // layout.chunk_rows)
        return chunks.reshape(-1, *layout.row_shape)

    def _empty(self, n_chunks: int) -> np.ndarray:
        return np.empty((n_chunks, self._layout.chunk_rows, *self._layout.row_shape), self._layout.dtype)

    def _copy_each(self, segments: Segments) -> np.ndarray:
        """Chunks by one copy per video, in the order of the disk.

        Plain integers: for few videos numpy's calls would cost more than the loop, the more so as the copies throw the
        code of those calls out of the caches every time.
        """
        per_shard, chunk_rows, shards = self._layout.chunks_per_shard, self._layout.chunk_rows, self._shards
        always, check = self._check == "always", self._check != "never"
        places, n_chunks = [], 0
        for start, length in zip(_plain(segments.starts), _plain(segments.lengths), strict=True):
            places.append((start // chunk_rows, n_chunks, length // chunk_rows))
            n_chunks += length // chunk_rows
        out = self._empty(n_chunks)
        for first, target, count in sorted(places):
            number, local = divmod(first, per_shard)
            shard, stop = shards.get(number) or self._shard(number), local + count
            if stop > shard.n_chunks:
                raise self._beyond_the_end(number)
            if check:
                shard.check(local, stop, again=always)
            out[target : target + count] = shard.chunks[local:stop]
        return out

    def _gather(self, firsts: np.ndarray, counts: np.ndarray | None) -> np.ndarray:
        """Chunks by one fancy-indexed gather per shard, for rows so small that a copy each would be all calls.

        counts: chunks of each video [B]; None: one each.
        """
        per_shard = self._layout.chunks_per_shard
        if counts is None:
            wanted = firsts
        else:
            stops = np.cumsum(counts)
            wanted = np.arange(int(stops[-1])) + np.repeat(firsts - stops + counts, counts)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        numbers = ascending // per_shard
        first, last = int(numbers[0]), int(numbers[-1])
        if first == last:  # one copy instead of two
            return self._checked_shard(first, ascending - first * per_shard).chunks[wanted - first * per_shard]
        out = self._empty(len(wanted))
        changes = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
        for start, stop in pairwise([0, *changes.tolist(), len(order)]):
            number = int(numbers[start])
            local = ascending[start:stop] - number * per_shard
            out[order[start:stop]] = self._checked_shard(number, local).chunks[local]
        return out

    def _checked_shard(self, number: int, local: np.ndarray) -> _MappedShard:
        """The shard, after its chunks `local` (ascending) were found there and, unless never, sound."""
        shard = self._shard(number)
        if int(local[-1]) >= shard.n_chunks:
            raise self._beyond_the_end(number)
        if self._check != "never":
            shard.check_each(local, again=self._check == "always")
        return shard

    def _beyond_the_end(self, number: int) -> StoreCorruptError:
        return StoreCorruptError(
            explain(
                "the index names rows that a shard does not hold",
                where=self._layout.shard_path(number),
                fix="run `vidfeat verify --level full`, then the extract command again",
            )
        )


def _plain(numbers: np.ndarray | list[int]) -> list[int]:
    return numbers if isinstance(numbers, list) else numbers.tolist()


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
