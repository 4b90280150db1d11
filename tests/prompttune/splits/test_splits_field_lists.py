"""The field's own split lists (../shared/splits) import whole: the published counts, none of the accidents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prompttune.errors import SplitError
from prompttune.evaluation.split_checks import CheckInputs, check_split, foreign_names
from prompttune.splits.class_files import read_class_file
from prompttune.splits.file import SplitFile, TestPart, n_videos, structure_problems, video_ids
from prompttune.splits.importing import ListPair, import_lists, named_draws, named_tests
from prompttune.splits.lists import read_video_list, videos_by_class
from prompttune.splits.making import MakeOptions, make_split_file
from prompttune.splits.split import VideoTable

SHARED = next((p for parent in Path(__file__).resolve().parents if (p := parent / "shared" / "splits").is_dir()), None)
pytestmark = [pytest.mark.shared, pytest.mark.skipif(SHARED is None, reason="../shared/splits is not here")]

BASE_TO_NEW = {  # folder -> class files, train per draw, base and new test videos, classes
    "hmdb_splits": ("hmdb_51", 416, 780, 750, (26, 25)),
    "ucf_splits": ("ucf_101", 816, 2088, 1695, (51, 50)),
    "ssv2_splits": ("ssv2_174", 1392, 17562, 7215, (87, 87)),
    "k400_splits": ("kinetics_400", 3200, 9944, 9933, (200, 200)),
}
BASE_TRAIN = {"hmdb_splits": 1820, "ucf_splits": 5385, "ssv2_splits": 125937}
FEW_SHOT = {  # folder -> class file, videos at K = 2, 4, 8, 16, tests
    "hmdb_splits": ("hmdb_51_labels", (102, 204, 408, 816), {"val1": 1530, "val2": 1530, "val3": 1530}),
    "ucf_splits": ("ucf_101_labels", (202, 404, 808, 1616), {"val1": 3783, "val2": 3734, "val3": 3696}),
    "ssv2_splits": ("ssv2_labels", (348, 696, 1392, 2784), {"validation": 24777}),
    "k400_splits": ("kinetics_400_labels", (), {"val": 19877}),
}


def shared(*parts: str) -> Path:
    assert SHARED is not None
    return SHARED.joinpath(*parts)


def base_to_new(folder: str, *, draws: tuple[str, ...] = ("fs_base_s1", "fs_base_s2", "fs_base_s3")) -> SplitFile:
    name = BASE_TO_NEW[folder][0]
    base, novel = (shared("labels", f"{name}_{half}_labels.csv") for half in ("base", "novel"))
    lists = shared("base2novel_splits", folder)
    return import_lists(
        named_draws([(lists / f"{draw}_train.txt", base) for draw in draws]),
        named_tests([("base", lists / "base_val.txt", base), ("new", lists / "novel_val.txt", novel)]),
    )


@pytest.mark.parametrize("folder", BASE_TO_NEW)
def test_base_to_new_counts(folder: str) -> None:
    _, n_train, n_base, n_new, n_classes = BASE_TO_NEW[folder]
    split = base_to_new(folder)
    assert split.train is not None
    assert [n_videos(videos) for videos in split.train.draws.values()] == [n_train] * 3
    assert all(len(ids) == 16 for videos in split.train.draws.values() for ids in videos.values())
    assert (n_videos(split.tests["base"].videos), n_videos(split.tests["new"].videos)) == (n_base, n_new)
    assert (len(split.tests["base"].classes), len(split.tests["new"].classes)) == n_classes
    assert check_split(split).problems == []


@pytest.mark.parametrize("folder", BASE_TRAIN)
def test_whole_base_training_lists_hold_the_shots_and_no_test_video(folder: str) -> None:
    whole, first = base_to_new(folder, draws=("base",)), base_to_new(folder)
    assert whole.train is not None
    assert first.train is not None
    videos = set(video_ids(whole.train.draws["1"]))
    assert len(videos) == BASE_TRAIN[folder]
    assert set(video_ids(first.train.draws["1"])) <= videos


@pytest.mark.parametrize("folder", FEW_SHOT)
def test_few_shot_and_validation_counts(folder: str) -> None:
    labels, sizes, tests = FEW_SHOT[folder]
    classes = shared("labels", f"{labels}.csv")
    pairs = [(shared(folder, f"train1_few_shot_{k}.txt"), classes) for k in (2, 4, 8, 16)[: len(sizes)]]
    first = next(iter(tests))
    split = import_lists(named_draws(pairs), named_tests([("test", shared(folder, f"{first}.txt"), classes)]))
    draws = {} if split.train is None else split.train.draws
    assert [n_videos(videos) for videos in draws.values()] == list(sizes)
    every = import_lists([], named_tests([(name, shared(folder, f"{name}.txt"), classes) for name in tests]))
    assert {name: n_videos(part.videos) for name, part in every.tests.items()} == tests
    assert structure_problems(every) == []


def test_kinetics_600_has_three_class_splits() -> None:
    triples = [
        (f"split{n}", shared("k600_splits", f"ZS_split{n}_K600_eval.txt"), shared("labels", f"ZS_split{n}_K600.csv"))
        for n in (1, 2, 3)
    ]
    split = import_lists([], named_tests(triples))
    assert [n_videos(part.videos) for part in split.tests.values()] == [14084, 13978, 14136]
    assert [len(part.classes) for part in split.tests.values()] == [160, 160, 160]
    known = set(read_class_file(shared("labels", "kinetics_400_labels.csv")).classes)
    assert not known & set(split.class_names())
    hundred = read_class_file(shared("labels", "k600_minus_k400_100_classes.csv")).classes
    assert len(hundred) == 100
    assert set(hundred) <= set(read_class_file(shared("labels", "kinetics_600_labels.csv")).classes) - known


def test_base_and_new_of_hmdb_and_ucf_are_the_first_official_test_split() -> None:
    for folder in ("hmdb_splits", "ucf_splits"):
        split = base_to_new(folder)
        both = {key for part in split.tests.values() for key in video_ids(part.videos)}
        assert both == {video for video, _ in read_video_list(shared(folder, "val1.txt")).lines}


def test_a_split_drawn_of_ucf_keeps_its_groups_on_one_side() -> None:
    classes = shared("labels", "ucf_101_base_labels.csv")
    lists = shared("base2novel_splits", "ucf_splits")
    split = import_lists(
        [ListPair("1", lists / "base_train.txt", classes)], named_tests([("t", lists / "base_val.txt", classes)])
    )
    labels = split.labels()
    assert len(labels) == 5385 + 2088
    table = VideoTable(
        ids=tuple(labels),
        labels=tuple(labels.values()),
        splits=("",) * len(labels),
        groups=("",) * len(labels),
        classes=split.class_names(),
        usable=np.ones(len(labels), dtype=bool),
    )
    drawn = make_split_file(table, MakeOptions(group_pattern=r"v_(\w+)_g(\d+)_", test_fraction=0.3), source="UCF-101")
    assert drawn.train is not None
    parts = (drawn.train.draws["all"], drawn.tests["test"].videos)
    sides = [{key.rsplit("_", 1)[0] for key in video_ids(videos)} for videos in parts]
    assert len(sides[0] | sides[1]) == 51 * 25
    assert not sides[0] & sides[1]
    share = n_videos(drawn.tests["test"].videos) / len(labels)
    assert share == pytest.approx(0.3, abs=0.02)


def test_the_swap_of_the_released_code_is_refused() -> None:
    """GA2-CLIP's ucf_base2novel.yaml trains base videos with the novel label file and the other way round."""
    base, novel = shared("labels", "ucf_101_base_labels.csv"), shared("labels", "ucf_101_novel_labels.csv")
    lists = shared("base2novel_splits", "ucf_splits")
    train, tests = lists / "fs_base_s1_train.txt", (("base", "base_val.txt", novel), ("new", "novel_val.txt", base))
    with pytest.raises(SplitError) as caught:
        import_lists(
            [ListPair("1", train, novel)], named_tests([(name, lists / file, own) for name, file, own in tests])
        )
    message = str(caught.value)
    assert "labels outside the class file" in message  # base ids go up to 50, novel ones to 49
    assert message.count("the videos' names fit") == 3
    # Padded to the same length, so that no label is out of range, the names alone still tell.
    padded = read_class_file(novel)
    names = {**padded.names, 50: "padding"}
    listing = read_video_list(lists / "base_val.txt")
    filed = videos_by_class(listing, type(padded)(novel, names))
    part = TestPart(classes=tuple(names.values()), videos=filed)
    right = TestPart(classes=read_class_file(base).classes, videos={"Typing": ("v_Typing_g99_c99.avi",)})
    assert any("wrong class file?" in line for line in foreign_names(SplitFile(tests={"a": part, "b": right})))


def test_ssv2_labels_are_held_against_the_full_validation_list() -> None:
    split = base_to_new("ssv2_splits", draws=("fs_base_s1",))
    reference = (shared("ssv2_splits", "validation.txt"), shared("labels", "ssv2_labels.csv"))
    assert check_split(split, CheckInputs(references=[reference])).problems == []
    base, novel = (shared("labels", f"ssv2_174_{half}_labels.csv") for half in ("base", "novel"))
    lists = shared("base2novel_splits", "ssv2_splits")
    swapped = import_lists([], named_tests([("t", lists / "base_val.txt", novel)]))
    assert base.exists()
    assert any("other labels" in line for line in check_split(swapped, CheckInputs(references=[reference])).problems)
