"""Store rows to batches: the right videos, averaged as asked, finite, of the right model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_store import CLASSES, Recipe, write_tiny_store

from prompttune.data.features import Batch, FeatureSource, open_source, read_features
from prompttune.data.frames import TrainingVideos
from prompttune.errors import FeatureError
from prompttune.splits.split import base_to_new
from vidfeat.store import open_store


def test_source_has_the_stores_columns(target: str) -> None:
    source = open_source(target)
    assert source.table.classes == CLASSES
    assert len(source.table.ids) == len(CLASSES) * 11
    assert source.failed == ()
    assert len(source.fingerprint) == 64


def test_features_are_read_by_row_and_averaged(target: str) -> None:
    source, reader = open_source(target), open_store(target)
    rows = np.array([40, 3, 17, 3])
    frames = reader.rows("pooled", rows).stacked()
    mean = read_features(source, rows, reduce="mean")
    picked = mean.values[mean.positions(rows)]
    torch.testing.assert_close(picked, torch.from_numpy(frames.mean(axis=1)), rtol=1e-5, atol=1e-6)
    unit = frames / np.linalg.norm(frames, axis=-1, keepdims=True)
    normalised = read_features(source, rows, reduce="mean-of-normalised")
    torch.testing.assert_close(
        normalised.values[normalised.positions(rows)], torch.from_numpy(unit.mean(axis=1)), rtol=1e-5, atol=1e-6
    )
    kept = read_features(source, rows, reduce="none")
    assert torch.equal(kept.values[kept.positions(rows)], torch.from_numpy(frames))
    with pytest.raises(KeyError):
        mean.positions(np.array([5]))


def test_batches_hold_each_runs_own_videos(target: str) -> None:
    source = open_source(target)
    splits = [base_to_new(source.table, shots=3, seed=seed) for seed in (1, 2)]
    rows = np.concatenate([split.train for split in splits])
    table = read_features(source, rows, reduce="mean")
    videos = TrainingVideos(table, splits)
    picks = torch.tensor([[0, 5, 11], [11, 2, 2]])
    batch = videos.batch(picks)
    assert batch.features.shape == (2, 3, 24)
    for run, split in enumerate(splits):
        for place, pick in enumerate(picks[run].tolist()):
            row = split.train[pick]
            assert torch.equal(batch.features[run, place], table.values[table.positions(np.array([row]))[0]])
            assert split.classes[int(batch.labels[run, place])] == source.table.labels[row]


def test_batch_checks_its_axes() -> None:
    with pytest.raises(ValueError, match="disagree"):
        Batch(torch.zeros(2, 3, 4), torch.zeros(3, 2, dtype=torch.int64))


def test_another_model_is_refused_with_both_hashes(target: str, stores: Path) -> None:
    ours, theirs = open_source(target).pack.hash, open_source(stores / "foreign.zarr").pack.hash
    assert ours != theirs
    with pytest.raises(FeatureError) as caught:
        open_source(stores / "foreign.zarr", pack_hash=ours, needed_by="the training store")
    assert ours in str(caught.value)
    assert theirs in str(caught.value)


def test_failed_videos_are_known_and_not_usable(tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "failed.zarr", Recipe(failed=(2, 60)))
    source = open_source(path)
    assert len(source.failed) == 2
    assert not source.table.usable[2]
    assert source.table.usable.sum() == 86


@pytest.mark.parametrize(
    ("value", "said"),
    [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "all zeros"), (1e30, "too large"), (1e-30, "too large")],
)
@pytest.mark.parametrize("reduce", ["mean", "mean-of-normalised", "none"])
def test_features_that_point_nowhere_name_the_video_and_its_frame(
    target: str, monkeypatch: pytest.MonkeyPatch, reduce: str, value: float, said: str
) -> None:
    source = damaged_source(target, monkeypatch, {4: value, 6: value})  # three frames each
    with pytest.raises(FeatureError, match=rf"run/001\.mp4, frame 1\n.*{said}.*; 1 other videos like it"):
        read_features(source, [0, 1, 2], reduce=reduce)  # type: ignore[arg-type]


def test_frames_that_average_to_nothing_name_the_video(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = damaged_source(target, monkeypatch, {3: 1.0, 4: -1.0, 5: (0.0, 1e-3, 0.0)})
    read_features(source, [0, 1, 2], reduce="mean")
    source = damaged_source(target, monkeypatch, {3: 1.0, 4: -0.5, 5: -0.5})
    with pytest.raises(FeatureError, match=r"average to nothing\n.*run/001\.mp4"):
        read_features(source, [0, 1, 2], reduce="mean")


def damaged_source(target: str, monkeypatch: pytest.MonkeyPatch, changes: dict[int, Any]) -> FeatureSource:
    """A store whose first read has other values in some rows."""
    source = open_source(target)
    honest = source.reader.rows

    def damaged(tap: Any, rows: Any, **options: Any) -> Any:
        found = honest(tap, rows, **options)
        values = found.values.astype(np.float32)
        for row, value in changes.items():
            values[row] = np.resize(value, values.shape[1])
        return type(found)(values, found.offsets)

    monkeypatch.setattr(source.reader, "rows", damaged)
    return source
