"""A store in an object store, through fsspec: "s3://bucket/X.zarr", "gs://...", "memory://...".

A PUT is atomic and durable, so it takes the place of temporary file, fsync and rename; an object is there whole or
not at all. There is no lock: two owners of one unit are harmless as long as they produce the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vidfeat.errors import StoreError, explain
from vidfeat.store.files import LOCK_PATH, Content, OnStep, Staged, ignore_step


class RemoteFiles:
    """A store below a URL that fsspec knows."""

    is_local = False

    def __init__(self, url: str, *, on_step: OnStep | None = None) -> None:
        self.url = url.rstrip("/")
        self._on_step = on_step or ignore_step
        self._process = 0
        self._open_system: Any = None
        self._root = ""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_system": None}  # connections belong to their process

    @property
    def _system(self) -> Any:
        """The fsspec file system of this process; its connections do not survive a fork."""
        if self._open_system is None or self._process != os.getpid():
            try:
                from fsspec.core import url_to_fs
            except ImportError as error:
                raise StoreError(
                    explain("remote stores need fsspec", where=self.url, fix='pip install "prompttune[s3]"')
                ) from error
            # No listing cache: other workers commit while this one looks.
            fresh = {"skip_instance_cache": self._open_system is not None or self._process not in (0, os.getpid())}
            try:
                self._open_system, self._root = url_to_fs(self.url, use_listings_cache=False, **fresh)
            except ImportError as error:
                raise StoreError(
                    explain("this kind of URL needs another package", where=self.url, got=error, fix="pip install s3fs")
                ) from error
            self._process = os.getpid()
        return self._open_system

    def _path(self, path: str) -> str:
        system = self._system  # sets the root
        assert system is not None
        return f"{self._root}/{path}" if path else self._root

    def read(self, path: str) -> bytes:
        """The bytes of one object. Raises: FileNotFoundError."""
        return self._system.cat_file(self._path(path))

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of those objects that exist, by path; requested together."""
        if not paths:
            return {}
        full = {self._path(path): path for path in paths}
        found = self._system.cat(list(full), on_error="return")
        wrong = [result for result in found.values() if isinstance(result, Exception)]
        for error in wrong:
            if not isinstance(error, FileNotFoundError):
                raise error
        return {full[name]: content for name, content in found.items() if isinstance(content, bytes)}

    def read_tail(self, path: str, n_bytes: int) -> bytes:
        """The last bytes of one object; fewer when it is shorter. Raises: FileNotFoundError."""
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(self._path(path))
        return self._system.cat_file(self._path(path), start=max(0, size - n_bytes), end=size) if size else b""

    def size(self, path: str) -> int | None:
        """Bytes of one object, None when there is none."""
        try:
            information = self._system.info(self._path(path))
        except FileNotFoundError:
            return None
        return information["size"] if information["type"] == "file" else None

    def write(self, path: str, content: Content, *, step: str) -> None:
        """Puts an object in place, whole or not at all."""
        self.publish([self.stage(path, content, step=step)])

    def stage(self, path: str, content: Content, *, step: str) -> Staged:
        """The object, still in memory: there is nothing to write before the PUT."""
        self._on_step(f"{step}:created")
        return Staged(path, step, content=content)

    def publish(self, staged: Sequence[Staged]) -> None:
        """One PUT per object, side by side."""
        self._system.pipe({self._path(one.path): bytes(one.content) for one in staged})
        for step in dict.fromkeys(one.step for one in staged):
            self._on_step(f"{step}:durable")

    def discard(self, staged: Staged) -> None:
        """Nothing to drop."""

    def remove(self, path: str) -> None:
        """Deletes an object; absent is fine."""
        try:
            self._system.rm_file(self._path(path))
        except FileNotFoundError:
            return
        self._on_step(f"remove:{path}")

    def listing(self, prefix: str = "") -> dict[str, int]:
        """Size of every object below `prefix`, by path."""
        try:
            found = self._system.find(self._path(prefix), detail=True)
        except FileNotFoundError:
            return {}
        cut = len(self._root) + 1
        sizes = {name[cut:]: information["size"] for name, information in found.items()}
        return {name: size for name, size in sizes.items() if name != LOCK_PATH}

    def sweep(self) -> list[str]:
        """Nothing: there are no partial objects."""
        return []

    @contextmanager
    def lock(self) -> Iterator[None]:
        """No lock: see the module's first lines."""
        yield
