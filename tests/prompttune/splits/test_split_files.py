"""Split files: made, imported, checked, and trained on; what a file says is what a run does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_store import CLASSES, Recipe, write_tiny_store
from training import train_runs

import prompttune.cli.commands as command_line
from prompttune.api.apply_prompts import apply_prompts
from prompttune.config.train_config import resolve
from prompttune.data.features import open_source
from prompttune.data.labelled import read_labelled
from prompttune.data.protocols import make_split, open_sources, other_test_sets, split_table
from prompttune.errors import ConfigError, RunFolderError, SplitError
from prompttune.evaluation.evaluate import load_predictions
from prompttune.evaluation.results import confusion
from prompttune.evaluation.split_checks import CheckInputs, check_split
from prompttune.splits.file import (
    SplitFile,
    TestPart,
    TrainPart,
    parse_split_file,
    read_split_file,
    structure_problems,
    video_ids,
    write_split_file,
)
from prompttune.splits.making import MakeOptions, make_split_file
from prompttune.splits.split import fully_supervised

BASE, NEW = CLASSES[:4], CLASSES[4:]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command_line.cli, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def follow(output: str, store: str, *options: object) -> str:
    """What the printed `next:` command prints, run to its end with METHOD and STORE filled in."""
    (command,) = [line.split() for line in output.splitlines() if line.startswith("next:")]
    filled = {"METHOD": "coop", "STORE": store}
    assert command[1] == "prompttune"
    code, printed = run(*(filled.get(word, word) for word in command[2:]), *options)
    assert code == 0, printed
    return printed


def made(path: Path, source: str, **options: object) -> str:
    split = make_split_file(read_labelled(source), MakeOptions(**options), source=source)  # type: ignore[arg-type]
    write_split_file(path, split)
    return str(path)


def videos(*numbers: int, names: tuple[str, ...] = CLASSES) -> dict[str, tuple[str, ...]]:
    return {name: tuple(f"{name}/{number:03d}.mp4" for number in numbers) for name in names}


def test_a_run_on_a_made_file_is_the_run_on_the_store(tmp_path: Path, target: str) -> None:
    file = made(tmp_path / "s.json", target, base_classes=(), shots=4, seeds=(1, 2))
    of_file = train_runs(
        tmp_path / "file", {"protocol": {"split_file": file}}, method="coop", store=target, seeds=[1, 2]
    )
    of_store = train_runs(tmp_path / "store", method="coop", store=target, seeds=[1, 2])
    assert [r.split_sha256 for r in of_file.result.runs] == [r.split_sha256 for r in of_store.result.runs]
    assert [r.metrics for r in of_file.result.runs] == [r.metrics for r in of_store.result.runs]
    assert of_file.result.config["protocol"]["split_file"] == file
    assert of_file.result.split_files == {file: read_split_file(file).sha256}
    assert of_store.result.split_files == {}
    # The same path with another content is another run: its folder is not read back.
    made(tmp_path / "s.json", target, base_classes=(), shots=3, seeds=(1, 2))
    with pytest.raises(RunFolderError, match="holds another run"):
        train_runs(tmp_path / "file", {"protocol": {"split_file": file}}, method="coop", store=target, seeds=[1, 2])


def test_every_test_set_of_a_result_is_hashed_and_its_confusion_counts_every_video(tmp_path: Path, target: str) -> None:
    fitted = train_runs(tmp_path / "run", method="coop", store=target, seeds=[1, 2])
    one, two = fitted.result.runs
    for name in ("base", "new"):
        assert len(one.tests[name].videos_sha256) == 64
        assert one.tests[name].videos_sha256 == two.tests[name].videos_sha256
    assert one.tests["base"].videos_sha256 != one.tests["new"].videos_sha256
    frame = confusion(fitted.folder / "seed1", "new")
    assert frame.to_numpy().sum() == one.tests["new"].n_videos
    assert list(frame.index) == list(NEW)
    right = np.trace(frame.to_numpy()) / one.tests["new"].n_videos
    assert right == pytest.approx(one.tests["new"].top1)
    assert load_predictions(str(fitted.folder / "seed1" / "predictions.npz"))["new"].videos_sha256


def test_the_file_decides_classes_draws_and_tests(tmp_path: Path, target: str) -> None:
    names = ("spin", "run", "jump")
    split = SplitFile(
        train=TrainPart(classes=names, draws={"1": videos(0, 1, names=names), "5": videos(2, 3, names=names)}),
        tests={"test": TestPart(classes=names, videos=videos(6, 7, names=names))},
    )
    file = tmp_path / "s.json"
    write_split_file(file, split)
    config = resolve(
        {"method": "coop", "store": target, "protocol": {"name": "few-shot", "shots": 2, "split_file": str(file)}}
    )
    table = split_table(config.protocol, open_source(target).table)
    for seed, numbers in ((1, (0, 1)), (5, (2, 3))):
        found = make_split(config.protocol, table, seed=seed)
        assert found.classes == names
        assert {table.ids[row] for row in found.train} == set(video_ids(videos(*numbers, names=names)))
        assert {table.ids[row] for row in found.test("test").videos} == set(video_ids(videos(6, 7, names=names)))
    with pytest.raises(SplitError, match="no draw for seed 2"):
        make_split(config.protocol, table, seed=2)
    with pytest.raises(SplitError, match="3 per class"):
        make_split(config.protocol.model_copy(update={"shots": 3}), table, seed=1)
    with pytest.raises(SplitError, match="does not fit the protocol base-to-new"):
        make_split(config.protocol.model_copy(update={"name": "base-to-new"}), table, seed=1)


def test_several_test_sets_of_another_store_are_averaged(tmp_path: Path, stores: Path, target: str) -> None:
    other = str(stores / "other.zarr")
    source = open_source(other)
    tests = {}
    for name, numbers, chosen in (("val1", (6, 7), 6), ("val2", (8,), 6), ("classes", (9, 10), 3)):
        classes = source.table.classes[:chosen]
        tests[name] = TestPart(classes=classes, videos=videos(*numbers, names=classes))
    write_split_file(tmp_path / "other.json", SplitFile(tests=tests))
    protocol = {"test_stores": [other], "test_split_files": [str(tmp_path / "other.json")]}
    fitted = train_runs(tmp_path / "run", {"protocol": protocol}, method="coop", store=target, seeds=[1])
    (one,) = fitted.result.runs
    assert set(one.tests) == {"base", "new", "other/val1", "other/val2", "other/classes"}
    assert one.tests["other/classes"].n_classes == 3
    assert one.tests["other/val1"].n_videos == 12
    mean = np.mean([one.tests[f"other/{name}"].top1 for name in tests])
    assert one.metrics["other"] == pytest.approx(mean)
    sources = open_sources(resolve({"method": "coop", "store": target, "protocol": protocol}))
    assert [test.name for test in other_test_sets(sources.tests).values()] == [f"other/{name}" for name in tests]


def test_eval_takes_a_split_file_for_zero_shot_and_prompts(tmp_path: Path, target: str, hard_prompt: str) -> None:
    file = made(tmp_path / "s.json", target, base_classes=("run", "swim"))
    result = apply_prompts([], given={"store": target, "protocol": {"split_file": file}})
    assert result.classes["base"] == ["run", "swim"]
    assert result.protocol == "base-to-new"
    assert set(apply_prompts([hard_prompt], given={"store": target}).classes) == {"test"}
    code, output = run("eval", "--store", target, "--split", file, "--prompts", hard_prompt)
    assert code == 0
    assert "new" in output


def test_fully_supervised_trains_on_the_whole_pool(tmp_path: Path, target: str) -> None:
    file = made(tmp_path / "s.json", target)
    store = open_source(target).table
    for protocol in ({"split_file": file}, {}):
        config = resolve({"method": "coop", "store": target, "protocol": {"name": "fully-supervised", **protocol}})
        found = make_split(config.protocol, split_table(config.protocol, store), seed=3)
        assert len(found.train) == store.splits.count("train")
        assert found.sha256 == fully_supervised(store, seed=3).sha256


def test_shots_are_drawn_from_the_files_pool(tmp_path: Path, target: str) -> None:
    file = made(tmp_path / "s.json", target)
    assert list(read_split_file(file).train.draws) == ["all"]  # type: ignore[union-attr]
    protocol = {"name": "few-shot", "split_file": file, "shots": 2}
    config = resolve({"method": "coop", "store": target, "protocol": protocol})
    table = split_table(config.protocol, open_source(target).table)
    own = resolve({"method": "coop", "store": target, "protocol": {"name": "few-shot", "shots": 2}})
    for seed in (1, 2, 9):
        direct = make_split(own.protocol, open_source(target).table, seed=seed)
        assert make_split(config.protocol, table, seed=seed).sha256 == direct.sha256


def test_videos_the_store_lacks_and_other_labels_are_refused(tmp_path: Path, target: str) -> None:
    few = {"run": ("run/000.mp4", "run/999.mp4"), "jump": ("jump/000.mp4",)}
    part = TestPart(classes=("run", "jump"), videos=few)
    write_split_file(tmp_path / "s.json", SplitFile(tests={"test": part}))
    given = {"store": target, "protocol": {"split_file": str(tmp_path / "s.json")}}
    with pytest.raises(SplitError, match=r"1 videos are not in the store: run/999\.mp4"):
        apply_prompts([], given=given)
    swapped = TestPart(classes=("run", "jump"), videos={"jump": ("run/000.mp4",)})
    write_split_file(tmp_path / "s.json", SplitFile(tests={"test": swapped}))
    with pytest.raises(SplitError, match=r"'jump' in the file, 'run' there: run/000\.mp4"):
        apply_prompts([], given=given)
    with pytest.raises(ConfigError, match="do not act beside split_file"):
        resolve({"method": "coop", "store": target, "protocol": {"split_file": "x", "test_fraction": 0.5}})


def test_failed_videos_of_the_store_are_left_out(tmp_path: Path) -> None:
    store = str(write_tiny_store(tmp_path / "s.zarr", Recipe(failed=(0, 9))))
    file = tmp_path / "s.json"
    write_split_file(file, SplitFile(tests={"t": TestPart(classes=CLASSES, videos=videos(0, 9))}))
    result = apply_prompts([], given={"store": store, "protocol": {"split_file": str(file)}})
    assert result.runs[0].tests["test"].n_videos == 14
    assert result.store.failed_videos == ["run/000.mp4", "run/009.mp4"]
    assert any("2 videos failed" in note for note in check_split(read_split_file(file), CheckInputs(store)).notes)


def test_a_file_that_was_changed_is_refused(tmp_path: Path, target: str) -> None:
    file = Path(made(tmp_path / "s.json", target))
    document = json.loads(file.read_text())
    document["tests"]["test"]["videos"]["run"].pop()
    file.write_text(json.dumps(document))
    with pytest.raises(SplitError, match="changed after it was made"):
        read_split_file(file)
    del document["sha256"]
    file.write_text(json.dumps(document))
    assert len(read_split_file(file).tests["test"].videos["run"]) == 4
    for wrong, words in (
        ({"format": "x"}, "prompttune split, version 1"),
        ({"version": 2}, "version 2"),
        ({"trian": {}}, "trian"),
    ):
        file.write_text(json.dumps(document | wrong))
        with pytest.raises(SplitError, match=words):
            read_split_file(file)
    file.write_text("[1]")
    with pytest.raises(SplitError, match="no split file"):
        read_split_file(file)


def test_every_problem_of_a_file_is_found() -> None:
    split = SplitFile(
        train=TrainPart(
            classes=BASE, draws={"1": videos(0, names=BASE) | {"spin": ("spin/000.mp4",), "run": ("run/000.mp4",) * 2}}
        ),
        tests={
            "base": TestPart(classes=(*BASE[:3], "spin"), videos=videos(0, 6, names=BASE[:3])),
            "new": TestPart(classes=NEW, videos={"spin": ("jump/006.mp4",)}),
        },
    )
    problems = "\n".join(structure_problems(split))
    for words in (
        "train draw 1: labels outside its class list: spin",
        "train draw 1: videos listed twice: run/000.mp4",
        "3 videos are in train draw 1 and in test base",
        "classes that are both base and new: spin",
        "training and base classes differ: spin, wave_hand",
        "videos with two labels: jump/006.mp4 (jump and spin)",
    ):
        assert words in problems
    half = SplitFile(tests={"base": TestPart(classes=BASE, videos=videos(1, names=BASE))})
    assert "base-to-new has the test sets base and new" in structure_problems(half)[0]


def test_check_finds_swapped_class_files_leaks_and_foreign_labels(
    tmp_path: Path, target: str, hard_prompt: str
) -> None:
    swapped = dict(zip(NEW, videos(6, 7, names=BASE).values(), strict=True))
    split = SplitFile(
        train=TrainPart(classes=BASE, draws={"1": videos(0, names=BASE)}),
        tests={
            "base": TestPart(classes=BASE, videos=videos(8, names=BASE)),
            "new": TestPart(classes=NEW, videos=swapped),
        },
    )
    report = check_split(split)
    assert len(report.problems) == 1
    assert "test new: paired with the wrong class file? 8 of 8" in report.problems[0]
    assert any("other labels than the store's" in line for line in check_split(split, CheckInputs(target)).problems)
    anchors = tmp_path / "anchors.txt"
    anchors.write_text("elsewhere/run_with_a_long_name.mp4 0\nx/000.mp4 0\n")
    clean = SplitFile(
        tests={"t": TestPart(classes=("run",), videos={"run": ("run/run_with_a_long_name.avi", "000.mp4")})}
    )
    (touching,) = check_split(clean, CheckInputs(apart=(str(anchors),))).problems
    assert "1 of 2 videos have the name of a test video: elsewhere/run_with_a_long_name.mp4" in touching
    taught = SplitFile(
        train=TrainPart(classes=BASE, draws={"1": videos(0, names=BASE)}),
        tests={
            "base": TestPart(classes=BASE, videos=videos(8, names=BASE)),
            "new": TestPart(classes=("Cooking", "fly"), videos={"fly": ("fly.mp4",)}),
        },
    )
    (known,) = check_split(taught, CheckInputs(hard_prompts=(Path(hard_prompt),))).problems
    assert "trained on new classes" in known
    assert "Cooking" in known


def test_equal_bytes_are_found_under_other_names(tmp_path: Path) -> None:
    """run/000 (trains) has the bytes of run/007 (tests); another store's jump/003 has those of jump/008 (tests)."""
    same, other = "a" * 64, "c" * 64
    recipe = Recipe(classes=("run", "jump"), hashes=((0, same), (7, same), (1, "b" * 64), (19, other)))
    store = str(write_tiny_store(tmp_path / "task.zarr", recipe))
    irrelevant = Recipe(classes=("run", "jump"), hashes=((14, other), (15, "d" * 64)))
    anchors = str(write_tiny_store(tmp_path / "anchors.zarr", irrelevant))
    file = made(tmp_path / "s.json", store)
    problems = check_split(read_split_file(file), CheckInputs(store, apart=(anchors,))).problems
    assert problems == [
        "1 videos of train draw all have the bytes of a test video: run/000.mp4 = run/007.mp4",
        f"{anchors}: 1 of 22 videos have the bytes of a test video: jump/003.mp4",
    ]
    code, output = run("splits", "check", file, "--store", store, "--hard-prompt-source", anchors)
    assert code == 1
    assert "problem: 1 videos of train draw all" in output


