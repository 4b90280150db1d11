#!/usr/bin/env bash
# CPython 3.11.7, multiprocessing.Connection.send_bytes: of a bytes-like object with several axes of single bytes (a uint8
# image, say) it announces the length of the first axis and sends all bytes. The receiver gets a message cut short
# without an error, and the rest stands in the pipe as if further messages began there.
# Expected: the whole content as one message, as for a matrix of floats, which is cast to bytes first (itemsize > 1).
# Seen, Linux x86-64: of 4 x 6 bytes a message of 4 arrives and more is left to read; of 4 x 6 floats all 96 bytes.
# Way round it: send_bytes(array.reshape(-1)).
set -euo pipefail
"${PYTHON:-python3}" - <<'PYTHON'
import sys
from multiprocessing import Pipe


def received(view: memoryview) -> tuple[int, bool]:
    """Bytes of the message that arrives, and whether something is left behind it."""
    here, there = Pipe()
    there.send_bytes(view)
    return len(here.recv_bytes()), here.poll(0)


found = received(memoryview(bytes(24)).cast("B", (4, 6))), received(memoryview(bytes(96)).cast("f", (4, 6)))
print(sys.version.split()[0], "bytes, floats:", found)
sys.exit(found != ((4, True), (96, False)))
PYTHON
