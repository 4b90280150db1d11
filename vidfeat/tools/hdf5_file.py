"""An HDF5 file open for reading: what h5py raises for a damaged one becomes one error that says so."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vidfeat.errors import StoreError, VidfeatError, explain

if TYPE_CHECKING:
    import h5py

FORMAT = "vidfeat-hdf5"  # the attribute `format` of a file that `vidfeat export` wrote


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        StoreError: no such file, or a damaged one.
    """
    import h5py

    if not os.path.isfile(path):
        raise StoreError(explain("there is no HDF5 file", where=path, fix="check the path"))
    try:
        with h5py.File(path, "r") as h5:
            yield h5
    except VidfeatError:
        raise  # already says what is wrong; some of these are OSErrors or KeyErrors too
    except (OSError, LookupError, RuntimeError, ValueError, TypeError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # of a file that is written meanwhile: h5py names none in its own errors
        raise StoreError(
            explain(
                "this HDF5 file is damaged, or is none",
                where=path,
                expected="a file written by `vidfeat export`, or one dataset per video",
                got=str(error).strip("'\""),
                fix="copy or export it again",
            )
        ) from error
