"""HDF5: out and back exactly, and one clear error for a damaged file."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest
from small_store import FAILED_VIDEO, SmallStore, tree

from vidfeat.errors import StoreCorruptError, StoreError
from vidfeat.store import StoreWriter, open_store, verify
from vidfeat.tools.hdf5 import export_hdf5, import_hdf5

h5py = pytest.importorskip("h5py")

KINDS = {
    "fixed": SmallStore(),
    "variable": SmallStore(n_frames=None, n_views=3),
    "int8": SmallStore(dtype="int8"),
    "variable-int8-zstd": SmallStore(dtype="int8", n_frames=None, compressor="zstd"),
}


def extract_with_pack(world, path):
    world.extract(path)
    (path / "pack").mkdir()
    (path / "pack/config.json").write_text('{"width": 768}')
    (path / "pack/text.safetensors").write_bytes(random.Random(0).randbytes(2000))
    StoreWriter.open(path).finalize()
    return path


def check_same(left, right):
    one, two = open_store(left), open_store(right)
    assert one.videos() == two.videos()
    assert (one.taps, one.n_views, one.n_frames, one.classes) == (two.taps, two.n_views, two.n_frames, two.classes)
    assert one.fingerprint.sha256 == two.fingerprint.sha256
    assert one.pack_hash == two.pack_hash
    assert list(one.pack_files()) == list(two.pack_files())
    ok = np.flatnonzero(one.ok)
    for tap in one.taps:
        for view in range(one.n_views):
            a, b = one.stored_rows(tap, ok, view=view), two.stored_rows(tap, ok, view=view)
            np.testing.assert_array_equal(a.values, b.values)
            np.testing.assert_array_equal(a.offsets, b.offsets)
            if a.scales is not None:
                np.testing.assert_array_equal(a.scales, b.scales)
    for name in ("crc32c", "int8_min_cosine", "int8_max_error"):
        np.testing.assert_array_equal(one.index_column(name), two.index_column(name))
    assert verify(right, level="full").problems == ()


@pytest.mark.parametrize("world", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_out_and_back_is_exact(world, block_bytes, tmp_path, monkeypatch):
    monkeypatch.setattr("vidfeat.tools.hdf5._BLOCK_BYTES", block_bytes)
    path = extract_with_pack(world, tmp_path / "X.zarr")
    export_hdf5(path, tmp_path / "x.h5")
    import_hdf5(tmp_path / "x.h5", tmp_path / "Y.zarr")
    check_same(path, tmp_path / "Y.zarr")
    if world.n_frames and world.dtype == "float16":
        assert tree(path) == tree(tmp_path / "Y.zarr"), "extracted in one pass: even the bytes are the same"
    assert sorted(os.listdir(tmp_path)) == ["X.zarr", "Y.zarr", "x.h5"]


def test_a_store_that_grew_comes_back_too(tmp_path):
    SmallStore(n_videos=7, n_views=1).extract(tmp_path / "X.zarr")
    SmallStore(n_videos=11, n_views=2, layers=(2, 5)).extract(tmp_path / "X.zarr")
    export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    import_hdf5(tmp_path / "x.h5", tmp_path / "Y.zarr")
    check_same(tmp_path / "X.zarr", tmp_path / "Y.zarr")


def test_the_file_is_what_its_documentation_says(tmp_path):
    world = SmallStore()
    world.extract(tmp_path / "X.zarr")
    export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as h5:
        assert json.loads(h5.attrs["store"])["fingerprint"] == world.fields
        assert h5["videos/id"].asstr()[3] == world.videos[3].id
        assert h5["videos/row_start"][FAILED_VIDEO].tolist() == [-1, -1]
        for tap in ("pooled", "tokens/02"):
            start = h5["videos/row_start"][7, 1]
            np.testing.assert_array_equal(
                h5[f"taps/{tap}"][start : start + 4], world.rows(tap, 7, 1).astype(np.float16)
            )


def test_an_export_never_overwrites_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    SmallStore().extract(tmp_path / "X.zarr")
    (tmp_path / "x.h5").write_text("precious")
    with pytest.raises(StoreError, match="exists"):
        export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    assert (tmp_path / "x.h5").read_text() == "precious"
    monkeypatch.setattr("vidfeat.tools.hdf5._write_pack", lambda h5, reader: h5["taps/pooled"].__setitem__((3, 3), 9))
    with pytest.raises(StoreError, match="does not hold what was written"):
        export_hdf5(tmp_path / "X.zarr", tmp_path / "y.h5")
    assert sorted(os.listdir(tmp_path)) == ["X.zarr", "x.h5"]


def test_an_interrupted_import_carries_on(tmp_path, monkeypatch):
    world = SmallStore()
    world.extract(tmp_path / "X.zarr")
    export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    commit, done = StoreWriter.commit, []

    def commit_two(self, unit, *rest):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(unit.index)
        return commit(self, unit, *rest)

    monkeypatch.setattr(StoreWriter, "commit", commit_two)
    with pytest.raises(KeyboardInterrupt):
        import_hdf5(tmp_path / "x.h5", tmp_path / "Y.zarr")
    monkeypatch.setattr(StoreWriter, "commit", commit)
    import_hdf5(tmp_path / "x.h5", tmp_path / "Y.zarr")
    assert tree(tmp_path / "X.zarr") == tree(tmp_path / "Y.zarr")


def damaged_files(content):
    yield "empty", b""
    yield "text", b"path,label\n"
    yield "truncated", content[: len(content) // 2]
    yield "header only", content[:2048]


def test_a_malformed_file_is_one_clear_error(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    for name, content in damaged_files((tmp_path / "x.h5").read_bytes()):
        (tmp_path / "bad.h5").write_bytes(content)
        with pytest.raises(StoreError, match="damaged, or is none") as caught:
            import_hdf5(tmp_path / "bad.h5", tmp_path / f"{name}.zarr")
        assert str(tmp_path / "bad.h5") in str(caught.value)
        assert not (tmp_path / f"{name}.zarr").exists()
    with pytest.raises(StoreError, match="no HDF5 file"):
        import_hdf5(tmp_path / "absent.h5", tmp_path / "Y.zarr")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda h5: h5["taps/pooled"].__setitem__((5, 5), 9), "checksum"),
        (lambda h5: h5.__delitem__("taps/pooled"), "pooled"),
        (lambda h5: h5.__delitem__("videos/fps"), "fps"),
        (lambda h5: h5.attrs.__setitem__("store", "{"), "damaged"),
        (lambda h5: h5.attrs.__setitem__("format_version", 2), "format_version 2"),
        (lambda h5: h5["videos/row_start"].__setitem__((3, 1), 10**6), "beyond the last row"),
        (lambda h5: h5["videos/n_frames"].__setitem__(3, 3), "damaged"),
    ],
)
def test_an_exported_file_that_was_changed_is_refused(change, word, tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    export_hdf5(tmp_path / "X.zarr", tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "r+") as h5:
        change(h5)
    with pytest.raises((StoreError, StoreCorruptError), match=word):
        import_hdf5(tmp_path / "x.h5", tmp_path / "Y.zarr")
    with pytest.raises(StoreError):
        open_store(tmp_path / "Y.zarr")
