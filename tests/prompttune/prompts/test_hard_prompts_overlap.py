"""Overlap of a hard prompt's classes with a target's new classes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from prompttune.splits.class_overlap import class_overlap, normalise_class_name

LABELS = Path(__file__).resolve().parents[4] / "shared" / "splits" / "labels"


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("PlayingViolin", "playing violin"),
        ("playing_violin", "playing violin"),
        ("  Playing   violin.", "playing violin"),
        ("TaiChi", "tai chi"),
        ("push-up", "push up"),
        ("side kick (karate)", "side kick karate"),
        ("Picking [something] up", "picking something up"),
        ("YoYo", "yo yo"),
        ("TVShow", "tv show"),
        ("shooting goal (soccer)2", "shooting goal soccer 2"),
        ("driver's seat", "drivers seat"),
        ("Zumba", "zumba"),
        ("sauter à la corde", "sauter à la corde"),
        ("sauter a\u0300 la corde", "sauter à la corde"),
    ],
)
def test_names_are_normalised(name: str, normal: str) -> None:
    assert normalise_class_name(name) == normal


def test_kinds_of_overlap() -> None:
    report = class_overlap(
        ["playing violin", "skateboarding", "walking the dog", "hugging", "knitting"],
        ["PlayingViolin", "SkateBoarding", "WalkingWithDog", "hug", "Bowling"],
    )
    assert [(o.target, o.source, o.kind) for o in report.overlaps] == [
        ("PlayingViolin", "playing violin", "equal"),
        ("SkateBoarding", "skateboarding", "equal"),
        ("WalkingWithDog", "walking the dog", "same-words"),
        ("hug", "hugging", "same-words"),
    ]
    assert report.summary().startswith("4 of 5 classes are in the source (2 equal, 2 same-words): PlayingViolin")
    assert "hug ~ hugging" in report.summary()
    assert class_overlap(["a b"], ["c d"]).summary() == "none of 1 classes is in the source's 1"


def test_near_by_text_features_and_nearest_of_all() -> None:
    source, target = ["running", "cooking"], ["jogging", "chess", "Running"]
    features = F.normalize(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), dim=-1)
    wanted = F.normalize(torch.tensor([[1.0, 0.1, 0.0], [0.3, 0.5, 1.0], [1.0, 0.0, 0.0]]), dim=-1)
    report = class_overlap(source, target, source_features=features, target_features=wanted, threshold=0.95)
    assert [(o.target, o.source, o.kind) for o in report.overlaps] == [
        ("jogging", "running", "near"),
        ("Running", "running", "equal"),
    ]
    assert report.overlaps[0].cosine == pytest.approx(1 / 1.01**0.5, abs=1e-4)
    assert report.overlaps[1].cosine == pytest.approx(1.0)
    assert [o.target for o in report.nearest] == ["Running", "jogging", "chess"]
    strict = class_overlap(source, target, source_features=features, target_features=wanted, threshold=0.999)
    assert [o.kind for o in strict.overlaps] == ["equal"]


def test_features_must_be_given_for_both_and_for_every_name() -> None:
    with pytest.raises(ValueError, match="both sides"):
        class_overlap(["a"], ["b"], source_features=torch.ones(1, 1))
    with pytest.raises(ValueError, match="1 source and 1 target"):
        class_overlap(["a"], ["b"], source_features=torch.ones(2, 1), target_features=torch.ones(1, 1))
    assert class_overlap([], ["b"]).overlaps == ()


@pytest.mark.shared
@pytest.mark.skipif(not LABELS.is_dir(), reason="the shared label lists are absent")
@pytest.mark.parametrize(
    ("target", "n_equal", "some"),
    [
        # Counted by hand in the survey of GA2-CLIP's protocol: 13 of UCF's 50 novel names, 9 of its 51 base names,
        # none of HMDB's 25 novel names equal a Kinetics-400 name.
        ("ucf_101_novel_labels.csv", 13, {"PlayingViolin", "TaiChi", "SkyDiving", "SkateBoarding", "LongJump"}),
        ("ucf_101_base_labels.csv", 9, set()),
        ("hmdb_51_novel_labels.csv", 0, set()),
    ],
)
def test_kinetics_names_among_the_targets(target: str, n_equal: int, some: set[str]) -> None:
    def names(file: str) -> list[str]:
        with open(LABELS / file, newline="", encoding="utf-8") as lines:
            return [row["name"] for row in csv.DictReader(lines) if row["name"]]

    report = class_overlap(names("kinetics_400_labels.csv"), names(target))
    equal = {o.target for o in report.overlaps if o.kind == "equal"}
    assert len(equal) == n_equal
    assert some <= equal
