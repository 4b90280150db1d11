"""The crash matrix: the writer is killed at every step of the protocol in turn, then the same command is run again.

Whatever happened, no reader ever sees a half-written store, and the finished one is that of an uninterrupted run.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import small_store
from small_store import SmallStore, kill_at, tree

from vidfeat.errors import StoreCorruptError, StoreError, StoreIncompleteError, StoreNotFoundError
from vidfeat.store import StoreWriter, open_store, verify

WORLD = SmallStore(n_videos=7, n_views=1, dtype="int8")
MORE = SmallStore(n_videos=9, n_views=2, dtype="int8")
PROGRAM = small_store.__file__
STEPS = ("created", "writing", "synced", "renamed", "durable")
# The metadata and the index are some hundred small files, each written by the same steps. Killing a process at every
# step of every one would take minutes and show the same thing again, so the matrix keeps one step in this many.
METADATA_STRIDE = 41


@pytest.fixture
def tmp_path(tmp_path):
    """In memory where there is such a place: some hundred stores, each with a hundred fsyncs, are hard on a disk."""
    if not os.path.isdir("/dev/shm"):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


def steps_of(run):
    """(step, n) for every step of an uninterrupted run, n counting the occurrences of that step from 1."""
    seen, steps = Counter(), []

    def on_step(name):
        seen[name] += 1
        steps.append((name, seen[name]))

    run(on_step)
    return [step for number, step in enumerate(steps) if step[0][:8] != "metadata" or number % METADATA_STRIDE == 0]


def run_killed(run, step, count):
    """Runs it in a process of its own that SIGKILLs itself at that step."""
    process = multiprocessing.get_context("fork").Process(target=lambda: run(kill_at(step, count)))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL, f"{step} {count}: the step was never reached"


def check_nothing_half_written_is_readable(path):
    try:
        open_store(path)
    except (StoreIncompleteError, StoreNotFoundError):
        return
    verify(path, level="full").require_sound()


@pytest.mark.long
def test_a_store_killed_at_any_step_of_its_creation_is_the_same_in_the_end(tmp_path):
    steps = steps_of(lambda on_step: WORLD.extract(tmp_path / "whole.zarr", on_step=on_step))
    assert {name for name, _ in steps} >= {f"{w}:{s}" for w in ("plan", "shard", "record", "manifest") for s in STEPS}
    whole = tree(tmp_path / "whole.zarr")
    for number, (step, count) in enumerate(steps):
        path = tmp_path / f"{number}.zarr"
        run_killed(lambda on_step, path=path: WORLD.extract(path, on_step=on_step), step, count)
        check_nothing_half_written_is_readable(path)
        WORLD.extract(path)
        assert tree(path) == whole, (step, count)


@pytest.mark.long
def test_a_store_killed_at_any_step_of_its_extension_is_the_same_in_the_end(tmp_path):
    def start(path):
        WORLD.extract(path)
        return path

    steps = steps_of(lambda on_step: MORE.extract(start(tmp_path / "whole.zarr"), on_step=on_step))
    assert ("remove:manifest.json", 1) in steps
    whole = tree(tmp_path / "whole.zarr")
    for number, (step, count) in enumerate(steps[::2]):
        path = start(tmp_path / f"{number}.zarr")
        run_killed(lambda on_step, path=path: MORE.extract(path, on_step=on_step), step, count)
        check_nothing_half_written_is_readable(path)
        MORE.extract(path)
        assert tree(path) == whole, (step, count)


def test_a_repair_killed_at_any_step_can_be_repeated(tmp_path):
    def damaged(path):
        WORLD.extract(path)
        whole = tree(path)
        (path / "pooled/c.1.0").write_bytes(b"")
        return whole

    def repair(path, on_step=None):
        writer = StoreWriter.open(path, on_step=on_step)
        for unit in writer.repair(verify(path, level="full")):
            WORLD.commit(writer, unit)
        writer.finalize()

    damaged(tmp_path / "whole.zarr")
    steps = steps_of(lambda on_step: repair(tmp_path / "whole.zarr", on_step))
    assert any(name.startswith("remove:commits/") for name, _ in steps)
    for number, (step, count) in enumerate(steps[::2]):
        path = tmp_path / f"{number}.zarr"
        whole = damaged(path)
        run_killed(lambda on_step, path=path: repair(path, on_step), step, count)
        check_nothing_half_written_is_readable_but_the_damage(path)
        repair(path)
        assert tree(path) == whole, (step, count)


def check_nothing_half_written_is_readable_but_the_damage(path):
    try:
        open_store(path).rows("pooled", [3])
    except (StoreIncompleteError, StoreCorruptError):
        return
    verify(path, level="full").require_sound()


@pytest.mark.parametrize("step", ["shard:writing", "record:renamed", "manifest:synced"])
def test_the_program_itself_killed_and_run_again(step, tmp_path):
    WORLD.extract(tmp_path / "whole.zarr")
    options = json.dumps({"n_videos": 7, "n_views": 1, "dtype": "int8"})
    command = [sys.executable, PROGRAM, str(tmp_path / "X.zarr"), options]
    killed = subprocess.run([*command, step, "1"], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    subprocess.run([*command, "", "0"], check=True, capture_output=True)
    assert tree(tmp_path / "X.zarr") == tree(tmp_path / "whole.zarr")


def extract_after(started, path):
    started.set()
    RANDOM_TIMES.extract(path)


RANDOM_TIMES = SmallStore(n_videos=24, n_views=1, dtype="int8", max_unit_videos=2)


@pytest.mark.long
def test_a_writer_killed_at_random_times(tmp_path):
    begin = time.monotonic()
    RANDOM_TIMES.extract(tmp_path / "whole.zarr")
    duration = time.monotonic() - begin
    whole, rng, path, n_hits = tree(tmp_path / "whole.zarr"), random.Random(11), tmp_path / "X.zarr", 0
    context = multiprocessing.get_context("fork")
    for number in range(40):
        started = context.Event()
        process = context.Process(target=extract_after, args=(started, path))
        process.start()
        assert started.wait(60)
        time.sleep(rng.uniform(0, duration))
        os.kill(process.pid, rng.choice([signal.SIGKILL, signal.SIGTERM]))
        process.join(60)
        n_hits += process.exitcode < 0
        # Where a machine gets less busy, kills come too late: the next ones come sooner. Four in five hit.
        duration *= 1.05 if process.exitcode < 0 else 0.8
        check_nothing_half_written_is_readable(path)
        if number % 4 == 3:  # three kills further on each store, then it is finished and another begun
            RANDOM_TIMES.extract(path)
            assert tree(path) == whole
            path = tmp_path / f"{number}.zarr"
    assert n_hits >= 10, "hardly any kill hit a running writer"


@pytest.mark.parametrize("step", [f"{what}:{step}" for what in ("shard", "record", "manifest") for step in STEPS])
def test_ctrl_c_leaves_nothing_behind(step, tmp_path):
    def interrupt(name):
        if name == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        WORLD.extract(tmp_path / "X.zarr", on_step=interrupt)
    assert not [name for name in tree(tmp_path / "X.zarr") if name.endswith(".partial")]
    WORLD.extract(tmp_path / "X.zarr")
    WORLD.extract(tmp_path / "whole.zarr")
    assert tree(tmp_path / "X.zarr") == tree(tmp_path / "whole.zarr")


def extract_with_small_files(path, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        WORLD.extract(path)
    except StoreError as error:
        (path.parent / "message").write_text(str(error))
        os._exit(3)


@pytest.mark.parametrize("limit", [400, 900, 2500])
def test_no_room_left_is_one_message_and_can_be_resumed(limit, tmp_path):
    path = tmp_path / "X.zarr"
    process = multiprocessing.get_context("fork").Process(target=extract_with_small_files, args=(path, limit))
    process.start()
    process.join(60)
    assert process.exitcode == 3
    message = (tmp_path / "message").read_text()
    assert "no room to write" in message
    assert "run the same command again" in message
    assert not [name for name in tree(path) if name.endswith(".partial")]
    check_nothing_half_written_is_readable(path)
    WORLD.extract(path)
    WORLD.extract(tmp_path / "whole.zarr")
    assert tree(path) == tree(tmp_path / "whole.zarr")


@pytest.mark.parametrize("damage", [b"", b"half of it"])
def test_a_shard_lost_to_a_power_cut_is_not_finished_over(damage, tmp_path):
    path = tmp_path / "X.zarr"
    writer = StoreWriter.create(path, WORLD.spec, WORLD.videos)
    for unit in writer.plan_units():
        WORLD.commit(writer, unit)
    (path / "tokens/02/c.1.0.0").write_bytes(damage)
    with pytest.raises(StoreCorruptError, match=r"tokens/02/c\.1\.0\.0 \(unit 1\)"):
        writer.finalize()
    writer.repair(verify(path))
    WORLD.extract(path)
    WORLD.extract(tmp_path / "whole.zarr")
    assert tree(path) == tree(tmp_path / "whole.zarr")


def test_a_shard_without_a_record_is_not_part_of_the_store(tmp_path):
    path = tmp_path / "X.zarr"
    writer = StoreWriter.create(path, WORLD.spec, WORLD.videos)
    for unit in writer.plan_units():
        WORLD.commit(writer, unit)
    (path / writer.plan_units()[1].commit_path).unlink()
    (path / "pooled/c.1.0").write_bytes(b"anything")
    assert [unit.index for unit in StoreWriter.open(path).pending_units()] == [1]
    WORLD.extract(path)
    WORLD.extract(tmp_path / "whole.zarr")
    assert tree(path) == tree(tmp_path / "whole.zarr")


def test_the_coordinator_sweeps_stale_partial_files_and_a_worker_does_not(tmp_path):
    path = tmp_path / "X.zarr"
    writer = StoreWriter.create(path, WORLD.spec, WORLD.videos)
    stale = path / "pooled/.c.0.0.123-abcd.partial"
    stale.write_bytes(b"half")
    WORLD.commit(StoreWriter.attach(path), writer.plan_units()[0])
    assert stale.exists()
    StoreWriter.open(path)
    assert not stale.exists()


def commit_all(path, barrier):
    writer = StoreWriter.attach(path)
    for unit in writer.plan_units():
        barrier.wait(60)
        WORLD.commit(writer, unit)


def test_two_owners_of_every_unit_do_no_harm(tmp_path):
    path = tmp_path / "X.zarr"
    StoreWriter.create(path, WORLD.spec, WORLD.videos)
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    twins = [context.Process(target=commit_all, args=(path, barrier)) for _ in range(3)]
    for twin in twins:
        twin.start()
    for twin in twins:
        twin.join(60)
        assert twin.exitcode == 0
    WORLD.extract(path)
    WORLD.extract(tmp_path / "whole.zarr")
    assert tree(path) == tree(tmp_path / "whole.zarr")


def test_the_first_commit_wins_over_a_twin_with_other_numbers(tmp_path):
    path = tmp_path / "X.zarr"
    writer = StoreWriter.create(path, WORLD.spec, WORLD.videos)
    unit = writer.plan_units()[0]
    WORLD.commit(writer, unit)
    record, before = writer.record(unit), tree(path)
    facts = [WORLD.facts(index) for index in unit.video_indices]
    other = {tap: [WORLD.rows(tap, index, 0) + 1e-3 for index in unit.video_indices] for tap in unit.taps}
    assert StoreWriter.attach(Path(path)).commit(unit, other, facts) == record
    assert tree(path) == before


def test_a_damaged_record_gives_way_to_a_new_commit(tmp_path):
    path = tmp_path / "X.zarr"
    writer = StoreWriter.create(path, WORLD.spec, WORLD.videos)
    unit = writer.plan_units()[0]
    (path / unit.commit_path).parent.mkdir(exist_ok=True)
    (path / unit.commit_path).write_bytes(b"")
    with pytest.raises(StoreCorruptError):
        writer.record(unit)
    WORLD.commit(writer, unit)
    assert writer.record(unit) is not None
    np.testing.assert_array_equal(writer.record(unit).unit, 0)


def test_every_file_is_synced_before_its_name_and_every_name_before_the_record(tmp_path, monkeypatch):
    """What SIGKILL cannot show: the order in which things reach the disk, which is what a power cut respects."""
    synced, durable, waiting = set(), set(), {}

    def fsync(descriptor, real=os.fsync):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)
        synced.add(path)
        durable.update(waiting.pop(path, ()))

    def replace(source, target, real=os.replace):
        assert Path(source) in synced, f"{target} got its name before its bytes were on the disk"
        if Path(target).parent.name == "commits":
            shards = json.loads(Path(source).read_bytes())["files"]
            assert {path / name for name in shards} <= durable, "a record vouches for shards that may be lost"
        if Path(target).name == "manifest.json":
            on_disk = {file for file in path.rglob("*") if file.is_file() and file.suffix != ".partial"}
            assert on_disk - {path / "commits/.lock"} <= durable, "the manifest vouches for files that may be lost"
        real(source, target)
        waiting.setdefault(Path(target).parent, set()).add(Path(target))

    path = tmp_path / "X.zarr"
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    WORLD.extract(path)
    assert path / "manifest.json" in durable
    directories = {file.parent for file in path.rglob("*")}
    assert directories | {path.parent} <= synced, "a directory whose own entry may be lost"
