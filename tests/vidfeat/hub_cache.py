"""A hub cache laid out as huggingface_hub lays it out, filled with random weights of a true architecture."""

from __future__ import annotations

import os
from pathlib import Path

import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def offline(home: Path) -> dict[str, str]:
    """The environment of a machine without a network whose cache is in `home`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    return kept | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def fill(home: Path, *, model: str, tag: str) -> Path:
    """Random float16 weights where open_clip looks for that tag's; the file."""
    import open_clip
    from safetensors.torch import save_file

    source = open_clip.get_pretrained_cfg(model, tag)["hf_hub"]
    repository = source.rpartition("/")[0]
    folder = home / "hub" / f"models--{repository.replace('/', '--')}"
    snapshot, blob = folder / "snapshots" / COMMIT, folder / "blobs" / ("f" * 64)
    for path in (snapshot, blob.parent, folder / "refs"):
        path.mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    torch.manual_seed(0)
    clip = open_clip.create_model(model)
    state = {name: value.half().contiguous() for name, value in clip.state_dict().items() if name != "attn_mask"}
    save_file(state, blob)
    file = snapshot / "open_clip_model.safetensors"
    file.symlink_to(os.path.relpath(blob, snapshot))
    return file
