"""Decoding where the system gives hardly more processes and threads than there are workers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import video_files as vf

# A process, two workers, multiprocessing's own, and a few to spare: one thread a frame is more.
MAX_TASKS = 14
SCRIPT = """
import sys, threading
from vidfeat.extraction.pool import DecodePool
from vidfeat.extraction.recipe import SLOT_ROWS, Recipe
from vidfeat.extraction.ring import RingLayout
from vidfeat.extraction.worker import PixelRows, VideoDone, VideoTask
from vidfeat.video.preprocess import Preprocess
from vidfeat.video.sampling import SamplingPolicy

if __name__ == "__main__":
    recipe = Recipe(Preprocess(32, mean=(0.5,) * 3, std=(0.5,) * 3), SamplingPolicy("uniform", n_frames=32))
    layout = RingLayout(n_slots=8, slot_rows=SLOT_ROWS, row_shape=recipe.row_shape, dtype="uint8")
    tasks = [VideoTask(i, i, path, path, (0, 1)) for i, path in enumerate(sys.argv[1:])]
    with DecodePool(recipe, layout, n_workers=2, timeout_seconds=60) as pool:
        events = list(pool.stream(tasks, threading.Event()))
    outcomes = [event for event in events if not isinstance(event, PixelRows)]
    assert [type(outcome) for outcome in outcomes] == [VideoDone] * len(tasks), outcomes
"""


@pytest.fixture
def limited() -> Iterator[Path]:
    """A control group whose processes may be MAX_TASKS threads in all."""
    root = "/sys/fs/cgroup/pids" if os.path.isdir("/sys/fs/cgroup/pids") else "/sys/fs/cgroup"
    group = Path(root, f"vidfeat-test-{os.getpid()}")
    try:
        group.mkdir()
        (group / "pids.max").write_text(str(MAX_TASKS))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no limit on processes may be set here: {error}")
    yield group
    group.rmdir()


def test_every_video_is_read_under_a_limit_on_processes(tmp_path: Path, limited: Path) -> None:
    paths = [vf.write_video(tmp_path / f"{number}.mp4", n_frames=40) for number in range(6)]
    script = tmp_path / "decode.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, *paths],
        env={**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")},
        preexec_fn=lambda: (limited / "cgroup.procs").write_text(str(os.getpid())),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
