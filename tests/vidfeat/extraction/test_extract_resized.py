"""`--resize device`: another way to the same store, byte for byte, for videos of any size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_extraction import digests, extract, small_options, write_mp4

from vidfeat.extraction import unit_runner
from vidfeat.extraction.options import ExtractOptions, Machine, ModelChoice
from vidfeat.store import open_store
from vidfeat.video.preprocess import ViewSpec

SLOT_BYTES = 3 * 100 * 60 * 3  # three frames of the portrait, one of 64 x 48's five, none of the largest
SIZES = [(48, 64), (100, 60), (48, 64), (120, 200)]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of three sizes, one of them no video."""
    root = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(SIZES):
        write_mp4(root / "run" / f"{number}.mp4", n_frames=9 + number, seed=number, size=size)
    (root / "run" / "9.mp4").write_bytes(b"nothing to see")
    return root


def options_of(sizes: Path, out: Path, model: ModelChoice, machine: Machine) -> ExtractOptions:
    return small_options(sizes, out, model, views=ViewSpec(n_views=2), machine=machine, allow_failures=1)


@pytest.mark.parametrize("n_workers", [0, 1])
def test_the_store_is_the_same_byte_for_byte(
    n_workers: int, sizes: Path, model: ModelChoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_workers = Machine(workers=0, device="cpu", batch_frames=3)
    extract(options_of(sizes, tmp_path / "workers.zarr", model, by_workers))
    monkeypatch.setattr(unit_runner, "FRAME_SLOT_BYTES", SLOT_BYTES)
    on_device = replace(by_workers, workers=n_workers, resize="device")
    extract(options_of(sizes, tmp_path / "device.zarr", model, on_device))
    assert digests(tmp_path / "device.zarr") == digests(tmp_path / "workers.zarr")
    assert open_store(tmp_path / "device.zarr").ok.sum() == len(SIZES)
    # Whoever resizes: no reason to extract anything again.
    assert extract(options_of(sizes, tmp_path / "device.zarr", model, by_workers)).nothing_to_do


def test_frames_cross_in_the_size_they_have(sizes: Path, model: ModelChoice, tmp_path: Path) -> None:
    """What the stream takes in, a slot at a time; the largest video's frames are pictures already."""
    import threading

    from vidfeat.extraction.recipe import Recipe
    from vidfeat.extraction.worker import InlineDecoder, PixelRows, VideoTask
    from vidfeat.video.preprocess import Preprocess
    from vidfeat.video.sampling import SamplingPolicy

    preprocess, sampling = Preprocess(32, (0.5,) * 3, (0.5,) * 3), SamplingPolicy("uniform", n_frames=4)
    recipe = Recipe(preprocess, sampling, frame_bytes=SLOT_BYTES)
    tasks = [VideoTask(i, i, "v", str(sizes / "run" / f"{i}.mp4"), (0, 1)) for i in (0, 1, 3)]
    events = list(InlineDecoder(recipe).stream(tasks, threading.Event()))
    shapes = [(event.task.position, event.pixels.shape) for event in events if isinstance(event, PixelRows)]
    assert shapes == [(0, (4, 48, 64, 3)), (1, (3, 100, 60, 3)), (1, (1, 100, 60, 3)), (3, (4, 3, 32, 32))]
    assert recipe.to_json() == replace(recipe, frame_bytes=None).to_json()
