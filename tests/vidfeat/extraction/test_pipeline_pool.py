"""The decoding pool against videos that are slow, fail, crash or hang."""

from __future__ import annotations

import errno
import os
import signal
import threading

import numpy as np
import pytest
from scripted_videos import LAYOUT, ScriptedLoader, expected_rows, tasks

from vidfeat.errors import VidfeatError
from vidfeat.extraction import pool as pool_module
from vidfeat.extraction import trouble as trouble_module
from vidfeat.extraction.channel import Stopped
from vidfeat.extraction.pool import DecodePool
from vidfeat.extraction.ring import RingMemory
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


def test_a_video_that_kills_its_worker_again_and_again_is_recorded(run):
    rows, outcomes, _ = run(tasks(25, {5: "killed", 6: "killed", 20: "killed"}), n_workers=3)
    failed = {outcome.task.position: outcome for outcome in outcomes if isinstance(outcome, VideoFailed)}
    assert {position: outcome.reason for position, outcome in failed.items()} == dict.fromkeys((5, 6, 20), "machine")
    assert "signal SIGKILL" in failed[5].detail
    for position in set(range(25)) - set(failed):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


def test_whatever_ends_a_worker_is_no_verdict_on_the_video(run):
    """A signal, and an exit that looks like success; the neighbours' rows are right all the same."""
    numbers = [signal.SIGBUS, signal.SIGTERM]
    trouble = {4 + i: f"signal {int(number)}" for i, number in enumerate(numbers)} | {6: "exits", 7: "surprise"}
    rows, outcomes, _ = run(tasks(20, trouble), n_workers=2)
    failed = {outcome.task.position: outcome for outcome in outcomes if isinstance(outcome, VideoFailed)}
    assert failed.keys() == trouble.keys()
    assert {outcome.reason for outcome in failed.values()} == {"machine"}
    for i, number in enumerate(numbers):
        assert f"signal {number.name}" in failed[4 + i].detail
    assert "exit code 0" in failed[6].detail
    assert "Traceback" in failed[7].detail
    for position in set(range(20)) - set(failed):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


def test_a_video_is_tried_in_a_fresh_process_and_then_alone(run):
    rows, outcomes, _ = run(tasks(20, {5: "twice", 6: "twice", 19: "twice"}), n_workers=2)
    assert all(isinstance(outcome, VideoDone) for outcome in outcomes)
    for position in range(20):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


def test_many_alike_in_a_row_stop_the_run_with_the_limit_and_the_way_out(run, tmp_path, monkeypatch):
    monkeypatch.setattr(trouble_module, "MAX_ALIKE", 2)
    todo = tasks(12, dict.fromkeys(range(6, 10), "no threads"))
    with pytest.raises(VidfeatError) as caught:
        run(todo, n_workers=2)
    for words in ("2 videos in a row", "pids.max", "--workers", "EAGAIN", "Traceback"):
        assert words in str(caught.value)
    with pytest.raises(VidfeatError, match="2 videos in a row"):
        collect(InlineDecoder(ScriptedLoader(str(tmp_path))).stream(todo, threading.Event()))


def test_a_few_alike_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(trouble_module, "MAX_ALIKE", 3)
    todo = tasks(12, dict.fromkeys((3, 4, 6, 7), "no threads") | {8: "surprise", 9: "bad", 10: "no threads"})
    _, outcomes = collect(InlineDecoder(ScriptedLoader(str(tmp_path))).stream(todo, threading.Event()))
    failed = [outcome.task.position for outcome in outcomes if isinstance(outcome, VideoFailed)]
    assert failed == [3, 4, 6, 7, 8, 9, 10]


def test_a_ring_that_does_not_fit_is_a_message(monkeypatch):
    """Without a reservation the worker's first write to a full disk is its death by SIGBUS."""

    def full(fd: int, start: int, n_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(VidfeatError) as caught:
        DecodePool(ScriptedLoader(), LAYOUT, n_workers=1, timeout_seconds=60)
    for words in ("no room", "/dev/shm", "--workers", "No space left", "TMPDIR"):
        assert words in str(caught.value)


def test_a_ring_is_reserved_to_its_last_byte(tmp_path):
    ring = RingMemory(3 << 20)
    assert os.fstat(ring._fd).st_blocks * 512 >= 3 << 20
    ring.close_file()
    ring.memory[-1] = 7
    assert ring.memory[-1] == 7


def test_a_system_that_gives_no_process_is_a_message(monkeypatch):
    def none(process: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", none)
    monkeypatch.setattr(pool_module, "START_PAUSE_SECONDS", 0.0)
    with pytest.raises(VidfeatError, match=r"process 1 of 2 cannot start(.|\n)*pids.max(.|\n)*--workers"):
        DecodePool(ScriptedLoader(), LAYOUT, n_workers=2, timeout_seconds=60)


@pytest.mark.long
def test_32_workers_and_thousands_of_videos_for_a_consumer_that_takes_no_time(run):
    rows, outcomes, _ = run(tasks(4000), n_workers=32)
    assert all(isinstance(outcome, VideoDone) for outcome in outcomes)
    assert len(rows) == 4000
    for position in range(4000):
        np.testing.assert_array_equal(rows[position], expected_rows(position))


def test_a_video_that_hangs_is_recorded(run):
    # Long enough for the others on a machine that has much else to do.
    _, outcomes, _ = run(tasks(12, {5: "hangs"}), timeout=5.0)
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
