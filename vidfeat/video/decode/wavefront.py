"""Whether HEVC pictures are wavefronts: rows of blocks, each to be decoded from where a header says that it begins.

Such pictures can be decoded in two ways, row after row by one arithmetic coder that stops where it stops, or each row
from its own place; whole ones look the same both ways. x265 writes them unless told otherwise.

Source: ITU-T H.265, section 7.3.2.3 (picture parameter set: `entropy_coding_sync_enabled_flag`); ISO/IEC 14496-15,
    section 8.3.3.1 (`hvcC`).
"""

from __future__ import annotations

from collections.abc import Iterator

_PICTURE_PARAMETERS = 34  # the type of that NAL unit


def has_wavefronts(extradata: bytes | None) -> bool:
    """Whether a picture parameter set among a stream's `extradata` switches wavefronts on; False where it is broken."""
    try:
        return any(_is_synchronised(unit) for unit in _units(extradata or b"") if unit[0] >> 1 == _PICTURE_PARAMETERS)
    except IndexError:
        return False


def _units(extradata: bytes) -> Iterator[bytes]:
    """The NAL units of MP4's `hvcC`, or those that start codes part."""
    if extradata[:1] != b"\1":
        yield from (unit for unit in extradata.split(b"\0\0\1")[1:] if unit)
        return
    position = 23
    for _ in range(extradata[22]):
        n_units = int.from_bytes(extradata[position + 1 : position + 3], "big")
        position += 3
        for _ in range(n_units):
            end = position + 2 + int.from_bytes(extradata[position : position + 2], "big")
            yield extradata[position + 2 : end]
            position = end


def _is_synchronised(unit: bytes) -> bool:
    """`entropy_coding_sync_enabled_flag` of a picture parameter set.

    Raises:
        IndexError: the unit ends before it.
    """
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.skip_codes(2)  # identifiers
    bits.read(7)  # dependent slices, output flag, extra bits (3), sign hiding, initial contexts
    bits.skip_codes(3)  # default numbers of references, first quantiser
    bits.read(2)  # constrained intra prediction, transform skip
    if bits.read(1):  # quantiser by block
        bits.skip_codes(1)
    bits.skip_codes(2)  # chroma quantisers
    bits.read(5)  # chroma offsets in slices, weights of one and of two references, lossless blocks, tiles
    return bits.read(1) == 1


class _Bits:
    """Reads bits from the front of some bytes."""

    def __init__(self, content: bytes) -> None:
        self._content, self._position = content, 0

    def read(self, n: int) -> int:
        value = 0
        for _ in range(n):
            byte = self._content[self._position >> 3]
            value = value << 1 | (byte >> (7 - (self._position & 7)) & 1)
            self._position += 1
        return value

    def skip_codes(self, n: int) -> None:
        """Passes n Exp-Golomb codes: z zeros, a one, z more bits."""
        for _ in range(n):
            zeros = 0
            while not self.read(1):
                zeros += 1
            self.read(zeros)
