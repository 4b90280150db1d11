"""`prompttune classify`: a store without any video library, video files through the one door, prompts and zero-shot."""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_store import CLASSES
from training import train_runs

import prompttune.cli.commands as command_line
from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import ClassifyOptions, classify
from prompttune.data.features import open_source
from prompttune.data.video_files import open_videos
from prompttune.errors import ConfigError, FeatureError, PromptFileError, SplitError
from vidfeat.errors import DecodeError, VidfeatError


def test_the_best_class_of_a_store_is_what_evaluation_counts(target: str, hard_prompt: str) -> None:
    for prompts in (None, hard_prompt):
        found = classify(target, ClassifyOptions(prompts=prompts, classes=CLASSES))
        assert len(found) == len(open_source(target).table.ids)
        tested = {video.id: video for video in found if int(video.id[-7:-4]) >= 6}  # the store's own test videos
        right = np.mean([video.classes[0] == key.split("/")[0] for key, video in tested.items()])
        result = apply_prompts([prompts] if prompts else [], given={"store": target})
        assert right == pytest.approx(result.runs[0].tests["test"].top1)
        within = np.mean([key.split("/")[0] in video.classes for key, video in tested.items()])
        assert within == pytest.approx(result.runs[0].tests["test"].top5)
    assert all(list(video.scores) == sorted(video.scores, reverse=True) for video in found)
    every = classify(target, ClassifyOptions(classes=CLASSES, top=99))[0]
    assert len(every.classes) == len(CLASSES)
    assert sum(every.scores) == pytest.approx(1, abs=1e-5)


def test_classes_default_to_those_trained_on_and_to_the_stores(target: str, stores: Path, hard_prompt: str) -> None:
    assert set(classify(target)[0].classes) <= set(CLASSES)
    trained = classify(target, ClassifyOptions(prompts=hard_prompt))[0].classes
    assert set(trained) <= {"cook", "paint", "dance"}  # the base classes of other.zarr
    with pytest.raises(ConfigError, match="twice: run"):
        classify(target, ClassifyOptions(classes=("run", "jump", "run")))
    with pytest.raises(PromptFileError, match="another backbone"):
        classify(stores / "foreign.zarr", ClassifyOptions(prompts=hard_prompt))


