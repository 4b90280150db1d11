"""What every kind of source is read into: rows, what is wrong with them, and what a person should know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vidfeat.class_lines import SPLIT_BY_WORD, VIDEO_EXTENSION_NAMES, split_name
from vidfeat.errors import ManifestError, explain

SHOWN = 10
VIDEO_EXTENSIONS = frozenset(f".{name}" for name in VIDEO_EXTENSION_NAMES.split())
MISSING = "missing file"
_FIX = (
    "Correct the folder, or leave it as it is and name its videos in a CSV with the header path,label (--root FOLDER "
    "says where the paths start); nothing is skipped or guessed."
)


@dataclass(frozen=True)
class Row:
    """One video of a source before it is checked: `where` says where it stands."""

    where: str
    path: str
    label: str
    split: str = ""
    group: str = ""


def unknown_split(word: str) -> str:
    """The word, with the split that was probably meant."""
    return nearest(word, list(SPLIT_BY_WORD))


def nearly_split(word: str) -> bool:
    """Whether a word names a split, or one with a slip of the hand in it: "trian"."""
    return bool(split_name(word) or difflib.get_close_matches(word.lower(), list(SPLIT_BY_WORD), n=1, cutoff=0.74))


def nearest(word: str, known: Sequence[str]) -> str:
    """The word, with the nearest of the known ones."""
    match = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.5) or difflib.get_close_matches(
        word, known, n=1, cutoff=0.5
    )
    return f"{word!r}: did you mean {match[0]!r}?" if match else f"{word!r} is not known"


def some(cases: Sequence[str], *, shown: int = 5) -> str:
    """The first few of the cases, and how many more there are."""
    more = f" and {len(cases) - shown} more" if len(cases) > shown else ""
    return ", ".join(cases[:shown]) + more


class Problems:
    """Problems found so far, by kind, in order of appearance; and notes: what is no error, but should be known.

    Args:
        strict: what would be a note is a problem.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.notes: list[str] = []
        self._strict = strict
        self._by_kind: dict[str, list[str]] = {}

    def add(self, kind: str, cases: Iterable[str]) -> None:
        """Notes cases of a problem; a problem of the whole source has none."""
        self._by_kind.setdefault(kind, []).extend(cases)

    def note(self, kind: str, cases: Sequence[str]) -> None:
        """Notes something that was put right or left out."""
        if self._strict:
            self.add(kind, cases)
        else:
            self.notes.append(f"{kind}: {some(cases)}" if cases else kind)

    def __bool__(self) -> bool:
        return bool(self._by_kind)

    def raise_any(self, source: Path, *, fix: str = "") -> None:
        """Nothing, or one ManifestError with every problem and note."""
        if not self._by_kind:
            return
        lines = []
        for kind, cases in self._by_kind.items():
            shown = [f"\n    {case}" for case in cases[:SHOWN]]
            more = f"\n    ... and {len(cases) - SHOWN} more" if len(cases) > SHOWN else ""
            counts_itself = kind.startswith(("left out ", f"{len(cases)} x "))
            counted = kind if counts_itself else f"{len(cases)} x {kind}"
            lines.append(f"{counted}:" + "".join(shown) + more if cases else kind)
        notes = [f"\n  - note: {note}" for note in self.notes]
        raise ManifestError(
            explain(
                f"This source cannot be used as it is ({len(lines)} kind{'s' if len(lines) > 1 else ''} of problem).",
                where=source,
                got="".join([*(f"\n  - {line}" for line in lines), *notes]),
                fix=fix or self._fix(source),
            )
        )

    def _fix(self, source: Path) -> str:
        if list(self._by_kind) != [MISSING]:
            return _FIX if source.is_dir() else "Correct the source; nothing is skipped or guessed."
        return (
            f"Correct the source, or extract with --allow-failures {len(self._by_kind[MISSING])}: each missing file is "
            "then a failed video of the store, by name."
        )
