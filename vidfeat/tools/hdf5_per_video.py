"""HDF5 files of other feature extractors: one dataset per video, whatever groups they lie in.

A dataset `/walk/clip1` [F ...] becomes the video "walk/clip1" with the label "walk" (the group it lies in) and one row
per frame. Where every dataset has the same last name (`/clip1/features`, `/clip2/features`) that name is left out.
Nothing is known about the model or the frames, so the fingerprint is the file's own content, and there are no times.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vidfeat.errors import StoreError, explain
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow, storage_problem

if TYPE_CHECKING:
    import h5py

_FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class _Video:
    """One dataset, as a video."""

    id: str
    label: str
    dataset: str
    split: str = ""
    group: str = ""


def import_per_video(h5: h5py.File, path: str | os.PathLike[str], store: str | os.PathLike[str], *, tap: str) -> None:
    """Fills the store at `store`.

    Raises:
        StoreError: no datasets, or datasets that are not one video each of the same row shape (all problems named).
    """
    shapes = _float_datasets(h5, path)
    videos = _videos(list(shapes))
    lengths = {shape[0] for shape in shapes.values()}
    row_shape, dtype = next(iter(shapes.values()))[1:], h5[next(iter(shapes))].dtype
    fixed = next(iter(lengths)) if len(lengths) == 1 and lengths != {0} else None
    spec = StoreSpec(
        taps=(TapSpec(tap, row_shape, "float16" if dtype == np.float16 else "float32"),),
        n_frames=fixed,
        max_frames=None if fixed else max(1, *lengths),
        classes=tuple(sorted({video.label for video in videos} - {""})) if all(v.label for v in videos) else (),
        fingerprint=Fingerprint({"imported": {"format": "hdf5, one dataset per video", "sha256": _sha256(path)}}),
    )
    bounds = [max(1, shapes[video.dataset][0]) for video in videos]
    writer = StoreWriter.open_or_create(store, spec, videos, frame_bounds=bounds)
    for unit in writer.pending_units():
        facts, rows = [], []
        for video in (videos[index] for index in unit.video_indices):
            row, values = _read(h5, video, spec.taps[0].dtype)
            facts.append(row)
            rows += [values] if row.ok else []
        writer.commit(unit, {tap: rows}, facts)
    writer.finalize()


def _float_datasets(h5: h5py.File, path: str | os.PathLike[str]) -> dict[str, tuple[int, ...]]:
    """Shape of every dataset by name, sorted."""
    import h5py as h5py_module

    shapes: dict[str, tuple[int, ...]] = {}
    problems: list[str] = []

    def visit(name: str, node: object) -> None:
        if not isinstance(node, h5py_module.Dataset):
            return
        if node.dtype.name not in _FLOATS or node.ndim < 2 or 0 in node.shape[1:]:
            problems.append(f"/{name} is {node.dtype} {node.shape}")
        shapes[name] = node.shape

    h5.visititems(visit)
    row_shapes = {shape[1:] for shape in shapes.values()}
    if not shapes:
        problems.append("no dataset at all")
    elif len(row_shapes) > 1:
        examples = {shape[1:]: name for name, shape in reversed(shapes.items())}
        problems += [f"/{name} has rows of {list(row_shape)}" for row_shape, name in sorted(examples.items())]
    if len({h5[name].dtype for name in shapes}) > 1:
        problems.append("datasets of different dtypes")
    if problems:
        shown = "; ".join(problems[:10]) + (f"; and {len(problems) - 10} more" if len(problems) > 10 else "")
        raise StoreError(
            explain(
                "this HDF5 file is neither an exported store nor one dataset per video",
                where=path,
                expected="floats [frames, ...] in every dataset, rows of one shape and dtype",
                got=shown,
                fix="move everything else into another file",
            )
        )
    return dict(sorted(shapes.items()))


def _videos(names: list[str]) -> list[_Video]:
    lasts = {name.rpartition("/")[2] for name in names}
    shared = len(names) > 1 and len(lasts) == 1
    ids = [name.rpartition("/")[0] if shared else name for name in names]
    return [_Video(video_id, video_id.rpartition("/")[0], name) for video_id, name in zip(ids, names, strict=True)]


def _read(h5: h5py.File, video: _Video, dtype: str) -> tuple[VideoRow, np.ndarray]:
    given = h5[video.dataset][:]
    if not len(given):
        return VideoRow.failed(video, reason="no_frames", detail=f"/{video.dataset} is empty"), given
    values = given.astype(dtype, copy=False)
    problem = storage_problem(values, dtype)
    if problem is not None:
        return VideoRow.failed(video, reason="non_finite", detail=problem), given
    if given.dtype == np.float64 and not np.array_equal(values.astype(np.float64), given):
        raise StoreError(
            explain(
                "float64 values that float32 cannot hold exactly",
                where=f"{h5.filename} /{video.dataset}",
                fix="write the file as float32, so that the loss is yours to decide",
            )
        )
    return VideoRow(video.id, video.label, n_frames=len(values)), values


def _sha256(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
