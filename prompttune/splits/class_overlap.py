"""Which new classes a hard prompt has in fact been trained on: names that are equal, nearly equal, or mean the same.

A prompt learned on another data set carries what its classes taught it. Where one of them is a "new" class of the
target, that class is not new. Names are compared after normalisation, and by the frozen text features where they are
given.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

OverlapKind = Literal["equal", "same-words", "near"]

# Words that change nothing: "playing the guitar" is "playing guitar".
_FILLERS = frozenset({"a", "an", "the", "of", "on", "in", "with", "at", "to", "and", "or", "for"})


def normalise_class_name(name: str) -> str:
    """The words of a class name in lower case, parted by single blanks: CamelCase, underscores, hyphens, brackets
    undone.

    `PlayingViolin`, `playing_violin` and `Playing violin` are `playing violin`; `TaiChi` is `tai chi`.
    """
    composed = unicodedata.normalize("NFKC", name)  # a Mac's folder names stand as letters and accents apart
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[A-Za-z])(?=\d)", " ", composed)
    return " ".join(re.findall(r"[^\W_]+", parted.replace("'", "").lower()))


def _stem(word: str) -> str:
    """A word without its common English endings; crude on purpose: it only proposes, the report shows both names."""
    for ending in ("ing", "ies", "es", "s", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]  # running -> runn -> run
    return word.rstrip("e") if len(word) > 3 else word


def _word_key(normal: str) -> frozenset[str]:
    words = normal.split()
    return frozenset(_stem(word) for word in words if word not in _FILLERS) or frozenset(words)


@dataclass(frozen=True)
class ClassOverlap:
    """A target class that a source class covers.

    Attributes:
        target: name in the target.
        source: name in the source.
        kind: `equal` = the same letters after normalisation; `same-words` = the same word stems in any order; `near` =
            text features above the threshold.
        cosine: of their frozen text features; None where none were given.
    """

    target: str
    source: str
    kind: OverlapKind
    cosine: float | None = None


@dataclass(frozen=True)
class OverlapReport:
    """The overlap of a source's classes with a target's.

    Attributes:
        overlaps: at most one per target class, the strongest kind, in the target's order.
        n_source: classes of the source.
        n_target: classes of the target.
        threshold: of the cosine; None where no text features were given.
        nearest: every target class with its nearest source class by cosine, nearest first; empty without features.
    """

    overlaps: tuple[ClassOverlap, ...]
    n_source: int
    n_target: int
    threshold: float | None = None
    nearest: tuple[ClassOverlap, ...] = ()

    def summary(self) -> str:
        """One line: `13 of 50 classes are in the source (12 equal, 1 near): ...`."""
        if not self.overlaps:
            return f"none of {self.n_target} classes is in the source's {self.n_source}"
        kinds = [overlap.kind for overlap in self.overlaps]
        counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("equal", "same-words", "near") if kind in kinds)
        names = ", ".join(o.target if o.kind == "equal" else f"{o.target} ~ {o.source}" for o in self.overlaps)
        return f"{len(self.overlaps)} of {self.n_target} classes are in the source ({counts}): {names}"


def class_overlap(
    source: Sequence[str],
    target: Sequence[str],
    *,
    source_features: Tensor | None = None,
    target_features: Tensor | None = None,
    threshold: float = 0.95,
) -> OverlapReport:
    """Which of the `target`'s classes the `source` has.

    Args:
        source: classes the hard prompt was trained on.
        target: the target's new classes.
        source_features: unit text features of the source's names in some template `[n_source E]`, with
            `target_features [n_target E]` in the same template; None compares names alone.
        threshold: cosine from which two classes count as near. CLIP's text features of unlike classes in one template
            are often at 0.6 to 0.9 of each other, so this is set high; `nearest` shows what lies below.

    Raises:
        ValueError: features given for one side alone, or not one per name.
    """
    if (source_features is None) != (target_features is None):
        raise ValueError("text features must be given for both sides, or for neither")
    letters = {normalise_class_name(name).replace(" ", ""): name for name in reversed(source)}
    words = {_word_key(normalise_class_name(name)): name for name in reversed(source)}
    cosines = _cosines(source, target, source_features, target_features)
    overlaps, nearest = [], []
    for index, name in enumerate(target):
        normal = normalise_class_name(name)
        best = None
        if cosines is not None:
            place = int(cosines[index].argmax())
            best = ClassOverlap(name, source[place], "near", round(float(cosines[index, place]), 4))
            nearest.append(best)
        if (found := letters.get(normal.replace(" ", ""))) is not None:
            overlaps.append(ClassOverlap(name, found, "equal", _cosine_of(cosines, index, source, found)))
        elif (found := words.get(_word_key(normal))) is not None:
            overlaps.append(ClassOverlap(name, found, "same-words", _cosine_of(cosines, index, source, found)))
        elif best is not None and best.cosine is not None and best.cosine >= threshold:
            overlaps.append(best)
    return OverlapReport(
        overlaps=tuple(overlaps),
        n_source=len(source),
        n_target=len(target),
        threshold=threshold if cosines is not None else None,
        nearest=tuple(_by_cosine(nearest)),
    )


def _by_cosine(overlaps: Iterable[ClassOverlap]) -> list[ClassOverlap]:
    return sorted(overlaps, key=lambda overlap: (-(overlap.cosine or 0.0), overlap.target))


def _cosines(
    source: Sequence[str], target: Sequence[str], source_features: Tensor | None, target_features: Tensor | None
) -> Tensor | None:
    if source_features is None or target_features is None or not len(source) or not len(target):
        return None
    if len(source_features) != len(source) or len(target_features) != len(target):
        raise ValueError(
            f"expected text features of {len(source)} source and {len(target)} target classes, got "
            f"{len(source_features)} and {len(target_features)}"
        )
    return target_features.detach().float().cpu() @ source_features.detach().float().cpu().T


def _cosine_of(cosines: Tensor | None, index: int, source: Sequence[str], name: str) -> float | None:
    return None if cosines is None else round(float(cosines[index, list(source).index(name)]), 4)
