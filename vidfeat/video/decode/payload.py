"""What a packet's bytes say without being decoded: blocks that were zeroed, and key frames one cannot start from."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

# Zero bytes in a row that a codec's own bytes never hold. H.264 and HEVC forbid three inside a NAL unit (ITU-T H.264,
# 7.4.1.1); the arithmetic coders of VP8 and VP9 could write some hundred for a still picture of 4K.
_ZEROS = {"h264": 32, "hevc": 32, "vp8": 1024, "vp9": 1024}
_START_CODE = b"\0\0\1"


class Payloads:
    """Looks at the packets of one video stream, which is in the format that its codec's `extradata` says.

    Args:
        codec: FFmpeg's name; of others than H.264, HEVC, VP8 and VP9 nothing is said.
        extradata: MP4's, which says how NAL units are told apart; empty where start codes part them.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self.codec = codec
        self._has_units = codec in ("h264", "hevc")
        extradata = extradata or b""
        place = {"h264": 4, "hevc": 21}.get(codec, 0)
        has_lengths = self._has_units and len(extradata) > place and extradata[0] == 1
        self._length_bytes = (extradata[place] & 3) + 1 if has_lengths else 0
        zeros = _ZEROS.get(codec)
        self._zeros = re.compile(b"\0{%d,}" % zeros) if zeros else None

    def is_zeroed(self, packet: Buffer) -> bool:
        """Whether part of the packet is a block of zeros, which no encoder wrote."""
        if self._zeros is None or self._zeros.search(packet) is None:
            return False
        pieces = self._units(bytes(packet)) if self._has_units else iter([bytes(packet)])
        return any(self._zeros.search(piece.rstrip(b"\0")) is not None for piece in pieces)  # zeros at an end pad it

    def is_open_key(self, packet: Buffer) -> bool:
        """Whether frames after this key frame may refer to frames before it: it is no IDR picture.

        Source: ITU-T H.264, table 7-1 (5: IDR); ITU-T H.265, table 7-1 (19 and 20: IDR; 16 to 21: random access).
        """
        if not self._has_units:
            return False
        kinds = {self._kind(unit) for unit in self._units(bytes(packet)) if unit}
        if self.codec == "h264":
            return 1 in kinds and 5 not in kinds
        return bool(kinds & {16, 17, 18, 21}) and not kinds & {19, 20}

    def _kind(self, unit: bytes) -> int:
        return unit[0] & 0x1F if self.codec == "h264" else unit[0] >> 1 & 0x3F

    def _units(self, packet: bytes) -> Iterator[bytes]:
        if not self._length_bytes:
            yield from packet.split(_START_CODE)[1:]
            return
        position = 0
        while position + self._length_bytes <= len(packet):
            start = position + self._length_bytes
            position = start + int.from_bytes(packet[position:start], "big")
            yield packet[start:position]
