"""Whether the clusters of a Matroska or WebM file are whole: FFmpeg skips over damaged ones without a word.

Source: RFC 8794 (EBML: variable-size integers, unknown sizes, CRC-32) and RFC 9559 (Matroska's elements).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import BinaryIO

_SEGMENT, _CLUSTER, _VOID, _CRC32 = 0x18538067, 0x1F43B675, 0xEC, 0xBF
# SeekHead, Info, Tracks, Cues, Attachments, Chapters, Tags
_LEVEL_1 = {0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367, _CLUSTER, _VOID, _CRC32}
# Timestamp, SilentTracks, Position, PrevSize, SimpleBlock, BlockGroup, EncryptedBlock
_IN_CLUSTER = {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, 0xA0, 0xAF, _VOID, _CRC32}
_HEADER_BYTES = 12  # at most 4 of identifier and 8 of size


@dataclass(frozen=True)
class _Element:
    """An element's identifier, the half-open range of its content in the file, and whether its size is known."""

    identifier: int
    start: int
    stop: int | None


def ending_and_damage(file: BinaryIO, n_bytes: int) -> tuple[int, str]:
    """How many bytes the Segment lacks, and what is wrong inside it; (0, "") for a whole file.

    Live recordings do not state sizes: of them nothing can be said. Where a cluster carries a CRC-32 (FFmpeg writes one
    into Matroska), it is checked.
    """
    position = 0
    while True:
        element = _read_element(file, position)
        if element is None:
            return max(1, position - n_bytes), ""
        if element.stop is None:
            return 0, ""
        if element.identifier == _SEGMENT:
            break
        position = element.stop
    if element.stop > n_bytes:
        return element.stop - n_bytes, ""
    return 0, _walk_segment(file, element.start, element.stop)


def _walk_segment(file: BinaryIO, position: int, stop: int) -> str:
    while position < stop:
        element = _read_element(file, position)
        if element is None or element.identifier not in _LEVEL_1:
            return f"there is no Matroska element at byte {position}"
        if element.stop is None:
            return ""
        if element.stop > stop:
            return f"the element at byte {position} reaches past its Segment"
        if element.identifier == _CLUSTER:
            file.seek(element.start)
            damage = _walk_cluster(file.read(element.stop - element.start))
            if damage:
                return f"the cluster at byte {position} is damaged: {damage}"
        position = element.stop
    return ""


def _walk_cluster(content: bytes) -> str:
    position = 0
    while position < len(content):
        element = _parse_element(content[position : position + _HEADER_BYTES], position)
        if element is None or element.identifier not in _IN_CLUSTER:
            return f"no element {position} bytes into it"
        if element.stop is None:
            return ""
        if element.stop > len(content):
            return f"the element {position} bytes into it reaches past its end"
        if element.identifier == _CRC32 and element.stop - element.start == 4:
            stored = int.from_bytes(content[element.start : element.stop], "little")
            if zlib.crc32(content[element.stop :]) != stored:
                return "its CRC-32 is another"
        position = element.stop
    return ""


def _read_element(file: BinaryIO, position: int) -> _Element | None:
    file.seek(position)
    return _parse_element(file.read(_HEADER_BYTES), position)


def _parse_element(header: bytes, position: int) -> _Element | None:
    """The element that `header` begins, at `position`; None where no element begins."""
    if not header or header[0] < 0x10:
        return None
    id_bytes = 9 - header[0].bit_length()
    if len(header) <= id_bytes or header[id_bytes] == 0:
        return None
    size_bytes = 9 - header[id_bytes].bit_length()
    raw = header[id_bytes : id_bytes + size_bytes]
    if len(raw) < size_bytes:
        return None
    size = int.from_bytes(raw, "big") & ((1 << 7 * size_bytes) - 1)
    start = position + id_bytes + size_bytes
    unknown = size == (1 << 7 * size_bytes) - 1
    return _Element(int.from_bytes(header[:id_bytes], "big"), start, None if unknown else start + size)
