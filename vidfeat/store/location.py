"""A store's location, a path or a URL, to the files behind it."""

from __future__ import annotations

import os
from pathlib import Path

from vidfeat.store.files import Files, LocalFiles, OnStep


def files_at(location: str | os.PathLike[str], *, on_step: OnStep | None = None) -> Files:
    """The files at a local path or at a URL such as "s3://bucket/X.zarr" (through fsspec)."""
    text = os.fspath(location)
    if "://" in text:
        from vidfeat.store.remote import RemoteFiles

        return RemoteFiles(text, on_step=on_step)
    return LocalFiles(Path(text), on_step=on_step)
