"""Sampling: properties that hold for every policy, and each formula against one written down independently."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vidfeat.video.sampling import SAMPLING_KINDS, SamplingPolicy, sample_indices, video_seed

COUNTS = st.integers(min_value=1, max_value=40)
LENGTHS = st.integers(min_value=1, max_value=5000)


@st.composite
def policies(draw: st.DrawFn) -> SamplingPolicy:
    kind = draw(st.sampled_from(SAMPLING_KINDS))
    if kind == "fps":
        return SamplingPolicy(kind, rate=draw(st.sampled_from([0.5, 1, 2, 3.7, 8, 15, 29.97, 30, 60])))
    if kind == "every-nth":
        return SamplingPolicy(kind, stride=draw(COUNTS))
    if kind == "dense":
        return SamplingPolicy(kind, n_frames=draw(COUNTS), stride=draw(COUNTS), n_clips=draw(COUNTS))
    return SamplingPolicy(kind, n_frames=draw(COUNTS))


@given(
    policy=policies(),
    n=LENGTHS,
    fps=st.sampled_from([1.0, 12.5, 23.976, 25.0, 30000 / 1001, 60.0]),
    seed=st.integers(0, 9),
)
@settings(max_examples=300, deadline=None)
def test_every_policy_stays_inside_the_video_and_moves_forward(
    policy: SamplingPolicy, n: int, fps: float, seed: int
) -> None:
    indices = sample_indices(policy, n_source_frames=n, fps=fps, seed=seed)

    assert indices.dtype == np.int64
    assert len(indices) >= 1
    assert indices.min() >= 0
    assert indices.max() < n
    windows = indices.reshape(policy.n_clips or 1, -1)
    assert (np.diff(windows, axis=1) >= 0).all()
    assert (np.diff(windows[:, 0]) >= 0).all()
    if policy.n_sampled is not None:
        assert len(indices) == policy.n_sampled


@given(policy=policies(), n=LENGTHS)
@settings(max_examples=100, deadline=None)
def test_the_same_policy_gives_the_same_frames_and_survives_json(policy: SamplingPolicy, n: int) -> None:
    again = SamplingPolicy.from_json(json.loads(json.dumps(policy.to_json())))

    assert again == policy
    first = sample_indices(policy, n_source_frames=n, fps=25.0, seed=3)
    np.testing.assert_array_equal(first, sample_indices(again, n_source_frames=n, fps=25.0, seed=3))


@given(n=LENGTHS, count=COUNTS)
@settings(deadline=None)
def test_uniform_takes_both_ends_and_equal_steps(n: int, count: int) -> None:
    indices = sample_indices(SamplingPolicy("uniform", n_frames=count), n_source_frames=n)

    if count == 1:
        assert indices.tolist() == [(n - 1) // 2]
    else:
        assert indices.tolist() == [Fraction(i * (n - 1), count - 1).__floor__() for i in range(count)]
        assert indices[0] == 0
        assert indices[-1] == n - 1


@given(n=LENGTHS, count=COUNTS, seed=st.integers(0, 1000))
@settings(deadline=None)
def test_segments_take_one_frame_of_each_segment(n: int, count: int, seed: int) -> None:
    edges = [Fraction(i * n, count) for i in range(count + 1)]
    middles = sample_indices(SamplingPolicy("segments-middle", n_frames=count), n_source_frames=n)
    firsts = sample_indices(SamplingPolicy("segments-first", n_frames=count), n_source_frames=n)
    drawn = sample_indices(SamplingPolicy("segments-random", n_frames=count), n_source_frames=n, seed=seed)

    assert middles.tolist() == [((low + high) / 2).__floor__() for low, high in pairwise(edges)]
    assert firsts.tolist() == [low.__floor__() for low in edges[:-1]]
    for index, (low, high) in zip(drawn.tolist(), pairwise(edges), strict=True):
        assert low.__floor__() <= index < max(high.__floor__(), low.__floor__() + 1)


def test_segments_middle_is_what_the_field_tests_with() -> None:
    # mmaction2, SampleFrames._get_test_clips with clip_len 1
    for n, count in [(250, 8), (300, 16), (97, 8), (31, 5), (8, 8)]:
        interval = n / count
        field = (np.arange(count) * interval + interval / 2.0).astype(np.int64)
        ours = sample_indices(SamplingPolicy("segments-middle", n_frames=count), n_source_frames=n)
        np.testing.assert_array_equal(ours, field)


def test_random_segments_reach_every_frame_and_follow_the_seed() -> None:
    policy = SamplingPolicy("segments-random", n_frames=4)
    draws = np.stack([sample_indices(policy, n_source_frames=22, seed=seed) for seed in range(400)])

    assert set(np.unique(draws)) == set(range(22))
    np.testing.assert_array_equal(draws[7], sample_indices(policy, n_source_frames=22, seed=7))
    # Each draw is uniform over 5 or 6 frames: 400 draws of a fair coin of 1/6 stay above 30 with probability 1 - 1e-6.
    assert min(np.bincount(draws.ravel(), minlength=22)) > 30


def test_short_videos_repeat_frames() -> None:
    assert sample_indices(SamplingPolicy("segments-middle", n_frames=8), n_source_frames=3).tolist() == [
        0,
        0,
        0,
        1,
        1,
        2,
        2,
        2,
    ]
    assert sample_indices(SamplingPolicy("segments-first", n_frames=6), n_source_frames=3).tolist() == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert sample_indices(SamplingPolicy("uniform", n_frames=4), n_source_frames=1).tolist() == [0, 0, 0, 0]
    dense = SamplingPolicy("dense", n_frames=4, stride=2, n_clips=2)
    assert sample_indices(dense, n_source_frames=3).tolist() == [0, 2, 2, 2, 0, 2, 2, 2]


@pytest.mark.parametrize(("fps", "rate"), [(30.0, 10.0), (25.0, 8.0), (30000 / 1001, 1.0), (24.0, 24.0), (10.0, 30.0)])
def test_fps_takes_the_frame_on_screen(fps: float, rate: float) -> None:
    n = 137
    indices = sample_indices(SamplingPolicy("fps", rate=rate), n_source_frames=n, fps=fps).tolist()

    exact_fps, exact_rate = Fraction(fps).limit_denominator(2000), Fraction(rate)
    expected = []
    k = 0
    while Fraction(k) / exact_rate < Fraction(n) / exact_fps:
        expected.append((k * exact_fps / exact_rate).__floor__())
        k += 1
    assert indices == expected


def test_dense_windows_spread_over_the_video() -> None:
    policy = SamplingPolicy("dense", n_frames=8, stride=4, n_clips=3)
    windows = sample_indices(policy, n_source_frames=129).reshape(3, 8)

    assert windows[:, 0].tolist() == [0, 50, 100]
    assert windows[-1, -1] == 128
    assert (np.diff(windows, axis=1) == 4).all()
    alone = SamplingPolicy("dense", n_frames=8, stride=4, n_clips=1)
    assert sample_indices(alone, n_source_frames=129)[0] == 50


def test_every_nth_counts_from_the_first_frame() -> None:
    assert sample_indices(SamplingPolicy("every-nth", stride=7), n_source_frames=22).tolist() == [0, 7, 14, 21]


@pytest.mark.parametrize("policy", [SamplingPolicy("uniform", n_frames=4), SamplingPolicy("every-nth", stride=2)])
def test_a_video_without_frames_is_refused(policy: SamplingPolicy) -> None:
    with pytest.raises(ValueError, match="without frames"):
        sample_indices(policy, n_source_frames=0)


def test_fps_sampling_needs_a_frame_rate() -> None:
    for fps in (0.0, float("nan"), -1.0):
        with pytest.raises(ValueError, match="frame rate"):
            sample_indices(SamplingPolicy("fps", rate=2), n_source_frames=10, fps=fps)


def test_all_problems_of_a_policy_are_named_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        SamplingPolicy("dense", n_frames=0, rate=2.0, stride=-1)
    for part in ("n_frames=0", "rate=2.0 has no meaning", "stride=-1", "n_clips is needed"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match="segments-middle"):
        SamplingPolicy("middle", n_frames=3)
    with pytest.raises(ValueError, match="positive integer"):
        SamplingPolicy("uniform", n_frames=True)
    with pytest.raises(ValueError, match="n_frame"):
        SamplingPolicy.from_json({"kind": "uniform", "n_frame": 3})


def test_video_seeds_differ_by_video_and_seed_and_never_change() -> None:
    assert video_seed(1, "a/b.mp4") == video_seed(1, "a/b.mp4")
    assert len({video_seed(seed, name) for seed in range(20) for name in ("a", "b", "1", "")}) == 80
    assert 0 <= video_seed(0, "x") < 2**63
    # Written down: a store's frames must not change with a release.
    assert video_seed(0, "clip.mp4") == 5606290899041013499
    drawn = sample_indices(SamplingPolicy("segments-random", n_frames=8), n_source_frames=250, seed=11)
    assert drawn.tolist() == [3, 46, 80, 93, 129, 184, 189, 222]
