"""`vidfeat manifest`: official lists of the field beside what a store holds."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.errors import ManifestError
from vidfeat.store import StoreSpec, StoreWriter, TapSpec, VideoRow
from vidfeat.tools.availability import compare


def write_store(path: Path, videos: dict[str, str], failed: tuple[str, ...] = ()) -> Path:
    rows = [
        VideoRow.failed(VideoRow(key, label, n_frames=1), reason="truncated")
        if key in failed
        else VideoRow(key, label, n_frames=1)
        for key, label in videos.items()
    ]
    spec = StoreSpec(
        taps=(TapSpec("pooled", (4,), "float32"),), n_frames=1, classes=tuple(dict.fromkeys(videos.values()))
    )
    writer = StoreWriter.create(path, spec, rows)
    for unit in writer.pending_units():
        own = [rows[index] for index in unit.video_indices]
        writer.commit(unit, {"pooled": np.ones((sum(row.ok for row in own), 4), np.float32)}, own)
    writer.finalize()
    return path


def vidfeat(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def kinetics(tmp_path: Path) -> tuple[Path, Path]:
    lines = ["label,youtube_id,time_start,time_end,split"]
    lines += [f"{label},{key},{i},{i + 10},validate" for i, (key, label) in enumerate(KINETICS.items())]
    (tmp_path / "k400_val.csv").write_text("\n".join(lines) + "\n")
    there = {f"yoga/ID{i}_{i:06d}_{i + 10:06d}.mp4": "yoga" for i in range(2)} | {"other/x.mp4": "abseiling"}
    there["abseiling/ID3_000003_000013.mp4"] = "abseiling"
    return tmp_path / "k400_val.csv", write_store(
        tmp_path / "X.zarr", there, failed=("abseiling/ID3_000003_000013.mp4",)
    )


KINETICS = {"ID0": "yoga", "ID1": "yoga", "ID2": "yoga", "ID3": "abseiling", "ID4": "abseiling"}


def test_kinetics_per_class_and_its_intersection(kinetics: tuple[Path, Path], tmp_path: Path) -> None:
    listed, store = kinetics
    found = compare(listed, store)
    assert found.per_class() == [
        {"class": "abseiling", "listed": 2, "available": 0, "failed": 1, "missing": 1},
        {"class": "yoga", "listed": 3, "available": 2, "failed": 0, "missing": 1},
    ]
    assert found.n_unlisted == 1
    said = vidfeat("manifest", listed, store, "--out", tmp_path / "there.csv", "--missing", tmp_path / "gone.csv")
    assert "2 of 5 listed videos are available, 1 failed, 2 missing; 0 of 2 classes are whole" in said.replace(
        "\n", " "
    )
    with open(tmp_path / "there.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["path", "label", "split"],
        ["yoga/ID0_000000_000010.mp4", "yoga", "val"],
        ["yoga/ID1_000001_000011.mp4", "yoga", "val"],
    ]
    assert "ID2_000002_000012.mp4,yoga,val" in (tmp_path / "gone.csv").read_text()
    assert json.loads(vidfeat("manifest", listed, store, "--json")) == found.per_class()
    assert vidfeat("manifest", listed, store, "--csv").splitlines()[1] == "abseiling,2,0,1,1"


def test_something_something(tmp_path: Path) -> None:
    entries = [{"id": "7", "template": "Holding [something]"}, {"id": "8", "template": "Holding [something]"}]
    (tmp_path / "something-something-v2-validation.json").write_text(json.dumps(entries))
    store = write_store(tmp_path / "X.zarr", {"7.webm": "Holding something"})
    (row,) = compare(tmp_path / "something-something-v2-validation.json", store).per_class()
    assert row == {"class": "Holding something", "listed": 2, "available": 1, "failed": 0, "missing": 1}


def test_the_lists_of_ucf_and_hmdb(tmp_path: Path) -> None:
    store = write_store(tmp_path / "X.zarr", {f"Archery/v_Archery_g0{i}_c01.avi": "Archery" for i in range(3)})
    (tmp_path / "testlist01.txt").write_text("Archery/v_Archery_g00_c01.avi\nBiking/v_Biking_g00_c01.avi\n")
    (tmp_path / "trainlist01.txt").write_text("Archery/v_Archery_g01_c01.avi 3\nArchery/v_Archery_g09_c01.avi 3\n")
    tests = compare(tmp_path / "testlist01.txt", store)
    assert [(v.label, v.split, v.state) for v in tests.videos] == [
        ("Archery", "test", "available"),
        ("Biking", "test", "missing"),
    ]
    trains = compare(tmp_path / "trainlist01.txt", store)
    assert [(v.label, v.split, v.state) for v in trains.videos] == [
        ("Archery", "train", "available"),
        ("Archery", "train", "missing"),
    ]
    folder = tmp_path / "splits"
    folder.mkdir()
    (folder / "run_test_split1.txt").write_text("a.avi 1 \nb.avi 2 \nc.avi 0 \n")
    (folder / "walk_test_split1.txt").write_text("d.avi 2\n")
    hmdb = compare(folder, write_store(tmp_path / "H.zarr", {"run/a.avi": "run", "walk/d.avi": "walk"}))
    assert [(v.path, v.label, v.split, v.state) for v in hmdb.videos] == [
        ("run/a.avi", "run", "train", "available"),
        ("run/b.avi", "run", "test", "missing"),
        ("walk/d.avi", "walk", "test", "available"),
    ]
    (folder / "walk_test_split2.txt").write_text("d.avi 2\n")
    with pytest.raises(ManifestError, match="splits 1, 2"):
        compare(folder, tmp_path / "H.zarr")


def test_what_is_doubtful_is_said(tmp_path: Path) -> None:
    videos = {"run/1.mp4": "run", "walk/1.mp4": "walk", "jump/2.mp4": "jump", "e/3.mp4": "e\u0301te\u0301"}
    store = write_store(tmp_path / "X.zarr", videos)
    (tmp_path / "l.csv").write_text("path,label\n1.mp4,run\n2.mp4,leap\n2.mp4,leap\n")
    with pytest.raises(ManifestError) as caught:
        compare(tmp_path / "l.csv", store)
    for words in ("several videos of the store may be", "run/1.mp4, walk/1.mp4", "listed twice"):
        assert words in str(caught.value)
    (tmp_path / "l.csv").write_text("path,label\nrun/1.mp4,Run\n2.mp4,leap\n3.mp4,\xe9t\xe9\n", encoding="utf-8")
    assert compare(tmp_path / "l.csv", store).notes == (
        "1 videos with another class than the store's: jump/2.mp4 is 'leap', the store says 'jump'",
    )


def test_a_path_is_the_video_it_names_and_never_another_folders(tmp_path: Path) -> None:
    store = write_store(tmp_path / "X.zarr", {"run/1.avi": "run", "run/1.mp4": "run", "walk/2.mp4": "walk"})
    (tmp_path / "l.csv").write_text("path,label\nrun/1.mp4,run\njump/2.mp4,walk\n")
    found = compare(tmp_path / "l.csv", store)
    assert [(v.path, v.id, v.state) for v in found.videos] == [
        ("run/1.mp4", "run/1.mp4", "available"),
        ("jump/2.mp4", "", "missing"),
    ]
    (tmp_path / "run_test_split1.txt").write_text("1.mp4 1\n")
    (tmp_path / "walk_test_split1.txt").write_text("1.mp4 2\n")
    assert [v.state for v in compare(tmp_path, store).videos] == ["available", "missing"]
