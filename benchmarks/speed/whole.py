"""Whole pieces of work against another revision: a base-to-new run of HMDB-51's size, and an extraction."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.speed.against import Case, command, prepare
from benchmarks.speed.start import SMALL_TOWERS, extract_arguments


def cases(inputs: Path, other: Path, small: bool) -> list[Case]:
    """The run of `speed text`'s page (ga2-text, three seeds) in float32 and bf16, and 36 clips through ViT-B/32."""
    from benchmarks.speed.text_whole import (
        CLIP_TEXT,
        CLIP_VISION,
        OTHER_CLASSES,
        Clips,
        hmdb_clips,
        random_pack,
        write_store,
    )

    sizes: dict[str, Any] = (
        {"vision": {**CLIP_VISION, **SMALL_TOWERS}, "text": {**CLIP_TEXT, **SMALL_TOWERS}} if small else {}
    )
    pack, clips = random_pack(inputs / "pack", **sizes), hmdb_clips()
    if small:
        clips = Clips(clips.classes, clips.base, test=1, n_frames=2)
    store = write_store(inputs / "hmdb.zarr", pack, clips)
    hard_store = write_store(inputs / "other.zarr", pack, Clips(OTHER_CLASSES, frozenset(OTHER_CLASSES), test=1))
    hard: list[str | Path] = [
        "--method",
        "coop",
        "--store",
        hard_store,
        "--seeds",
        "7",
        "--set",
        "epochs=1",
        "--out",
        inputs / "hard",
    ]
    train = ["-m", "prompttune.cli", "train"]
    prepare(other, [*train, *hard])
    run: list[str | Path] = [*train, "--method", "ga2-text", "--store", store, "--seeds", "1,2,3", "--out", "OUT"]
    run += ["--set", f"hard_prompts={inputs / 'hard/seed7/prompt.safetensors'}"]
    run += ["--set", f"base_classes={json.dumps(sorted(clips.base))}"]
    run += ["--set", "epochs=1"] if small else []
    extract = extract_arguments(inputs, n_videos=3 if small else 36, small=small)
    return [
        Case("HMDB-51 base to new, float32", run),
        Case("HMDB-51 base to new, bf16", [*run, "--set", "precision=bf16"]),
        Case("extract 36 clips, ViT-B/32", [*extract, "--out", "OUT"]),
    ]


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return command("whole", cases, arguments)
