"""The bytes on disk: any Zarr v3 library reads them, and they are what zarr-python itself would have written."""

from __future__ import annotations

import hashlib
import json
import warnings

import google_crc32c
import numpy as np
import pytest
import zarr
from small_store import FAILED_VIDEO, SmallStore, tree

from vidfeat.store import StoreSpec, StoreWriter, TapSpec, VideoRow, open_store
from vidfeat.store.shards import ArrayLayout, encode_small_array

KINDS = [
    pytest.param(SmallStore(), id="fixed"),
    pytest.param(SmallStore(n_frames=None), id="variable"),
    pytest.param(SmallStore(compressor="zstd"), id="zstd"),
    pytest.param(SmallStore(dtype="float32", n_views=1), id="float32"),
]


@pytest.mark.parametrize("world", KINDS)
def test_zarr_reads_the_numbers_that_were_committed(world, tmp_path):
    world.extract(tmp_path / "X.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # zarr warns about folders it does not know, and about unstable data types
        group = zarr.open_group(tmp_path / "X.zarr", mode="r")
        members = dict(group.members(max_depth=None))
    assert {"pooled", "tokens", "tokens/02", "index", "index/row_start"} <= set(members)
    starts, n_frames = group["index/row_start"][:], group["index/n_frames"][:]
    for position, tap in enumerate(world.spec.taps):
        stored = group[tap.name][:]
        owned = np.zeros(len(stored), bool)
        for index in set(range(world.n_videos)) - {FAILED_VIDEO}:
            for view in range(world.n_views):
                rows = slice(starts[index, view, position], starts[index, view, position] + n_frames[index])
                expected = world.rows(tap.name, index, view).astype(tap.dtype)
                np.testing.assert_array_equal(stored[rows], expected)
                assert not owned[rows].any(), "two videos share a row"
                owned[rows] = True
        assert np.isnan(stored[~owned]).all(), "a row nobody owns must not look like data"
    assert (starts[FAILED_VIDEO] == -1).all()


@pytest.mark.parametrize("n_rows", [0, 4, 12, 24])
@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_a_shard_is_the_bytes_zarr_writes(n_rows, compressor, tmp_path):
    layout = ArrayLayout("tap", (3, 5), "float16", chunk_rows=4, shard_rows=24, compressor=compressor)
    rows = np.random.default_rng(0).standard_normal((n_rows, 3, 5)).astype(np.float16)
    (tmp_path / "zarr.json").write_bytes(
        layout.metadata(1, dimension_names=["row", "token", "channel"], attributes={"a": 1})
    )
    array = zarr.open_array(tmp_path, mode="r+")
    assert array.attrs["a"] == 1
    array[:n_rows] = rows
    ours = bytes(layout.encode(rows)[0])
    if n_rows:
        assert (tmp_path / "c.0.0.0").read_bytes() == ours
    (tmp_path / "c.0.0.0").write_bytes(ours)
    np.testing.assert_array_equal(array[:n_rows], rows)
    assert np.isnan(array[n_rows:]).all()


@pytest.mark.parametrize(
    "values", [np.arange(6, dtype=np.int64).reshape(2, 3), np.empty(0, np.uint8), np.float64([0.5])]
)
def test_an_index_array_is_the_bytes_zarr_writes(values, tmp_path):
    metadata, chunk = encode_small_array(values)
    (tmp_path / "zarr.json").write_bytes(metadata)
    array = zarr.open_array(tmp_path, mode="r+")
    assert array.shape == values.shape
    if chunk is not None:
        name = "c" + ".0" * values.ndim
        array[:] = values
        assert (tmp_path / name).read_bytes() == chunk
        (tmp_path / name).write_bytes(chunk)
    np.testing.assert_array_equal(array[:], values)


def test_shards_hold_whole_videos_and_have_the_size_asked_for():
    from vidfeat.store import StoreSpec, TapSpec
    from vidfeat.store.passes import first_pass

    tokens = TapSpec("tokens/06", (197, 768))
    videos = SmallStore(n_videos=1000).videos
    spec = StoreSpec((TapSpec("pooled", (512,)), tokens), n_frames=8, classes=("walk", "süß"))
    one = first_pass(spec, videos, None)
    shard_bytes = one.new_taps[1].shard_rows * tokens.row_bytes
    assert 64 * 2**20 <= shard_bytes <= 256 * 2**20
    assert one.new_taps[0].shard_rows % 8 == 0
    assert sum(one.unit_sizes) == 1000
    assert max(one.unit_sizes) * 8 * tokens.row_bytes <= shard_bytes
    pooled_only = first_pass(StoreSpec((TapSpec("pooled", (512,)),), n_frames=8), videos, None)
    assert max(pooled_only.unit_sizes) == 256, "small taps must commit often too"


def test_units_of_videos_of_different_lengths_are_packed_by_their_bounds():
    from vidfeat.store import StoreSpec, TapSpec
    from vidfeat.store.passes import first_pass

    videos = SmallStore(n_videos=6).videos
    spec = StoreSpec((TapSpec("pooled", (8,)),), n_frames=None, max_frames=10, shard_bytes=16 * 12)
    assert first_pass(spec, videos, [5, 5, 2, 10, 3, 9]).unit_sizes == (3, 1, 2)
    assert first_pass(spec, videos, None).unit_sizes == (1,) * 6


def test_the_finished_store_says_nothing_about_when_where_and_how(tmp_path):
    world = SmallStore()
    world.extract(tmp_path / "a.zarr")
    writer = world.extract(tmp_path / "b.zarr", on_step=lambda step: None)
    writer.finalize()  # again
    assert tree(tmp_path / "a.zarr") == tree(tmp_path / "b.zarr")
    text = (tmp_path / "a.zarr/manifest.json").read_text() + (tmp_path / "a.zarr/commits/unit-0000000.json").read_text()
    assert str(tmp_path) not in text


def test_the_root_says_what_the_store_is(tmp_path):
    world = SmallStore()
    world.extract(tmp_path / "X.zarr")
    about = json.loads((tmp_path / "X.zarr/zarr.json").read_bytes())["attributes"]["vidfeat"]
    assert about["format_version"] == 1
    assert about["fingerprint"] == world.fields
    assert (
        about["fingerprint_sha256"]
        == world.spec.fingerprint.sha256
        == open_store(tmp_path / "X.zarr").fingerprint.sha256
    )
    assert about["n_videos"] == world.n_videos


@pytest.mark.parametrize("n_frames", [4, None])
@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
def test_a_commit_is_what_the_plain_way_makes_of_the_same_rows(n_frames, given, tmp_path):
    """Cast, then chunk by chunk bytes and checksum, then the index; checksums of videos and files on their own."""
    lengths = [4, 4, 4] if n_frames else [2, 5, 1]
    rows = [np.random.default_rng(n).standard_normal((n_rows, 3, 5)).astype(given) for n, n_rows in enumerate(lengths)]
    spec = StoreSpec((TapSpec("tokens/00", (3, 5)),), n_frames, max_frames=5)
    videos = [VideoRow(f"{n}.mp4", "", n_frames=n_rows) for n, n_rows in enumerate(lengths)]
    writer = StoreWriter.create(tmp_path / "X.zarr", spec, videos, frame_bounds=None if n_frames else lengths)
    (unit,) = writer.plan_units()
    record = writer.commit(unit, {"tokens/00": rows}, videos)

    halves = [part.astype("<f2") for part in rows]
    chunks = halves if n_frames else [frame for part in halves for frame in part]
    n_slots = writer.plan.taps["tokens/00"].shard_rows // (n_frames or 1)
    body, index = b"", np.full((n_slots, 2), 2**64 - 1, "<u8")
    for slot, chunk in enumerate(chunks):
        index[slot] = len(body), chunk.nbytes + 4
        body += chunk.tobytes() + google_crc32c.value(chunk.tobytes()).to_bytes(4, "little")
    expected = body + index.tobytes() + google_crc32c.value(index.tobytes()).to_bytes(4, "little")
    assert (tmp_path / "X.zarr/tokens/00/c.0.0.0").read_bytes() == expected
    assert [video.crc32c["tokens/00"] for video in record.videos] == [
        (google_crc32c.value(part.tobytes()),) for part in halves
    ]
    (file,) = record.files.values()
    assert (file.n_bytes, file.sha256) == (len(expected), hashlib.sha256(expected).hexdigest())
