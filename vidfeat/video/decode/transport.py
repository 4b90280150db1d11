"""Whether the packets of an MPEG transport stream are whole: what FFmpeg skips over, or flags too readily.

FFmpeg flags a frame as corrupt at every break of the continuity counter, also where two whole recordings were joined
(downloads of HLS are); here a break counts within a frame alone.

Source: ISO/IEC 13818-1, section 2.4.3: packets of 188 bytes; byte 0 is 0x47; 1 bit transport error, 1 bit payload
    start, 13 bits PID; 2 bits adaptation field and payload, 4 bits continuity counter (counts packets with payload).
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

_SYNC, _NULL_PID = 0x47, 0x1FFF
# Bytes from packet to packet, and of the first packet in the file: plain, Blu-ray's with a time stamp before each,
# and with Reed-Solomon bytes after each.
_LAYOUTS = ((188, 0), (192, 4), (204, 0))
_CHUNK = 1 << 16  # packets read at a time


def layout(head: bytes) -> tuple[int, int] | None:
    """(bytes per packet, offset of the first) of the transport stream that begins with `head`, or None for others.

    `head`: its first KiB, so that five packets in a row are seen.
    """
    for stride, offset in _LAYOUTS:
        syncs = head[offset::stride]
        if len(syncs) >= 5 and set(syncs[:5]) == {_SYNC}:
            return stride, offset
    return None


def ends_within_packet(n_bytes: int, stride: int) -> str:
    """How the file's length shows that its end is missing."""
    beyond = n_bytes % stride
    return f"the file ends {stride - beyond} bytes before its last transport packet does" if beyond else ""


def damage(file: BinaryIO, pid: int) -> str:
    """What is wrong with the packets of the stream `pid`, or ""; for a file that is no transport stream, "" too."""
    file.seek(0)
    found = layout(file.read(1024))
    if found is None:
        return ""
    stride, offset = found
    file.seek(0)
    position, last = 0, -1  # last: the stream's continuity counter so far
    while content := file.read(_CHUNK * stride):
        packets = np.frombuffer(content, dtype=np.uint8)[: len(content) // stride * stride].reshape(-1, stride)
        packets = packets[:, offset : offset + 188]
        lost = np.flatnonzero(packets[:, 0] != _SYNC)
        if len(lost):
            return f"there is no transport packet at byte {(position + int(lost[0])) * stride + offset}"
        problem, last = _counters(packets, pid, last)
        if problem is not None:
            return f"transport packets are missing or damaged at byte {(position + problem) * stride + offset}"
        position += len(packets)
    return ""


def _counters(packets: np.ndarray, pid: int, last: int) -> tuple[int | None, int]:
    """(row [188] of the first packet of `pid` that is broken, or that does not follow its predecessor; last counter).

    A repeated counter is a repeated packet, which is allowed; one flagged as a discontinuity is announced.
    """
    pids = (packets[:, 1].astype(np.int64) & 0x1F) << 8 | packets[:, 2]
    rows = np.flatnonzero((pids == pid) & (packets[:, 3] & 0x10 != 0))
    if not len(rows):
        return None, last
    ours = packets[rows]
    errors = np.flatnonzero(ours[:, 1] & 0x80)
    counters = (ours[:, 3] & 0x0F).astype(np.int64)
    before = np.concatenate([[last if last >= 0 else (counters[0] - 1) % 16], counters[:-1]])
    follows = (counters == (before + 1) % 16) | (counters == before)
    announced = (ours[:, 3] & 0x20 != 0) & (ours[:, 4] > 0) & (ours[:, 5] & 0x80 != 0)
    # Between two frames it is a joint, if the frame before is whole: its last packet is filled up by an adaptation
    # field (all but one in 184 are), or a table of programs comes between, with which a recording begins.
    starts_frame = ours[:, 1] & 0x40 != 0
    filled = np.concatenate([[True], ours[:-1, 3] & 0x20 != 0])
    tables = np.concatenate([[0], np.cumsum(pids == 0)])
    begins = np.concatenate([[True], tables[rows[1:]] > tables[rows[:-1]]])
    breaks = np.flatnonzero(~follows & ~announced & ~(starts_frame & (filled | begins)))
    first = [int(rows[found[0]]) for found in (errors, breaks) if len(found)]
    return (min(first) if first else None), int(counters[-1])
