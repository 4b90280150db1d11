#!/usr/bin/env bash
# PyAV 18.1.0: reading frame.side_data ties the frame to itself. The container it returns is kept by the frame and holds
# the frame in turn, so a decoded picture (6 MB at 1080p in RGB) stays in memory until Python's cyclic collector happens
# to run, after the file is closed and the last name for the frame is gone.
# Expected: a frame is freed with its last reference, as it is when side_data was not read, and as 19.0.2 frees it.
# Seen, Linux x86-64, Python 3.11, collector off: 0 of 40 frames alive without, 40 of 40 after `frame.side_data`.
# The same in 14.0.0, 15.1.0, 16.0.1, 16.1.0, 17.0.0, 17.0.1, 17.1.0, 18.0.0, 18.1.0, 19.0.0; not in 19.0.2.
# Way round it: av.sidedata.sidedata.SideDataContainer(frame), which the frame does not keep.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check av==18.1.0 numpy==2.2.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import gc

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

with av.open("clip.mp4", "w") as out:
    stream = out.add_stream("mpeg4", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for shade in range(40):
        out.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * shade, np.uint8), format="rgb24")))
    out.mux(stream.encode())


def alive() -> int:
    return sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects())


def decode(look) -> int:
    gc.collect()
    before = alive()
    with av.open("clip.mp4") as container:
        for frame in container.decode(video=0):
            look(frame)
    del frame
    return alive() - before


gc.disable()
counts = {
    "nothing read": decode(lambda frame: None),
    "frame.side_data": decode(lambda frame: frame.side_data),
    "SideDataContainer(frame)": decode(lambda frame: SideDataContainer(frame).get("DISPLAYMATRIX")),
}
print(av.__version__, counts)
raise SystemExit(counts != {"nothing read": 0, "frame.side_data": 40, "SideDataContainer(frame)": 0})
PYTHON
