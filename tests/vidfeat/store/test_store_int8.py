"""int8 taps: exact where they can be, and an error that is measured instead of promised."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from small_store import FAILED_VIDEO, SmallStore

from vidfeat.store import open_store, verify
from vidfeat.store.quantize import cosine_and_error, dequantize, quantize


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 6e4, 1e30])
def test_the_error_is_at_most_half_a_step(scale):
    rows = np.random.default_rng(0).standard_normal((3, 50, 16)).astype(np.float32) * np.float32(scale)
    rows[:, :, 3] *= 100  # an outlier channel must not cost the others
    quantized = quantize(rows)
    back = dequantize(quantized.values, quantized.scales)
    steps = quantized.scales[:, 0][:, None]
    # Half a step, and float32's own rounding of zero + step * q.
    assert (np.abs(back - rows) <= 0.5 * steps + 1e-6 * np.abs(rows).max(axis=1, keepdims=True)).all()
    assert quantized.values.min() >= -127


def test_constant_channels_are_exact():
    rows = np.full((2, 5, 4), 3.25, np.float32)
    quantized = quantize(rows)
    np.testing.assert_array_equal(dequantize(quantized.values, quantized.scales), rows)
    assert cosine_and_error(rows, quantized) == (pytest.approx(1.0), 0.0)


def test_blocks_do_not_change_the_result(monkeypatch):
    rows = np.random.default_rng(0).standard_normal((7, 5, 4)).astype(np.float32)
    whole = quantize(rows)
    error = cosine_and_error(rows, whole)
    monkeypatch.setattr("vidfeat.store.quantize._BLOCK_BYTES", 1)
    parts = quantize(rows)
    np.testing.assert_array_equal(whole.values, parts.values)
    np.testing.assert_array_equal(whole.scales, parts.scales)
    assert cosine_and_error(rows, parts) == pytest.approx(error)


@pytest.mark.parametrize("n_frames", [4, None])
def test_an_int8_store_gives_floats_back_and_knows_its_error(n_frames, tmp_path):
    world = SmallStore(dtype="int8", n_frames=n_frames)
    world.extract(tmp_path / "X.zarr")
    reader = open_store(tmp_path / "X.zarr")
    cosines, errors = reader.index_column("int8_min_cosine"), reader.index_column("int8_max_error")
    assert np.isnan(cosines[:, :, 0]).all(), "pooled is not quantised"
    for index in set(range(world.n_videos)) - {FAILED_VIDEO}:
        for view in range(2):
            got = reader.rows("tokens/02", [index], view=view).values
            exact = world.rows("tokens/02", index, view)
            assert got.dtype == np.float32
            error = np.abs(got.astype(np.float64) - exact).max()
            assert error == pytest.approx(float(errors[index, view, 1]), rel=1e-5)
            norms = np.linalg.norm(got, axis=-1) * np.linalg.norm(exact, axis=-1)
            cosine = ((got * exact).sum(-1) / norms).min()
            assert cosine == pytest.approx(float(cosines[index, view, 1]), abs=1e-6)
            assert cosine > 0.999
    half = reader.rows("tokens/02", [0], dtype="float16").values
    assert half.dtype == np.float16
    assert verify(tmp_path / "X.zarr", level="full").problems == ()


def test_a_stranger_can_dequantise_with_zarr_alone(tmp_path):
    SmallStore(dtype="int8").extract(tmp_path / "X.zarr")
    reader, group = open_store(tmp_path / "X.zarr"), zarr.open_group(tmp_path / "X.zarr", mode="r")
    start = int(group["index/row_start"][7, 1, 1])
    values = group["tokens/02"][start : start + 4].astype(np.float32)
    step, zero = np.split(group["scales/tokens/02"][start : start + 4], 2, axis=1)
    np.testing.assert_array_equal(values * step + zero, reader.rows("tokens/02", [7], view=1).values)
