"""Where a store's files live. `LocalFiles` writes so that a file is either absent or whole, also after a power loss.

Paths are relative to the store's root, with '/' between their parts. `on_step` is called with the name of every step of
every durable write ("shard:written", "record:synced", ...): the crash matrix kills the process there.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from filelock import FileLock

from vidfeat.errors import StoreError, explain

OnStep = Callable[[str], None]
Content = bytes | bytearray | memoryview
PARTIAL_SUFFIX = ".partial"
LOCK_PATH = "commits/.lock"
# A commit holds the lock for the renames and fsyncs of one unit, some milliseconds.
LOCK_POLL_SECONDS = 0.005
_PIECE_BYTES = 8 * 2**20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
# How often a file is written anew whose temporary file another process has swept.
WRITE_ATTEMPTS = 3


def ignore_step(step: str) -> None:
    """The step callback of ordinary use; a function of a module, so that what holds it can be pickled."""


@dataclass(frozen=True)
class Staged:
    """A file that is ready to appear under its path, and does not yet."""

    path: str
    step: str
    partial: Path | None = None
    content: Content = b""


class StagedFileLost(StoreError):
    """The temporary file of a staged one is gone: a second coordinator has swept it. Staging it again is right."""


class Files(Protocol):
    """The few operations a store needs from a file system or an object store."""

    url: str
    is_local: bool

    def read(self, path: str) -> bytes: ...
    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]: ...
    def read_tail(self, path: str, n_bytes: int) -> bytes: ...
    def size(self, path: str) -> int | None: ...
    def write(self, path: str, content: Content, *, step: str) -> None: ...
    def stage(self, path: str, content: Content, *, step: str) -> Staged: ...
    def publish(self, staged: Sequence[Staged]) -> None: ...
    def discard(self, staged: Staged) -> None: ...
    def remove(self, path: str) -> None: ...
    def listing(self, prefix: str = "") -> dict[str, int]: ...
    def sweep(self) -> list[str]: ...
    def lock(self) -> AbstractContextManager[None]: ...


class LocalFiles:
    """A store in a directory of a POSIX file system."""

    is_local = True

    def __init__(self, root: Path, *, on_step: OnStep | None = None) -> None:
        self.root = root
        self.url = str(root)
        self._on_step = on_step or ignore_step

    def read(self, path: str) -> bytes:
        """The bytes of one file. Raises: FileNotFoundError."""
        return (self.root / path).read_bytes()

    def read_many(self, paths: Sequence[str]) -> dict[str, bytes]:
        """The bytes of those files that exist, by path."""
        found = {}
        for path in paths:
            with suppress(FileNotFoundError):
                found[path] = self.read(path)
        return found

    def read_tail(self, path: str, n_bytes: int) -> bytes:
        """The last bytes of one file; fewer when it is shorter. Raises: FileNotFoundError."""
        with open(self.root / path, "rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - n_bytes))
            return handle.read()

    def size(self, path: str) -> int | None:
        """Bytes of one file, None when there is none."""
        try:
            return (self.root / path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: Content, *, step: str) -> None:
        """Puts a file in place, whole or not at all, and on the disk when this returns.

        Temporary file in the same directory, fsync, rename, fsync of the directory. On any exception the temporary file
        is removed; after a kill `sweep` removes it.

        Raises:
            StoreError: no space (or quota, or file size limit) left, or no right to write there; nothing was changed.
        """
        for attempt in range(WRITE_ATTEMPTS):
            staged = self.stage(path, content, step=step)
            try:
                return self.publish([staged])
            except StagedFileLost:
                if attempt == WRITE_ATTEMPTS - 1:
                    raise
            finally:
                self.discard(staged)

    def stage(self, path: str, content: Content, *, step: str) -> Staged:
        """The slow half of `write`: the temporary file, written and fsynced. Raises as `write` does."""
        target = self.root / path
        partial = target.parent / f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL_SUFFIX}"
        try:
            self._make_directory(target.parent)
            self._write_synced(partial, content, step)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink()
            if isinstance(error, OSError):
                raise _cannot_write(target, len(content), error) from error
            raise
        return Staged(path, step, partial)

    def publish(self, staged: Sequence[Staged]) -> None:
        """The quick half of `write`, for several files at once: renames, then an fsync of each of their directories.

        Raises:
            StagedFileLost: a temporary file is no longer there.
            StoreError: as `write`.
        """
        for one in staged:
            assert one.partial is not None
            try:
                os.replace(one.partial, self.root / one.path)
            except FileNotFoundError as error:
                raise _swept(one.partial) from error
            except OSError as error:
                raise _cannot_write(self.root / one.path, 0, error) from error
            self._on_step(f"{one.step}:renamed")
        for directory in dict.fromkeys((self.root / one.path).parent for one in staged):
            try:
                _sync_directory(directory)
            except OSError as error:
                raise _cannot_write(directory, 0, error) from error
        for step in dict.fromkeys(one.step for one in staged):
            self._on_step(f"{step}:durable")

    def discard(self, staged: Staged) -> None:
        """Drops a staged file that will not be published."""
        assert staged.partial is not None
        staged.partial.unlink(missing_ok=True)

    def _write_synced(self, partial: Path, content: Content, step: str) -> None:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            self._on_step(f"{step}:created")
            view = memoryview(content)
            # At least two pieces, so that a crash in the middle of a write can be rehearsed on small stores too.
            piece = max(1, min(_PIECE_BYTES, (len(view) + 1) // 2))
            while view:
                view = view[os.write(descriptor, view[:piece]) :]
                self._on_step(f"{step}:writing")
            os.fsync(descriptor)
            self._on_step(f"{step}:synced")
        finally:
            os.close(descriptor)

    def _make_directory(self, directory: Path) -> None:
        missing = []
        while not directory.is_dir():
            missing.append(directory)
            directory = directory.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            _sync_directory(path.parent)

    def remove(self, path: str) -> None:
        """Takes a file away durably; absent is fine. Raises: StoreError."""
        target = self.root / path
        try:
            target.unlink()
            _sync_directory(target.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _cannot_write(target, 0, error) from error
        self._on_step(f"remove:{path}")

    def listing(self, prefix: str = "") -> dict[str, int]:
        """Size of every file below `prefix` (a directory), by path; partial files and the lock are not counted."""
        found = {}
        for directory, _, names in os.walk(self.root / prefix):
            for name in names:
                path = Path(directory, name)
                relative = path.relative_to(self.root).as_posix()
                if not _is_partial(name) and relative != LOCK_PATH:
                    found[relative] = path.stat().st_size
        return found

    def sweep(self) -> list[str]:
        """Removes what killed writers left behind, and names it. Only for the one coordinator, before workers
        start or when no unit is left to write."""
        swept = []
        for directory, _, names in os.walk(self.root):
            for name in filter(_is_partial, names):
                path = Path(directory, name)
                path.unlink(missing_ok=True)
                swept.append(path.relative_to(self.root).as_posix())
        return sorted(swept)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Held while one unit is published, so that two owners of it (a zombie and its retry) cannot mix their files.

        A file system without locks is no error: two commits of the same bytes do no harm in any order.
        """
        path = self.root / LOCK_PATH
        lock = FileLock(path, poll_interval=LOCK_POLL_SECONDS, fallback_to_soft=False)
        with ExitStack() as held:
            try:
                self._make_directory(path.parent)
                held.enter_context(lock)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise _cannot_write(path, 0, error) from error
            yield


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(PARTIAL_SUFFIX)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(target: Path, n_bytes: int, error: OSError) -> StoreError:
    """What the operating system said, as the one message that says what to do about it."""
    if error.errno in _NO_SPACE:
        what, expected = (
            "no room to write a file of the store",
            f"{n_bytes} free bytes" if n_bytes else "some free bytes",
        )
        fix = "free some space and run the same command again: what was committed is kept"
    elif error.errno in _NOT_ALLOWED:
        what, expected = "this process may not write there", "a directory that it can write to"
        fix = "give another --out, or the rights to this one (a store that is only read needs none)"
    else:
        what, expected = "the file system refused to write a file of the store", "a write that succeeds"
        fix = "look at the disk or the mount, then run the same command again: what was committed is kept"
    return StoreError(explain(what, where=target, expected=expected, got=error.strerror or error, fix=fix))


def _swept(partial: Path) -> StagedFileLost:
    return StagedFileLost(
        explain(
            "a temporary file of this process vanished",
            where=partial,
            got="no such file: another process opened the store as its coordinator meanwhile, and swept",
            fix="run one extract per store, or a job array with --units I/N; the same command resumes",
        )
    )
