"""A few videos to taps, in this process and in memory: what `prompttune classify` asks of a video file.

The frames, crops and backbone are those of a store ("like target.zarr"), or a pack's own with evenly spaced frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vidfeat.backbone import BackbonePack
from vidfeat.clip.encode import Encoder
from vidfeat.errors import DecodeError, ManifestError, explain
from vidfeat.extraction.recipe import Recipe
from vidfeat.extraction.worker import VideoTask
from vidfeat.store import Rows, Tap, open_store
from vidfeat.video.decode import decode
from vidfeat.video.manifest import VIDEO_EXTENSIONS
from vidfeat.video.preprocess import Preprocess
from vidfeat.video.sampling import SamplingPolicy

DEFAULT_FRAMES = 8


@dataclass(frozen=True)
class EncodedFiles:
    """Videos in memory.

    Attributes:
        paths: those that could be decoded.
        taps: their rows by tap name, in that order.
        failures: why each of the others could not.
    """

    paths: tuple[Path, ...]
    taps: dict[str, Rows]
    failures: dict[Path, DecodeError]


@dataclass(frozen=True)
class Likeness:
    """How videos are read and encoded.

    Attributes:
        pack: the backbone.
        recipe: frames and crop; view 0 is taken.
        dtypes: the store's dtype of each of its taps, through which features are rounded; empty for a bare pack.
    """

    pack: BackbonePack
    recipe: Recipe
    dtypes: Mapping[str, str]


def like_store(path: str | os.PathLike[str], *, pack_path: Path | None = None) -> Likeness:
    """As the store's own videos were read.

    Args:
        pack_path: a local copy of a remote store's pack.

    Raises:
        StoreError, PackError: no such store, or one without its pack.
        ManifestError: a store that does not say how its videos were read (one that was imported).
    """
    reader = open_store(path)
    try:
        recipe = Recipe.from_json(dict(reader.fingerprint.fields), n_views=1)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            explain(
                "the store does not say how its videos were read",
                where=path,
                expected="preprocess, sampling, views and decoder in its fingerprint, as `vidfeat extract` writes them",
                got=f"{type(error).__name__}: {error}",
                fix=f"give its pack instead, {reader.pack_path}, with the number of frames",
            )
        ) from None
    pack = BackbonePack.load(pack_path or reader.pack_path, expected_hash=reader.pack_hash)
    return Likeness(pack, recipe, {name: spec.dtype for name, spec in reader.taps.items()})


def like_pack(path: str | os.PathLike[str], *, n_frames: int = DEFAULT_FRAMES) -> Likeness:
    """With a pack's own preprocessing, on evenly spaced frames.

    Raises:
        PackError: no pack there.
    """
    pack = BackbonePack.load(path)
    config = pack.config
    preprocess = Preprocess(
        config.vision.image_size,
        mean=config.image_mean,
        std=config.image_std,
        interpolation=config.interpolation,
        resize_mode=config.resize_mode,
        fill_color=config.fill_color,
    )
    return Likeness(pack, Recipe(preprocess, SamplingPolicy("uniform", n_frames=n_frames)), {})


def find_videos(source: str | os.PathLike[str]) -> list[Path]:
    """A video file itself, or every video below a folder, sorted.

    Raises:
        ManifestError: nothing there, or no video in it.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    found = sorted(p for p in path.rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file())
    if not found:
        what = "there is no video in the folder" if path.is_dir() else "there is no such file or folder"
        raise ManifestError(explain(what, where=path, expected="a video file, or a folder of some"))
    return found


def encode_videos(
    paths: Sequence[Path], likeness: Likeness, *, layers: Sequence[int] = (), device: str = "auto"
) -> EncodedFiles:
    """Every video's pooled features and the tokens of each layer, by tap name; float32, rounded as a store rounds.

    Raises:
        DecodeError: not one of the videos can be decoded; the first one's. Otherwise `failures` has them.
    """
    encoder = Encoder(likeness.pack, layers=layers, device=device)
    found: dict[str, list[np.ndarray]] = {tap.name: [] for tap in (Tap(), *map(Tap, encoder.layers))}
    counts: list[int] = []
    failures: dict[Path, DecodeError] = {}
    for place, path in enumerate(paths):
        try:
            loaded = likeness.recipe.load(VideoTask(place, place, path.as_posix(), str(path), (0, 1)))
        except DecodeError as error:
            failures[path] = error
            continue
        counts.append(loaded.facts.n_frames)
        for pixels in loaded.arrays():
            for name, values in encoder.encode(pixels).by_name().items():
                found[name].append(values)
    if not counts:
        raise next(iter(failures.values()))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    taps = {name: Rows(_rounded(parts, likeness.dtypes.get(name)), offsets) for name, parts in found.items()}
    return EncodedFiles(tuple(path for path in paths if path not in failures), taps, failures)


def few_frames(path: Path, n_frames: int) -> np.ndarray:
    """Evenly spaced frames of one file: uint8 RGB [F H W 3].

    Raises:
        DecodeError: the file cannot be decoded.
    """
    return decode(path, policy=SamplingPolicy("uniform", n_frames=n_frames)).pixels


def _rounded(parts: Sequence[np.ndarray], dtype: str | None) -> np.ndarray:
    values = np.concatenate(parts)
    return (values.astype(np.float16) if dtype == "float16" else values).astype(np.float32)
