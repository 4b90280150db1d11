"""Lists and class files as text, whichever program saved them."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from pathlib import Path

from vidfeat.class_lines import delimiter_of
from vidfeat.errors import ManifestError, explain
from vidfeat.text_files import EIGHT_BIT, READ_AS_EIGHT_BIT, NoText, text_and_encoding
from vidfeat.video.source.rows import VIDEO_EXTENSIONS, Problems


@dataclass(frozen=True)
class Text:
    """The text of a file, its line ends made `\\n`, and the encoding it was read in."""

    content: str
    encoding: str

    @property
    def lines(self) -> list[str]:
        """Its lines, without their ends."""
        return self.content.split("\n")

    @property
    def first(self) -> str:
        """The first line that is not blank; a header, if there is one."""
        return next((line for line in self.lines if line.strip()), "")

    def csv_rows(self) -> list[tuple[int, list[str]]]:
        """Its CSV rows that are not blank, with the number of their last line; a quoted field may hold line ends."""
        reader = csv.reader(io.StringIO(self.content), delimiter=delimiter_of(self.first), skipinitialspace=True)
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]


def read_text(path: Path, problems: Problems) -> Text:
    """The text of a file in UTF-8, in UTF-16 or UTF-32 with its mark, else in Windows-1252, which is noted.

    Windows-1252 is Latin-1 with letters in place of control codes: what programs mean by "ANSI".

    Raises:
        ManifestError: it cannot be read.
    """
    try:
        text, encoding = text_and_encoding(path)
    except OSError as error:
        raise ManifestError(explain("The file cannot be read.", where=path, got=error.strerror or error)) from error
    except NoText as error:
        raise ManifestError(_no_text(path, error)) from error
    if encoding == EIGHT_BIT:
        problems.note(f"{path.name} {READ_AS_EIGHT_BIT}", [])
    return Text(text, encoding)


def _no_text(path: Path, found: NoText) -> str:
    if path.suffix.lower() in VIDEO_EXTENSIONS:
        fix = f"{path.parent}, the folder it lies in; prompttune classify {path} --like STORE tells what it shows"
    else:
        fix = "a list, or the folder of the videos"
    return explain("The file is no text.", where=path, got=found, fix=fix)


def by_its_bytes(name: str) -> str:
    """The file name that the same bytes of an 8-bit list mean on this disk; the name itself where it has none."""
    try:
        return os.fsdecode(name.encode(EIGHT_BIT))
    except UnicodeEncodeError:
        return name


def one_line(name: str) -> str:
    """A name without line ends and runs of blanks."""
    return " ".join(name.split())
