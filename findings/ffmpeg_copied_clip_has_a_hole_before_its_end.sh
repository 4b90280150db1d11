#!/usr/bin/env bash
# ffmpeg 9.0.2 (in imageio-ffmpeg 0.8.1), `ffmpeg -i film.mp4 -t 1 -c copy clip.mp4`, which is how clips of data sets are cut: of
# H.264 with B-frames at 30 a second, the first second holds frames 0 to 30 and frame 33, which is of 1.1 s; 31 and 32 are
# missing. Packets are left out from a time of decoding on, and 33 is decoded before the two that are made from it.
# Expected: frames 0 to 29, or all of them up to where it ends; so the last sampled frame is after a jump that no film holds,
# and clips "of one second" have 32 frames. Without B-frames, or encoded anew, it is 0 to 29. Nothing is said. Seen:
# "no B-frames: 0 to 29, missing []", "B-frames: 0 to 33, missing [31, 32]", "B-frames, encoded anew: 0 to 29, missing []".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check imageio-ffmpeg==0.8.1 av==18.1.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import subprocess
import sys
import av
import imageio_ffmpeg
import numpy as np

def write(path, b_frames):
    """60 grey frames, each brighter by 4 than the one before, so that a picture tells its number."""
    with av.open(path, "w") as out:
        x264 = f"keyint=60:bframes={b_frames}:b-adapt=0:scenecut=0:threads=1:log-level=none"
        stream = out.add_stream("libx264", rate=30, options={"x264-params": x264})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            grey = np.full((48, 64, 3), 4 * number, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        out.mux(stream.encode())

def first_second(b_frames, codec):
    write("film.mp4", b_frames)
    cut = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", "film.mp4", "-t", "1", "-c", codec, "clip.mp4"]
    subprocess.run(cut, check=True)
    with av.open("clip.mp4") as clip:
        shown = [round(float(frame.to_ndarray(format="rgb24").mean()) / 4) for frame in clip.decode(video=0)]
    return shown[0], shown[-1], sorted(set(range(shown[-1])) - set(shown))

seen = {
    "no B-frames": first_second(0, "copy"),
    "B-frames": first_second(2, "copy"),
    "B-frames, encoded anew": first_second(2, "libx264"),
}
for name, (first, last, missing) in seen.items():
    print(f"{name}: {first} to {last}, missing {missing}")
sys.exit(list(seen.values()) != [(0, 29, []), (0, 33, [31, 32]), (0, 29, [])])
PY
