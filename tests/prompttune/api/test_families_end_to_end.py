"""Every family with its own towers and tokenizer, from real clips to a trained prompt and back to a video file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_extraction import small_options, write_videos
from training import train_runs
from whole_families import write_whole

from prompttune.api.classify import ClassifyOptions, classify
from prompttune.errors import FeatureError
from vidfeat.errors import UnsupportedModelError
from vidfeat.extraction.extract import extract_or_resume
from vidfeat.store import open_store

# One per kind of head, positions, norm order, stem; the others share their code.
OURS = ("siglip", "siglip2", "pe-core", "eva02-E", "clipa", "coca", "metaclip2", "mobileclip2-l")
# Towers whose padding acts, or whose class embedding stands behind it.
FULL_LENGTH = {"siglip", "siglip2", "clipa", "coca", "mobileclip2-l", "fastvit"}
CLIPS = next((p for parent in Path(__file__).parents if (p := parent / "shared" / "clips" / "actions").is_dir()), None)
FEW_SHOT: dict[str, Any] = {"protocol": {"name": "few-shot", "shots": 1, "test_fraction": 0.5}}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of each of two classes; real ones where they are here."""
    root = tmp_path_factory.mktemp("clips") / "videos"
    if CLIPS is None:
        return write_videos(root, 4)
    folders = sorted(folder for folder in CLIPS.iterdir() if folder.is_dir())
    for folder in folders[:2]:
        (root / folder.name).mkdir(parents=True)
        for path in sorted(folder.glob("*.mp4"))[:2]:
            (root / folder.name / path.name).symlink_to(path)
    return root


def extracted(family: str, videos: Path, folder: Path, *, taps: tuple[str, ...]) -> Path:
    options = small_options(videos, folder / f"{family}.zarr", write_whole(folder / "clip", family))
    extract_or_resume(replace(options, taps=taps, shard_bytes=2**20), quiet=True)
    return folder / f"{family}.zarr"


@pytest.mark.parametrize("family", OURS)
def test_both_kinds_of_prompts_train_and_classify_new_videos(family: str, videos: Path, tmp_path: Path) -> None:
    store = extracted(family, videos, tmp_path, taps=("pooled", "tokens@0"))
    given = FEW_SHOT | {
        "visual": {"depth": 2, "first_block": 0, "n_prompts": 2},
        "context": {"prompt_depth": 2, "n_ctx": 2, "init": "random"},
    }
    fitted = train_runs(tmp_path / "run", given, method="ivlp", store=str(store), seeds=[1])
    prompt = fitted.folder / "seed1" / "prompt.safetensors"

    of_store = {video.id: video for video in classify(store, ClassifyOptions(prompts=prompt))}
    of_files = classify(videos, ClassifyOptions(prompts=prompt, like=store))

    assert len(of_files) == len(of_store) == 4
    for video in of_files:
        # Stored tokens were rounded to float16 (2^-11 of each value), those of the files as well.
        np.testing.assert_allclose(video.scores, of_store[video.id].scores, atol=0.02)


@pytest.mark.parametrize("family", ["resnet", "fastvit"])
def test_a_tower_of_open_clips_trains_what_needs_no_tokens_and_classifies_new_videos(
    family: str, videos: Path, tmp_path: Path
) -> None:
    store = extracted(family, videos, tmp_path, taps=("pooled",))
    vision = dict(open_store(store).fingerprint.fields)["model"]["vision"]
    assert (vision["kind"], "image tower" in vision["reason"]) == ("open_clip", True)
    fitted = train_runs(tmp_path / "run", FEW_SHOT, method="coop", store=str(store), seeds=[1])
    prompt = fitted.folder / "seed1" / "prompt.safetensors"

    of_store = {video.id: video for video in classify(store, ClassifyOptions(prompts=prompt))}
    for video in classify(videos, ClassifyOptions(prompts=prompt, like=store)):
        np.testing.assert_allclose(video.scores, of_store[video.id].scores, atol=0.02)

    with pytest.raises(FeatureError, match=r"vpt learns visual prompts") as raised:
        train_runs(tmp_path / "visual", FEW_SHOT, method="vpt", store=str(store), seeds=[1])
    assert vision["reason"] in str(raised.value)
    with pytest.raises(UnsupportedModelError, match=f"cannot join {family}: its image tower"):
        extracted(family, videos, tmp_path / "again", taps=("pooled", "tokens@0"))
