"""Whether the end of a file is missing, by what its container says: read from box sizes, without decoding.

A decoder reads what there is and stops; only the container knows that there should have been more.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

from vidfeat.video.decode import transport
from vidfeat.video.decode.matroska import ending_and_damage

_EBML = b"\x1a\x45\xdf\xa3"


@dataclass(frozen=True)
class Completeness:
    """What a file's own structure says about its end.

    Attributes:
        kind: "mp4", "matroska", "riff", "gif", "transport" or "" for a container that does not say (MPEG program
            streams, FLV, ASF): what is cut from the end of such a file cannot be noticed; nor is a fragmented mp4
            that ends between two fragments, or a transport stream that ends between two packets.
        cut: how the structure shows that the end of the file is missing; empty where it does not.
        damage: how the structure shows that the file is damaged; only Matroska's does.
    """

    kind: str
    cut: str = ""
    damage: str = ""

    @property
    def is_certain(self) -> bool:
        """Whether `cut` alone proves a loss. Sizes in RIFF headers are often a little wrong; frame counts are not."""
        return bool(self.cut) and self.kind != "riff"


def completeness(path: str) -> Completeness:
    """What the structure of the file at `path` says about its end.

    Raises:
        OSError: the file cannot be read.
    """
    n_bytes = os.path.getsize(path)
    with open(path, "rb") as file:
        start = file.read(1024)
        head = start[:16]
        if len(head) >= 8 and head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):
            return Completeness("mp4", _mp4(file, n_bytes))
        if head[:4] == _EBML:
            missing, damage = ending_and_damage(file, n_bytes)
            return Completeness("matroska", _short_by(missing), damage)
        if head[:4] == b"RIFF" and len(head) >= 8:
            # Writers that never came back leave 0 or -1; files over 4 GiB have several RIFF chunks, of which the first
            # is whole.
            declared = struct.unpack("<I", head[4:8])[0]
            missing = declared + 8 - n_bytes if 0 < declared < 0xFFFFFFFF else 0
            return Completeness("riff", _short_by(missing))
        if head[:6] in (b"GIF87a", b"GIF89a"):
            file.seek(max(0, n_bytes - 16))
            ends = file.read().rstrip(b"\0").endswith(b"\x3b")
            return Completeness("gif", "" if ends else "its last byte is not GIF's trailer")
        packets = transport.layout(start)
        if packets is not None:
            return Completeness("transport", transport.ends_within_packet(n_bytes, packets[0]))
    return Completeness("")


def _short_by(n_bytes: int) -> str:
    return f"the file ends {n_bytes} bytes before its container does" if n_bytes > 0 else ""


def _mp4(file: BinaryIO, n_bytes: int) -> str:
    """How the file is cut, from its top-level boxes.

    A box is 4 bytes size, 4 bytes type; size 1: 8 more bytes of size follow; size 0: to the end of the file.

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
    else:
        # The beginning of a box header, unless it is padding.
        file.seek(position)
        missing = 8 - (n_bytes - position) if file.read().strip(b"\0") else missing
    if b"moov" not in seen:
        return "the index (moov box), which a recorder writes last, is missing"
    return _short_by(missing)
