"""Labels, splits and groups of a finished store are changed without a row being touched, and the log says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.errors import ManifestError
from vidfeat.extraction.relabel import relabel
from vidfeat.store import Fingerprint, StoreSpec, StoreWriter, TapSpec, VideoRow, open_store, verify
from vidfeat.tools.hdf5 import export_hdf5, import_hdf5

VIDEOS = [
    ("walk/0.mp4", "walk", "train", "s1"),
    ("walk/1.mp4", "walk", "val", "s2"),
    ("brush_hair/0.mp4", "brush_hair", "train", ""),
    ("brush_hair/1.mp4", "brush_hair", "val", ""),
    ("jump/0.mp4", "jump", "", ""),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "X.zarr"
    facts = [VideoRow(*video, n_frames=1, content_sha256=f"{place:064x}") for place, video in enumerate(VIDEOS)]
    facts[4] = VideoRow.failed(facts[4], reason="empty", detail="nothing in it")
    classes = ("brush_hair", "unseen", "jump", "walk")
    spec = StoreSpec((TapSpec("pooled", (4,), "float32"),), 1, 1, classes, Fingerprint({}), max_unit_videos=2)
    writer = StoreWriter.create(path, spec, facts)
    for unit in writer.pending_units():
        chosen = [facts[index] for index in unit.video_indices]
        good = [index for index in unit.video_indices if facts[index].ok]
        writer.commit(unit, {"pooled": np.repeat(good, 4).reshape(-1, 4) + 0.5}, chosen)
    writer.finalize()
    return path


def keys_of(path: Path) -> list[tuple[str, str, str, str]]:
    return [(row.id, row.label, row.split, row.group) for row in open_store(path).videos()]


def listed(folder: Path, text: str) -> Path:
    (folder / "labels.csv").write_text(text)
    return folder / "labels.csv"


def bytes_of(path: Path, *, below: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted((path / below).rglob("*")) if p.is_file()}


def test_labels_splits_and_groups_change_and_nothing_else(tmp_path: Path, store: Path) -> None:
    kept = bytes_of(store, below="pooled") | bytes_of(store, below="commits")
    source = listed(tmp_path, "path,label,split,group\nwalk/1.mp4,run,Testing,s9\njump/0.mp4,hop,train,\n")

    done = relabel(store, source)

    assert (done.n_videos, done.n_changed) == (5, 2)
    assert keys_of(store) == [
        VIDEOS[0],
        ("walk/1.mp4", "run", "test", "s9"),
        *VIDEOS[2:4],
        ("jump/0.mp4", "hop", "train", ""),
    ]
    reader = open_store(store, check="always")
    assert reader.classes == done.classes == ("brush_hair", "unseen", "hop", "walk", "run")
    assert reader.rows("pooled", [1, 3]).values[:, 0].tolist() == [1.5, 3.5]
    assert reader.videos()[4].detail == "nothing in it"
    assert bytes_of(store, below="pooled") | bytes_of(store, below="commits") == kept
    report = verify(store, level="full")
    assert (report.problems, report.notes) == ((), ())
    (change,) = StoreWriter.attach(store).plan.changes
    assert change.kind == "relabel"
    assert change.why.startswith("labels.csv (sha256 ")
    assert set(change.videos) == {1, 4}


def test_a_class_that_is_renamed_keeps_its_place(tmp_path: Path, store: Path) -> None:
    text = "path,label\nbrush_hair/0.mp4,brush hair\nbrush_hair/1.mp4,brush hair\n"
    assert relabel(store, listed(tmp_path, text)).classes == ("brush hair", "unseen", "jump", "walk")
    text = "path,label\nbrush_hair/0.mp4,walk\nbrush_hair/1.mp4,walk\n"
    assert relabel(store, listed(tmp_path, text)).classes == ("unseen", "jump", "walk")
    assert [row.label for row in open_store(store).videos()] == ["walk"] * 4 + ["jump"]
    assert len(StoreWriter.attach(store).plan.changes) == 2


def test_the_same_again_changes_nothing(tmp_path: Path, store: Path) -> None:
    source = listed(tmp_path, "path,split\nwalk/1.mp4,test\n")
    assert relabel(store, source).n_changed == 1
    before = bytes_of(store, below=".")
    assert relabel(store, source).n_changed == 0
    assert bytes_of(store, below=".") == before
    assert open_store(store).classes == ("brush_hair", "unseen", "jump", "walk")


def test_a_whole_split_on_the_command_line(store: Path) -> None:
    result = CliRunner().invoke(main, ["relabel", str(store), "--split", "val=test"])
    assert result.exit_code == 0, result.output
    assert "2 of 5 videos changed; 4 classes" in result.output
    assert [row.split for row in open_store(store).videos()] == ["train", "test", "train", "test", ""]
    wrong = CliRunner().invoke(main, ["relabel", str(store), "--split", "vla=trian"])
    assert wrong.exit_code == 2
    assert "'trian': did you mean 'train'?" in wrong.output
    assert "'vla'; the store has (none), test, train" in wrong.output
    assert "one of train, val, test: --split OLD=NEW" in wrong.output
    assert CliRunner().invoke(main, ["relabel", str(store)]).exit_code == 2


def test_everything_wrong_with_a_list_is_said_and_nothing_is_changed(tmp_path: Path, store: Path) -> None:
    before = bytes_of(store, below=".")
    text = "path,label,split\nwalk/9.mp4,walk,train\nwalk/0.mp4,walk,trian\nwalk/0.mp4,walk,train\njump/0.mp4,,train\n"
    with pytest.raises(ManifestError) as caught:
        relabel(store, listed(tmp_path, text))
    for part in (
        "1 x video that the store does not have:\n    line 2: 'walk/9.mp4': did you mean 'walk/",
        "1 x split that is none of train, val, test",
        "1 x video listed twice:\n    line 4",
        "1 x line without a label:\n    line 5",
    ):
        assert part in str(caught.value)
    with pytest.raises(ManifestError, match="neither labels nor splits"):
        relabel(store, listed(tmp_path, "path\nwalk/0.mp4\n"))
    assert bytes_of(store, below=".") == before


def test_integer_labels_and_a_class_list(tmp_path: Path, store: Path) -> None:
    classes = tmp_path / "classes.csv"
    classes.write_text("id,name\n0,walk\n1,brush_hair\n2,jump\n3,swim\n")
    source = tmp_path / "list.txt"
    source.write_text("walk/0.mp4 3\nwalk/1.mp4 0\n")

    relabel(store, source, classes=classes)

    assert open_store(store).classes == ("walk", "brush_hair", "jump", "swim")
    assert [row.label for row in open_store(store).videos()][:2] == ["swim", "walk"]
    classes.write_text("id,name\n0,walk\n1,swim\n")
    with pytest.raises(
        ManifestError, match=r"not in the class list(.|\n)*brush_hair(.|\n)*--labels LIST renames classes"
    ):
        relabel(store, classes=classes)


def test_what_is_added_later_follows_the_new_labels(tmp_path: Path, store: Path) -> None:
    relabel(store, listed(tmp_path, "path,label\nwalk/1.mp4,run\n"))
    writer = StoreWriter.open(store)
    new = VideoRow("run/7.mp4", "run", n_frames=1)
    known = [VideoRow(*key, n_frames=1) for key in keys_of(store)]
    spec = StoreSpec(tuple(tap.spec for tap in writer.plan.taps.values()), 1, 1, writer.plan.classes, Fingerprint({}))
    writer.extend(spec, [*known, new])
    writer.retry([4])
    for unit in writer.pending_units():
        chosen = [known[index] if index < 5 else new for index in unit.video_indices]
        writer.commit(unit, {"pooled": np.full((len(chosen), 4), 9.0)}, chosen)
    writer.finalize()

    assert keys_of(store) == [*(video[:4] for video in VIDEOS[:1]), ("walk/1.mp4", "run", "val", "s2"), *VIDEOS[2:],
                              ("run/7.mp4", "run", "", "")]  # fmt: skip
    assert open_store(store).ok.all()
    assert relabel(store, listed(tmp_path, "path,label\nwalk/1.mp4,walk\nrun/7.mp4,walk\n")).classes[-1] == "walk"
    assert verify(store, level="full").problems == ()


def test_an_unfinished_store_is_relabelled_and_then_finished(tmp_path: Path, store: Path) -> None:
    writer = StoreWriter.open(store)
    writer.discard([0])

    relabel(store, listed(tmp_path, "path,label\nwalk/1.mp4,run\n"))

    writer = StoreWriter.attach(store)
    assert not writer.is_finished
    (unit,) = writer.pending_units()
    facts = [VideoRow(*writer.plan.videos[index], n_frames=1) for index in unit.video_indices]
    writer.commit(unit, {"pooled": np.full((2, 4), 9.0)}, facts)
    writer.finalize()
    assert keys_of(store)[1] == ("walk/1.mp4", "run", "val", "s2")


def test_hdf5_and_back_keep_the_new_labels(tmp_path: Path, store: Path) -> None:
    relabel(store, listed(tmp_path, "path,label,split\nwalk/1.mp4,run,test\n"))
    import_hdf5(export_hdf5(store, tmp_path / "X.h5"), tmp_path / "Y.zarr")
    assert keys_of(tmp_path / "Y.zarr") == keys_of(store)
    assert open_store(tmp_path / "Y.zarr").classes == open_store(store).classes
