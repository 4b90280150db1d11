"""Do two decoders agree on a source's videos? `vidfeat.video.decode.crosscheck` on a random draw of a manifest."""

from __future__ import annotations

import os
import random

from vidfeat.video.decode import Comparison, crosscheck
from vidfeat.video.manifest import load_manifest


def crosscheck_source(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    classes: str | os.PathLike[str] | None = None,
    limit: int | None = None,
    n_videos: int = 20,
    seed: int = 0,
) -> list[Comparison]:
    """One comparison for each of `n_videos` videos drawn from the source (its first `limit` ones)."""
    items = load_manifest(source, root=root, classes=classes).items[:limit]
    drawn = random.Random(seed).sample(range(len(items)), min(n_videos, len(items)))
    return crosscheck([items[index].path for index in sorted(drawn)], n=n_videos)
