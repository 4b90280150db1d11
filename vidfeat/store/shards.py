"""Numbers to shard bytes and back: the Zarr v3 `sharding_indexed` codec, and the metadata that says so.

A shard file is its inner chunks one after the other, each followed by its own crc32c, then one index at the end: for
every chunk slot (offset, length) as uint64 little-endian, (2^64-1, 2^64-1) for a slot never written, then the index's
crc32c.
Source: Zarr v3 sharding codec, https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np

from vidfeat.errors import StoreCorruptError, explain
from vidfeat.store.files import Content
from vidfeat.store.records import canonical_json
from vidfeat.store.spec import TapSpec

CRC_BYTES = 4
EMPTY = 2**64 - 1
ZSTD_LEVEL = 3
_DATA_TYPES = {
    "float16": "NaN",
    "float32": "NaN",
    "float64": "NaN",
    "int8": -128,
    "uint8": 0,
    "int32": 0,
    "uint32": 0,
    "int64": 0,
}


def crc32c(values: np.ndarray) -> int:
    """CRC-32C (Castagnoli) of an array's bytes in C order."""
    return google_crc32c.value(np.ascontiguousarray(values).reshape(-1).view(np.uint8))


@dataclass(frozen=True)
class ArrayLayout:
    """One sharded Zarr array of rows: [rows, *row_shape], `shard_rows` per file, `chunk_rows` per inner chunk."""

    path: str
    row_shape: tuple[int, ...]
    dtype: str
    chunk_rows: int
    shard_rows: int
    compressor: str | None = None

    @property
    def chunk_bytes(self) -> int:
        """Bytes of one inner chunk, without its checksum, before compression."""
        return self.chunk_rows * math.prod(self.row_shape) * np.dtype(self.dtype).itemsize

    @property
    def stride(self) -> int:
        """Bytes from one inner chunk to the next in an uncompressed shard."""
        return self.chunk_bytes + CRC_BYTES

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def index_bytes(self) -> int:
        return 16 * self.chunks_per_shard + CRC_BYTES

    def shard_path(self, shard: int) -> str:
        """File of one shard: chunk key `c.<shard>.0.0...`."""
        return f"{self.path}/c.{shard}" + ".0" * len(self.row_shape)

    def encode(self, rows: np.ndarray) -> tuple[Content, list[int]]:
        """The shard's bytes for its first `len(rows)` rows, exactly as they will lie in the file, and the crc32c of the
        rows of every inner chunk before compression.

        rows: [n *row_shape] of `dtype` (floats of another width are rounded to it), n a multiple of `chunk_rows` and
            at most `shard_rows`.
        """
        n_chunks, rest = divmod(len(rows), self.chunk_rows)
        fits = np.can_cast(rows.dtype, self.dtype, casting="same_kind")
        if rest or n_chunks > self.chunks_per_shard or rows.shape[1:] != self.row_shape or not fits:
            raise ValueError(f"{rows.dtype} {rows.shape} does not fit a shard of {self}")
        chunks = rows.reshape(n_chunks, self.chunk_rows * math.prod(self.row_shape))
        return self._encode_plain(chunks) if self.compressor is None else self._encode_zstd(chunks)

    def _encode_plain(self, chunks: np.ndarray) -> tuple[Content, list[int]]:
        """One pass over the rows casts and places them, one takes their checksums; nothing is filled with zeros first.

        chunks: [n_chunks, values].
        """
        n_chunks, n_bytes = len(chunks), len(chunks) * self.stride
        shard = np.empty(n_bytes + self.index_bytes, np.uint8)
        body = shard[:n_bytes].reshape(n_chunks, self.stride)
        values = body[:, : self.chunk_bytes]
        values.view(np.dtype(self.dtype).newbyteorder("<"))[:] = chunks
        checksums = [google_crc32c.value(chunk) for chunk in values]
        body[:, self.chunk_bytes :] = np.array(checksums, "<u4").view(np.uint8).reshape(n_chunks, CRC_BYTES)
        index = np.full((self.chunks_per_shard, 2), EMPTY, "<u8")
        index[:n_chunks, 0] = np.arange(n_chunks, dtype=np.uint64) * np.uint64(self.stride)
        index[:n_chunks, 1] = self.stride
        shard[n_bytes:] = np.frombuffer(_with_crc(index), np.uint8)
        return shard.data, checksums

    def _encode_zstd(self, chunks: np.ndarray) -> tuple[Content, list[int]]:
        from numcodecs.zstd import Zstd

        shard, codec, checksums = bytearray(), Zstd(level=ZSTD_LEVEL), []
        index = np.full((self.chunks_per_shard, 2), EMPTY, "<u8")
        for slot, values in enumerate(chunks):
            chunk = np.ascontiguousarray(values, dtype=np.dtype(self.dtype).newbyteorder("<")).view(np.uint8)
            encoded = _with_crc(np.frombuffer(codec.encode(chunk), np.uint8))
            index[slot] = len(shard), len(encoded)
            shard += encoded
            checksums.append(google_crc32c.value(chunk))
        return shard + _with_crc(index), checksums

    def read_index(self, tail: bytes | np.ndarray, *, path: str) -> np.ndarray:
        """(offset, length) of every chunk slot, uint64 [chunks_per_shard 2], from the last `index_bytes` of a shard.

        Raises:
            StoreCorruptError: the index fails its checksum.
        """
        content = np.frombuffer(tail, np.uint8)
        body, stored = content[:-CRC_BYTES], content[-CRC_BYTES:]
        if len(content) != self.index_bytes or google_crc32c.value(body) != int(stored.view("<u4")[0]):
            raise StoreCorruptError(
                explain(
                    "a shard's index is damaged",
                    where=path,
                    expected=f"{self.index_bytes} bytes at the end whose crc32c is right",
                    got=f"{len(content)} bytes that fail it",
                    fix="run `vidfeat verify --level full` on the store, then the extract command again",
                )
            )
        return body.view("<u8").reshape(self.chunks_per_shard, 2)

    def metadata(self, n_shards: int, *, dimension_names: Sequence[str], attributes: dict[str, Any]) -> bytes:
        """The array's zarr.json for `n_shards` shards."""
        inner: list[dict[str, Any]] = [_bytes_codec()]
        if self.compressor == "zstd":
            inner.append({"name": "zstd", "configuration": {"level": ZSTD_LEVEL, "checksum": False}})
        sharding = {
            "chunk_shape": [self.chunk_rows, *self.row_shape],
            "codecs": [*inner, {"name": "crc32c"}],
            "index_codecs": [_bytes_codec(), {"name": "crc32c"}],
            "index_location": "end",
        }
        return _array_metadata(
            shape=(n_shards * self.shard_rows, *self.row_shape),
            chunk_shape=(self.shard_rows, *self.row_shape),
            dtype=self.dtype,
            codecs=[{"name": "sharding_indexed", "configuration": sharding}],
            dimension_names=dimension_names,
            attributes=attributes,
        )


