"""The decoding pool against a loader that is told when to be slow, fail, crash or hang."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from vidfeat.decode_pool import DecodePool
from vidfeat.decode_worker import (
    InlineDecoder,
    LoadedVideo,
    PixelRows,
    RingLayout,
    VideoDone,
    VideoFacts,
    VideoFailed,
    VideoTask,
)
from vidfeat.errors import DecodeError

SLOT_ROWS = 4
LAYOUT = RingLayout(n_slots=2, slot_rows=SLOT_ROWS, row_shape=(3, 2, 2), dtype="float32")


@dataclass(frozen=True)
class ScriptedLoader:
    """Makes a video of (position % 11) + 1 rows filled with its position; `path` says what goes wrong."""

    scratch: str = ""

    def load(self, task: VideoTask) -> LoadedVideo:
        n_rows = task.position % 11 + 1
        if task.path == "slow":
            time.sleep(0.2)
        if task.path == "bad":
            raise DecodeError("not a video", reason="invalid_data")
        if task.path == "surprise":
            raise KeyError("a bug in a decoder")
        facts = VideoFacts(n_rows, 100, 25.0, tuple(range(n_rows)), "", "scripted")
        return LoadedVideo(facts=facts, pieces=self._pieces(task, n_rows))

    def _pieces(self, task: VideoTask, n_rows: int) -> Iterator[np.ndarray]:
        for start in range(0, n_rows, SLOT_ROWS):
            if start and task.path in ("killed", "killed once"):
                self._die(task)
            if start and task.path == "hangs":
                time.sleep(3600)
            rows = np.arange(start, min(start + SLOT_ROWS, n_rows), dtype="float32")
            yield np.broadcast_to((1000 * task.position + rows)[:, None, None, None], (len(rows), 3, 2, 2))

    def _die(self, task: VideoTask) -> None:
        mark = os.path.join(self.scratch, f"died-{task.position}")
        if task.path == "killed once" and os.path.exists(mark):
            return
        with open(mark, "w"):
            pass
        os.kill(os.getpid(), signal.SIGKILL)


def tasks(n: int, trouble: dict[int, str] | None = None) -> list[VideoTask]:
    trouble = trouble or {}
    return [VideoTask(i, i, f"v{i}", trouble.get(i, "fine"), (0, 1)) for i in range(n)]


def collect(events) -> tuple[dict[int, np.ndarray], list[VideoDone | VideoFailed]]:
    """Rows by position, and the outcomes; checks the order on the way."""
    rows: dict[int, list[np.ndarray]] = {}
    outcomes: list[VideoDone | VideoFailed] = []
    for event in events:
        assert event.task.position == len(outcomes), (
            "a later task overtook an earlier one"
        )
        if isinstance(event, PixelRows):
            taken = rows.setdefault(event.task.position, [])
            assert event.first_row == sum(len(piece) for piece in taken)
            taken.append(event.pixels.copy())
        else:
            outcomes.append(event)
    return {position: np.concatenate(pieces)[:, 0, 0, 0] for position, pieces in rows.items()}, outcomes


def expected_rows(position: int) -> np.ndarray:
    return 1000 * position + np.arange(position % 11 + 1)


@pytest.fixture
def run(tmp_path):
    def run_pool(todo: list[VideoTask], n_workers: int = 3, timeout: float = 60.0):
        with DecodePool(ScriptedLoader(str(tmp_path)), LAYOUT, n_workers=n_workers, timeout_seconds=timeout) as pool:
            rows, outcomes = collect(pool.stream(todo, threading.Event()))
        return rows, outcomes, pool

    return run_pool


def test_rows_come_in_task_order_whatever_the_workers_speed(run):
    todo = tasks(40, {0: "slow", 7: "slow", 20: "slow"})
    rows, outcomes, _ = run(todo)
    assert [outcome.task.position for outcome in outcomes] == list(range(40))
    assert all(isinstance(outcome, VideoDone) for outcome in outcomes)
    for position, values in rows.items():
        np.testing.assert_array_equal(values, expected_rows(position))


@pytest.mark.parametrize("n_videos", [30, 300])
def test_slots_in_use_are_bounded_whatever_the_number_of_videos(run, n_videos):
    _, outcomes, pool = run(tasks(n_videos), n_workers=2)
    assert len(outcomes) == n_videos
    assert 0 < pool.max_slots_taken <= 2 * LAYOUT.n_slots


def test_a_bad_video_is_a_failure_and_the_rest_finishes(run):
    _, outcomes, _ = run(tasks(10, {3: "bad", 4: "surprise"}))
    assert [type(outcome) for outcome in outcomes].count(VideoDone) == 8
    assert outcomes[3] == VideoFailed(outcomes[3].task, "invalid_data", "not a video")
    assert "KeyError" in outcomes[4].detail


def test_a_worker_killed_once_costs_nothing(run):
    rows, outcomes, _ = run(tasks(25, {5: "killed once", 10: "killed once"}))
    assert all(isinstance(outcome, VideoDone) for outcome in outcomes)
    for position in range(25):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


@pytest.mark.parametrize("n_workers", [1, 3])
def test_a_video_that_kills_its_worker_twice_is_recorded(run, n_workers):
    rows, outcomes, _ = run(tasks(25, {5: "killed", 6: "killed", 20: "killed"}), n_workers=n_workers)
    failed = {outcome.task.position: outcome.reason for outcome in outcomes if isinstance(outcome, VideoFailed)}
    assert failed == {5: "out_of_memory", 6: "out_of_memory", 20: "out_of_memory"}
    for position in set(range(25)) - set(failed):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


def test_a_video_that_hangs_is_recorded(run):
    _, outcomes, _ = run(tasks(12, {5: "hangs"}), timeout=1.0)
    failed = {outcome.task.position: outcome.reason for outcome in outcomes if isinstance(outcome, VideoFailed)}
    assert failed == {5: "timeout"}


def test_without_processes_the_stream_is_the_same(run, tmp_path):
    todo = tasks(12, {3: "bad", 4: "surprise"})
    rows, outcomes = collect(InlineDecoder(ScriptedLoader(str(tmp_path))).stream(todo, threading.Event()))
    pooled_rows, pooled_outcomes, _ = run(todo)
    assert outcomes == pooled_outcomes
    assert rows.keys() == pooled_rows.keys()
    for position, values in rows.items():
        np.testing.assert_array_equal(values, pooled_rows[position])
