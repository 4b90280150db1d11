"""Tensors on disk: safetensors with a JSON document in the header, written whole or not at all, never pickle."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from torch import Tensor

from prompttune.errors import PrompttuneError, explain

_DOCUMENT = "document"


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor], document: Mapping[str, Any]) -> None:
    """Writes tensors and a JSON document to one file: temporary file, fsync, rename."""
    from safetensors.torch import save

    content = save(
        {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
        metadata={_DOCUMENT: json.dumps(document, ensure_ascii=False, sort_keys=True)},
    )
    write_bytes(Path(path), content)


def write_bytes(target: Path, content: bytes) -> None:
    """Writes a file that is either as it was or complete, and the folders it lies in.

    Raises:
        OSError: it cannot be written; of the file that was asked for, whichever one was at fault.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with _blamed_on(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
    finally:
        with suppress(OSError):
            temporary.unlink()


def require_writable(target: Path) -> None:
    """Finds out now, not when what belongs into a file is computed, that it cannot be written; leaves nothing behind.

    Raises:
        OSError: nothing can be written in its folder, or in the nearest one above that is there.
    """
    with _blamed_on(target):
        folder = next(folder for folder in target.absolute().parents if folder.exists())
        with TemporaryFile(dir=folder):
            pass


@contextmanager
def _blamed_on(target: Path) -> Iterator[None]:
    """Errors of the system name the file that somebody asked for."""
    try:
        yield
    except FileExistsError as error:  # what mkdir says of a file where a folder should be
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), os.fspath(target)) from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(target)) from error


def read_tensors(
    path: str | os.PathLike[str], *, kind: str, error: type[PrompttuneError]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the document of a file that `write_tensors` wrote.

    Args:
        kind: the document's "format", and what messages call the file.
        error: raised for a file that is missing, damaged or of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), framework="pt") as file:
            document = json.loads((file.metadata() or {}).get(_DOCUMENT, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError, ValueError) as problem:
        raise error(_unreadable(Path(path), kind, problem)) from None
    if not isinstance(document, dict) or document.get("format") != kind:
        found = document.get("format") if isinstance(document, dict) else "safetensors of another origin"
        raise error(explain(f"this is not a {kind}", where=path, expected=kind, got=found))
    return tensors, document


def _unreadable(path: Path, kind: str, problem: Exception) -> str:
    if path.is_dir():
        return explain(f"a {kind} is a file", where=path, got="a folder", fix=f"one of {path}/**/*.safetensors")
    if not path.exists():
        return explain(f"there is no {kind} here", where=path)
    return explain(f"this {kind} cannot be read", where=path, got=problem)