def test_two_spellings_of_a_class_are_two_classes_and_noted(
    target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = warnings.showwarning
    monkeypatch.setattr(sys, "argv", ["prompttune", "classify", target, "--classes", "walking,Walking", "--csv"])
    try:
        with warnings.catch_warnings(), pytest.raises(SystemExit) as done:
            command_line.main()
    finally:
        warnings.showwarning = shown
    printed, told = capsys.readouterr()
    assert done.value.code in (0, None)
    expected = "note:    names that differ in case, Unicode form or blanks alone: 'walking' and 'Walking'"
    assert told == f"{expected}; they are told apart as two classes\n"
    assert {row["class"] for row in csv.DictReader(printed.splitlines())} == {"walking", "Walking"}


def test_a_store_is_classified_without_the_video_side(target: str) -> None:
    code = (
        "import sys; from prompttune.api.classify import classify, ClassifyOptions\n"
        f"classify({target!r}, ClassifyOptions(classes=('run', 'jump')))\n"
        "heavy = {'open_clip', 'av', 'decord', 'torchvision', 'timm'}\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_prints_and_writes_the_same(tmp_path: Path, target: str, hard_prompt: str) -> None:
    names = tmp_path / "names.csv"
    names.write_text("id,name\n0,run\n1,jump\n2,wave_hand\n")
    arguments = ["classify", target, "--prompts", hard_prompt, "--classes", str(names), "--top", "2"]
    done = CliRunner().invoke(command_line.cli, [*arguments, "--out", str(tmp_path / "found.csv")])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader((tmp_path / "found.csv").open()))
    assert len(rows) == 2 * len(open_source(target).table.ids)
    assert {row["class"] for row in rows} <= {"run", "jump", "wave_hand"}
    assert f"{100 * float(rows[0]['score']):.1f} %" in done.output
    with pytest.raises(ConfigError, match="--like STORE"):
        CliRunner().invoke(command_line.cli, ["classify", "clip.mp4"], catch_exceptions=False)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with real clips, and the store that `vidfeat extract` made of them with a tiny CLIP."""
    pytest.importorskip("av")
    pytest.importorskip("open_clip")
    from vidfeat.extraction.extract import extract_or_resume

    small = _module_of(Path(__file__).parents[2] / "vidfeat" / "small_extraction.py")
    folder = tmp_path_factory.mktemp("clips")
    videos = small.write_videos(folder / "videos", 4)
    options = small.small_options(videos, folder / "clips.zarr", small.write_tiny_clip(folder / "clip"))
    extract_or_resume(options, quiet=True)
    return folder


def _module_of(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_video_files_are_classified_as_their_store_is(extracted: Path) -> None:
    store, videos = extracted / "clips.zarr", extracted / "videos"
    of_store = {video.id: video for video in classify(store)}
    of_files = {video.id: video for video in classify(videos, ClassifyOptions(like=store))}
    assert of_store.keys() == of_files.keys()
    source, decoded = open_source(store), open_videos(videos, like=store)
    for row, key in enumerate(source.table.ids):
        own, stored = decoded.reader.rows("pooled", [row]).values, source.reader.rows("pooled", [row]).values
        # Equal but for the order of sums in batches of other sizes, then rounded to float16.
        np.testing.assert_allclose(own, stored.astype(np.float32), rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(of_files[key].scores, of_store[key].scores, atol=0.02)
    (one,) = classify(next(videos.rglob("*.mp4")), ClassifyOptions(like=store))
    assert one.id.endswith(".mp4")
    pack = open_source(store).reader.pack_path
    (by_pack,) = classify(
        next(videos.rglob("*.mp4")), ClassifyOptions(like=pack, n_frames=3, classes=("run", "jump", "x"), top=2)
    )
    assert len(by_pack.classes) == 2


def test_visual_prompts_see_the_tokens_of_video_files(extracted: Path, tmp_path: Path) -> None:
    store, videos = extracted / "clips.zarr", extracted / "videos"
    given = {
        "protocol": {"name": "few-shot", "shots": 1, "test_fraction": 0.5},
        "visual": {"depth": 1, "first_block": 1},
    }
    fitted = train_runs(tmp_path / "run", given, method="vpt", store=str(store), seeds=[1])
    prompt = fitted.folder / "seed1" / "prompt.safetensors"
    of_store = {video.id: video for video in classify(store, ClassifyOptions(prompts=prompt))}
    for video in classify(videos, ClassifyOptions(prompts=prompt, like=store)):
        np.testing.assert_allclose(video.scores, of_store[video.id].scores, atol=0.02)


def test_what_cannot_be_read_is_said(extracted: Path, tmp_path: Path, target: str) -> None:
    store = extracted / "clips.zarr"
    with pytest.raises(VidfeatError, match="no such file"):
        classify(tmp_path / "nowhere.mp4", ClassifyOptions(like=store))
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(DecodeError):
        classify(broken, ClassifyOptions(like=store))
    with pytest.raises(FeatureError, match="how many frames"):
        classify(broken, ClassifyOptions(like=store, n_frames=3))
    with pytest.raises(VidfeatError, match="does not say how its videos were read"):
        classify(broken, ClassifyOptions(like=target))


def test_one_broken_file_does_not_stop_a_folder(extracted: Path, tmp_path: Path) -> None:
    store, videos = extracted / "clips.zarr", extracted / "videos"
    folder = tmp_path / "new"
    shutil.copytree(videos, folder)
    (folder / "a-page.mp4").write_text("<!DOCTYPE html><html>sign in</html>")
    whole = classify(videos, ClassifyOptions(like=store))

    *good, broken = classify(folder, ClassifyOptions(like=store))

    assert good == whole
    assert (broken.id, broken.classes, broken.scores) == ("a-page.mp4", (), ())
    assert "an HTML page" in broken.error
    command = ["classify", str(folder), "--like", str(store), "--out", str(tmp_path / "c.csv")]
    result = CliRunner().invoke(command_line.cli, command)
    assert result.exit_code == 1
    assert "a-page.mp4: not classified" in result.stderr
    assert len((tmp_path / "c.csv").read_text().splitlines()) == 1 + sum(len(video.classes) for video in whole)


def test_a_file_of_classes_that_is_not_there_is_no_class(tmp_path: Path, target: str) -> None:
    with pytest.raises(SplitError, match="no such file of class names"):
        classify(target, ClassifyOptions(classes="nofile.txt"))
    with pytest.raises(SplitError, match="not a single class name"):
        classify(target, ClassifyOptions(classes=""))
    (tmp_path / "names.txt").write_text("run\njump\n")
    by_file, by_json, by_names = (
        classify(target, ClassifyOptions(classes=given))
        for given in (str(tmp_path / "names.txt"), '["run", "jump"]', ("run", "jump"))
    )
    assert by_file == by_json == by_names
    assert set(by_file[0].classes) == {"run", "jump"}

    done = CliRunner().invoke(command_line.cli, ["classify", target, "--classes", "gone.csv"])
    assert isinstance(done.exception, SplitError)
