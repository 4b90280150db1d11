"""The measurement of reads runs through at a toy size and says what it must; how fast anything is, is not asserted."""

from __future__ import annotations

import json

from benchmarks.readme import render_block
from benchmarks.speed import store


def test_a_toy_measurement_has_every_cell_and_stays_small(tmp_path):
    out = tmp_path / "speed_store.json"
    assert store.main(["--videos", "6", "--batch-size", "2", "--rounds", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert list(result["cells"]) == ["tokens", "pooled", "pooled, all"]
    assert [cell["videos_per_read"] for cell in result["cells"].values()] == [2, 2, 6]
    assert result["cells"]["tokens"]["bytes_per_read"] == 2 * 8 * 197 * 768 * 2
    for name, cell in result["cells"].items():
        for ms in cell["ms_per_read"].values():
            assert 0 < ms["min"] <= ms["median"] <= ms["max"]
        met = {"memmap": cell["speed_over_memmap"] >= 0.9, "zarr": cell["speed_over_zarr"] >= 8}
        assert result["goal"]["met"][name] == met
    assert out.stat().st_size < 10_000
    assert render_block("speed_store", tmp_path).count("\n| ") == 10
