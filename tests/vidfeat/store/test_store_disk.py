"""Disks that fill up, lose power, or belong to somebody else: at every system call, one message, and the same store."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_store import SmallStore, tree
from test_store_crash import check_nothing_half_written_is_readable

from vidfeat.errors import StoreError
from vidfeat.store import StoreWriter
from vidfeat.store.files import LocalFiles

WORLD = SmallStore(n_videos=5, n_views=1, dtype="int8")
CALLS = ("open", "mkdir", "write", "fsync", "replace")
# Metadata and index are a hundred small files written alike: every so many of their calls is enough.
STRIDE = 97
STORE = "X.zarr"


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as directory:
        yield Path(directory)


class Disk:
    """Stands in front of the system calls of the writer: notes them, and lets the one of a given number fail."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, failing: int | None = None, code: int = errno.ENOSPC
    ) -> None:
        self.calls: list[tuple[str, str]] = []
        for name in CALLS:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name), failing, code))

    def _wrapped(self, name, real, failing, code):
        def call(*arguments, **keywords):
            target = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else _path_of(arguments[0])
            made = name == "mkdir" and os.path.isdir(target)  # asking for a directory that is there takes no room
            if STORE in target and not made:
                self.calls.append((name, target))
                if len(self.calls) - 1 == failing:
                    raise OSError(code, os.strerror(code), target)
            return real(*arguments, **keywords)

        return call


def _path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def telling(calls: list[tuple[str, str]]) -> list[int]:
    """Numbers of the calls on plan, shards, records and manifest, and of some of the others."""
    alike = ("zarr.json", "/index/")
    return [n for n, (_, path) in enumerate(calls) if n % STRIDE == 0 or not any(part in path for part in alike)]


@pytest.mark.long
@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_a_disk_that_is_full_at_any_call_is_one_message_and_the_same_command_resumes(folder, monkeypatch):
    with monkeypatch.context() as patch:
        seen = Disk(patch).calls
        WORLD.extract(folder / f"whole-{STORE}")
    whole, numbers = tree(folder / f"whole-{STORE}"), telling(seen)
    assert {seen[number][0] for number in numbers} == set(CALLS)
    assert len(numbers) > 80
    for number in numbers:
        path = folder / f"{number:05d}-{STORE}"
        with monkeypatch.context() as patch:
            Disk(patch, failing=number)
            with pytest.raises(StoreError, match="no room to write") as caught:
                WORLD.extract(path)
        assert "run the same command again" in str(caught.value), seen[number]
        assert not [name for name in tree(path) if name.endswith(".partial")], seen[number]
        check_nothing_half_written_is_readable(path)
        WORLD.extract(path)
        assert tree(path) == whole, seen[number]


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("number", [0, 1, 30])
def test_a_disk_that_refuses_is_one_message_too(folder, monkeypatch, code, number):
    with monkeypatch.context() as patch:
        Disk(patch, failing=number, code=code)
        with pytest.raises(StoreError, match=r"(may not write there|file system refused)") as caught:
            WORLD.extract(folder / STORE)
    assert os.strerror(code) in str(caught.value)
    WORLD.extract(folder / STORE)


