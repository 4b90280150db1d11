"""Extractions that are killed, terminated and interrupted: the same command resumes to the same bytes."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from extraction_process import VidfeatProcess
from small_extraction import digests, write_tiny_clip, write_videos

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform == "win32", reason="process groups are POSIX")]
N_KILLS = {0: 10, 2: 4}


@pytest.fixture(scope="module")
def process() -> Iterator[VidfeatProcess]:
    process = VidfeatProcess()
    yield process
    process.close()


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[object]:
    """`extract SOURCE` and the flags for 8 units of two videos."""
    clip = write_tiny_clip(tmp_path_factory.mktemp("clip"))
    videos = write_videos(tmp_path_factory.mktemp("videos"), 16)
    model = ["--model-config", clip.model_config, "--weights", clip.weights, "--device", "cpu"]
    two_videos_mb = 2 * 4 * 5 * 32 * 2 / 2**20  # videos x frames x tokens x width x bytes
    return ["extract", videos, *model, "--frames", 4, "--taps", "pooled,tokens@1", "--shard-mb", two_videos_mb]


@pytest.fixture(scope="module")
def whole(process, command, tmp_path_factory) -> tuple[dict[str, str], float]:
    """The bytes of a store that nobody interrupted, and how long that took."""
    folder = tmp_path_factory.mktemp("whole")
    done = process.run(*command, "--out", folder / "X.zarr", "--workers", 0, log=str(folder / "log"))
    assert done["code"] == 0, done["output"]
    return digests(folder / "X.zarr"), done["seconds"]


def test_the_plan_has_several_units(whole):
    assert len([name for name in whole[0] if name.startswith("commits/")]) > 5


@pytest.mark.parametrize("workers", [0, 2])
def test_sigkill_of_the_whole_group_at_random_times(process, command, whole, tmp_path, workers):
    seed = random.randrange(10**6)
    generator = random.Random(seed)
    expected, seconds = whole
    n_killed = n_finished = 0
    longest = seconds * (1.2 if workers == 0 else 2.5)
    while n_killed < N_KILLS[workers] or not n_finished:
        out = tmp_path / f"{n_finished}.zarr"
        # After enough kills the last store may run to its end.
        kill_after = generator.uniform(0.02, longest) if n_killed < N_KILLS[workers] else None
        flags = ["--out", out, "--workers", workers]
        ended = process.run(*command, *flags, kill_after=kill_after, log=str(tmp_path / "log"))
        if ended["code"] == -signal.SIGKILL:
            n_killed += 1
            continue
        assert ended["code"] == 0, f"seed {seed}: {ended['output']}"
        assert digests(out) == expected, f"seed {seed}"
        n_finished += 1


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2)])
def test_a_signal_leaves_a_resumable_store_and_says_how(process, command, whole, tmp_path, number, workers):
    out = tmp_path / "X.zarr"
    arguments = [*command, "--out", out, "--workers", workers]
    log = str(tmp_path / "log")
    at = str(out / "commits" / "unit-0000001.json")
    ended = process.run(*arguments, signal_at=at, signal_number=int(number), commit_delay=0.2, log=log)
    assert ended["code"] == 130, ended["output"]
    assert "Traceback" not in ended["output"]
    assert "To resume:\n  vidfeat extract" in ended["output"]
    assert str(out) in ended["output"]
    n_committed = len(list((out / "commits").glob("*.json")))
    assert 2 <= n_committed < len([name for name in whole[0] if name.startswith("commits/")])
    resumed = process.run(*arguments, log=log)
    assert resumed["code"] == 0, resumed["output"]
    assert digests(out) == whole[0]


def processes_of(session: int) -> list[int]:
    """The processes of a session that still run."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(entry.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_when_the_main_process_is_killed_alone(process, command, tmp_path):
    out = tmp_path / "X.zarr"
    at = str(out / "commits" / "unit-0000000.json")
    how = {"signal_at": at, "signal_number": int(signal.SIGKILL), "commit_delay": 0.2, "log": str(tmp_path / "log")}
    ended = process.run(*command, "--out", out, "--workers", 2, **how)
    assert ended["code"] == -signal.SIGKILL
    deadline = time.monotonic() + 60
    while left := processes_of(ended["session"]):
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)
