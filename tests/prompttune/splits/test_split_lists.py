"""Lists and class files in every dialect of the field, and their paths matched to a store's ids."""

from __future__ import annotations

import json
import os
import unicodedata
import warnings
from pathlib import Path

import pytest

from prompttune.errors import PrompttuneNote, SplitError
from prompttune.splits.class_files import named_classes, read_class_file
from prompttune.splits.importing import ListPair, import_lists, onto_store
from prompttune.splits.lists import read_video_list, videos_by_class
from prompttune.splits.making import read_labelled_csv
from vidfeat.errors import ManifestError
from vidfeat.id_matching import match_ids
from vidfeat.video.manifest import load_classes, load_manifest

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


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_list_reads_the_same_in_every_dialect(tmp_path: Path, dialect: str) -> None:
    listing = read_video_list(write(tmp_path / "list.txt", DIALECTS[dialect]))
    classes = read_class_file(write(tmp_path / "classes.csv", CLASSES))
    assert tuple(video for video, _ in listing.lines) == VIDEOS
    assert videos_by_class(listing, classes) == {"run": ("a.mp4", "d.mp4"), "jump": ("b c.mp4",)}


@pytest.mark.parametrize("line", ["up, down/b c.{} 1", "up, down/b c.{} 31 1", 'up, down/b c.{} "jump, high"'])
@pytest.mark.parametrize("ending", ["mp4", "MTS", "vob"])
def test_a_path_may_hold_commas_as_it_may_for_extraction(tmp_path: Path, line: str, ending: str) -> None:
    file = write(tmp_path / "list.txt", line.format(ending) + "\na.avi 0\n")
    ((path, label), _) = read_video_list(file).lines
    classes = ["run", "jump, high"]
    assert (path, "jump, high" if label == "1" else label) == (f"up, down/b c.{ending}", "jump, high")
    if '"' not in line:
        (item, _) = load_manifest(file, classes=classes, must_exist=False).items
        assert (item.id, item.label) == (path, classes[int(label)])


@pytest.mark.parametrize(
    "text",
    [
        "id,name\n0,run\n1,jump up\n",
        'id,name\r\n0,"run"\r\n1,"jump up"\r\n',
        "\ufeffid,name\n0,run\n\n1,jump up\n\n",
        "id,name\n1,jump up\n0,run\n",
        "name\nrun\njump up\n",
        "run\njump up\n",
        "0 run\n1 jump up\n",
        '1,"jump up"\n0,run\n',
        "id;name\r\n0;run\r\n1;jump up\r\n",
        "name\tid\trows\nrun\t0\t7\njump up\t1\t9\n",
        "0;run\n1;jump up\n",
        "run 0\njump up 1\n",
        '["run", "jump up"]',
        '{"jump up": 1, "run": 0}',
        '{"0": "run", "1": "jump up"}',
    ],
)
def test_a_class_file_reads_the_same_in_every_dialect(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / ("classes.json" if text[0] in "[{" else "classes.csv"), text)
    assert read_class_file(file).names == {0: "run", 1: "jump up"}
    assert sorted(load_classes(file), reverse=True) == ["run", "jump up"]  # as `vidfeat extract --classes` reads it


@pytest.mark.parametrize(
    "text", ["index;class\n0;run\n1;jump\n", "index class\n0 run\n1 jump\n", "run\tfast\njump\thigh\n"]
)
def test_columns_are_never_taken_for_names(tmp_path: Path, text: str) -> None:
    """Every id would be off by one, and no message would say so."""
    file = write(tmp_path / "c.csv", text)
    with pytest.raises(SplitError, match="no class file"):
        read_class_file(file)
    with pytest.raises(ManifestError, match="not a CSV"):
        load_classes(file)


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


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ('"c/a, b.mp4" 0\nc/d.mp4 1\n', [("c/a, b.mp4", "0"), ("c/d.mp4", "1")]),
        ("c/plain.mp4 running test\nc/a b.avi run\n", [("c/plain.mp4", "running test"), ("c/a b.avi", "run")]),
        ("clip.avi 163 0\nb c.avi 31 1\n", [("clip.avi", "0"), ("b c.avi", "1")]),
        ("clip.avi 163 0\nother.avi 1\n", [("clip.avi", "0"), ("other.avi", "1")]),
        ("folder 163 0\nb c 31 1\n", [("folder", "0"), ("b c", "1")]),
        ("take.mp4 take 2\n", [("take.mp4", "take 2")]),
        ('"two words.mp4" "running test"\n', [("two words.mp4", "running test")]),
        ("a.mp4.avi 1\n", [("a.mp4.avi", "1")]),
        ("78687 4\n78688 5\n", [("78687", "4"), ("78688", "5")]),
    ],
)
def test_lines_of_other_tools(tmp_path: Path, text: str, lines: list[tuple[str, str]]) -> None:
    assert read_video_list(write(tmp_path / "l.txt", text)).lines == tuple(lines)


