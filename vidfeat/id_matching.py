"""Paths of a list to the ids of a store, by the longest path suffix they share; no guess, no other folder's video.

And to files, whose names may be written in other Unicode forms than the list's.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vidfeat.text_files import EIGHT_BIT

_ENDING = re.compile(r"\.(?=\w*[a-z])[a-z0-9]{2,5}$", re.IGNORECASE)  # of `a.mp4` and `a.3gp`, not of `take1.2`
_NO_UTF8 = re.compile(r"[\udc80-\udcff]")  # how Python writes a byte of a file name that is not UTF-8
_SIDES = re.compile(r"(?<![a-z])(?:(train)(?:ing)?|(val)(?:id|idation)?|(test)(?:ing)?)(?![a-z])", re.IGNORECASE)


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


@dataclass(frozen=True)
class _Parts:
    """A path taken apart: folders from the innermost outwards, and the file name with and without its ending."""

    folders: tuple[str, ...]
    name: str
    stem: str

    @classmethod
    def of(cls, path: str) -> _Parts:
        *folders, name = [part for part in spelled(path).split("/") if part not in ("", ".")] or [""]
        return cls(tuple(reversed(folders)), name, _ENDING.sub("", name))


def match_ids(paths: Iterable[str], ids: Sequence[str]) -> Matches:
    """The row of the store that each path means.

    A path means the video whose id is equal to it. Else it means the one whose id shares the longest suffix of whole
    path components with it, endings (`a.avi`, `a.mp4`) left out but preferred: at least the file name and its folder,
    and what is left over must not contradict (`train/run/1.mp4` is not `val/run/1.mp4`). The file name alone tells only
    where one side has no folder, and then only a name that is there once. Where several videos fit equally well, none
    is taken. Letters are compared as people read them: composed or not, and those of a file name that is Windows-1252
    (Latin-1) on its disk with a list's in any encoding.
    """
    wanted = list(dict.fromkeys(paths))
    exact = {key: row for row, key in enumerate(ids)}
    rows = {path: exact[path] for path in wanted if path in exact}
    if len(rows) == len(wanted):
        return Matches(rows, (), {})
    known = [_Parts.of(key) for key in ids]
    by_stem: dict[str, list[int]] = {}
    for row, own in enumerate(known):
        by_stem.setdefault(own.stem, []).append(row)
    listed = {path: _Parts.of(path) for path in wanted}
    n_listed = Counter(own.stem for own in listed.values())
    missing: list[str] = []
    ambiguous: dict[str, tuple[str, ...]] = {}
    for path in wanted:
        if path in rows:
            continue
        own = listed[path]
        fits = {row: _fit(own, known[row]) for row in by_stem.get(own.stem, ())}
        best = max(fits.values(), default=(0, False))
        found = [row for row, fit in fits.items() if fit == best and best[0] > 0]
        if not found or (own.folders and best[0] == 1 and n_listed[own.stem] > 1):
            missing.append(path)
        elif len(found) > 1:
            ambiguous[path] = tuple(ids[row] for row in found)
        else:
            rows[path] = found[0]
    return Matches(rows, tuple(missing), ambiguous)


def file_below(root: str | os.PathLike[str], name: str) -> str:
    """The path of `name` below a folder, each part in the Unicode form (NFC, NFD) that is there; else as given."""
    path = os.path.join(root, name)
    if name.isascii() or os.path.lexists(path):
        return path
    there = os.fspath(root)
    for part in name.split("/"):
        forms = (os.path.join(there, unicodedata.normalize(form, part)) for form in ("NFC", "NFD"))
        there = next(filter(os.path.lexists, forms), "")
        if not there:
            return path
    return there


def spelled(path: str) -> str:
    """The path with slashes, its letters composed (NFC), and bytes that are no UTF-8 taken for Windows-1252."""
    path = path.replace("\\", "/")
    return path if path.isascii() else unicodedata.normalize("NFC", _NO_UTF8.sub(_as_eight_bit, path))


def _as_eight_bit(byte: re.Match[str]) -> str:
    return byte[0].encode("ascii", "surrogateescape").decode(EIGHT_BIT, "surrogateescape")


def _fit(path: _Parts, known: _Parts) -> tuple[int, bool]:
    """How many components two paths of one stem share from the end, and whether the endings are equal; 0 for no fit."""
    shared = 0
    for one, other in zip(path.folders, known.folders, strict=False):
        if one != other:
            break
        shared += 1
    same_ending = path.name == known.name
    if shared == len(path.folders) or shared == len(known.folders):
        return shared + 1, same_ending
    return (shared + 1 if shared and _sides(path, shared) == _sides(known, shared) else 0), same_ending


def _sides(path: _Parts, shared: int) -> set[str]:
    """The sides (`train`, `val`, `test`) that the folders above the shared ones name."""
    found = _SIDES.finditer("/".join(path.folders[shared:]))
    return {next(filter(None, match.groups())).lower() for match in found}
