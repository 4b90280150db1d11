"""A store of which a copy is cut off: reading, verifying and extracting all say the same, and what they say helps."""

from __future__ import annotations

import os
import shutil

import pytest
from small_store import SmallStore

from vidfeat.errors import StoreCorruptError
from vidfeat.extraction.job_store import require_store_or_nothing
from vidfeat.store import open_store, verify

WORLD = SmallStore()


@pytest.mark.parametrize("lost", ["plan", "zarr.json", "index", "pooled"])
def test_what_is_missing_is_counted_and_copying_again_mends_it(lost, tmp_path):
    whole, copy = tmp_path / "whole.zarr", tmp_path / "copy.zarr"
    WORLD.extract(whole)
    shutil.copytree(whole, copy)
    n_files = sum(len(names) for _, _, names in os.walk(whole)) - 2  # the manifest and the lock are not listed
    n_lost = sum(len(names) for _, _, names in os.walk(copy / lost)) or 1
    shutil.rmtree(copy / lost) if (copy / lost).is_dir() else (copy / lost).unlink()
    says = f"{n_lost} of the {n_files} files that the manifest lists are missing"
    if lost == "plan":
        for refused in (verify, lambda path: require_store_or_nothing(str(path))):
            with pytest.raises(StoreCorruptError, match=says):
                refused(copy)
    else:
        with pytest.raises(StoreCorruptError, match=says) as caught:
            open_store(copy).rows("pooled", [0])
        assert f"no {lost}" in str(caught.value)
        assert "copy the store again" in str(caught.value)
    shutil.copytree(whole, copy, dirs_exist_ok=True)
    assert verify(copy, level="full").problems == ()
    assert len(open_store(copy)) == len(open_store(whole))
