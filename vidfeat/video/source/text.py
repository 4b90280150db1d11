"""Lists and class files as text, whichever program saved them."""

from __future__ import annotations

import codecs
import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from vidfeat.errors import ManifestError, explain
from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems

# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
EIGHT_BIT = "cp1252"
_START = 4096  # bytes


@dataclass(frozen=True)
class Text:
    """The text of a file, its line ends made `\\n`, and the encoding it was read in."""

    content: str
    encoding: str

    @property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return self.content.split("\n")

    def csv_rows(self) -> list[tuple[int, list[str]]]:
        """Its CSV rows that are not blank, with the number of their last line; a quoted field may hold line ends."""
        reader = csv.reader(io.StringIO(self.content), skipinitialspace=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]


def read_text(path: Path, problems: Problems) -> Text:
    """The text of a file in UTF-8, in UTF-16 or UTF-32 with its mark, else in Windows-1252, which is noted.

    Windows-1252 is Latin-1 with letters in place of control codes: what programs mean by "ANSI".

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_START)  # a video in a list's place may be long
            encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None) or _unmarked(start)
            if b"\0" in start and not encoding.startswith(("utf-16", "utf-32")):
                raise ManifestError(_no_text(path))
            content = start + file.read()
    except OSError as error:
        raise ManifestError(explain("The file cannot be read.", where=path, got=error.strerror or error)) from error
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise ManifestError(
                explain("The file is no text.", where=path, got=str(error), fix="Save it as UTF-8.")
            ) from error
        encoding = EIGHT_BIT
        text = content.decode(encoding, errors="replace")
        problems.note(f"{path.name} is not UTF-8; read as Windows-1252 (Latin-1)", [])
    return Text(text.replace("\r\n", "\n").replace("\r", "\n"), encoding)


def _no_text(path: Path) -> str:
    if path.suffix.lower() not in VIDEO_EXTENSIONS:
        fix = "a list, or the folder of the videos"
    else:
        fix = f"{path.parent}, the folder it lies in; prompttune classify {path} --like STORE tells what it shows"
    return explain("The file is no text.", where=path, got="zero bytes, which no list holds", fix=fix)


def _unmarked(content: bytes) -> str:
    """UTF-8, or UTF-16 without its mark: of a name in Latin letters every second byte is zero, and none between."""
    start = content[:200]
    zeros = start[::2].count(0), start[1::2].count(0)
    if max(zeros) * 4 < len(start) or not max(zeros) or min(zeros):
        return "utf-8"
    return "utf-16-be" if zeros[0] else "utf-16-le"


def by_its_bytes(name: str) -> str:
    """The file name that the same bytes of an 8-bit list mean on this disk; the name itself where it has none."""
    try:
        return os.fsdecode(name.encode(EIGHT_BIT))
    except UnicodeEncodeError:
        return name


def one_line(name: str) -> str:
    """A name without line ends and runs of blanks."""
    return " ".join(name.split())