def tap_layout(tap: TapSpec, *, n_frames: int | None, shard_rows: int, compressor: str | None) -> ArrayLayout:
    """Layout of a tap's array. Inner chunk = one (video, view) when every video has `n_frames`, else one frame."""
    return ArrayLayout(tap.name, tap.row_shape, tap.dtype, n_frames or 1, shard_rows, compressor)


def scales_layout(tap: TapSpec, *, n_frames: int | None, shard_rows: int) -> ArrayLayout:
    """Layout of the scales of an int8 tap: for every row of the tap one row [2, channels], (step, zero)."""
    return ArrayLayout(f"scales/{tap.name}", (2, tap.row_shape[-1]), "float32", n_frames or 1, shard_rows)


def encode_small_array(values: np.ndarray, dimension_names: Sequence[str] | None = None) -> tuple[bytes, bytes | None]:
    """(zarr.json, bytes of its only chunk `c.0...`) of an unsharded array; no chunk when it is empty."""
    metadata = _array_metadata(
        shape=values.shape,
        chunk_shape=tuple(max(1, size) for size in values.shape),
        dtype=str(values.dtype),
        codecs=[_bytes_codec(), {"name": "crc32c"}],
        dimension_names=dimension_names,
        attributes={},
    )
    if values.size == 0:
        return metadata, None
    return metadata, bytes(_with_crc(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<"))))


def decode_small_array(content: bytes, *, dtype: str, shape: tuple[int, ...], path: str) -> np.ndarray:
    """The array `encode_small_array` wrote, from its chunk file.

    Raises:
        StoreCorruptError: another length, or a wrong checksum.
    """
    data = np.frombuffer(content, np.uint8)
    expected = math.prod(shape) * np.dtype(dtype).itemsize + CRC_BYTES
    if len(data) != expected or google_crc32c.value(data[:-CRC_BYTES]) != int(data[-CRC_BYTES:].view("<u4")[0]):
        raise StoreCorruptError(
            explain(
                "an index array is damaged",
                where=path,
                expected=f"{expected} bytes whose crc32c is right",
                got=f"{len(data)} bytes that fail it",
                fix="run `vidfeat verify`, then the extract command again: the index is rebuilt from the commits",
            )
        )
    return data[:-CRC_BYTES].view(np.dtype(dtype).newbyteorder("<")).reshape(shape)


def group_metadata(attributes: dict[str, Any], *, consolidated: dict[str, Any] | None = None) -> bytes:
    """The zarr.json of a group; `consolidated` maps paths below it to their parsed metadata."""
    document: dict[str, Any] = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    if consolidated is not None:
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": consolidated}
    return canonical_json(document)


def _bytes_codec() -> dict[str, Any]:
    return {"name": "bytes", "configuration": {"endian": "little"}}


def _array_metadata(
    *,
    shape: Sequence[int],
    chunk_shape: Sequence[int],
    dtype: str,
    codecs: list[dict[str, Any]],
    dimension_names: Sequence[str] | None,
    attributes: dict[str, Any],
) -> bytes:
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_shape)}},
        # One file per shard in the array's own directory: one directory to fsync.
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        # What a Zarr library returns for rows that no video owns: NaN, not a plausible zero.
        "fill_value": _DATA_TYPES[dtype],
        "codecs": codecs,
        "attributes": attributes,
        "storage_transformers": [],
    }
    if dimension_names is not None:
        document["dimension_names"] = list(dimension_names)
    return canonical_json(document)


def _with_crc(values: np.ndarray) -> bytes:
    content = values.reshape(-1).view(np.uint8)
    return content.tobytes() + int(google_crc32c.value(content)).to_bytes(CRC_BYTES, "little")
