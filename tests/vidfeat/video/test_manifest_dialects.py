"""Lists and class files as people bring them: their encodings, their quotes, and two data sets' own lists."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from pathlib import Path

import pytest

from vidfeat.errors import ManifestError
from vidfeat.video.manifest import Manifest, load_classes, load_manifest


def listed(folder: Path, text: str, *, encoding: str = "utf-8", **options: object) -> list[tuple[str, str, str]]:
    """(id, label, split) of the videos of a list with that text."""
    source = folder / "list.txt"
    source.write_bytes(text.encode(encoding))
    manifest = load_manifest(source, must_exist=False, **options)  # type: ignore[arg-type]
    return [(item.id, item.label, item.split) for item in manifest.items]


def refused(folder: Path, text: str, **options: object) -> str:
    with pytest.raises(ManifestError) as caught:
        listed(folder, text, **options)
    return str(caught.value)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


# --- commas, blanks, quotes


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"c/odd, name.mp4" walk', ("c/odd, name.mp4", "walk", "")),
        ('"c/odd, name.mp4" "run, fast"', ("c/odd, name.mp4", "run, fast", "")),
        ('"c/odd, name.mp4","run, fast",train', ("c/odd, name.mp4", "run, fast", "train")),
        ("c/odd, name.mp4 walk", ("c/odd, name.mp4", "walk", "")),
        ("c/plain.mp4 brush hair", ("c/plain.mp4", "brush hair", "")),
        ("c/plain.mp4 , brush hair", ("c/plain.mp4", "brush hair", "")),
        ('"c/two words.mp4" brush hair', ("c/two words.mp4", "brush hair", "")),
        ("c/plain.mp4 brush hair train", ("c/plain.mp4", "brush hair", "train")),
        ('c/plain.mp4 "running test"', ("c/plain.mp4", "running test", "")),
        ('c/plain.mp4 "running test" Validation', ("c/plain.mp4", "running test", "val")),
    ],
)
def test_one_line(tmp_path: Path, line: str, expected: tuple[str, str, str]) -> None:
    assert listed(tmp_path, line) == [expected]


def test_a_label_of_two_words_that_ends_like_a_split(tmp_path: Path) -> None:
    line = "c/plain.mp4 running test\n"
    assert listed(tmp_path, line, classes=["running test", "walk"]) == [("c/plain.mp4", "running test", "")]
    assert listed(tmp_path, line, classes=["running", "walk"]) == [("c/plain.mp4", "running", "test")]
    assert listed(tmp_path, f'{line}d.mp4 "running test"')[0] == ("c/plain.mp4", "running test", "")
    assert listed(tmp_path, f"{line}d.mp4 running")[0] == ("c/plain.mp4", "running", "test")
    assert listed(tmp_path, f"{line}d.mp4 walk train")[0] == ("c/plain.mp4", "running", "test")
    message = refused(tmp_path, f"{line}d.mp4 brush hair")
    assert "label of several words, or label and split? (quote the label):\n    line 1: c/plain.mp4 running" in message
    assert "quote the label" in refused(tmp_path, line, classes=["running", "running test"])


@pytest.mark.parametrize("line", ["clip.avi 163 0", "clip.avi,163,0", '"clip.avi" 163 0', "clip.avi\t163\t0"])
def test_a_frame_count_between_path_and_label(tmp_path: Path, line: str) -> None:
    assert listed(tmp_path, line, classes=["walk", "run"]) == [("clip.avi", "walk", "")]
    assert "frame folders, not videos" in refused(tmp_path, "clip 163 0", classes=["walk", "run"])


def test_a_frame_count_with_names_and_splits(tmp_path: Path) -> None:
    assert listed(tmp_path, "a.avi 163 1 train\nb.avi 7 0 val", classes=["walk", "run"]) == [
        ("a.avi", "run", "train"),
        ("b.avi", "walk", "val"),
    ]


def test_one_bad_label_leaves_the_integer_labels_alone(tmp_path: Path) -> None:
    text = "".join(f"{i}.mp4 {i % 2}\n" for i in range(9)) + "9.mp4 rnu\n10.mp4 7\n"
    message = refused(tmp_path, text, classes=["walk", "run"])
    assert "2 x label that is not in the class list:" in message
    assert "line 10: 'rnu': did you mean 'run'?" in message
    assert "line 11: 7: the ids are 0 to 1" in message
    message = refused(tmp_path, text)
    assert "1 x label that is no integer in a list of integer labels:\n    line 10: 'rnu'" in message
    named = text.replace("rnu", "run").replace("10.mp4 7", "10.mp4 1")
    assert [label for _, label, _ in listed(tmp_path, named, classes=["walk", "run"])][-2:] == ["run", "run"]


def test_a_unicode_line_end_inside_a_name_ends_no_line(tmp_path: Path) -> None:
    assert listed(tmp_path, "a\u2028b.mp4 walk\r\nc.mp4 run\rd.mp4 walk") == [
        ("a\u2028b.mp4", "walk", ""),
        ("c.mp4", "run", ""),
        ("d.mp4", "walk", ""),
    ]


# --- encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_any_encoding(tmp_path: Path, encoding: str) -> None:
    classes = tmp_path / "labels.csv"
    classes.write_bytes('id,name\r\n0,"Pliés, à la barre"\r\n1,walk\r\n'.encode(encoding))
    text = "é/a.mp4 0\r\nb.mp4 1\r\n"

    assert listed(tmp_path, text, encoding=encoding, classes=classes) == [
        ("é/a.mp4", "Pliés, à la barre", ""),
        ("b.mp4", "walk", ""),
    ]
    assert load_classes(classes) == ("Pliés, à la barre", "walk")


@pytest.mark.parametrize(("name", "fix"), [("a.mp4", "the folder it lies in"), ("list.txt", "a list, or the folder")])
def test_a_video_is_no_list(tmp_path: Path, name: str, fix: str) -> None:
    index = b"\0\0\0\x20ftypisom\0\0\3\0moov" + bytes(150)  # at the start of many an MP4
    (tmp_path / name).write_bytes(index + bytes(range(256)) * 40)
    with pytest.raises(ManifestError, match=r"no text") as caught:
        load_manifest(tmp_path / name)
    assert fix in str(caught.value)
    assert len(str(caught.value)) < 500  # none of its bytes


def test_what_is_read_as_latin_1_is_said(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("id,name\n0,Pliés\n".encode("latin-1"))
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    options = {"classes": tmp_path / "labels.csv", "must_exist": False}

    notes = load_manifest(tmp_path / "list.txt", **options).notes  # type: ignore[arg-type]

    assert notes == ("labels.csv is not UTF-8; read as Windows-1252 (Latin-1)",)
    with pytest.raises(ManifestError, match="not UTF-8"):
        load_manifest(tmp_path / "list.txt", strict=True, **options)  # type: ignore[arg-type]
    (tmp_path / "labels.csv").write_bytes("id,name\n0,丂\n".encode("gbk"))  # 0x81 0x40
    with pytest.raises(ManifestError, match=r"byte 0x81 in line 2, .*: save it as UTF-8"):
        load_manifest(tmp_path / "list.txt", **options)  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
@pytest.mark.parametrize("on_disk", ["utf-8", "latin-1"])
def test_a_latin_1_list_finds_its_files_in_both_encodings(tmp_path: Path, on_disk: str) -> None:
    name = "été.mp4".encode(on_disk)
    with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
        pass
    (tmp_path / "list.txt").write_bytes("été.mp4 walk\n".encode("latin-1"))

    (item,) = load_manifest(tmp_path / "list.txt").items

    assert os.fsencode(item.path).endswith(name)
    assert item.id == os.fsdecode(name)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_file_in_another_unicode_form_is_found(tmp_path: Path, forms: tuple[str, str]) -> None:
    here, there = (unicodedata.normalize(form, "été.mp4") for form in forms)
    root = tmp_path / there  # whose own form is not the file's
    root.mkdir()
    touch(root, here)
    (root / "list.csv").write_text(f"path,label\n{there},walk\n", encoding="utf-8")

    (item,) = load_manifest(root / "list.csv").items

    assert item.id == there
    assert os.path.isfile(item.path)


# --- class names


def test_a_name_over_two_lines_is_one_name(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text('id,name\n0,"brush\nhair"\n1,walk\n')
    (tmp_path / "list.csv").write_text('path,label\na.mp4,"brush\nhair"\n')

    manifest = load_manifest(tmp_path / "list.csv", classes=tmp_path / "labels.csv", must_exist=False)

    assert manifest.classes == ("brush hair", "walk")
    assert manifest.items[0].label == "brush hair"
    assert any("class name broken over two lines, read as one: brush hair" in note for note in manifest.notes)


@pytest.mark.parametrize(
    ("one", "other"), [("Walk", "walk"), ("brush_hair", "brush hair"), ("plié", unicodedata.normalize("NFD", "plié"))]
)
def test_classes_spelled_alike_are_reported(tmp_path: Path, one: str, other: str) -> None:
    def read(**options: object) -> Manifest:
        return load_manifest(tmp_path / "list.csv", must_exist=False, **options)  # type: ignore[arg-type]

    (tmp_path / "list.csv").write_text(f"path,label\na.mp4,{one}\nb.mp4,{other}\nc.mp4,run\n", encoding="utf-8")

    (note,) = read().notes

    assert read().classes == (one, other, "run")
    assert "differ in spelling alone" in note
    assert "run" not in note
    shown = [ascii(one), ascii(other)] if not one.isascii() else [repr(one), repr(other)]
    assert all(name in note for name in shown)
    with pytest.raises(ManifestError, match="spelling alone"):
        read(strict=True)


@pytest.mark.parametrize(
    "document", [["walk", "run"], {"run": "1", "walk": "0"}, {"walk": 0, "run": 1}, {"0": "walk", "1": "run"}]
)
def test_class_files_in_json(tmp_path: Path, document: object) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(document))
    assert load_classes(tmp_path / "labels.json") == ("walk", "run")


@pytest.mark.parametrize("content", ["{", '{"a": [1]}', "[1, 2]", "3"])
def test_json_that_holds_no_classes(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ManifestError, match="list of names"):
        load_classes(tmp_path / "labels.json")


# --- the lists of Kinetics and Something-Something

KINETICS = """label,youtube_id,time_start,time_end,split
testifying,---QUuC4vJs,84,94,validate
"eating, fast",--3ouPhoy2A,20,30,train
testifying,-gone-_1234,0,10,train
"""


@pytest.mark.parametrize("place", ["", "{split}/", "{label}/", "{split}/{label}/"])
def test_kinetics_own_list(tmp_path: Path, place: str) -> None:
    first = place.format(split="val", label="testifying") + "---QUuC4vJs_000084_000094.mp4"
    second = place.format(split="train", label="eating, fast") + "--3ouPhoy2A_000020_000030.mkv"
    touch(tmp_path / "videos", first, second)
    (tmp_path / "kinetics.csv").write_text(KINETICS)

    manifest = load_manifest(tmp_path / "kinetics.csv", root=tmp_path / "videos", must_exist=False)

    gone = place.format(split="train", label="testifying") + "-gone-_1234_000000_000010.mp4"
    assert [(item.id, item.label, item.split) for item in manifest.items] == [
        (first, "testifying", "val"),
        (second, "eating, fast", "train"),
        (gone, "testifying", "train"),
    ]
    with pytest.raises(ManifestError, match="1 x missing file"):
        load_manifest(tmp_path / "kinetics.csv", root=tmp_path / "videos")


def test_a_kinetics_list_that_cannot_be_read(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "a/---QUuC4vJs_000084_000094.mp4", "b/---QUuC4vJs_000084_000094.mp4")
    (tmp_path / "kinetics.csv").write_text(KINETICS + "walk,xyz,one,two,trian\n")

    with pytest.raises(ManifestError) as caught:
        load_manifest(tmp_path / "kinetics.csv", root=tmp_path / "videos", must_exist=False)

    assert "1 x line without a start and an end in seconds:\n    line 5" in str(caught.value)
    assert "1 x clip that is there more than once:\n    line 2: a/---QUuC4vJs" in str(caught.value)


def test_something_somethings_own_list(tmp_path: Path) -> None:
    entries = [
        {"id": "78687", "label": "holding potato", "template": "Holding [something]", "placeholders": ["potato"]},
        {"id": "42", "label": "pushing cup", "template": "Pushing [something] so that it falls", "placeholders": []},
    ]
    touch(tmp_path / "videos", "78687.webm", "42.mp4")
    source = tmp_path / "something-something-v2-validation.json"
    source.write_text(json.dumps(entries))
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"Pushing something so that it falls": "1", "Holding something": "0"}))

    manifest = load_manifest(source, root=tmp_path / "videos", classes=labels)

    assert [(item.id, item.label, item.split) for item in manifest.items] == [
        ("78687.webm", "Holding something", "val"),
        ("42.mp4", "Pushing something so that it falls", "val"),
    ]
    assert manifest.classes == ("Holding something", "Pushing something so that it falls")
    source.write_text(json.dumps([{"id": "78687"}]))
    with pytest.raises(ManifestError, match="has no labels"):
        load_manifest(source, root=tmp_path / "videos")


def test_a_folder_of_features_is_for_another_command(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "1.npy").write_bytes(b"features")
    with pytest.raises(ManifestError, match="features made elsewhere, which become a store by vidfeat import"):
        load_manifest(tmp_path)
