#!/usr/bin/env bash
# zarr 3.1.6 and a shard file of 0 bytes: reading the whole shard gives the fill value, reading a part of it raises.
# One file on disk, two answers, by what is asked for. A good engineer would expect one: fill values, as for a missing
# file, or an error both times. Seen: "whole: fill values", "part: ValueError".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check zarr==3.1.6
cd "$folder" && venv/bin/python - <<'PY'
import pathlib, sys
import numpy as np
import zarr

array = zarr.create_array("a.zarr", shape=(8,), chunks=(2,), shards=(8,), dtype="float32", fill_value=7.0, compressors=None)
array[:] = np.arange(8, dtype="float32")
(shard,) = [p for p in pathlib.Path("a.zarr").rglob("*") if p.is_file() and p.name != "zarr.json"]
shard.write_bytes(b"")
array = zarr.open_array("a.zarr", mode="r")

def answer(key):
    try:
        values = array[key]
    except Exception as error:
        return type(error).__name__
    return "fill values" if (values == 7.0).all() else "other values"

whole, part = answer(slice(0, 8)), answer(slice(0, 2))
print(f"whole: {whole}\npart: {part}")
sys.exit((whole, part) != ("fill values", "ValueError"))
PY
