"""The speed measurement runs through at a toy size and says what it must; how fast anything is, is not asserted."""

from __future__ import annotations

import json
import os

import pytest

from benchmarks.speed import extract

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        not hasattr(os, "sched_setaffinity"), reason="keeps decoding and encoding on cores of their own"
    ),
]


def test_a_toy_measurement_has_every_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(extract, "SIZES", {"ViT-B-32": (32, 16, 64, 1, 16), "tiny": (32, 16, 64, 1, 16)})
    out = tmp_path / "speed.json"
    code = extract.main(
        ["--videos", "4", "--clip-seconds", "0.5", "--batch-frames", "8", "--rounds", "1", "--out", str(out)]
    )
    assert code == 0
    result = json.loads(out.read_text())
    assert set(result["ratios"]) == {
        "pipeline / encoder",
        "pipeline / decoding",
        "CPU time, encoder / pipeline",
        "ring / pipe",
    }
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert [len(row) for row in result["readme"]["rows"]] == [3, 3, 3, 3]
    for name, goal in result["goals"].items():
        assert goal["met"] == (result["ratios"][name] >= goal["at_least"])