def test_one_bad_line_is_one_bad_line(tmp_path: Path) -> None:
    classes = read_class_file(write(tmp_path / "c.csv", CLASSES))
    with pytest.raises(SplitError) as caught:
        videos_by_class(read_video_list(write(tmp_path / "l.txt", "a.mp4 0\nb.mp4 1\nc.mp4 x\nd.mp4 0\n")), classes)
    assert str(caught.value).endswith("(0 to 1): x")
    with pytest.raises(SplitError) as caught:
        read_video_list(write(tmp_path / "l.txt", "a 10 0\nb 11 1\nbroken 0\nd 12 0\n"))
    assert "1 lines are not" in str(caught.value)
    assert "- broken 0" in str(caught.value)
    with pytest.raises(SplitError) as caught:
        read_labelled_csv(write(tmp_path / "l.csv", "path,label\na,0\nb,1\nc,run\nd,0\n"), classes=classes)
    assert "label run is no id of" in str(caught.value)
    assert str(caught.value).count("is no id") == 1


def test_a_name_is_found_however_its_letters_are_written() -> None:
    composed, in_bytes = "caf\u00e9/\u00fcb.mp4", os.fsdecode("caf\u00e9/".encode() + "\u00fcb.avi".encode("cp1252"))
    decomposed = unicodedata.normalize("NFD", composed)
    assert len({composed, decomposed, in_bytes}) == 3
    for path in (composed, decomposed, in_bytes):
        for key in (composed, decomposed, in_bytes):
            assert match_ids([path, "x/y.mp4"], ["run/001.mp4", key]).rows == {path: 1}, (path, key)
    # Of two spellings in one store the equal one is meant.
    assert match_ids([decomposed, "x/y.mp4"], [composed, decomposed]).rows == {decomposed: 1}
    # A byte that Windows-1252 has no letter for is equal to itself alone.
    odd = os.fsdecode(b"run/\x81.mp4")
    assert match_ids([odd, "run/\u0081.mp4"], ["data/" + odd]).rows == {odd: 0}


def test_something_something_v2_is_read_as_it_is_published(tmp_path: Path) -> None:
    labels = {"Holding something next to something": "1", "Pushing something": "0"}
    videos = [
        {"id": "78687", "label": "holding potato next to bottle", "template": "Holding [something] next to [something]",
         "placeholders": ["potato", "bottle"]},
        {"id": "42326", "label": "pushing pen", "template": "Pushing [something]", "placeholders": ["pen"]},
    ]  # fmt: skip
    classes = read_class_file(write(tmp_path / "labels.json", json.dumps(labels)))
    assert classes.classes == ("Pushing something", "Holding something next to something")
    found = videos_by_class(read_video_list(write(tmp_path / "train.json", json.dumps(videos))), classes)
    assert found == {"Pushing something": ("42326",), "Holding something next to something": ("78687",)}
    assert match_ids(["42326"], ["20bn/42326.webm", "20bn/78687.webm"]).rows == {"42326": 0}
    with pytest.raises(SplitError, match="no list of labelled videos"):
        read_video_list(write(tmp_path / "test.json", '[{"id": "1"}]'))


def test_kinetics_official_csv_is_a_list_and_a_source(tmp_path: Path) -> None:
    text = (
        "label,youtube_id,time_start,time_end,split\n"
        "riding a bike,-3B32lodo2M,59,69,train\n"
        '"tying knot, not on a tie",0wR5jVB-WPk,417,427,validate\n'
    )
    file = write(tmp_path / "k.csv", text)
    names = ("-3B32lodo2M_000059_000069.mp4", "0wR5jVB-WPk_000417_000427.mp4")
    labels = ("riding a bike", "tying knot, not on a tie")
    assert read_video_list(file).lines == tuple(zip(names, labels, strict=True))
    assert match_ids(names, [f"train/riding_a_bike/{names[0]}"]).rows == {names[0]: 0}
    table = read_labelled_csv(file)
    assert (table.ids, table.labels, table.splits) == (names, labels, ("train", "val"))
    with pytest.raises(SplitError, match="do not fit"):
        read_video_list(write(tmp_path / "bad.csv", text + "run,abc,x,2,train\n"))