class Power:
    """What a disk holds for certain, and what it may hold, when the power goes off.

    A file's bytes are safe once it was fsynced, else it may come back empty; its name (and a removal) once its
    directory was fsynced, else either state may come back.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
        self._root = root
        self._synced: set[tuple[int, int]] = set()
        self._safe: dict[str, bytes] = {}
        self._waiting: dict[str, dict[str, bytes | None]] = {}
        self.images: dict[tuple[tuple[str, bytes], ...], str] = {}
        for name in ("fsync", "replace", "unlink"):
            monkeypatch.setattr(os, name, getattr(self, f"_{name}")(getattr(os, name)))

    def _fsync(self, real):
        def fsync(descriptor):
            real(descriptor)
            facts, path = os.fstat(descriptor), _path_of(descriptor)
            if not stat.S_ISDIR(facts.st_mode):
                self._synced.add((facts.st_dev, facts.st_ino))
            for name, content in self._waiting.pop(path, {}).items() if stat.S_ISDIR(facts.st_mode) else ():
                self._safe.pop(name, None)
                if content is not None:
                    self._safe[name] = content

        return fsync

    def _replace(self, real):
        def replace(source, target):
            facts = os.stat(source)
            content = Path(source).read_bytes() if (facts.st_dev, facts.st_ino) in self._synced else b""
            real(source, target)
            self._note(Path(target), content)

        return replace

    def _unlink(self, real):
        def unlink(path):
            real(path)
            if not os.fspath(path).endswith(".partial"):
                self._note(Path(path), None)

        return unlink

    def _note(self, path: Path, content: bytes | None) -> None:
        self._waiting.setdefault(str(path.parent), {})[path.relative_to(self._root).as_posix()] = content

    def cut(self, step: str) -> None:
        """Both extremes of what is left when the power goes now, with the temporary files empty."""
        partial = {path.relative_to(self._root).as_posix(): b"" for path in self._root.rglob(".*.partial")}
        changes = {name: content for names in self._waiting.values() for name, content in names.items()}
        done = {name: content for name, content in {**self._safe, **changes}.items() if content is not None}
        for image in (self._safe, {**done, **partial}):
            self.images.setdefault(tuple(sorted(image.items())), step)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_power_that_goes_at_any_step_leaves_nothing_wrong_to_read(folder, monkeypatch):
    source = folder / STORE
    with monkeypatch.context() as patch:
        power, steps = Power(patch, source), []

        def on_step(name: str) -> None:
            steps.append(name)
            if not name.startswith("metadata") or len(steps) % STRIDE == 0:
                power.cut(name)

        WORLD.extract(source, on_step=on_step)
        for unit in (0, 1):  # and what was committed is taken back and done again
            writer = StoreWriter.open(source, on_step=on_step)
            writer.discard([unit])
            WORLD.commit(writer, writer.plan_units()[unit])
            writer.finalize()
    whole = tree(source)
    assert len(power.images) > 40
    for number, (image, step) in enumerate(power.images.items()):
        path = folder / str(number)
        for name, content in image:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        check_nothing_half_written_is_readable(path)
        WORLD.extract(path)
        # The empty lock appears with the first commit; where none was left to do there is none.
        assert {"commits/.lock": b""} | tree(path) == whole, (step, sorted(name for name, _ in image))


def test_a_second_coordinator_that_sweeps_costs_a_commit_nothing(folder):
    WORLD.extract(folder / "whole.zarr")
    path, swept = folder / STORE, []

    def on_step(name: str) -> None:
        if name in ("shard:synced", "record:synced", "metadata:synced") and swept.count(name) < 1:
            swept.append(name)
            assert LocalFiles(path).sweep()

    WORLD.extract(path, on_step=on_step)
    assert swept == ["metadata:synced", "shard:synced", "record:synced"]
    assert tree(path) == tree(folder / "whole.zarr")


def test_a_file_that_is_swept_again_and_again_is_one_message(folder):
    path = folder / STORE
    with pytest.raises(StoreError, match=r"a temporary file of this process vanished[\s\S]*--units I/N"):
        WORLD.extract(path, on_step=lambda name: name == "shard:synced" and LocalFiles(path).sweep())
    WORLD.extract(path)


def test_what_killed_workers_left_is_gone_from_a_finished_store(folder):
    WORLD.extract(folder / "whole.zarr")
    writer = StoreWriter.create(folder / STORE, WORLD.spec, WORLD.videos)
    for unit in writer.plan_units():
        WORLD.commit(StoreWriter.attach(folder / STORE), unit)
    (folder / STORE / "pooled/.c.0.0.123-abcd.partial").write_bytes(b"half")
    writer.finalize()
    assert tree(folder / STORE) == tree(folder / "whole.zarr")
