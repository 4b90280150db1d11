"""Video features of a dataset from the small CLIP, straight through open_clip: what calibration needs and no store."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.world.clip_weights import OpenClip
from benchmarks.world.datasets import DatasetFiles

FRAMES_USED = 8
_BATCH_SIZE = 512


@dataclass(frozen=True)
class VideoFeatures:
    """`features` [N E] float32 of length 1, `labels` [N] int64 as class ids, `is_train` [N] bool."""

    features: torch.Tensor
    labels: torch.Tensor
    is_train: torch.Tensor


def extract_features(files: DatasetFiles, model: OpenClip) -> VideoFeatures:
    """Every video's features: `FRAMES_USED` even frames, mean of the projected frame features, then normalised."""
    names = files.base_classes + files.new_classes
    with files.videos_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))
    pixels = [_read_pixels(files.root / row["path"]) for row in rows]
    frames = torch.cat(pixels)
    with torch.inference_mode():
        encoded = torch.cat([model.encode_image(part.float()) for part in frames.split(_BATCH_SIZE)])
    features = F.normalize(encoded.view(len(rows), FRAMES_USED, -1).mean(dim=1), dim=-1)
    return VideoFeatures(
        features=features,
        labels=torch.tensor([names.index(row["label"]) for row in rows]),
        is_train=torch.tensor([row["split"] == "train" for row in rows]),
    )


def _read_pixels(path: Path) -> torch.Tensor:
    """`FRAMES_USED` frames of one file after open_clip's own evaluation transform, [T 3 H W]; float16 spares memory."""
    import av

    transform = _transform()
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    chosen = [frames[(2 * i + 1) * len(frames) // (2 * FRAMES_USED)] for i in range(FRAMES_USED)]
    return torch.stack([transform(frame.to_image()) for frame in chosen]).to(torch.float16)


def _transform() -> Callable[[Any], torch.Tensor]:
    from open_clip import image_transform

    return image_transform(64, is_train=False)
