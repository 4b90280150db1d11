"""How many bytes a container says are missing at the end of a file: read from its box sizes, without decoding.

A decoder reads what there is and stops; only the container knows that there should have been more.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

_EBML = b"\x1a\x45\xdf\xa3"
_SEGMENT = 0x18538067


@dataclass(frozen=True)
class Completeness:
    """What a file's own structure says about its end.

    Attributes:
        kind: "mp4", "matroska", "riff", "gif" or "" (a container that does not say).
        n_missing_bytes: bytes by which the structure reaches past the end of the file; 0 where it does not, or does not say.
        has_index: False for an mp4 without `moov`: nothing in it can be found.
    """

    kind: str
    n_missing_bytes: int
    has_index: bool = True

    def __str__(self) -> str:
        if not self.has_index:
            return "the index (moov box), which a recorder writes last, is missing"
        return f"the file ends {self.n_missing_bytes} bytes before its container does"

    @property
    def is_cut(self) -> bool:
        """Whether the structure itself shows that the end of the file is missing."""
        return self.n_missing_bytes > 0 or not self.has_index


def completeness(path: str) -> Completeness:
    """What the structure of the file at `path` says about its end.

    Raises:
        OSError: the file cannot be read.
    """
    n_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(16)
        if len(head) == 16 and head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return _mp4(file, n_bytes)
        if head[:4] == _EBML:
            return Completeness("matroska", _matroska_missing(file, n_bytes))
        if head[:4] == b"RIFF":
            # Writers that never came back leave 0 or -1; files over 4 GiB have several RIFF chunks, of which the first is whole.
            declared = struct.unpack("<I", head[4:8])[0]
            return Completeness("riff", max(0, declared + 8 - n_bytes) if 0 < declared < 0xFFFFFFFF else 0)
        if head[:6] in (b"GIF87a", b"GIF89a"):
            file.seek(max(0, n_bytes - 16))
            return Completeness("gif", 0 if file.read().rstrip(b"\0").endswith(b"\x3b") else 1)
    return Completeness("", 0)


def _mp4(file: BinaryIO, n_bytes: int) -> Completeness:
    """Top-level boxes: 4 bytes size, 4 bytes type, size 1 = 8 bytes more, size 0 = to the end of the file.

    Source: ISO/IEC 14496-12, section 4.2.
    """
    position, seen, missing = 0, set(), 0
    while position + 8 <= n_bytes:
        file.seek(position)
        header = file.read(16)
        size, kind = struct.unpack(">I4s", header[:8])
        if size == 1 and len(header) == 16:
            size = struct.unpack(">Q", header[8:])[0]
        seen.add(kind)
        if size == 0:
            break
        if size < 8:
            break  # not a box: junk after the last one
        # What an ancillary box lacks costs no frame.
        if position + size > n_bytes and kind in (b"mdat", b"moov", b"moof"):
            missing = position + size - n_bytes
        position += size
    return Completeness("mp4", missing, has_index=b"moov" in seen)


def _matroska_missing(file: BinaryIO, n_bytes: int) -> int:
    """Bytes the Segment element lacks; 0 for a Segment of unknown size (live recordings).

    Source: RFC 8794, sections 4 and 6 (variable-size integers, unknown-sized elements).
    """
    file.seek(4)
    header_size, _ = _read_size(file)
    if header_size is None:
        return 0
    file.seek(header_size, os.SEEK_CUR)
    while True:
        identifier = file.read(4)
        if len(identifier) < 4 or identifier[0] not in (0x18, 0xEC):
            return 0
        if identifier[0] == 0xEC:  # Void: a one-byte identifier
            file.seek(-3, os.SEEK_CUR)
        size, _ = _read_size(file)
        if size is None:
            return 0
        if int.from_bytes(identifier, "big") == _SEGMENT:
            return max(0, file.tell() + size - n_bytes)
        file.seek(size, os.SEEK_CUR)


def _read_size(file: BinaryIO) -> tuple[int | None, int]:
    """A variable-size integer and its length in bytes; None when it says "unknown"."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None, 0
    length = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> length)]) + file.read(length - 1), "big")
    return (None if value == (1 << (7 * length)) - 1 else value), length
