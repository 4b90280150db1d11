"""A reader written from docs/store-format.md alone: standard library and nothing of ours, not even numpy."""

from __future__ import annotations

import hashlib
import json
import struct
from itertools import pairwise

import numpy as np
import pytest
from small_store import FAILED_VIDEO, SmallStore

ITEM = {
    "float16": "e",
    "float32": "f",
    "int8": "b",
    "uint8": "B",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "float64": "d",
}


def crc32c(content: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in content:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def canonical(document) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode() + b"\n"


class Stranger:
    def __init__(self, path):
        self.path = path
        content = (path / "manifest.json").read_bytes()
        manifest = json.loads(content)
        seal = manifest.pop("sha256")
        assert hashlib.sha256(canonical(manifest)).hexdigest() == seal
        self.files = manifest["files"]
        root = (path / "zarr.json").read_bytes()
        assert hashlib.sha256(root).hexdigest() == self.files["zarr.json"]["sha256"]
        self.about = json.loads(root)["attributes"]["vidfeat"]
        assert self.about["format_version"] == 1
        assert hashlib.sha256(canonical(self.about["fingerprint"])).hexdigest() == self.about["fingerprint_sha256"]

    def index(self, name):
        metadata = json.loads((self.path / f"index/{name}/zarr.json").read_bytes())
        if 0 in metadata["shape"]:
            return []
        content = (self.path / f"index/{name}/c{'.0' * len(metadata['shape'])}").read_bytes()
        assert struct.unpack("<I", content[-4:])[0] == crc32c(content[:-4])
        item = ITEM[metadata["data_type"]]
        return [value[0] for value in struct.iter_unpack("<" + item, content[:-4])]

    def text(self, name):
        content = bytes(self.index(f"{name}_utf8"))
        return [content[start:stop].decode() for start, stop in pairwise(self.index(f"{name}_offsets"))]

    def rows(self, tap_name, video, view):
        position, tap = next((i, tap) for i, tap in enumerate(self.about["taps"]) if tap["name"] == tap_name)
        place = (video * self.about["n_views"] + view) * len(self.about["taps"]) + position
        start, n_frames = self.index("row_start")[place], self.index("n_frames")[video]
        values = self.read(tap_name, tap["row_shape"], tap["dtype"], tap["shard_rows"], start, n_frames)
        if tap["dtype"] != "int8":
            return values
        n_channels = tap["row_shape"][-1]
        scales = self.read(f"scales/{tap_name}", [2, n_channels], "float32", tap["shard_rows"], start, n_frames)
        per_row = len(values) // n_frames
        return [
            q * scales[2 * n_channels * (i // per_row) + i % n_channels]
            + scales[2 * n_channels * (i // per_row) + n_channels + i % n_channels]
            for i, q in enumerate(values)
        ]

    def read(self, name, row_shape, dtype, shard_rows, start, n_rows):
        file = f"{name}/c.{start // shard_rows}" + ".0" * len(row_shape)
        content = (self.path / file).read_bytes()
        assert len(content) == self.files[file]["n_bytes"]
        chunk_rows = self.about["n_frames"] or 1
        n_slots = shard_rows // chunk_rows
        index = content[-(16 * n_slots + 4) :]
        assert struct.unpack("<I", index[-4:])[0] == crc32c(index[:-4])
        values = []
        for slot in range(start % shard_rows // chunk_rows, (start % shard_rows + n_rows) // chunk_rows):
            offset, length = struct.unpack_from("<QQ", index, 16 * slot)
            chunk, checksum = content[offset : offset + length - 4], content[offset + length - 4 : offset + length]
            assert struct.unpack("<I", checksum)[0] == crc32c(chunk)
            values += [value[0] for value in struct.iter_unpack("<" + ITEM[dtype], chunk)]
        return values


def test_the_checksum_of_the_page():
    assert crc32c(b"123456789") == 0xE3069283


@pytest.mark.parametrize(
    "world",
    [SmallStore(), SmallStore(n_frames=None, dtype="float32"), SmallStore(dtype="int8")],
    ids=["fixed", "variable", "int8"],
)
def test_a_stranger_reads_what_was_written(world, tmp_path):
    world.extract(tmp_path / "X.zarr")
    stranger = Stranger(tmp_path / "X.zarr")
    assert stranger.text("id") == [video.id for video in world.videos]
    assert stranger.text("label") == [video.label for video in world.videos]
    assert stranger.text("reason")[FAILED_VIDEO] == "truncated"
    assert stranger.index("ok") == [index != FAILED_VIDEO for index in range(world.n_videos)]
    offsets = stranger.index("pts_offsets")
    assert tuple(stranger.index("pts_seconds")[offsets[7] : offsets[8]]) == world.facts(7).pts_seconds
    for index, view in [(0, 0), (7, 1), (10, 1)]:
        for tap in world.spec.taps:
            exact = world.rows(tap.name, index, view)
            got = np.reshape(stranger.rows(tap.name, index, view), exact.shape)
            # float16 keeps 11 bits; int8 a 254th of a channel's range, which is below 8 here.
            tolerance = {"float16": 2e-3, "float32": 0, "int8": 8 / 254}[tap.dtype]
            assert np.abs(got - exact).max() <= tolerance
