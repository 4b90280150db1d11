"""Reading: the right numbers in the order asked for, in any process, and an error for everything else."""

from __future__ import annotations

import multiprocessing
import pickle

import numpy as np
import pytest
from small_store import FAILED_VIDEO, SmallStore

from vidfeat.errors import MissingTapError, StoreCorruptError, StoreError, StoreIncompleteError, StoreNotFoundError
from vidfeat.store import StoreWriter, open_store
from vidfeat.store.tap import tap_flags

KINDS = [
    pytest.param(SmallStore(), id="fixed"),
    pytest.param(SmallStore(n_frames=None), id="variable"),
    pytest.param(SmallStore(compressor="zstd"), id="zstd"),
    pytest.param(SmallStore(n_frames=None, compressor="zstd", dtype="float32"), id="variable-zstd-float32"),
]
ANY_ORDER = [7, 0, 10, 3, 3, 9, 1]


def check_rows(world, reader, indices=ANY_ORDER):
    for tap in world.spec.taps:
        for view in range(world.n_views):
            rows = reader.rows(tap.name, indices, view=view)
            flag = tap_flags([tap.name])  # as command lines spell it
            np.testing.assert_array_equal(reader.rows(flag, indices, view=view).values, rows.values)
            assert len(rows) == len(indices)
            for position, index in enumerate(indices):
                np.testing.assert_array_equal(rows[position], world.rows(tap.name, index, view).astype(tap.dtype))


@pytest.mark.parametrize("world", KINDS)
@pytest.mark.parametrize("check", ["first-touch", "always", "never"])
def test_rows_come_back_exactly_in_the_order_asked_for(world, check, tmp_path):
    world.extract(tmp_path / "X.zarr")
    check_rows(world, open_store(tmp_path / "X.zarr", check=check))


@pytest.mark.parametrize("n_frames", [4, None])
@pytest.mark.parametrize("few", [0, 2**30])
@pytest.mark.parametrize("large", [0, 2**30])
@pytest.mark.parametrize("check", ["first-touch", "always", "never"])
def test_every_way_of_gathering_gives_the_same(n_frames, few, large, check, tmp_path, monkeypatch):
    """Few videos or many, small chunks or large, from one shard or several: a loop of copies, or gathered at once."""
    monkeypatch.setattr("vidfeat.store.gather._LARGE_CHUNK_BYTES", large)
    monkeypatch.setattr("vidfeat.store.gather.FEW_VIDEOS", few)
    monkeypatch.setattr("vidfeat.store.reader.FEW_VIDEOS", few)
    world = SmallStore(n_frames=n_frames)
    world.extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr", check=check)
    for indices in (ANY_ORDER, [2, 0, 1, 1], np.array([5], np.int32)):
        check_rows(world, reader, indices)
    with pytest.raises(StoreError, match="clip 4"):
        reader.rows("pooled", [1, FAILED_VIDEO])
    for wrong in ([-1], [11], [0, -11]):
        with pytest.raises(IndexError):
            reader.rows("pooled", wrong)


def test_mappings_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("vidfeat.store.gather._MAX_MAPPED_SHARDS", 1)
    world = SmallStore()
    world.extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    check_rows(world, reader)
    assert all(len(source._shards) == 1 for source in reader._sources.values())


def test_a_view_per_video_and_no_video_at_all(tmp_path):
    world = SmallStore()
    world.extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    rows = reader.rows("pooled", [3, 3, 0], view=[1, 0, 1]).stacked()
    assert rows.shape == (3, 4, 8)
    for got, (index, view) in zip(rows, [(3, 1), (3, 0), (0, 1)], strict=True):
        np.testing.assert_array_equal(got, world.rows("pooled", index, view).astype(np.float16))
    empty = reader.rows("tokens/02", [])
    assert empty.values.shape == (0, 5, 6)
    assert len(empty) == 0
    assert reader.rows("pooled", [1], dtype="float32").values.dtype == np.float32


def test_videos_of_different_lengths_are_not_stacked(tmp_path):
    SmallStore(n_frames=None).extract(tmp_path / "X.zarr")
    with pytest.raises(StoreError, match="cannot be stacked"):
        open_store(tmp_path / "X.zarr").rows("pooled", [0, 1]).stacked()


@pytest.mark.parametrize("world", KINDS[:2])
def test_the_facts_come_back(world, tmp_path):
    world.extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    assert reader.videos() == [world.facts(index) for index in range(world.n_videos)]
    assert reader.ids.tolist() == [video.id for video in world.videos]
    assert reader.labels.tolist() == [video.label for video in world.videos]
    assert reader.splits.tolist() == [video.split for video in world.videos]
    assert reader.groups.tolist() == [""] * world.n_videos
    assert np.flatnonzero(~reader.ok).tolist() == [FAILED_VIDEO]
    assert reader.statuses[FAILED_VIDEO] == "failed"
    assert reader.classes == ("walk", "süß")
    assert reader.n_views == 2
    assert reader.n_frames == world.n_frames
    assert reader.pack_hash == "cd" * 32
    assert reader.pack_path == tmp_path / "X.zarr" / "pack"
    assert "11 videos (1 failed)" in repr(reader)
    assert "tokens/02 [5, 6] float16" in repr(reader)


