"""What FFmpeg says while it reads: some damage shows in its log lines alone, not in a frame's flags or an exception."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# Lines that say that a picture was made without something it needs, seen in `python -m benchmarks damage` where
# neither the frame's flag nor an exception told of it. Complaints about what pictures do not depend on (SEI messages,
# reference counts beyond the level, missing marks of old references) are no evidence: undamaged files draw them.
_EVIDENCE = {
    "h264": ("Frame num gap", "Missing reference picture", "reference picture missing during reorder"),
    "hevc": (
        "Could not find ref with POC",
        "Error constructing the frame RPS",
        "Skipping invalid undecodable NALU",
        "Verifying checksum .*mismatch",
        "Error parsing NAL unit",
        r"The cu_qp_delta -?\d+ is outside",
    ),
    "mpegts": ("PES packet size mismatch",),
    "avi": ("Something went wrong during header parsing",),
}
_PATTERNS = {name: re.compile("|".join(patterns)) for name, patterns in _EVIDENCE.items()}
# H.264's lost reference frames are mentioned at this level alone.
_LEVEL = "DEBUG"

_lock = threading.Lock()
_listeners: list[object] = []
_before: list[tuple[int | None, bool]] = []


class LogLines:
    """FFmpeg's log lines of this thread since the last look."""

    def __init__(self, lines: list[tuple[int, str, str]]) -> None:
        self._lines = lines

    def evidence(self, *, of: Collection[str] = ()) -> str:
        """The first line that shows damage, "h264: Frame num gap 5 3", or ""; all lines are forgotten.

        `of`: only lines of these parts of FFmpeg, such as "mpegts".
        """
        lines, found = self._lines[:], ""
        self._lines.clear()
        for _, name, text in lines:
            pattern = _PATTERNS.get(name) if not of or name in of else None
            if pattern is not None and pattern.match(text.strip()) and not found:
                found = f"{name}: {text.strip()}"
        return found


@contextmanager
def listening(*, aloud: bool = True) -> Iterator[LogLines]:
    """FFmpeg's log lines of this thread, through PyAV; its level is put back when the last listener leaves.

    Without `aloud` nothing is asked for, and there are none: lines of FFmpeg's own threads would go to the terminal.
    """
    import av

    if not aloud:
        yield LogLines([])
        return

    token = object()
    with _lock:
        if not _listeners:
            _before.append((av.logging.get_level(), av.logging.get_skip_repeated()))
            av.logging.set_level(max(getattr(av.logging, _LEVEL), av.logging.get_level() or 0))
            av.logging.set_skip_repeated(False)  # else a line like the last one of the file before would be left out
        _listeners.append(token)
    try:
        with av.logging.Capture() as lines:
            yield LogLines(lines)
    finally:
        with _lock:
            _listeners.remove(token)
            if not _listeners:
                level, skip = _before.pop()
                av.logging.set_level(level)
                av.logging.set_skip_repeated(skip)