def test_class_files_in_other_encodings_and_json(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    for encoding in ("utf-16", "utf-16-le", "utf-8-sig", "utf-8"):
        file.write_bytes("id,name\n0,café\n1,run\n".encode(encoding))
        assert read_class_file(file).classes == ("café", "run")
    file.write_bytes("id,name\n0,café\n".encode("latin-1"))
    with pytest.warns(PrompttuneNote, match=r"c\.csv is not UTF-8; read as Windows-1252"):
        assert read_class_file(file).classes == ("café",)
    file.write_bytes("id,name\n0,丂\n".encode("gbk"))
    with pytest.raises(SplitError, match=r"byte 0x81 in line 2, .*: save it as UTF-8"):
        read_class_file(file)
    file.write_bytes(b"\0\0\0\x20ftypisom\xff")
    with pytest.raises(SplitError, match="the class file is no text"):
        read_class_file(file)
    assert read_class_file(write(file, '["brush hair", "run"]')).classes == ("brush hair", "run")
    with pytest.raises(SplitError, match="begins like JSON"):
        read_class_file(write(file, '["brush hair", '))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le", "utf-32", "cp1252"])
def test_lists_are_read_in_the_encodings_that_extraction_reads(tmp_path: Path, encoding: str) -> None:
    """The same CSV through `vidfeat extract`'s reader, `splits make`'s and `splits import`'s."""
    text = "path,label,split\nfête/a.mp4,fête,Training\nrun/b.mp4,run,validation\n"
    file = tmp_path / "list.csv"
    file.write_bytes(text.replace(",", {"latin-1": ";", "utf-16": "\t"}.get(encoding, ",")).encode(encoding))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        table = read_labelled_csv(file)
        pairs = read_video_list(write_bytes(tmp_path / "l.txt", "fête/a.mp4 fête\nrun/b.mp4 run\n".encode(encoding)))
    items = load_manifest(file, must_exist=False).items
    assert [(i.id, i.label, i.split) for i in items] == list(zip(table.ids, table.labels, table.splits, strict=True))
    assert pairs.lines == (("fête/a.mp4", "fête"), ("run/b.mp4", "run"))
    names = sorted(str(warning.message).split(" is not")[0] for warning in told)
    assert names == ([str(tmp_path / "l.txt"), str(file)] if encoding in ("latin-1", "cp1252") else [])  # each once


def test_one_class_in_two_spellings_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "c.csv"
    with pytest.raises(SplitError, match="'Run' and 'run'"):
        read_class_file(write(file, "id,name\n0,Run\n1,run\n"))
    with pytest.raises(SplitError, match="case, Unicode form or blanks alone"):
        read_class_file(write(file, "caf\u00e9\ncafe\u0301\n"))
    with pytest.raises(SplitError, match="'brush_hair' and 'brush hair'"):
        read_class_file(write(file, "brush_hair\nbrush hair\n"))
    with pytest.raises(SplitError, match="'JUMP' and 'jump'"):
        read_labelled_csv(write(file, "path,label\na,JUMP\nb,jump\n"))
    classes = read_class_file(write(file, CLASSES))
    with pytest.raises(SplitError, match="'run' and 'Run'"):
        videos_by_class(read_video_list(write(tmp_path / "l.txt", "a.mp4 Run\n")), classes)
    with pytest.raises(SplitError, match="broken over two lines"):
        read_class_file(write(file, 'id,name\n0,"riding\na bike"\n1,run\n'))


def test_class_names_of_a_command_line(tmp_path: Path) -> None:
    file = write(tmp_path / "names.txt", "brush hair\nrun\n")
    assert named_classes("brush hair, run") == named_classes(str(file)) == ("brush hair", "run")
    assert named_classes('["brush hair", "run, then jump"]') == ("brush hair", "run, then jump")
    assert named_classes("clapping") == ("clapping",)
    assert named_classes("v1.5 dance, run") == ("v1.5 dance", "run")
    for wrong in ("nofile.txt", "folder/names", str(tmp_path), "Names.CSV"):
        with pytest.raises(SplitError, match="no such file of class names"):
            named_classes(wrong)
    assert named_classes('["folder/names"]') == ("folder/names",)  # as the message advises
    for wrong in ("", " , "):
        with pytest.raises(SplitError, match="not a single class name"):
            named_classes(wrong)
    for wrong in ("[]", "[1, 2]", '["run"', '[["run"]]'):
        with pytest.raises(SplitError, match="no JSON list of class names"):
            named_classes(wrong)
