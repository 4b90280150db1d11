"""Manifests: three sources, and every problem of a source reported together."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from vidfeat.errors import ManifestError
from vidfeat.video.manifest import VideoItem, load_manifest

SPLITS = Path(__file__).resolve().parents[4] / "shared" / "splits"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str, *, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def message_of(source: Path, **options: object) -> str:
    with pytest.raises(ManifestError) as caught:
        load_manifest(source, **options)  # type: ignore[arg-type]
    return str(caught.value)


# --- folders ---


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "walk/b.mp4", "walk/a.MP4", "clap/deep/er/c.webm", "README.md", ".cache/x.mp4", "clap/.hidden")

    manifest = load_manifest(tmp_path)

    assert manifest.classes == ("clap", "walk")
    assert manifest.root == tmp_path
    assert manifest.items == (
        VideoItem("clap/deep/er/c.webm", str(tmp_path / "clap/deep/er/c.webm"), "clap"),
        VideoItem("walk/a.MP4", str(tmp_path / "walk/a.MP4"), "walk"),
        VideoItem("walk/b.mp4", str(tmp_path / "walk/b.mp4"), "walk"),
    )


def test_a_folder_of_splits(tmp_path: Path) -> None:
    touch(tmp_path, "train/walk/a.mp4", "train/clap/b.mp4", "val/walk/c.mp4")

    manifest = load_manifest(tmp_path)

    assert manifest.classes == ("clap", "walk")
    assert [(item.id, item.label, item.split) for item in manifest.items] == [
        ("train/clap/b.mp4", "clap", "train"),
        ("train/walk/a.mp4", "walk", "train"),
        ("val/walk/c.mp4", "walk", "val"),
    ]


def test_what_is_no_video_is_left_out_and_said(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/notes.txt", "walk/thumb.jpg", "clap/only.txt", "LICENSE", "empty/.hidden")
    good = touch(tmp_path / "good", "walk/a.mp4", ".cache/x.txt")
    touch(tmp_path, "good.txt/x.mp4")

    manifest = load_manifest(tmp_path, root=tmp_path)

    assert [item.id for item in manifest.items] == ["good/walk/a.mp4", "good.txt/x.mp4", "walk/a.mp4"]
    assert manifest.classes == ("good", "good.txt", "walk")
    files, folders = manifest.notes
    assert files.startswith("left out 4 x file that is no video by its extension (.txt 2, no extension 1, .jpg 1): ")
    assert all(name in files for name in ("LICENSE", "walk/notes.txt", "walk/thumb.jpg", "clap/only.txt"))
    assert folders == "left out 2 x folder without a video: clap, empty"
    assert load_manifest(good).notes == ()


def test_strict_refuses_what_would_be_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/notes.txt", "LICENSE")
    (tmp_path / "empty").mkdir()

    message = message_of(tmp_path, strict=True)

    assert "left out 2 x file that is no video" in message
    assert "    walk/notes.txt" in message
    assert "    LICENSE" in message
    assert "    empty" in message


def test_a_video_without_a_class_folder_is_an_error_whatever_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "walk/a.mp4", "walk/notes.txt", "stray.mkv")
    message = message_of(tmp_path)
    assert "1 x video outside any class folder (move it into one):\n    stray.mkv" in message
    assert "note: left out 1 x file" in message


def test_a_folder_without_classes(tmp_path: Path) -> None:
    assert "no class folder" in message_of(tmp_path)
    assert "no class folder" in message_of(touch(tmp_path / "texts", "walk/a.txt", "LICENSE"))
    assert "does not exist" in message_of(tmp_path / "nowhere")


def test_splits_are_recognised_in_any_case_and_spelling(tmp_path: Path) -> None:
    touch(tmp_path, "Train/walk/a.mp4", "Validation/walk/b.mp4", "TEST/clap/c.mp4", "TEST/notes.txt", "LICENSE")
    (tmp_path / "annotations").mkdir()

    manifest = load_manifest(tmp_path)

    assert manifest.classes == ("clap", "walk")
    splits = {item.id: item.split for item in manifest.items}
    assert splits == {"Train/walk/a.mp4": "train", "Validation/walk/b.mp4": "val", "TEST/clap/c.mp4": "test"}
    assert manifest.notes[0].endswith("(.txt 1, no extension 1): TEST/notes.txt, LICENSE")
    assert "left out 1 x folder without a video: annotations" in manifest.notes


def test_split_folders_beside_class_folders_are_an_error(tmp_path: Path) -> None:
    message = message_of(touch(tmp_path, "train/walk/a.mp4", "test/walk/b.mp4", "clap/c.mp4"))
    assert "called like a split" in message
    assert "    test\n    train" in message
    assert load_manifest(touch(tmp_path / "sports", "test/a.mp4", "clap/c.mp4")).classes == ("clap", "test")


@pytest.mark.parametrize("names", [("trian", "tset"), ("train", "tset")])
def test_split_folders_with_a_slip_of_the_hand_are_no_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        touch(tmp_path, f"{name}/run/1.mp4", f"{name}/walk/1.mp4")
    with pytest.raises(ManifestError, match="nearly like a split") as caught:
        load_manifest(tmp_path)
    assert "'tset': did you mean 'test'?" in str(caught.value)


def test_a_split_that_is_none_is_refused_with_the_one_meant(tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "path,label,split\na.mp4,walk,trian\nb.mp4,walk,Testing\nc.mp4,walk,\n")
    message = message_of(source, must_exist=False)
    assert "1 x split that is none of train, val, test" in message
    assert "line 2: 'trian': did you mean 'train'?" in message
    source = write(tmp_path / "list.csv", "path,label,split\nb.mp4,walk,Testing\nc.mp4,walk,\n")
    assert [item.split for item in load_manifest(source, must_exist=False).items] == ["test", ""]


def test_folder_names_are_checked_against_the_class_list(tmp_path: Path) -> None:
    touch(tmp_path, "brush_hair/a.mp4", "walk/b.mp4")

    message = message_of(tmp_path, classes=["walk", "brush hair"])
    assert "'brush_hair': did you mean 'brush hair'?" in message

    manifest = load_manifest(tmp_path, classes=["walk", "brush_hair", "run"])
    assert manifest.classes == ("walk", "brush_hair", "run")


def test_root_above_the_folder_makes_longer_ids(tmp_path: Path) -> None:
    touch(tmp_path, "set/walk/a.mp4")

    assert load_manifest(tmp_path / "set", root=tmp_path).items[0].id == "set/walk/a.mp4"


# --- CSV ---


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_with_quotes_blanks_and_any_line_ends(tmp_path: Path, newline: str, encoding: str) -> None:
    touch(tmp_path, "a b.mp4", "c,d.mp4", "é/f.mp4")
    lines = [
        "Path, Label, split, group",
        '"a b.mp4", "Clap, twice", train, s1',
        '"c,d.mp4",walk,test,',
        "",
        "é/f.mp4,walk,,s2",
    ]
    source = write(tmp_path / "list.csv", newline.join(lines), encoding=encoding)

    manifest = load_manifest(source)

    assert manifest.classes == ("Clap, twice", "walk")
    assert [(item.id, item.label, item.split, item.group) for item in manifest.items] == [
        ("a b.mp4", "Clap, twice", "train", "s1"),
        ("c,d.mp4", "walk", "test", ""),
        ("é/f.mp4", "walk", "", "s2"),
    ]


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = write(tmp_path / "list.csv", "group,label,path\ng,walk,./x/../a.mp4\n")

    item = load_manifest(source).items[0]

    assert (item.id, item.label, item.group) == ("a.mp4", "walk", "g")


@pytest.mark.parametrize(
    ("header", "parts"),
    [
        ("paht,label", ["'paht': did you mean 'path'?", "column 'path' is missing"]),
        ("path,lable,splt", ["did you mean 'label'?", "did you mean 'split'?"]),
        ("path", ["column 'label' is missing"]),
        ("path,label,label", ["column 'label' appears twice"]),
        ("walk/a.mp4,3", ["must not end in .csv"]),
        ("", ["column 'path' is missing"]),
    ],
)
def test_a_wrong_header_names_the_nearest_column(tmp_path: Path, header: str, parts: list[str]) -> None:
    message = message_of(write(tmp_path / "list.csv", f"{header}\na.mp4,walk\n"))
    assert all(part in message for part in parts), message


def test_everything_wrong_with_a_csv_is_said_at_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    (tmp_path / "folder.mp4").mkdir()
    source = write(
        tmp_path / "list.csv",
        "path,label\na.mp4,walk\na.mp4,clap\n./b.mp4,walk\nb.mp4,walk\ngone.mp4,walk\nfolder.mp4,walk\n"
        "c.mp4,wlak\nx.mp4,walk,extra\n../out.mp4,walk\n,walk\nc2.mp4,\n",
    )

    message = message_of(source, classes=["walk", "clap"])

    for part in (
        "a.mp4, with two labels: 'walk' and 'clap'",
        "line 5: b.mp4",
        "gone.mp4",
        "(a folder)",
        "'wlak': did you mean 'walk'?",
        "line 9: ['x.mp4', 'walk', 'extra']",
        "../out.mp4",
        "line 11",
    ):
        assert part in message, part
    assert "2 x missing file" in message


def test_missing_files_can_be_left_to_the_extraction(tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "path,label\ngone.mp4,walk\n")

    assert "1 x missing file" in message_of(source)
    assert "or extract with --allow-failures 1:" in message_of(source)
    assert load_manifest(source, must_exist=False).items[0].id == "gone.mp4"


def test_a_long_list_of_problems_is_cut_and_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "list.csv", "path,label\n" + "".join(f"{i}.mp4,walk\n" for i in range(37)))

    message = message_of(source)

    assert "37 x missing file" in message
    assert "... and 27 more" in message


@pytest.mark.parametrize("text", ["path,label\n", "\n\n"])
def test_an_empty_list_is_an_error(tmp_path: Path, text: str) -> None:
    assert "not a single video" in message_of(write(tmp_path / "list.txt", text))


def test_a_list_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\n\xff\xfe.mp4,walk\n")
    assert "UTF-8" in message_of(tmp_path / "list.csv")


# --- lists ---


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a.mp4 0", ("a.mp4", "zero", "")),
        ("a.mp4\t 0\r", ("a.mp4", "zero", "")),
        ("a.mp4, 0", ("a.mp4", "zero", "")),
        ("a.mp4,0,train", ("a.mp4", "zero", "train")),
        ("a.mp4 1 val", ("a.mp4", "one thing", "val")),
        ('"a.mp4" "one thing"', ("a.mp4", "one thing", "")),
        ("a.mp4,one thing", ("a.mp4", "one thing", "")),
        ("my clip 7.webm 1", ("my clip 7.webm", "one thing", "")),
        ('"odd, name.mp4",zero', ("odd, name.mp4", "zero", "")),
        ("val/0wR5jVB-WPk_000417_000427.mp4 1", ("val/0wR5jVB-WPk_000417_000427.mp4", "one thing", "")),
        ("no_extension 0", ("no_extension", "zero", "")),
    ],
)
def test_lines_of_a_list(tmp_path: Path, line: str, expected: tuple[str, str, str]) -> None:
    source = write(tmp_path / "list.txt", line + "\n")

    item = load_manifest(source, root="/videos", classes=["zero", "one thing"], must_exist=False).items[0]

    assert (item.id, item.label, item.split) == expected
    assert item.path == f"/videos/{expected[0]}"


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("a.mp4", "not `path label [split]`"),
        ("a.mp4 brush hair", "'brush hair' is not known"),
        ("frames/a 120 3", "frame folders, not videos"),
        ("a.mp4 0 train extra", "'0 train extra' is not known"),
        ("a.mp4 2", "2: the ids are 0 to 1"),
    ],
)
def test_lines_that_cannot_be_read_are_errors(tmp_path: Path, line: str, part: str) -> None:
    source = write(tmp_path / "list.txt", f"ok.mp4 0\n{line}\n")
    message = message_of(source, classes=["zero", "one"], must_exist=False)
    assert part in message
    assert "line 2" in message


def test_integer_labels_need_a_class_list(tmp_path: Path) -> None:
    source = write(tmp_path / "list.txt", "a.mp4 0\nb.mp4 1\n")
    assert "--classes" in message_of(source, must_exist=False)


def test_class_names_that_are_numbers_are_names(tmp_path: Path) -> None:
    source = write(tmp_path / "list.txt", "a.mp4 1\nb.mp4 7\n")
    assert [item.label for item in load_manifest(source, classes=["7", "1"], must_exist=False).items] == ["1", "7"]


# --- class files ---


def test_a_class_file_gives_names_and_order(tmp_path: Path) -> None:
    classes = write(tmp_path / "labels.csv", '\ufeffid,name\r\n3,"Push, slowly"\r\n0,walk\r\n')
    source = write(tmp_path / "list.txt", "a.mp4 0\nb.mp4 3\n")

    manifest = load_manifest(source, classes=classes, must_exist=False)

    assert manifest.classes == ("Push, slowly", "walk")
    assert [item.label for item in manifest.items] == ["walk", "Push, slowly"]


@pytest.mark.parametrize("text", ["walk\nrun up\n", "name\nwalk\nrun up\n", "0 walk\n1 run up\n", "1,run up\n0,walk\n"])
def test_class_files_without_a_header(tmp_path: Path, text: str) -> None:
    source = write(tmp_path / "list.txt", "a.mp4 0\nb.mp4 1\n")
    manifest = load_manifest(source, classes=write(tmp_path / "classes.txt", text), must_exist=False)
    assert [item.label for item in manifest.items] == ["walk", "run up"]
    assert any("numbered from 0" in note for note in manifest.notes) == ("0" not in text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name,id\n0,a\n", "class id that is not a whole number:\n    line 2: 'a'"),
        ("walk\nrun, up\n", "got:      run, up"),
        ("id,name\n0,a,b\n", "as many fields"),
        ("id,name\n0,a\n0,b\n", "id given twice"),
        ("id,name\n0,a\n1,a\n", "name given twice"),
        ("id,name\nx,a\n", "not a whole number"),
        ("id,name\n0,\n", "without a name"),
        ("id,name\n", "no class"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, part: str) -> None:
    source = write(tmp_path / "list.txt", "a.mp4 0\n")
    classes = write(tmp_path / "labels.csv", text)
    assert part in message_of(source, classes=classes, must_exist=False)
    assert "does not exist" in message_of(source, classes=tmp_path / "gone.csv", must_exist=False)


# --- the field's own lists ---

FIELD_LISTS = [
    ("hmdb_splits/train1_few_shot_16.txt", "hmdb_51_labels.csv"),
    ("base2novel_splits/hmdb_splits/novel_val.txt", "hmdb_51_novel_labels.csv"),
    ("base2novel_splits/ucf_splits/fs_base_s1_train.txt", "ucf_101_base_labels.csv"),
    ("base2novel_splits/k400_splits/base_val.txt", "kinetics_400_base_labels.csv"),
    ("base2novel_splits/ssv2_splits/novel_val.txt", "ssv2_174_novel_labels.csv"),
    ("k400_splits/val.txt", "kinetics_400_labels.csv"),
    ("k600_splits/ZS_split1_K600_eval.txt", "ZS_split1_K600.csv"),
    ("ucf_splits/val1.txt", "ucf_101_labels.csv"),
]


@pytest.mark.shared
@pytest.mark.parametrize(("videos", "labels"), FIELD_LISTS)
def test_the_fields_own_lists(videos: str, labels: str) -> None:
    if not SPLITS.is_dir():
        pytest.skip("no shared splits")
    rows = [line.rsplit(maxsplit=1) for line in (SPLITS / videos).read_text().splitlines() if line.strip()]
    with open(SPLITS / "labels" / labels, newline="") as file:
        names = {int(row["id"]): row["name"].strip() for row in csv.DictReader(file)}

    manifest = load_manifest(SPLITS / videos, root="/data", classes=SPLITS / "labels" / labels, must_exist=False)

    assert [item.id for item in manifest.items] == [path for path, _ in rows]
    assert [item.label for item in manifest.items] == [names[int(label)] for _, label in rows]
    assert manifest.classes == tuple(names.values())


@pytest.mark.shared
def test_the_shared_clips_as_a_folder_and_as_a_csv() -> None:
    clips = SPLITS.parent / "clips" / "actions"
    if not clips.is_dir():
        pytest.skip("no shared clips")

    folder, listed = load_manifest(clips), load_manifest(clips / "labels.csv")

    assert len(folder.items) == 70
    names = {item.id: item.label.replace("_", " ") for item in folder.items}
    assert names == {item.id: item.label.replace("_", " ") for item in listed.items}
