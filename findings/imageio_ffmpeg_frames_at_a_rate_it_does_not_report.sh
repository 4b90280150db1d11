#!/usr/bin/env bash
# imageio-ffmpeg 0.8.1 and an MP4 of varying frame rate, 60 frames in 3.8 s (as telephones and screen recorders make them):
# `read_frames` yields 120 pictures, for ffmpeg repeats frames up to the rate it guesses, 30 a second. The `fps` reported with
# them is the average, 15.8, and `count_frames_and_secs` says 60, so neither leads from a picture's place to its time: picture
# 119 would be at 7.5 s of 3.8 s, and indices spread over the counted 60 end at the frame that is shown at half time.
# Expected: the frames of the file, or as many as reported fps times duration; with a steady rate all agree. Seen:
# "steady: 60 pictures, counted 60, fps 30 ...", "varying: 120 pictures, counted 60, fps 15.8, ... the counted end is frame 39".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
from fractions import Fraction
import av
import imageio_ffmpeg
import numpy as np

def write(path, durations):
    """A grey frame for each duration [1/300 s], each brighter by 4 than the one before, so that a picture tells its number."""
    with av.open(path, "w") as out:
        stream = out.add_stream("libx264", rate=30)
        stream.codec_context.time_base = Fraction(1, 300)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        time = 0
        for number, duration in enumerate(durations):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8), format="rgb24")
            frame.pts, frame.time_base, time = time, Fraction(1, 300), time + duration
            out.mux(stream.encode(frame))
        out.mux(stream.encode())

seen = {}
for name, durations in (("steady", 60 * [10]), ("varying", 30 * [10] + 30 * [30])):
    path = f"{name}.mp4"
    write(path, durations)
    pictures = imageio_ffmpeg.read_frames(path)
    facts = next(pictures)
    numbers = [round(sum(picture) / len(picture) / 4) for picture in pictures]
    counted, _ = imageio_ffmpeg.count_frames_and_secs(path)
    seen[name] = len(numbers), counted, round(facts["fps"], 1), numbers[-1], numbers[counted - 1]
    print("{}: {} pictures, counted {}, fps {}, the last is frame {}, that at the counted end is frame {}".format(name, *seen[name]))
sys.exit(seen != {"steady": (60, 60, 30, 59, 59), "varying": (120, 60, 15.8, 59, 39)})
PY
