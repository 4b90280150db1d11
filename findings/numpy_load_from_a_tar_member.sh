#!/usr/bin/env bash
# numpy 2.4.6 and a .npy inside a tar (as clip-video-encode and webdataset write them): `np.load` of the file that
# `tarfile.extractfile` hands out raises AttributeError (no `fileno`), while the same bytes load from `io.BytesIO` and
# from a member of a zip. The member is an `io.BufferedReader`, so numpy takes it for a file of the system and asks for
# its number. Expected: an array, since the object reads and seeks. Seen on CPython 3.11:
# "tar: AttributeError", "tar, read first: [0. 1. 2.]", "zip: [0. 1. 2.]".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import io, sys, tarfile, zipfile
import numpy as np

np.save("a.npy", np.arange(3, dtype="float32"))
with tarfile.open("a.tar", "w") as tar:
    tar.add("a.npy")
with zipfile.ZipFile("a.zip", "w") as packed:
    packed.write("a.npy")

def answer(file):
    try:
        return str(np.load(file))
    except Exception as error:
        return type(error).__name__

with tarfile.open("a.tar") as tar, zipfile.ZipFile("a.zip") as packed:
    straight = answer(tar.extractfile("a.npy"))
    read_first = answer(io.BytesIO(tar.extractfile("a.npy").read()))
    zipped = answer(packed.open("a.npy"))
print(f"tar: {straight}\ntar, read first: {read_first}\nzip: {zipped}")
sys.exit((straight, read_first, zipped) != ("AttributeError", "[0. 1. 2.]", "[0. 1. 2.]"))
PY