def test_requests_that_make_no_sense_are_refused(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    with pytest.raises(MissingTapError) as caught:
        reader.rows("tokens/06", [0])
    for word in ("pooled, tokens/02", "--taps pooled,tokens@2,tokens@6"):
        assert word in str(caught.value)
    with pytest.raises(IndexError, match=r"\[0, 11\)"):
        reader.rows("pooled", [11])
    with pytest.raises(IndexError, match="view"):
        reader.rows("pooled", [0], view=2)
    with pytest.raises(StoreError, match="truncated"):
        reader.rows("pooled", [0, FAILED_VIDEO])
    with pytest.raises(ValueError, match="sometimes"):
        open_store(tmp_path / "X.zarr", check="sometimes")


def test_what_is_no_store_and_what_is_unfinished_says_so(tmp_path):
    with pytest.raises(StoreNotFoundError, match="there is no store"):
        open_store(tmp_path / "X.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreNotFoundError, match="no feature store"):
        open_store(tmp_path / "folder")
    world = SmallStore()
    writer = StoreWriter.create(tmp_path / "X.zarr", world.spec, world.videos)
    world.commit(writer, writer.plan_units()[0])
    with pytest.raises(StoreIncompleteError) as caught:
        open_store(tmp_path / "X.zarr")
    assert "1 units committed" in str(caught.value)
    assert f"vidfeat extract SOURCE --out {tmp_path / 'X.zarr'}" in str(caught.value)
    with pytest.raises(StoreIncompleteError, match="4 committed units"):
        writer.finalize()


@pytest.mark.parametrize("compressor", [None, "zstd"])
@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "longer"])
def test_a_shard_that_is_not_whole_is_an_error_and_never_zeros(damage, compressor, tmp_path):
    SmallStore(compressor=compressor).extract(tmp_path / "X.zarr")
    shard = tmp_path / "X.zarr/tokens/02/c.1.0.0"
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes({"empty": b"", "truncated": content[:-1], "longer": content + b"\0"}[damage])
    reader = open_store(tmp_path / "X.zarr", check="never")
    reader.rows("tokens/02", [0, 7])  # the other shards are fine
    with pytest.raises(StoreCorruptError, match=r"c\.1\.0\.0"):
        reader.rows("tokens/02", [5])


@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_a_flipped_bit_is_noticed_on_first_touch(compressor, tmp_path):
    SmallStore(compressor=compressor).extract(tmp_path / "X.zarr")
    shard = tmp_path / "X.zarr/tokens/02/c.1.0.0"
    content = bytearray(shard.read_bytes())
    content[7] ^= 16
    shard.write_bytes(content)
    reader = open_store(tmp_path / "X.zarr")
    with pytest.raises(StoreCorruptError, match=r"c\.1\.0\.0"):
        reader.rows("tokens/02", [3])
    content[7] ^= 16
    content[-9] ^= 1  # in the index
    shard.write_bytes(content)
    with pytest.raises(StoreCorruptError, match="damaged"):
        open_store(tmp_path / "X.zarr", check="never").rows("tokens/02", [3])


def test_check_always_also_notices_later_damage(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    first, always = (open_store(tmp_path / "X.zarr", check=check) for check in ("first-touch", "always"))
    for reader in (first, always):
        reader.rows("pooled", [3])
    with open(tmp_path / "X.zarr/pooled/c.1.0", "r+b") as handle:
        handle.write(b"\xff")  # in place: the mapping sees it
    first.rows("pooled", [3])
    with pytest.raises(StoreCorruptError, match="not those that were committed"):
        always.rows("pooled", [3])


def test_metadata_that_was_touched_is_refused(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    root = tmp_path / "X.zarr/zarr.json"
    root.write_bytes(root.read_bytes().replace(b'"n_views":2', b'"n_views":1'))
    with pytest.raises(StoreCorruptError, match="root metadata"):
        open_store(tmp_path / "X.zarr")


def _read_in_worker(reader):
    return reader.rows("tokens/02", [7, 0]).values


def _inherit(reader):
    global _inherited
    _inherited = reader


def _read_inherited():
    return _read_in_worker(_inherited)


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("compressor", [None, "zstd"])
def test_readers_work_in_other_processes(method, compressor, tmp_path):
    SmallStore(compressor=compressor).extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    here = _read_in_worker(reader)  # its files are open when it travels
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(_read_in_worker, (reader,)).get(timeout=60), here)
    if method == "fork":  # and inherited, not sent
        with multiprocessing.get_context("fork").Pool(1, initializer=_inherit, initargs=(reader,)) as pool:
            np.testing.assert_array_equal(pool.apply_async(_read_inherited).get(timeout=60), here)
    again = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(_read_in_worker(again), here)


def test_importing_the_store_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, vidfeat.store; sys.exit(int(any(m in sys.modules for m in ('torch', 'open_clip', 'h5py'))))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
