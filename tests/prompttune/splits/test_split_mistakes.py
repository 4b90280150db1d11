"""What people bring: one recording on both sides, files written over, classes with few videos, lists with gaps."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_store import CLASSES, Recipe, write_tiny_store

import prompttune.cli.commands as command_line
from prompttune.api.video_store import VideoStore
from prompttune.errors import ConfigError, RunFolderError, SplitError
from prompttune.evaluation.results import Result
from prompttune.evaluation.split_checks import check_split
from prompttune.splits.file import SplitFile, TestPart, TrainPart, read_split_file, video_ids
from prompttune.splits.making import with_groups
from prompttune.splits.recordings import shared_recordings, split_notes
from prompttune.splits.split import VideoTable, draw_splits, few_shot

# Two clips of one recording, and a clip of another that must not be taken for it.
NAMES = {
    "UCF-101": ("Typing/v_Typing_g04_c01.avi", "Typing/v_Typing_g04_c02.avi", "Typing/v_Typing_g05_c01.avi"),
    "HMDB-51": (
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "April_09_brush_hair_u_cm_np2_fr_med_11.avi",
        "Blonde_being_brushed_brush_hair_f_nm_np2_ri_med_0.avi",
    ),
    "Kinetics": (
        "a/-3B32lodo2M_000059_000069.mp4",
        "b/-3B32lodo2M_000159_000169.mp4",
        "a/K3B32lodo2M_000059_000069.mp4",
    ),
    "parts": ("run/video_part1.mp4", "run/video_part12.mp4", "jump/video_part1.mp4"),
    "clips": ("run/city-clip-03.mkv", "run/city-clip-04.mkv", "run/town-clip-03.mkv"),
    "scenes": ("film_scene001", "film_scene002", "movie_scene001"),
}
NO_RECORDINGS = (
    "run/clip_001.mp4",
    "run/clip_002.mp4",
    "jump/0001.mp4",
    "jump_shot_1.mp4",
    "jump_shot_2.mp4",
    "12345.webm",
)


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command_line.cli, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def advised_pattern(line: str) -> str:
    found = re.search(r"--group-pattern '(.*)'", line)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("source", NAMES)
def test_a_recording_on_both_sides_is_named_and_another_is_not(source: str) -> None:
    one, same, another = NAMES[source]
    (line,) = shared_recordings([one], [same, another])
    assert line.startswith(f"1 recordings, by the videos' names, are in training and in test: {one} and {same};")
    assert shared_recordings([one], [another]) == []
    assert shared_recordings([one, same], [another]) == []


def test_plain_numbers_are_no_recordings() -> None:
    assert shared_recordings(NO_RECORDINGS[::2], NO_RECORDINGS[1::2]) == []


@pytest.mark.parametrize("extra", ["", "run/0001.mp4,run\njump/0002.mp4,jump\n"], ids=["all of one kind", "mixed"])
def test_make_warns_and_the_pattern_it_names_parts_the_recordings(tmp_path: Path, extra: str) -> None:
    clips = [(name, group, clip) for name in ("run", "jump") for group in range(8) for clip in range(3)]
    rows = [f"v_{name}_g{group:02d}_c{clip:02d}.avi,{name}" for name, group, clip in clips]
    source = tmp_path / "all.csv"
    source.write_text("path,label\n" + "\n".join(rows) + "\n" + extra)
    code, output = run("splits", "make", source, tmp_path / "random.json")
    assert code == 0
    (warning,) = [line for line in output.splitlines() if line.startswith("warning: ")]
    assert check_split(read_split_file(tmp_path / "random.json")).notes == [warning.removeprefix("warning: ")]
    code, output = run("splits", "check", tmp_path / "random.json")
    assert "note:    " + warning.removeprefix("warning: ") in output
    code, output = run("splits", "make", source, tmp_path / "grouped.json", "--group-pattern", advised_pattern(warning))
    assert code == 0, output
    assert "warning" not in output
    split = read_split_file(tmp_path / "grouped.json")
    assert split.train is not None
    sides = (split.train.draws["all"], split.tests["test"].videos)
    groups = [{key.rpartition("_c")[0] or key for key in video_ids(part)} for part in sides]
    assert not groups[0] & groups[1]
    assert sum(len(one) for one in groups) == 16 + len(extra.split())


def test_a_split_drawn_for_training_says_so_too() -> None:
    ids = tuple(f"v_{name}_g{clip // 4:02d}_c{clip:02d}.avi" for name in ("run", "jump") for clip in range(8))
    labels = tuple(key.split("_")[1] for key in ids)
    table = VideoTable(ids, labels, ("",) * 16, ("",) * 16, ("run", "jump"), np.ones(16, dtype=bool))
    split = few_shot(draw_splits(table, test_fraction=0.5, seed=0), shots=None, seed=1)
    (note,) = split_notes(split, split.tests, shots=None)
    assert re.match(r"[234] recordings, by the videos' names, are in training and in test: v_run_g0", note)
    grouped = with_groups(table, advised_pattern(note))
    split = few_shot(draw_splits(grouped, test_fraction=0.5, seed=0), shots=None, seed=1)
    assert split_notes(split, split.tests, shots=None) == []
    assert len(split.train) == len(split.tests[0].videos) == 8


def test_a_split_file_is_not_written_over(tmp_path: Path, target: str) -> None:
    file = tmp_path / "s.json"
    assert run("splits", "make", target, file, "--shots", "2")[0] == 0
    before = read_split_file(file).sha256
    assert run("splits", "make", target, file, "--shots", "2")[0] == 0  # the same split again is no change
    with pytest.raises(SplitError, match="there already") as caught:
        run("splits", "make", target, file, "--shots", "3")
    assert before in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert read_split_file(file).sha256 == before
    code, output = run("splits", "make", target, file, "--shots", "3", "--overwrite")
    assert code == 0, output
    assert read_split_file(file).sha256 != before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SplitError, match="something else"):
        run("splits", "make", target, tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_changed_split_is_named_where_a_run_folder_no_longer_fits(tmp_path: Path, target: str) -> None:
    file, out = tmp_path / "s.json", tmp_path / "run"
    train = ("train", "--method", "coop", "--store", target, "--split", file, "--seeds", "1", "--out", out)
    few = ("--set", "optim.epochs=1", "--set", "protocol.name=few-shot", "--shots", "2")
    run("splits", "make", target, file, "--shots", "2")
    old = read_split_file(file).sha256
    assert run(*train, *few)[0] == 0
    run("splits", "make", target, file, "--shots", "3", "--overwrite")
    with pytest.raises(RunFolderError) as caught:
        run(*train, *few)
    changed = f"the split file {file} was changed: sha256 {old[:12]} there, {read_split_file(file).sha256[:12]} now"
    assert changed in str(caught.value)
    with pytest.raises(RunFolderError, match=r"optim\.epochs: 1 there, 2 now"):
        run(*train, *few, "--set", "optim.epochs=2")
    with pytest.raises(RunFolderError, match=r"runs there: seed1; now: seed1, seed2"):
        run(*train, *few, "--seeds", "1,2")
    assert run(*train, *few, "--overwrite")[0] == 0


def test_up_to_k_shots_takes_what_a_class_has_and_says_so(tmp_path: Path) -> None:
    lost = (0, 1, 2)  # of the first class's six training videos
    store = write_tiny_store(tmp_path / "s.zarr", Recipe(failed=lost)).as_posix()
    train = ("train", "--method", "coop", "--store", store, "--seeds", "1", "--set", "optim.epochs=1")
    with pytest.raises(SplitError, match=f"{CLASSES[0]}: 3") as caught:
        run(*train, "--shots", "6", "--out", tmp_path / "refused")
    assert "--shots up-to-6" in str(caught.value)
    with pytest.raises(ConfigError, match=r"up-to-K where a class may have fewer than K, or none; got 'upto-6'"):
        run(*train, "--shots", "upto-6")
    code, output = run(*train, "--shots", "up-to-6", "--out", tmp_path / "run")
    assert code == 0, output
    note = f"1 of 4 classes have fewer than 6 shots: {CLASSES[0]} (3)"
    result = Result.read(tmp_path / "run")
    assert result.notes == [note]
    assert f"note:    {note}" in output
    assert result.runs[0].n_train == 3 + 3 * 6
    assert (result.config["protocol"]["shots"], result.config["protocol"]["up_to"]) == (6, True)
    # Classes that have enough draw what they draw without it, and nobody is short of two.
    own, exact = VideoStore(store).split(shots="up-to-2"), VideoStore(store).split(shots=2)  # type: ignore[arg-type]
    assert own.sha256 == exact.sha256
    code, output = run("splits", "make", store, tmp_path / "s.json", "--base-to-new", "--shots", "up-to-6")
    assert code == 0, output
    split = read_split_file(tmp_path / "s.json")
    assert split.train is not None
    assert [len(split.train.draws["1"][name]) for name in CLASSES[:4]] == [3, 6, 6, 6]
    assert split.made_by["up_to"] is True


def test_up_to_leaves_a_video_to_train_beside_those_that_validate(tmp_path: Path) -> None:
    store = VideoStore(write_tiny_store(tmp_path / "s.zarr", Recipe(failed=(0, 1, 2, 3))).as_posix())
    split = store.split(shots="up-to-6", val_shots=1)  # type: ignore[arg-type]
    assert (split.shots()[CLASSES[0]], len(split.val)) == (2, 4)
    with pytest.raises(SplitError, match="3 per class"):
        store.split(shots="up-to-6", val_shots=2)  # type: ignore[arg-type]


def test_missing_videos_are_recorded_by_part_and_counted_in_results(tmp_path: Path, target: str) -> None:
    (tmp_path / "c.csv").write_text("id,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(CLASSES)))
    for part, numbers in (("train", (*range(4), 70)), ("test", (6, 7, 71, 72))):
        lines = [f"{name}/{number:03d}.avi {label}\n" for label, name in enumerate(CLASSES) for number in numbers]
        (tmp_path / f"{part}.txt").write_text("".join(lines))
    file, classes = tmp_path / "s.json", tmp_path / "c.csv"
    lists = ("--train", tmp_path / "train.txt", classes, "--test", "test", tmp_path / "test.txt", classes)
    with pytest.raises(SplitError, match="24 videos are not in the store"):
        run("splits", "import", file, *lists, "--store", target)
    with pytest.raises(SplitError, match="--allow-missing 24"):
        run("splits", "import", file, *lists, "--store", target, "--allow-missing", "23")
    code, output = run("splits", "import", file, *lists, "--allow-missing", "--store", target)
    assert code == 0, output
    assert "train draw 1: 8 videos left out (missing)" in output
    assert "test test: 16 videos left out (missing)" in output
    missing = read_split_file(file).made_by["missing"]
    assert missing["train draw 1"] == [f"{name}/070.avi" for name in CLASSES]
    assert len(missing["test test"]) == 16
    code, output = run("eval", "--store", target, "--split", file, "--out", tmp_path / "out")
    assert code == 0, output
    result = Result.read(tmp_path / "out")
    assert (result.runs[0].tests["test"].n_videos, result.runs[0].tests["test"].n_listed) == (16, 32)
    assert "note:    test stands on 16 of the 32 videos that its split file lists" in output
    code, output = run(
        "train",
        "--method",
        "coop",
        "--store",
        target,
        "--split",
        file,
        "--seeds",
        "1",
        "--shots",
        "2",
        "--set",
        "protocol.name=few-shot",
        "--set",
        "optim.epochs=1",
        "--out",
        tmp_path / "run",
    )
    assert Result.read(tmp_path / "run").notes == ["test stands on 16 of the 32 videos that its split file lists"]
    code, output = run("splits", "check", file, "--store", target)
    assert code == 0, output
    assert "note:    test test: 16 listed videos were missing when it was imported" in output


def test_a_file_of_an_earlier_release_with_one_list_of_missing_videos_still_counts_what_it_holds() -> None:
    part = TestPart(classes=("run",), videos={"run": ("a", "b")})
    train = TrainPart(classes=("run",), draws={"1": {"run": ("c",)}})
    split = SplitFile(train=train, tests={"test": part}, made_by={"missing": ["x"]})
    assert split.n_listed() == {"test": 2}
    assert check_split(split).notes == ["the lists: 1 listed videos were missing when it was imported: x"]
