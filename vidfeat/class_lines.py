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
VIDEO_EXTENSION_NAMES = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts ogv ts vob webm wmv"
# A path may hold blanks and commas: it ends with its extension.
_BLANK_LINE = re.compile(
    rf"(?P<path>\S.*?\.(?:{VIDEO_EXTENSION_NAMES.replace(' ', '|')}))\s+(?P<rest>[^\s,].*)", re.IGNORECASE
)
_NUMBER_FIRST = re.compile(r"(?P<id>\d+)(?:\s*[,;]\s*|\s+)(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>\S.*?)(?:\s*[,;]\s*|\s+)(?P<id>\d+)")


def delimiter_of(header: str) -> str:
    """What stands between a header's columns: a comma, or a semicolon or tab as some spreadsheets write them."""
    return max(",;\t", key=header.count)


def path_and_rest(line: str) -> tuple[str, str] | None:
    """The unquoted path of a video, by its extension, and what stands behind it after a blank; None for other lines."""
    match = _BLANK_LINE.fullmatch(line.strip())
    return None if match is None or '"' in match["path"] else (match["path"], match["rest"])


def numbered_names(lines: Sequence[str]) -> list[tuple[str, str]] | None:
    """(id, name) of lines `ID NAME` where each begins with a number, as UCF-101's classInd.txt, or `NAME ID` where the
    numbers are 0, 1, ... or 1, 2, ...; else None, and each line is a name. Between them blanks, a comma, a semicolon or
    a tab; quotes around a name go."""
    found = _matches(_NUMBER_FIRST, lines)
    if found is None:
        found = _matches(_NUMBER_LAST, lines) or []
        numbers = sorted(int(number) for number, _ in found)
        counted = len(found) > 1 and numbers == list(range(numbers[0], numbers[0] + len(found))) and numbers[0] < 2
        if not counted or len({name for _, name in found}) < len(found):
            return None
    return found or None


def _matches(pattern: re.Pattern[str], lines: Sequence[str]) -> list[tuple[str, str]] | None:
    found = [pattern.fullmatch(line.strip()) for line in lines]
    return [(match["id"], match["name"].strip('"')) for match in found if match] if all(found) else None


def no_plain_name(lines: Sequence[str]) -> str | None:
    """The line that shows that lines are no names, one a line: columns, or a header of other words before numbers."""
    if len(lines) > 1 and numbered_names(lines[1:]) is not None:
        return lines[0]
    return next((line for line in lines if "\t" in line or ";" in line), None)


def json_names(document: object) -> list[tuple[str, str]] | None:
    """(id, name) of a list of names, `{"name": id}` by id, or `{"id": "name"}`; None for another document."""
    if isinstance(document, list) and all(isinstance(name, str) for name in document):
        return [(str(place), name) for place, name in enumerate(document)]
    if not isinstance(document, dict) or not all(isinstance(value, (str, int)) for value in document.values()):
        return None
    pairs = [(str(key), str(value)) for key, value in document.items()]
    if all(number.isdecimal() for _, number in pairs):
        return sorted(((number, name) for name, number in pairs), key=lambda pair: int(pair[0]))
    return pairs if all(number.isdecimal() for number, _ in pairs) else None


def spelling(name: str) -> str:
    """What names have in common that differ in case, Unicode form, blanks or underscores alone: one class, probably."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def split_name(word: str) -> str | None:
    """The split a word names, in any case: "train", "val" or "test"; "" for none given; None for another word."""
    return SPLIT_BY_WORD.get(word.strip().lower()) if word.strip() else ""
