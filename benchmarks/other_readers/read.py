"""Reads the stores of `write.py` with each of zarr, tensorstore and xarray that is installed; needs nothing of ours."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np


def with_zarr(store: Path, tap: str) -> Any:
    """All rows of a tap."""
    import zarr

    return zarr.open_array(store / tap, mode="r")[:]


def with_tensorstore(store: Path, tap: str) -> Any:
    """All rows of a tap."""
    import tensorstore

    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(store / tap)}}
    return tensorstore.open(spec).result().read().result()


def with_xarray(store: Path, tap: str) -> Any:
    """All rows of a tap."""
    import xarray

    group, _, name = tap.rpartition("/")
    return xarray.open_zarr(store, group=group or None, consolidated=False, mask_and_scale=False)[name].values


READERS = {"zarr": with_zarr, "tensorstore": with_tensorstore, "xarray": with_xarray}


def main(folder: Path) -> int:
    """One line for each library and store; 1 where sound rows read as other numbers."""
    expected = json.loads((folder / "expected.json").read_text())
    bad = 0
    for package, read in READERS.items():
        try:
            name = f"{package} {version(package)}"
        except PackageNotFoundError:
            print(f"{package}: not installed")
            continue
        for tap, one in expected.items():
            try:
                found = np.asarray(read(folder / "X.zarr", tap))[one["rows"]].astype(float)
            except Exception as error:  # what a library does is what is asked here
                print(f"{name}: {tap}: {type(error).__name__}: {str(error).splitlines()[0][:90]}")
                bad += 1
                continue
            same = bool(np.array_equal(found, np.array(one["values"])))
            bad += not same
            print(f"{name}: {tap}: {'right' if same else 'OTHER NUMBERS'}")
        for store in ("empty.zarr", "missing.zarr"):
            try:
                values = np.asarray(read(folder / store, "pooled"))
                print(f"{name}: {store}: fill values" if np.isnan(values[-1]).all() else f"{name}: {store}: numbers")
            except Exception as error:
                print(f"{name}: {store}: {type(error).__name__}")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
