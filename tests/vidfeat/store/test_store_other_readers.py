"""One store, read by others' libraries: zarr-python, xarray and tensorstore give the numbers that were committed.

A library that is not installed is skipped. `docs/store-format.md` says which versions were tried.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_store import SmallStore

from vidfeat.store import open_store, verify
from vidfeat.store.sealing import derived_files
from vidfeat.store.writer import StoreWriter

WORLD = SmallStore()
TAP = "tokens/02"


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("readers") / "X.zarr"
    WORLD.extract(path)
    return path


def owned_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(row numbers, values) of the tap's rows that some video owns, through our own reader."""
    reader = open_store(path)
    videos = np.flatnonzero(reader.ok)
    starts = reader.index_column("row_start")[videos, 0, list(reader.taps).index(TAP)]
    lengths = reader.n_frames_per_video[videos]
    rows = np.concatenate([np.arange(start, start + n) for start, n in zip(starts, lengths, strict=True)])
    return rows, reader.rows(TAP, videos).values


def test_zarr_python_reads_it(store):
    zarr = pytest.importorskip("zarr")
    rows, values = owned_rows(store)
    np.testing.assert_array_equal(zarr.open_group(store, mode="r")[TAP][:][rows], values)


def test_tensorstore_reads_it(store):
    tensorstore = pytest.importorskip("tensorstore")
    rows, values = owned_rows(store)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / TAP)}}
    np.testing.assert_array_equal(tensorstore.open(spec).result().read().result()[rows], values)


def test_xarray_opens_the_index_and_the_taps(store):
    xarray = pytest.importorskip("xarray")
    index = xarray.open_zarr(store, group="index", consolidated=False)
    reader = open_store(store)
    assert index["row_start"].dims == ("video", "view", "tap")
    assert index.sizes["video"] == len(reader)
    np.testing.assert_array_equal(index["row_start"].values, reader.index_column("row_start"))
    np.testing.assert_array_equal(index["ok"].values.astype(bool), reader.ok)
    rows, values = owned_rows(store)
    tokens = xarray.open_zarr(store, group="tokens", consolidated=False)["02"]
    np.testing.assert_array_equal(tokens.values[rows], values)


def test_every_array_of_the_index_names_its_axes_and_no_length_has_two_names(store):
    lengths: dict[str, int] = {}
    for metadata in store.glob("index/*/zarr.json"):
        document = json.loads(metadata.read_text())
        assert len(document["dimension_names"]) == len(document["shape"]), metadata
        for name, length in zip(document["dimension_names"], document["shape"], strict=True):
            assert lengths.setdefault(name, length) == length, (metadata, name)


def test_a_store_from_before_axes_were_named_is_sound_and_reads_the_same(tmp_path, monkeypatch):
    def without_names(plan, records, *, axis_names=True):
        return derived_files(plan, records, axis_names=False)

    with monkeypatch.context() as patch:
        patch.setattr("vidfeat.store.sealing.derived_files", without_names)
        WORLD.extract(tmp_path / "old.zarr")
    assert "dimension_names" not in (tmp_path / "old.zarr/index/ok/zarr.json").read_text()
    for level in ("fast", "full"):
        assert verify(tmp_path / "old.zarr", level=level).problems == ()
    assert StoreWriter.open(tmp_path / "old.zarr").is_finished
    WORLD.extract(tmp_path / "new.zarr")
    old, new = (owned_rows(tmp_path / name)[1] for name in ("old.zarr", "new.zarr"))
    np.testing.assert_array_equal(old, new)
