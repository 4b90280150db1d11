"""From pixel rows to committed units: what is encoded, in which batches, and what happens when something goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from scripted_videos import LAYOUT, ROW_SHAPE, ScriptedLoader, expected_rows, n_rows_of, tasks

from vidfeat.extraction.meter import Meter
from vidfeat.extraction.pipeline import N_IN_FLIGHT, Stages, UnitResult, UnitWork, run_pipeline
from vidfeat.extraction.pool import DecodePool
from vidfeat.extraction.worker import InlineDecoder, VideoDone, VideoFailed
from vidfeat.store.spec import TapSpec

TAP = TapSpec("pooled", (2,), "float32")
BATCH = 5


@dataclass
class Recorder:
    """An encoder and a committer that keep what they are given; `batches` are the first pixels of each row."""

    batches: list[np.ndarray] = field(default_factory=list)
    units: list[UnitResult] = field(default_factory=list)
    poison: float | None = None
    poisoned: float = np.nan

    def begin(self, pixels: np.ndarray) -> Callable[[], dict[str, np.ndarray]]:
        """Nothing is done before it is asked for: whatever else is put into `pixels` by then would be encoded."""
        return lambda: self.encode(pixels)

    def encode(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        values = pixels[:, 0, 0, 0].copy()
        self.batches.append(values)
        features = np.stack([values, -values - 1], axis=1)
        if self.poison is not None:
            features[values == self.poison] = self.poisoned
        return {"pooled": features}

    def commit(self, result: UnitResult) -> None:
        self.units.append(result)

    def run(self, todo, *, unit_videos: int = 7, pixels=None, max_rows: int = 100, commit=None) -> Meter:
        works = [
            UnitWork(f"unit {start}", tuple(todo[start : start + unit_videos]), (TAP,), max_rows)
            for start in range(0, len(todo), unit_videos)
        ]
        meter = Meter()
        stages = Stages(self.begin, commit or self.commit, batch_frames=BATCH, row_shape=ROW_SHAPE, row_dtype="float32")
        run_pipeline(works, pixels or InlineDecoder(ScriptedLoader()), stages, meter)
        return meter


def committed(recorder: Recorder) -> np.ndarray:
    return np.concatenate([unit.taps["pooled"][:, 0] for unit in recorder.units])


def test_every_row_arrives_once_and_in_order():
    recorder = Recorder()
    recorder.run(tasks(40))
    np.testing.assert_array_equal(committed(recorder), np.concatenate([expected_rows(i) for i in range(40)]))
    assert [len(unit.outcomes) for unit in recorder.units] == [7, 7, 7, 7, 7, 5]


def test_batches_are_under_way_together_and_bounded():
    recorder, under_way, most = Recorder(), [0], [0]

    def begin(pixels):
        under_way[0] += 1
        most[0] = max(most[0], under_way[0])

        def finish():
            under_way[0] -= 1
            return recorder.encode(pixels)

        return finish

    recorder.begin = begin
    recorder.run(tasks(40))
    assert (under_way[0], most[0]) == (0, N_IN_FLIGHT)
    np.testing.assert_array_equal(committed(recorder), np.concatenate([expected_rows(i) for i in range(40)]))


def test_batches_are_full_but_for_the_last_of_a_unit():
    recorder = Recorder()
    recorder.run(tasks(40))
    expected = []
    for start in range(0, 40, 7):
        rows = sum(n_rows_of(i) for i in range(start, min(start + 7, 40)))
        expected += [BATCH] * (rows // BATCH) + ([rows % BATCH] if rows % BATCH else [])
    assert [len(batch) for batch in recorder.batches] == expected


@pytest.mark.parametrize("n_workers", [1, 3])
def test_batches_do_not_depend_on_who_decodes_or_how_fast(tmp_path, n_workers):
    plain, pooled = Recorder(), Recorder()
    todo = tasks(30, {2: "slow", 9: "slow", 11: "bad", 16: "killed once", 20: "slow"})
    plain.run(tasks(30, {11: "bad"}))
    with DecodePool(ScriptedLoader(str(tmp_path)), LAYOUT, n_workers=n_workers, timeout_seconds=60) as pool:
        pooled.run(todo, pixels=pool)
    assert len(plain.batches) == len(pooled.batches)
    for one, other in zip(plain.batches, pooled.batches, strict=True):
        np.testing.assert_array_equal(one, other)


def test_failed_videos_leave_no_rows():
    recorder = Recorder()
    recorder.run(tasks(20, {3: "bad", 6: "bad later", 9: "surprise", 19: "bad later"}))
    good = [i for i in range(20) if i not in (3, 6, 9, 19)]
    np.testing.assert_array_equal(committed(recorder), np.concatenate([expected_rows(i) for i in good]))
    outcomes = [outcome for unit in recorder.units for outcome in unit.outcomes]
    failed = {o.task.position: o.reason for o in outcomes if isinstance(o, VideoFailed)}
    assert failed == {3: "invalid_data", 6: "truncated", 9: "machine", 19: "truncated"}


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30, 1e-30])
def test_values_that_point_nowhere_fail_their_video_alone(value):
    recorder = Recorder(poison=5001.0, poisoned=value)  # the second row of video 5
    recorder.run(tasks(10))
    good = [i for i in range(10) if i != 5]
    np.testing.assert_array_equal(committed(recorder), np.concatenate([expected_rows(i) for i in good]))
    outcome = recorder.units[0].outcomes[5]
    assert isinstance(outcome, VideoFailed)
    assert outcome.reason == "non_finite"
    assert "pooled" in outcome.detail


def test_a_failed_videos_bad_values_do_not_stick_to_the_next_one():
    # Video 6 delivers rows 6000..6003, then fails; video 7 takes their places.
    recorder = Recorder(poison=6001.0)
    recorder.run(tasks(10, {6: "bad later"}), unit_videos=10)
    outcomes = recorder.units[0].outcomes
    assert [i for i, outcome in enumerate(outcomes) if isinstance(outcome, VideoFailed)] == [6]


def test_a_video_longer_than_its_unit_has_room_for_is_a_failure():
    recorder = Recorder()
    recorder.run(tasks(11), unit_videos=11, max_rows=60)  # 66 rows in all: the last video's 11 do not fit
    outcomes = recorder.units[0].outcomes
    assert [type(outcome) for outcome in outcomes] == [VideoDone] * 10 + [VideoFailed]
    np.testing.assert_array_equal(committed(recorder), np.concatenate([expected_rows(i) for i in range(10)]))


@pytest.mark.parametrize("n_videos", [70, 700])
def test_frames_in_flight_are_bounded_whatever_the_number_of_videos(n_videos):
    recorder = Recorder()

    def slow_commit(result: UnitResult) -> None:
        time.sleep(0.002)

    meter = recorder.run(tasks(n_videos), commit=slow_commit)
    # Units of at most 7 x 11 rows: one being filled, one in each of three hands, one waiting; and the staging batches.
    assert 0 < meter.max_frames_in_flight <= 5 * 77 + 3 * BATCH
    assert meter.read().n_frames == sum(n_rows_of(i) for i in range(n_videos))


def test_nothing_is_left_in_flight():
    recorder = Recorder(poison=5001.0)
    meter = recorder.run(tasks(40, {3: "bad", 6: "bad later"}))
    assert meter._counts.in_flight == 0


@pytest.mark.parametrize("stage", ["encode", "commit"])
def test_an_error_in_a_stage_ends_the_run_with_that_error(stage, monkeypatch):
    recorder = Recorder()

    def broken(_: object) -> None:
        raise RuntimeError(f"broken {stage}")

    if stage == "encode":
        monkeypatch.setattr(recorder, "encode", broken)
    before = threading.active_count()
    with pytest.raises(RuntimeError, match=f"broken {stage}"):
        recorder.run(tasks(100), commit=broken if stage == "commit" else None)
    assert threading.active_count() == before


def test_an_interrupt_keeps_what_was_committed(monkeypatch):
    recorder = Recorder()
    plain_encode = recorder.encode

    def encode(pixels: np.ndarray) -> dict[str, np.ndarray]:
        if len(recorder.units) == 2:
            raise KeyboardInterrupt
        time.sleep(0.001)
        return plain_encode(pixels)

    monkeypatch.setattr(recorder, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        recorder.run(tasks(200))
    assert 2 <= len(recorder.units) < 29
    assert [unit.work.unit for unit in recorder.units] == [f"unit {7 * i}" for i in range(len(recorder.units))]


def test_the_meter_names_the_stage_the_encoder_waits_for():
    recorder = Recorder()
    meter = recorder.run(tasks(12, dict.fromkeys(range(12), "slow")))
    assert meter.read().bottleneck == "decode"

    def slow_commit(result: UnitResult) -> None:
        time.sleep(0.15)

    meter = Recorder().run(tasks(100), commit=slow_commit)
    assert meter.read().bottleneck == "write"
