#!/usr/bin/env bash
# xarray 2026.9.0 with zarr 3.1.6 and numpy 2.4.6: the mean over 6000 videos of float16 features that are all 1.0 is 1.0 while
# the store is read lazily (dask 2026.8.0, a chunk of 1000 rows) and 0.34 once `.load()` was called; class means by `groupby` too.
# `mean` leaves NaN out unless told otherwise, by a sum in float16 that stands still at 2048; numpy's own mean and
# `skipna=False` sum in float32, and dask never sums more than a chunk at once. No warning. Expected: loading changes no
# result, and prototypes of classes are what numpy's mean makes them. Seen: "numpy: 1.0000", "lazy: 1.0000",
# "loaded: 0.3413", "loaded, skipna=False: 1.0000", "class mean, lazy: 1.0000", "class mean, loaded: 0.3413".
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check xarray==2026.9.0 zarr==3.1.6 dask==2026.8.0 numpy==2.4.6
cd "$folder" && venv/bin/python - <<'PY'
import sys
import warnings
import numpy as np
import xarray as xr

ones = xr.Dataset({"features": (("video", "channel"), np.ones((6000, 4), "float16"))}).chunk(video=1000)
ones.to_zarr("a.zarr", zarr_format=3, consolidated=False, encoding={"features": {"chunks": (500, 4), "shards": (1000, 4)}})
lazy = xr.open_zarr("a.zarr", consolidated=False).features
loaded = xr.open_zarr("a.zarr", consolidated=False).features.load()
label = xr.DataArray(np.zeros(6000, int), dims="video", name="label")

with warnings.catch_warnings():
    warnings.simplefilter("error")
    means = {
        "numpy": loaded.values.mean(axis=0),
        "lazy": lazy.mean("video"),
        "loaded": loaded.mean("video"),
        "loaded, skipna=False": loaded.mean("video", skipna=False),
        "class mean, lazy": lazy.groupby(label).mean(),
        "class mean, loaded": loaded.groupby(label).mean(),
    }
seen = {name: f"{float(np.asarray(mean).flat[0]):.4f}" for name, mean in means.items()}
print(*(f"{name}: {value}" for name, value in seen.items()), sep="\n")
sys.exit(list(seen.values()) != ["1.0000", "1.0000", "0.3413", "1.0000", "1.0000", "0.3413"])
PY
