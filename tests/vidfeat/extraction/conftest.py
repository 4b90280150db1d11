"""A tiny CLIP, its videos and their store, made once for all tests of extractions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_extraction import (
    extract,
    small_options,
    write_tiny_clip,
    write_videos,
)

from vidfeat.extraction.options import ModelChoice


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> ModelChoice:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory, videos, model) -> Path:
    """A store of six videos, extracted in one go."""
    out = tmp_path_factory.mktemp("finished") / "X.zarr"
    extract(small_options(videos, out, model))
    return out


@pytest.fixture
def own_videos(tmp_path, videos) -> Path:
    """A copy of the videos that a test may change."""
    return Path(shutil.copytree(videos, tmp_path / "videos"))