def test_reference_labels_catch_what_names_cannot(tmp_path: Path) -> None:
    (tmp_path / "all.txt").write_text("001.webm 0\n002.webm 1\n003.webm 1\n")
    (tmp_path / "all.csv").write_text("id,name\n0,run\n1,jump\n")
    split = SplitFile(tests={"t": TestPart(classes=("run", "jump"), videos={"run": ("001.webm", "002.webm")})})
    found = check_split(split, CheckInputs(references=[(tmp_path / "all.txt", tmp_path / "all.csv")])).problems
    assert found == ["test t: other labels than all.txt: 'run' in the file, 'jump' there: 002.webm"]


def test_import_and_check_on_the_command_line(tmp_path: Path, target: str) -> None:
    for name, names in (("base", BASE), ("new", NEW)):
        (tmp_path / f"{name}.csv").write_text("id,name\r\n" + "".join(f"{i},{n}\r\n" for i, n in enumerate(names)))
        for part, numbers in (("train", range(4)), ("val", range(6, 9))):
            lines = [f"{n}/{number:03d}.avi {i}\n" for i, n in enumerate(names) for number in numbers]
            (tmp_path / f"{name}_{part}.txt").write_text("".join(lines))
    lists = [
        *("--train", tmp_path / "base_train.txt", tmp_path / "base.csv"),
        *("--test", "base", tmp_path / "base_val.txt", tmp_path / "base.csv"),
    ]
    novel = ["--test", "new", tmp_path / "new_val.txt", tmp_path / "new.csv"]
    file = tmp_path / "s.json"
    code, output = run("splits", "import", file, *lists, *novel, "--store", target)
    assert code == 0, output
    assert "train draw 1: 16 videos of 4 classes" in output
    assert f"next:    prompttune train --method METHOD --store STORE --split {file}\n" in output
    assert read_split_file(file).tests["new"].videos["spin"] == tuple(f"spin/{n:03d}.mp4" for n in (6, 7, 8))
    code, output = run("splits", "check", file, "--store", target)
    assert code == 0, output
    assert "no problem found" in output
    code, output = run("splits", "import", file, *lists, *novel, "--store", target)
    short = ("--seeds", "1", "--set", "optim.epochs=1")
    trained = follow(output, target, *short, "--shots", "4", "--out", tmp_path / "run")
    assert {"base", "new", "HM"} <= set(trained.split())

    code, output = run("splits", "import", tmp_path / "tests.json", "--test", "val", *novel[2:], "--store", target)
    assert "test" in follow(output, target).split()  # there is nothing to train on

    code, output = run("splits", "make", target, tmp_path / "few.json", "--shots", "2", "--seeds", "1")
    trained = follow(output, target, *short, "--shots", "2", "--out", tmp_path / "few")
    assert "test" in trained.split()
    assert "HM" not in trained
    with pytest.raises(SplitError, match="wrong class file"):
        run("splits", "import", file, *lists, "--test", "new", tmp_path / "new_val.txt", tmp_path / "base.csv",
            "--test", "x", tmp_path / "new_val.txt", tmp_path / "new.csv")  # fmt: skip
    with (tmp_path / "new_val.txt").open("a") as lines:
        lines.write("spin/777.avi 3\n")
    with pytest.raises(SplitError, match="1 videos are not in the store"):
        run("splits", "import", file, *lists, *novel, "--store", target)
    code, output = run("splits", "import", file, *lists, *novel, "--store", target, "--allow-missing", 1)
    assert code == 0
    assert "test new: 1 videos left out" in output
    assert read_split_file(file).made_by["missing"] == {"test new": ["spin/777.avi"]}
    bad = parse_split_file(file).model_copy(update={"train": None})
    write_split_file(file, bad.model_copy(update={"tests": {"base": bad.tests["base"]}}))
    code, output = run("splits", "check", file)
    assert code == 1
    assert "problem: base-to-new has the test sets base and new" in output
