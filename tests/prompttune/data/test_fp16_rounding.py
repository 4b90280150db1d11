"""`benchmarks.rounding`: what it compares is the store's own features with the same features in float16."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_store import Recipe, write_tiny_store

from benchmarks.rounding import RoundedRows, measure
from prompttune.api.apply_prompts import apply_prompts
from prompttune.data.features import open_source


def test_rounding_is_measured_against_the_stores_own_accuracy(target: str) -> None:
    source = open_source(target)
    found = measure(source)
    result = apply_prompts([], given={"store": target}, base_to_new=True).runs[0]
    for name in ("base", "new"):
        assert found[name]["n_videos"] == result.tests[name].n_videos
        assert found[name]["top1_float32"] == pytest.approx(result.tests[name].top1)
        assert 0 < found[name]["largest_logit_change"] < 0.5  # half precision has 11 bits, logits here go up to 50
        moved = abs(found[name]["top1_float32"] - found[name]["top1_float16"]) * found[name]["n_videos"]
        assert moved <= found[name]["predictions_changed"] + 1e-6


def test_rounded_rows_are_what_a_float16_store_holds(target: str) -> None:
    exact = open_source(target).reader.rows("pooled", [3, 1])
    rounded = RoundedRows(open_source(target).reader).rows("pooled", [3, 1])
    assert np.array_equal(rounded.values, exact.values.astype(np.float16).astype(np.float32))
    assert not np.array_equal(rounded.values, exact.values)
    assert np.array_equal(rounded.offsets, exact.offsets)


def test_a_store_that_is_rounded_already_is_refused(tmp_path: Path) -> None:
    source = open_source(write_tiny_store(tmp_path / "s.zarr", Recipe(classes=("run", "jump"))))
    object.__setattr__(source.reader.taps["pooled"], "dtype", "float16")
    with pytest.raises(ValueError, match="--dtype float32"):
        measure(source)
