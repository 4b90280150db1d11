"""What class files and lists mean by their words, read alike by both packages."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validate", "validation", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
SPLIT_BY_WORD = {word: split for split, words in _SPLITS.items() for word in words}
_NUMBERED = re.compile(r"(\d+)(?:\s*,\s*|\s+)(\S.*)")


def numbered_names(lines: Sequence[str]) -> list[tuple[str, str]] | None:
    """(id, name) of lines `ID NAME` or `ID,NAME` where each begins with a number, as UCF-101's classInd.txt; else None,
    and each line is a name. Quotes around a name go."""
    found = [_NUMBERED.fullmatch(line.strip()) for line in lines]
    if not found or not all(found):
        return None
    return [(match[1], match[2].strip('"')) for match in found if match]


def spelling(name: str) -> str:
    """What names have in common that differ in case, Unicode form, blanks or underscores alone: one class, probably."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def split_name(word: str) -> str | None:
    """The split a word names, in any case: "train", "val" or "test"; "" for none given; None for another word."""
    return SPLIT_BY_WORD.get(word.strip().lower()) if word.strip() else ""
