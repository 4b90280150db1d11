#!/usr/bin/env bash
# decord2 3.4.0 and H.264 with B-frames in an MPEG transport stream (as recorders and broadcasters write it): the first group of
# pictures is never decoded. Index 0 is frame 15 of 60, every index is 15 late, and the last 15 are copies of the last frame;
# the length is 60, the timestamps run from 0 to 1.97 s, nothing is raised or said. The same stream in MP4 is right, and so is
# the transport stream without B-frames. PyAV 18.1.0, which wrote the files, gives frames 0 to 59 of all of them.
# Expected: frame i at index i, or an error. Seen: "MP4: 0 1 ... 58 59", "TS: 15 16 ... 59 59", "TS without B: 0 1 ... 58 59".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check decord2==3.4.0 av==18.1.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import av
import decord
import numpy as np

def write(path, options):
    """60 grey frames, each brighter by 4 than the one before, so that a picture tells its number."""
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            grey = np.full((48, 64, 3), 4 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())

def number_of(picture):
    return round(float(picture.mean()) / 4)

expected, seen = list(range(60)), {}
for name, path, b_frames in (("MP4", "a.mp4", "2"), ("TS", "a.ts", "2"), ("TS without B", "b.ts", "0")):
    write(path, {"g": "15", "bf": b_frames})
    with av.open(path) as container:
        assert [number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)] == expected
    reader = decord.VideoReader(path)
    assert len(reader) == 60
    seen[name] = [number_of(picture) for picture in reader.get_batch(expected).asnumpy()]
    print(f"{name}: {seen[name][0]} {seen[name][1]} ... {seen[name][-2]} {seen[name][-1]}")
sys.exit(seen != {"MP4": expected, "TS": expected[15:] + 15 * [59], "TS without B": expected})
PY
