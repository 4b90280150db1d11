"""Commands that have little to do, against another revision: what is timed is their start (`speed start --against`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.speed.against import HERE, Case, command, name_of, prepare

SMALL_TOWERS = {"width": 64, "layers": 2, "heads": 1}


def cases(inputs: Path, other: Path, small: bool) -> list[Case]:
    """Training an epoch, evaluating, a typing mistake, an extraction with nothing to do; ViT-B/32 unless small."""
    from benchmarks.speed.text_whole import CLIP_TEXT, CLIP_VISION, Clips, random_pack, write_store

    vision = {**CLIP_VISION, **SMALL_TOWERS, "patch_size": 56}
    pack = random_pack(inputs / "pack", vision=vision, text={**CLIP_TEXT, **SMALL_TOWERS}, embed_dim=32)
    names = ("archery", "bowling", "haircut", "kick ball")
    store = write_store(inputs / "small.zarr", pack, Clips(names, frozenset(names), train=16, test=4, n_frames=4))
    train: list[str | Path] = [
        "-m",
        "prompttune.cli",
        "train",
        "--store",
        store,
        "--seeds",
        "1",
        "--set",
        "epochs=1",
        "--out",
    ]
    prompt = inputs / "trained"
    prepare(other, [*train, prompt, "--method", "coop"])
    evaluate: list[str | Path] = [
        "-m",
        "prompttune.cli",
        "eval",
        "--store",
        store,
        "--prompts",
        prompt / "seed1" / "prompt.safetensors",
    ]
    extract = extract_arguments(inputs, n_videos=4, small=small)
    for tree in (HERE, other):
        prepare(tree, [*extract, "--out", inputs / f"done-{name_of(tree)}.zarr"])
    return [
        Case("train, one small epoch", [*train, "OUT", "--method", "coop"]),
        Case("eval", evaluate),
        Case("a mistyped method", [*train, "OUT", "--method", "coopp"], exit_code=2),
        Case("a mistyped option", [*train, "OUT", "--method", "coop", "--set", "epoch=1"], exit_code=2),
        Case("extract, nothing to do", [*extract, "--out", inputs / "done-TREE.zarr"]),
        Case("vidfeat info", ["-m", "vidfeat.cli", "info", store]),
    ]


def extract_arguments(inputs: Path, *, n_videos: int, small: bool) -> list[str | Path]:
    """What follows `python` to extract clips of noise through a checkpoint of ViT-B/32's shapes, tiny ones if small.

    Clips, model config and checkpoint are written into `inputs`.
    """
    from benchmarks.speed.extract import Setting, write_clips
    from benchmarks.speed.text_whole import CLIP_TEXT, CLIP_VISION, clip_state

    write_clips(inputs / "clips", Setting(n_videos, 1.0 if small else 4.0, 16, 1, 1))
    vision: dict[str, Any] = (
        {**CLIP_VISION, "patch_size": 32} if not small else {**CLIP_VISION, **SMALL_TOWERS, "patch_size": 56}
    )
    text: dict[str, Any] = {**CLIP_TEXT} if not small else {**CLIP_TEXT, **SMALL_TOWERS}
    embed_dim = 512 if not small else 32
    model = {
        "embed_dim": embed_dim,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": vision["image_size"],
            "layers": vision["layers"],
            "width": vision["width"],
            "patch_size": vision["patch_size"],
            "head_width": vision["width"] // vision["heads"],
        },
        "text_cfg": {name: text[name] for name in ("context_length", "vocab_size", "width", "heads", "layers")},
    }
    (inputs / "model.json").write_text(json.dumps(model), encoding="utf-8")
    from safetensors.torch import save_file

    save_file(clip_state(vision, text, embed_dim=embed_dim), inputs / "weights.safetensors")
    weights: list[str | Path] = ["--model-config", inputs / "model.json", "--weights", inputs / "weights.safetensors"]
    return ["-m", "vidfeat.cli", "extract", inputs / "clips", *weights, "--frames", "8", "--quiet"]


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return command("start", cases, arguments)
