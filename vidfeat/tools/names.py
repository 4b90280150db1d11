"""Paths of lists and names of feature files in one form."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

from vidfeat.video.source.rows import VIDEO_EXTENSIONS


def plain(name: str) -> str:
    """A name without a video's ending."""
    path, ending = os.path.splitext(name)
    return path if ending.lower() in VIDEO_EXTENSIONS else name


def normal(path: str) -> str:
    """A listed path with forward slashes, and nothing like `./` in it."""
    return PurePosixPath(os.path.normpath(path.replace("\\", "/"))).as_posix()
