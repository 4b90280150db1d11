"""Stores every prompttune test may train on, written once per session."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_store import Recipe, write_tiny_store
from visual_store import VisualRecipe, write_visual_store

OTHER_CLASSES = ("cook", "paint", "dance", "sleep", "drive", "read")


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with target.zarr, other.zarr (another data set), irrelevant.zarr and foreign.zarr (another backbone)."""
    folder = tmp_path_factory.mktemp("stores")
    write_tiny_store(folder / "target.zarr")
    write_tiny_store(folder / "other.zarr", Recipe(classes=OTHER_CLASSES, seed=1))
    write_tiny_store(folder / "irrelevant.zarr", Recipe(classes=("sky", "water"), seed=2, n_train=10))
    write_tiny_store(folder / "foreign.zarr", Recipe(backbone_seed=5))
    write_tiny_store(folder / "wide.zarr", Recipe(backbone_seed=6, text_width=48))
    return folder


@pytest.fixture(scope="session")
def target(stores: Path) -> str:
    return str(stores / "target.zarr")


@pytest.fixture(scope="session")
def hard_prompt(stores: Path) -> str:
    """A prompt file learned on other.zarr by the ordinary command."""
    from training import train_runs

    fitted = train_runs(stores / "hard", method="coop", store=str(stores / "other.zarr"), seeds=[7])
    return str(fitted.folder / "seed7" / "prompt.safetensors")


@pytest.fixture(scope="session")
def visual_stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with target.zarr, other.zarr and irrelevant.zarr, all with tokens and two views."""
    folder = tmp_path_factory.mktemp("visual-stores")
    write_visual_store(folder / "target.zarr")
    write_visual_store(folder / "other.zarr", VisualRecipe(classes=OTHER_CLASSES, seed=1))
    write_visual_store(folder / "irrelevant.zarr", VisualRecipe(classes=("sky", "water"), seed=2, layers=(0, 2)))
    return folder


@pytest.fixture(scope="session")
def visual_target(visual_stores: Path) -> str:
    return str(visual_stores / "target.zarr")


@pytest.fixture(scope="session")
def visual_hard_prompt(visual_stores: Path) -> str:
    """A prompt file learned on other.zarr, of the backbone of the stores with tokens."""
    from training import train_runs

    fitted = train_runs(visual_stores / "hard", method="coop", store=str(visual_stores / "other.zarr"), seeds=[7])
    return str(fitted.folder / "seed7" / "prompt.safetensors")
