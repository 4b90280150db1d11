#!/usr/bin/env bash
# video-reader-rs 0.4.5 and an MP4 trimmed without encoding anew (an edit list hides the 12 frames between the key frame and the
# cut; PyAV 18.1.0, which wrote it, shows frames 27 to 59): get_shape() says 45 pictures, and so many decode() gives, the last
# 12 of them black; decode_fast() gives 33. Number 20 is frame 47 to decode() and get_batch(), but 35, which is 12 earlier,
# to decode(start_frame=20). No error, no message. Expected: one length and one numbering, and no picture that is not in the
# file: black frames become features, and a clip read by its range is another clip. Seen: "pictures: shape 45, decode 45,
# of them black 12, decode_fast 33", "number 20: decode 47, get_batch 47, decode_fast 47, decode from 20: 35".
# (The wheels of 0.4.2 to 0.4.5 do not find a library that lies in them, hence LD_LIBRARY_PATH; 0.4.0 imports, and does the same.)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check video-reader-rs==0.4.5 av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PY'
import av
import numpy as np

with av.open("whole.mp4", "w") as out:  # 60 grey frames, each brighter by 4 than the one before, a key frame every 15
    stream = out.add_stream("libx264", rate=30, options={"g": "15", "bf": "2"})
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(60):
        grey = np.full((48, 64, 3), 4 * number, np.uint8)
        out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
    out.mux(stream.encode())

with av.open("whole.mp4") as whole, av.open("clip.mp4", "w") as clip:  # the packets from frame 15 on, frame 27 at 0 s
    source = whole.streams.video[0]
    target = clip.add_stream_from_template(source)
    cut, key = (int(frame / (30 * source.time_base)) for frame in (27, 15))
    packets = [packet for packet in whole.demux(source) if packet.dts is not None]
    first = next(place for place, packet in enumerate(packets) if packet.pts == key)
    for packet in packets[first:]:
        packet.pts, packet.dts, packet.stream = packet.pts - cut, packet.dts - cut, target
        clip.mux(packet)

with av.open("clip.mp4") as clip:
    shown = [round(float(frame.to_ndarray(format="rgb24").mean()) / 4) for frame in clip.decode(video=0)]
assert shown == list(range(27, 60))
PY
LD_LIBRARY_PATH=$(echo venv/lib/python3*/site-packages/video_reader_rs.libs) venv/bin/python - <<'PY'
import sys
from video_reader import PyVideoReader

def numbers(pictures):
    return [round(float(picture.mean()) / 4) for picture in pictures]

def clip():
    return PyVideoReader("clip.mp4")

all_of_it, fast = numbers(clip().decode()), numbers(clip().decode_fast())
lengths = clip().get_shape()[0], len(all_of_it), all_of_it.count(0), len(fast)
number_20 = all_of_it[20], *numbers(clip().get_batch([20])), fast[20], numbers(clip().decode(start_frame=20, end_frame=30))[0]
print("pictures: shape {}, decode {}, of them black {}, decode_fast {}".format(*lengths))
print("number 20: decode {}, get_batch {}, decode_fast {}, decode from 20: {}".format(*number_20))
sys.exit((lengths, number_20) != ((45, 45, 12, 33), (47, 47, 47, 35)))
PY
