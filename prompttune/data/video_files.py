"""Video files as a feature source: decoded and encoded in memory, then read like a store.

The one door of prompttune to the video side: `vidfeat.extraction.one_video` is imported inside functions of this
file and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from prompttune.data.features import FeatureSource
from prompttune.data.local_pack import local_pack
from prompttune.errors import FeatureError, explain
from prompttune.splits.split import VideoTable
from vidfeat.store import POOLED, Rows, open_store

if TYPE_CHECKING:
    from vidfeat.store import StoreReader


@dataclass(frozen=True)
class EncodedVideos:
    """What the features of decoded videos are read from; has of a StoreReader what features are read by.

    `failures` says of each video that could not be decoded, by its id, why.
    """

    taps: Mapping[str, Rows]
    n_views: int = 1
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def n_frames_per_video(self) -> np.ndarray:
        """Int64 [N]."""
        return np.diff(self.taps[POOLED].offsets)

    def rows(self, tap: str, video_indices: Sequence[int] | np.ndarray, *, view: int | np.ndarray = 0) -> Rows:
        """The rows of some videos, in the order asked for."""
        assert not np.any(view), "only the centre crop is decoded"
        parts = [self.taps[tap][int(index)] for index in video_indices]
        offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return Rows(np.concatenate(parts), offsets)


def is_store(path: str | Path) -> bool:
    """Whether the path is meant as a store, and not as a video file or a folder of some."""
    text = str(path)
    return "://" in text or text.rstrip("/").endswith(".zarr") or (Path(path) / "zarr.json").is_file()


def open_videos(
    source: str | Path,
    *,
    like: str | Path,
    n_frames: int | None = None,
    layers: Sequence[int] = (),
    device: str = "cpu",
) -> FeatureSource:
    """The pooled features of a video file, or of every video below a folder.

    Args:
        like: a store, whose backbone, frames and crop are taken; or a backbone pack, with evenly spaced frames.
        n_frames: frames per video, for a pack alone.
        layers: blocks whose entering tokens are kept, for visual prompts.

    Raises:
        FeatureError: `n_frames` given beside a store.
        vidfeat.errors.VidfeatError: no such store, pack or video, or not one video that can be decoded.
    """
    from vidfeat.extraction.one_video import DEFAULT_FRAMES, encode_videos, find_videos, like_pack, like_store

    if is_store(like):
        if n_frames is not None:
            raise FeatureError(
                explain("a store says how many frames are taken", where=like, got=f"--frames {n_frames}")
            )
        likeness = like_store(like, pack_path=local_pack(open_store(like)))
    else:
        likeness = like_pack(like, n_frames=n_frames or DEFAULT_FRAMES)
    paths = find_videos(source)
    encoded = encode_videos(paths, likeness, layers=layers, device=device)
    root = Path(source)
    names = {path: path.relative_to(root).as_posix() if path != root else path.name for path in paths}
    failures = {names[path]: str(error) for path, error in encoded.failures.items()}
    reader = EncodedVideos(encoded.taps, failures=failures)
    ids = tuple(names[path] for path in encoded.paths)
    nothing = ("",) * len(ids)
    table = VideoTable(ids, nothing, nothing, nothing, ("",), np.ones(len(ids), dtype=bool))
    return FeatureSource(str(source), cast("StoreReader", reader), likeness.pack, table, failed=tuple(failures))


def few_frames(path: Path, n_frames: int) -> np.ndarray:
    """Evenly spaced frames of one video file: uint8 RGB [F H W 3], as large as they are.

    Raises:
        vidfeat.errors.VidfeatError: the file cannot be decoded.
    """
    from vidfeat.extraction.one_video import few_frames as decoded

    return decoded(path, n_frames)
