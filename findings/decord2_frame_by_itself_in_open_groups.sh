#!/usr/bin/env bash
# decord2 3.4.0 (the kept-up fork of decord) and HEVC in MP4 as x265 makes it by default, in open groups of pictures: some
# frames asked for by themselves are later ones, where a group begins. The same indices within a run from 0 are right, and so
# is all of it for H.264 in closed groups; length and timestamps are right in both, nothing is raised or said.
# Expected: one index, one picture, whatever was asked for before. Frames sampled from a clip are otherwise not those that
# their index and time say. Seen (files written by PyAV 18.1.0): "H.264: all right in a run, all right alone" and
# "HEVC: all right in a run, some wrong alone", 13 -> 16 and 17 -> 20 among them.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check decord2==3.4.0 av==18.1.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import av
import decord
import numpy as np

def write(path, codec, options):
    """60 grey frames, each brighter by 4 than the one before, so that a picture tells its number."""
    with av.open(path, "w") as out:
        stream = out.add_stream(codec, rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            grey = np.full((48, 64, 3), 4 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())

def number_of(picture):
    return round(float(picture.mean()) / 4)

def wrong(numbers):
    return {index: number for index, number in enumerate(numbers) if number != index}

seen = {}
for name, codec, options in (
    ("H.264", "libx264", {"g": "15", "bf": "2"}),
    ("HEVC", "libx265", {"x265-params": "keyint=15:log-level=none"}),
):
    path = f"{name}.mp4"
    write(path, codec, options)
    with av.open(path) as container:
        assert not wrong(number_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0))
    in_a_run = wrong(number_of(picture) for picture in decord.VideoReader(path).get_batch(range(60)).asnumpy())
    alone = wrong(number_of(decord.VideoReader(path)[index].asnumpy()) for index in range(60))
    seen[name] = ["some wrong" if found else "all right" for found in (in_a_run, alone)]
    print("{}: {} in a run, {} alone".format(name, *seen[name]), alone or "")
sys.exit(seen != {"H.264": ["all right", "all right"], "HEVC": ["all right", "some wrong"]})
PY
