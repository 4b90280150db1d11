"""Arrays in .npy and .npz files: their headers without their data, and the data, never a pickle."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

import numpy as np

PICKLED = "it holds pickled Python objects, which are never loaded; save the numbers as a plain array (np.save)"


class NotAnArray(ValueError):
    """A file whose array cannot be used; `reason` as of a store's failed videos."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Entry:
    """A file of a folder, or a member of a tar.

    Attributes:
        name: path in the folder or tar, with forward slashes.
        size: bytes.
        open: a new binary file object.
        source: name of its tar without the ending; "" for a file of a folder.
    """

    name: str
    size: int
    open: Callable[[], IO[bytes]]
    source: str = ""

    @property
    def folder(self) -> str:
        return self.name.rpartition("/")[0]

    @property
    def stem(self) -> str:
        """The file's name without its last ending."""
        return self.name.rpartition("/")[2].rpartition(".")[0]

    @property
    def ending(self) -> str:
        return self.name.rpartition("/")[2].rpartition(".")[2].lower()

    def read(self) -> bytes:
        with self.open() as file:
            return file.read()


def header(file: IO[bytes], size: int | None) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype of the .npy file that starts here; `size` is that of the whole file, None where unknown.

    Raises:
        NotAnArray: no .npy file, one cut short, or one of pickled objects.
    """
    try:
        version = np.lib.format.read_magic(file)
        reader = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(file)
    except (ValueError, OSError, EOFError) as error:
        raise NotAnArray("empty" if size == 0 else "invalid_data", f"it is no .npy file: {error}") from error
    if dtype.hasobject:
        raise NotAnArray("invalid_data", PICKLED)
    expected = file.tell() + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if size is not None and size < expected:
        raise NotAnArray("truncated", f"the file has {size} bytes, its header promises {expected}")
    return shape, dtype


def array(entry: Entry, name: str | None = None) -> np.ndarray:
    """The array of a .npy file, or the array `name` of a .npz file.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    data = io.BytesIO(entry.read())  # numpy cannot read from a file object inside a tar
    try:
        loaded = np.load(data, allow_pickle=False)
        return loaded if name is None else loaded[name]
    except zipfile.BadZipFile as error:
        raise ValueError(f"damaged .npz file: {error}") from error


def npz_headers(entry: Entry) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of every array of a .npz file by name.

    Raises:
        NotAnArray: no .npz file, or one of pickled objects.
    """
    found = {}
    try:
        with entry.open() as file, zipfile.ZipFile(io.BytesIO(file.read())) as archive:
            for info in archive.infolist():
                with archive.open(info) as member:
                    found[info.filename.removesuffix(".npy")] = header(member, None)
    except zipfile.BadZipFile as error:
        raise NotAnArray("invalid_data", f"it is no .npz file: {error}") from error
    return found
