"""The decoding pool against videos that are slow, fail, crash or hang."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scripted_videos import LAYOUT, ScriptedLoader, expected_rows, tasks

from vidfeat.extraction.channel import Stopped
from vidfeat.extraction.pool import DecodePool
from vidfeat.extraction.worker import InlineDecoder, PixelRows, VideoDone, VideoFailed, VideoTask


def collect(events) -> tuple[dict[int, np.ndarray], list[VideoDone | VideoFailed]]:
    """Rows by position, and the outcomes; checks the order on the way."""
    rows: dict[int, list[np.ndarray]] = {}
    outcomes: list[VideoDone | VideoFailed] = []
    for event in events:
        assert event.task.position == len(outcomes), "a later task overtook an earlier one"
        if isinstance(event, PixelRows):
            taken = rows.setdefault(event.task.position, [])
            assert event.first_row == sum(len(piece) for piece in taken)
            taken.append(event.pixels.copy())
        else:
            outcomes.append(event)
    return {position: np.concatenate(pieces)[:, 0, 0, 0] for position, pieces in rows.items()}, outcomes


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
    assert outcomes[:4] + outcomes[5:] == pooled_outcomes[:4] + pooled_outcomes[5:]
    assert outcomes[4].reason == pooled_outcomes[4].reason == "machine"
    assert "KeyError" in outcomes[4].detail
    assert rows.keys() == pooled_rows.keys()
    for position, values in rows.items():
        np.testing.assert_array_equal(values, pooled_rows[position])


def test_a_stop_event_ends_the_stream(tmp_path):
    stop = threading.Event()
    with DecodePool(ScriptedLoader(str(tmp_path)), LAYOUT, n_workers=1, timeout_seconds=60) as pool:
        stream = pool.stream(tasks(10, {0: "slow", 1: "hangs"}), stop)
        next(stream)
        stop.set()
        with pytest.raises(Stopped):
            list(stream)
