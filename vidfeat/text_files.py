"""The text of lists and class files, whichever program saved them: read alike by both packages."""

from __future__ import annotations

import codecs
from pathlib import Path

# UTF-32's mark begins with UTF-16's, so it is looked for first.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
EIGHT_BIT = "cp1252"
READ_AS_EIGHT_BIT = "is not UTF-8; read as Windows-1252 (Latin-1)"
_START = 4096  # bytes


class NoText(ValueError):
    """The file holds zero bytes, or bytes that its own mark contradicts."""


def text_and_encoding(path: Path) -> tuple[str, str]:
    """The text of a file in UTF-8, UTF-16 or UTF-32, else in Windows-1252, its line ends made `\\n`; and which it was.

    Windows-1252 is Latin-1 with letters in place of control codes: what programs mean by "ANSI". The caller says so.

    Raises:
        OSError: it cannot be read.
        NoText: it is no text.
    """
    with path.open("rb") as file:
        start = file.read(_START)  # a video in a list's place may be long
        encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None) or _unmarked(start)
        if b"\0" in start and not encoding.startswith(("utf-16", "utf-32")):
            raise NoText("zero bytes, which no list holds")
        content = start + file.read()
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8":
            raise NoText(str(error)) from error
        text, encoding = _in_eight_bits(content), EIGHT_BIT
    return text.replace("\r\n", "\n").replace("\r", "\n"), encoding


def _unmarked(content: bytes) -> str:
    """UTF-8, or UTF-16 without its mark: of a name in Latin letters every second byte is zero, and none between."""
    start = content[:200]
    zeros = start[::2].count(0), start[1::2].count(0)
    if max(zeros) * 4 < len(start) or not max(zeros) or min(zeros):
        return "utf-8"
    return "utf-16-be" if zeros[0] else "utf-16-le"


def _in_eight_bits(content: bytes) -> str:
    """Five bytes have no letter in Windows-1252; lists in GBK, say, hold them."""
    try:
        return content.decode(EIGHT_BIT)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        found = f"byte 0x{content[error.start]:02x} in line {line}, of neither UTF-8 nor Windows-1252"
        raise NoText(f"{found}: save it as UTF-8") from error
