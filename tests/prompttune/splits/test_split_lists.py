"""Lists and class files in every dialect of the field, and their paths matched to a store's ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompttune.errors import SplitError
from prompttune.splits.id_matching import match_ids
from prompttune.splits.importing import ListPair, import_lists, onto_store
from prompttune.splits.lists import read_class_file, read_video_list, videos_by_class

VIDEOS = ("a.mp4", "b c.mp4", "d.mp4")
CLASSES = "id,name\n0,run\n1,jump\n"
DIALECTS = {
    "blank": "a.mp4 0\nb c.mp4 1\nd.mp4 0\n",
    "comma": "a.mp4,0\nb c.mp4,1\nd.mp4,0",
    "comma and blank": "a.mp4, 0\nb c.mp4, 1\nd.mp4, 0\n",
    "quoted": '"a.mp4",0\n"b c.mp4",1\n"d.mp4",0\n',
    "quoted, blank": '"a.mp4" 0\n"b c.mp4" 1\n"d.mp4" 0\n',
    "crlf": "a.mp4 0\r\nb c.mp4 1\r\nd.mp4 0\r\n",
    "bom": "\ufeffa.mp4 0\nb c.mp4 1\nd.mp4 0\n",
    "tabs": "a.mp4\t0\nb c.mp4\t1\nd.mp4\t0\n",
    "three columns": "a.mp4 120 0\nb c.mp4 31 1\nd.mp4 7 0\n",
    "three columns, comma": "a.mp4,120,0\nb c.mp4,31,1\nd.mp4,7,0\n",
    "blank lines": "\na.mp4 0\n\nb c.mp4 1\nd.mp4 0\n\n",
    "names": "a.mp4,run\nb c.mp4,jump\nd.mp4,run\n",
}


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_list_reads_the_same_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    listing = read_video_list(write(tmp_path / "list.txt", DIALECTS[dialect]))
    classes = read_class_file(write(tmp_path / "classes.csv", CLASSES))
    assert tuple(video for video, _ in listing.lines) == VIDEOS
    assert videos_by_class(listing, classes) == {"run": ("a.mp4", "d.mp4"), "jump": ("b c.mp4",)}


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,run\n1,jump up\n",
        'id,name\r\n0,"run"\r\n1,"jump up"\r\n',
        "\ufeffid,name\n0,run\n\n1,jump up\n\n",
        "id,name\n1,jump up\n0,run\n",
        "name\nrun\njump up\n",
        "run\njump up\n",
    ],
)
def test_a_class_file_reads_the_same_in_every_dialect(tmp_path: Path, text: str) -> None:
    assert read_class_file(write(tmp_path / "classes.csv", text)).names == {0: "run", 1: "jump up"}


def test_a_quoted_class_name_keeps_its_comma(tmp_path: Path) -> None:
    text = 'id,name\n0,"tying knot, not on a tie"\n1,run\n'
    assert read_class_file(write(tmp_path / "c.csv", text)).classes == ("tying knot, not on a tie", "run")


def test_every_problem_of_a_class_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SplitError) as caught:
        read_class_file(
            write(tmp_path / "c.csv", "id,name\n0,run\n0,jump\nx,swim\n3,run\n4,tying knot, not on a tie\n")
        )
    for words in ("id 0 is given twice", "'x' is no whole number", "'run' is given twice", "3 fields instead of 2"):
        assert words in str(caught.value)


def test_lines_and_labels_that_mean_nothing_are_named(tmp_path: Path) -> None:
    classes = read_class_file(write(tmp_path / "c.csv", CLASSES))
    with pytest.raises(SplitError, match="1 lines are not"):
        read_video_list(write(tmp_path / "l.txt", "a.mp4 0\nb.mp4\n"))
    with pytest.raises(SplitError, match="empty"):
        read_video_list(write(tmp_path / "l.txt", "\n"))
    with pytest.raises(SplitError, match="cannot be read"):
        read_video_list(tmp_path / "nowhere.txt")
    listing = read_video_list(write(tmp_path / "l.txt", "a.mp4 0\nb.mp4 2\na.mp4 0\n"))
    with pytest.raises(SplitError) as caught:
        videos_by_class(listing, classes)
    assert "labels outside the class file" in str(caught.value)
    assert "(0 to 1): 2" in str(caught.value)
    assert "listed twice: a.mp4" in str(caught.value)


def test_a_list_with_another_class_file_than_its_own_is_refused(tmp_path: Path) -> None:
    base = read_class_file(write(tmp_path / "base.csv", "id,name\n0,Typing\n1,Punch\n"))
    novel = read_class_file(write(tmp_path / "novel.csv", "id,name\n0,PullUps\n1,YoYo\n"))
    listing = read_video_list(write(tmp_path / "l.txt", "v_Typing_g01_c01.avi 0\nv_Punch_g02_c01.avi 1\n"))
    assert set(videos_by_class(listing, base, [novel])) == {"Typing", "Punch"}
    with pytest.raises(SplitError, match=r"names fit .*base\.csv"):
        videos_by_class(listing, novel, [base])


def test_paths_find_ids_with_and_without_folders_and_endings() -> None:
    ids = ["train/run/a.mp4", "train/jump/b.mp4", "val/run/c.mkv", "x/d.mp4", "y/d.mp4"]
    matches = match_ids(["train/run/a.mp4", "jump/b.mp4", "c.avi", "val\\run\\c.mkv", "d.mp4", "y/d.avi", "e.mp4"], ids)
    assert matches.rows == {"train/run/a.mp4": 0, "jump/b.mp4": 1, "c.avi": 2, "val\\run\\c.mkv": 2, "y/d.avi": 4}
    assert matches.missing == ("e.mp4",)
    assert matches.ambiguous == {"d.mp4": ("x/d.mp4", "y/d.mp4")}


STORE_IDS = ("run/001.mp4", "swim/001.mp4", "k400_train/dive/abc.mp4", "val/hop/001.mp4", "lone.mp4", "fly/only.mp4")


@pytest.mark.parametrize(
    ("path", "row"),
    [
        ("swim/001.avi", 1),  # the folder tells, whatever the ending
        ("/data/videos/swim/001.mp4", 1),  # the id is a suffix of the path
        ("videos\\run\\001.mp4", 0),
        ("train_256/dive/abc.mkv", 2),  # folder and name are shared, and both are training folders
        ("elsewhere/lone.avi", 4),  # an id without a folder, a name that the list has once
        ("only.webm", 5),  # a name listed without its folder, unique in the store
        ("only", 5),  # as SSv2 lists its videos
        ("jump/001.mp4", None),  # another folder's video of the same name
        ("train/hop/001.mp4", None),  # of the other side
        ("fly/other/only.mp4", None),
        ("dive/xabc.mp4", None),
        ("lone.mp4/001.mp4", None),
    ],
)
def test_the_longest_path_suffix_decides_and_no_other_folders_video_is_taken(path: str, row: int | None) -> None:
    found = match_ids([path], STORE_IDS)
    assert found.ambiguous == {}
    assert found.rows == ({} if row is None else {path: row})
    assert found.missing == (() if row is not None else (path,))


def test_names_alone_are_taken_once_or_not_at_all() -> None:
    assert match_ids(["001.mp4"], STORE_IDS).ambiguous == {
        "001.mp4": ("run/001.mp4", "swim/001.mp4", "val/hop/001.mp4")
    }
    # Two folders' videos of one name cannot both be the store's one video without a folder.
    assert match_ids(["a/lone.mp4", "b/lone.mp4"], STORE_IDS).missing == ("a/lone.mp4", "b/lone.mp4")
    # Of two endings the equal one is meant.
    assert match_ids(["x/a.avi"], ["v/x/a.mp4", "v/x/a.avi"]).rows == {"x/a.avi": 1}
    assert match_ids(["x/a.webm"], ["v/x/a.mp4", "v/x/a.avi"]).ambiguous == {"x/a.webm": ("v/x/a.mp4", "v/x/a.avi")}
    # A point in a name is no ending.
    assert match_ids(["take1.2", "take1.3"], ["c/take1.2.mp4", "c/take1.4.mp4"]).missing == ("take1.3",)
    # The longer suffix wins over the shorter one.
    assert match_ids(["b/c/d.mp4"], ["a/c/d.mp4", "x/b/c/d.mp4", "c/d.mp4"]).rows == {"b/c/d.mp4": 1}


def test_import_refuses_another_folders_video(tmp_path: Path) -> None:
    classes = write(tmp_path / "c.csv", "id,name\n0,run\n1,jump\n")
    listing = write(tmp_path / "l.txt", "run/001.mp4 0\njump/001.mp4 1\n")
    split = import_lists([], [ListPair("test", listing, classes)])
    with pytest.raises(SplitError, match=r"1 videos are not in the store: jump/001\.mp4"):
        onto_store(split, ["run/001.mp4", "swim/001.mp4"], store="s.zarr", allow_missing=0)
    onto = onto_store(split, ["run/001.mp4", "swim/001.mp4"], store="s.zarr", allow_missing=1)
    assert onto.tests["test"].videos == {"run": ("run/001.mp4",)}
