"""Paths of a list to the ids of a store: equal, or equal but for the ending, the folders, or both; no guess."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Matches:
    """Which video of a store each path means.

    Attributes:
        rows: path -> row of the store.
        missing: paths that mean no video of the store.
        ambiguous: paths that could mean several -> those videos' ids.
    """

    rows: Mapping[str, int]
    missing: tuple[str, ...]
    ambiguous: Mapping[str, tuple[str, ...]]


def _plain(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).as_posix()


def _without_ending(path: str) -> str:
    return PurePosixPath(_plain(path)).with_suffix("").as_posix() if PurePosixPath(_plain(path)).name else ""


def _name(path: str) -> str:
    return PurePosixPath(_plain(path)).name


def _stem(path: str) -> str:
    return PurePosixPath(_plain(path)).stem


# From the strictest to the loosest; a path takes the first of them that finds any video.
_KEYS: tuple[Callable[[str], str], ...] = (_plain, _without_ending, _name, _stem)


def match_ids(paths: Iterable[str], ids: Sequence[str]) -> Matches:
    """The row of the store that each path means.

    A path means the video whose id is equal to it; else equal without the endings (`a/b.avi`, `a/b.mp4`); else of the
    same file name in whatever folder; else of the same file name without its ending. Where several videos fit equally
    well, none is taken.
    """
    exact = {key: row for row, key in enumerate(ids)}
    rows: dict[str, int] = {}
    missing: list[str] = []
    ambiguous: dict[str, tuple[str, ...]] = {}
    tables: list[dict[str, list[int]]] = []
    for path in dict.fromkeys(paths):
        if path in exact:
            rows[path] = exact[path]
            continue
        if not tables:
            tables = [_rows_by(key, ids) for key in _KEYS]
        found = next((hit for key, table in zip(_KEYS, tables, strict=True) if (hit := table.get(key(path)))), [])
        if len(found) == 1:
            rows[path] = found[0]
        elif found:
            ambiguous[path] = tuple(ids[row] for row in found)
        else:
            missing.append(path)
    return Matches(rows, tuple(missing), ambiguous)


def _rows_by(key: Callable[[str], str], ids: Sequence[str]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        table.setdefault(key(name), []).append(row)
    return table
