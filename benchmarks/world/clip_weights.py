"""The small CLIP's weights in a compact file: of 49,408 token embeddings only the few trained ones are stored."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

CLIP_DIR = Path(__file__).parent / "clip"
CONFIG_PATH = CLIP_DIR / "world-clip.json"
WEIGHTS_PATH = CLIP_DIR / "world-clip.safetensors"
COMPACT_FORMAT = "compact-open-clip"

OpenClip = Any
"""An `open_clip.CLIP`. Any, because torch types every attribute of a module as tensor or module."""

_EMBEDDING = "token_embedding.weight"
_IDS, _ROWS = "token_embedding.ids", "token_embedding.rows"


def save_compact(path: Path, state: dict[str, torch.Tensor], token_ids: torch.Tensor) -> None:
    """Write `state`, an open_clip state dict, with the token embeddings of `token_ids` [n] alone, ascending.

    Raises:
        ValueError: `token_ids` are not ascending, or lie outside the vocabulary.
    """
    weight = state[_EMBEDDING]
    ids = token_ids.to(torch.int64)
    if ids.numel() == 0 or (ids.diff() <= 0).any() or ids[0] < 0 or ids[-1] >= len(weight):
        raise ValueError(f"token_ids must be ascending and within [0, {len(weight)}); got {ids.tolist()[:8]}...")
    tensors = {key: value.detach().contiguous() for key, value in state.items() if key != _EMBEDDING}
    tensors |= {_IDS: ids, _ROWS: weight[ids].detach().contiguous()}
    save_file(tensors, path, metadata={"format": COMPACT_FORMAT, "vocab_size": str(len(weight))})


def load_compact(path: Path = WEIGHTS_PATH) -> dict[str, torch.Tensor]:
    """A full open_clip state dict; tokens that were not stored have an embedding of zeros.

    Raises:
        ValueError: the file is not in the compact format.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != COMPACT_FORMAT:
            raise ValueError(f"{path}: expected metadata format {COMPACT_FORMAT!r}, got {metadata.get('format')!r}")
        state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    ids, rows = state.pop(_IDS), state.pop(_ROWS)
    weight = torch.zeros(int(metadata["vocab_size"]), rows.shape[1], dtype=rows.dtype)
    weight[ids] = rows
    return state | {_EMBEDDING: weight}


def build_clip() -> OpenClip:
    """open_clip's own model, built from the committed config, with open_clip's initial weights."""
    from open_clip import CLIP

    config = json.loads(CONFIG_PATH.read_text())
    return CLIP(**config)


def load_clip(path: Path = WEIGHTS_PATH) -> OpenClip:
    """The pre-trained small CLIP as an open_clip model in evaluation mode, float32."""
    model = build_clip()
    model.load_state_dict({key: value.float() for key, value in load_compact(path).items()})
    return model.eval()


def normalise_frames(frames: torch.Tensor) -> torch.Tensor:
    """`frames` [B H W 3] uint8 as pixels [B 3 H W] float32, shifted and scaled by open_clip's default mean and std."""
    from open_clip import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    mean = torch.tensor(OPENAI_DATASET_MEAN).view(3, 1, 1)
    std = torch.tensor(OPENAI_DATASET_STD).view(3, 1, 1)
    return (frames.permute(0, 3, 1, 2).float() / 255 - mean) / std
