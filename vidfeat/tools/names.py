"""Names in a list to keys of what is there, endings of videos left out: the whole path, else the file name alone."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from vidfeat.video.source.rows import VIDEO_EXTENSIONS


class ByName:
    """The keys (ids of a store, names of feature files) that a listed path may mean."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._whole: dict[str, list[str]] = defaultdict(list)
        self._file: dict[str, list[str]] = defaultdict(list)
        for key in keys:
            self._whole[plain(key)].append(key)
            self._file[plain(key).rpartition("/")[2]].append(key)

    def find(self, path: str) -> list[str]:
        """One key, none, or several that could be meant: then it is not known which."""
        name = plain(normal(path))
        return self._whole.get(name) or self._file.get(name.rpartition("/")[2], [])


def plain(name: str) -> str:
    """A name without a video's ending."""
    path, ending = os.path.splitext(name)
    return path if ending.lower() in VIDEO_EXTENSIONS else name


def normal(path: str) -> str:
    """A listed path with forward slashes, and nothing like `./` in it."""
    return PurePosixPath(os.path.normpath(path.replace("\\", "/"))).as_posix()
