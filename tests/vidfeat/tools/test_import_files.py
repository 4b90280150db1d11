"""Features of other programs in .npy files: class folders, video_features, clip-video-encode, tars; labels by lists."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile

import numpy as np
import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.errors import ManifestError, StoreError
from vidfeat.store import open_store, verify
from vidfeat.tools.features.into_store import ImportOptions, import_features


def rows(n, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32).astype(dtype)


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def imported(source, store, **options):
    done = import_features(source, store, ImportOptions(**options))
    assert verify(store, level="full").problems == ()
    return open_store(store), done


def by_id(reader):
    return {row.id: row for row in reader.videos()}


def test_class_folders_and_split_folders(tmp_path):
    for place, name in enumerate(("train/run/a", "train/walk/b", "val/run/c")):
        save(tmp_path / f"f/{name}.npy", rows(2 + place, seed=place))
    reader, done = imported(tmp_path / "f", tmp_path / "X.zarr")
    assert reader.ids.tolist() == ["train/run/a", "train/walk/b", "val/run/c"]
    assert reader.labels.tolist() == ["run", "walk", "run"]
    assert reader.splits.tolist() == ["train", "train", "val"]
    assert (reader.classes, done.layout) == (("run", "walk"), "npy files")
    np.testing.assert_array_equal(reader.rows("pooled", [1]).values, rows(3, seed=1))


def video_features(folder, name, values):
    """As video_features writes it: features through a list, so in float64, beside rate and times."""
    save(folder / f"{name}_clip.npy", np.array(values.tolist()))
    save(folder / f"{name}_fps.npy", np.array(25.0))
    save(folder / f"{name}_timestamps_ms.npy", np.arange(len(values)) * 40.0)


def test_video_features_with_the_official_list(tmp_path):
    folder = tmp_path / "output/clip/ViT-B_32"
    for place in range(3):
        video_features(folder, f"v_Run_g0{place}_c01", rows(3, seed=place))
    (folder / "v_Run_g09_c01_clip.pkl").write_bytes(pickle.dumps(rows(2)))
    (tmp_path / "train.txt").write_text("Run/v_Run_g00_c01.avi run train\nWalk/v_Run_g01_c01.avi walk train\n")
    (tmp_path / "test.txt").write_text("Run/gone.avi run test\n")
    lists = (tmp_path / "train.txt", tmp_path / "test.txt")
    reader, done = imported(tmp_path / "output", tmp_path / "X.zarr", labels=lists)
    assert reader.ids.tolist() == ["Run/v_Run_g00_c01.avi", "Walk/v_Run_g01_c01.avi", "Run/gone.avi"]
    assert reader.splits.tolist() == ["train", "train", "test"]
    first, gone = by_id(reader)["Run/v_Run_g00_c01.avi"], by_id(reader)["Run/gone.avi"]
    assert (first.fps, first.pts_seconds) == (25.0, (0.0, 0.04, 0.08))
    assert (gone.reason, gone.label) == ("unreadable", "run")
    np.testing.assert_array_equal(reader.rows("pooled", [0]).values, rows(3, seed=0))
    told = "\n".join(done.notes)
    assert "1 x .pkl file left out (pickles are never loaded)" in told
    assert "1 x listed without features" in told
    assert "1 x features that no list names, left out: clip/ViT-B_32/v_Run_g02_c01" in told
    assert "float64" not in told, "float32 through a list loses nothing"
    assert done.layout == "video_features"


def test_video_features_without_times_and_without_features(tmp_path):
    save(tmp_path / "f/a_clip.npy", rows(2))
    save(tmp_path / "f/b_clip.npy", rows(2))
    reader, done = imported(tmp_path / "f", tmp_path / "X.zarr")
    assert reader.ids.tolist() == ["a", "b"]
    assert any(note.startswith("no classes: --labels LIST") for note in done.notes)
    save(tmp_path / "f/c_timestamps_ms.npy", np.zeros(2))
    reader, _ = imported(tmp_path / "f", tmp_path / "Y.zarr")
    assert by_id(reader)["c"].detail == "times without features"


def clip_video_encode(write, key, values, label):
    data = io.BytesIO()
    np.save(data, values)
    write(f"{key}.npy", data.getvalue())
    write(f"{key}.txt", label.encode())
    write(f"{key}.json", json.dumps({"youtube_id": key, "action": label}).encode())


def write_tar(path, keys, mode="w"):
    with tarfile.open(path, mode) as tar:

        def add(name, content):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

        for key in keys:
            clip_video_encode(add, key, rows(2, seed=int(key)), f"class {int(key) % 2}")


@pytest.mark.parametrize("field", ["caption", "action"])
def test_clip_video_encode_as_files(field, tmp_path):
    (tmp_path / "f").mkdir()
    for key in ("00", "01", "02"):
        clip_video_encode(
            lambda name, data: (tmp_path / "f" / name).write_bytes(data), key, rows(2, int(key)), f"c{key}"
        )
    reader, done = imported(tmp_path / "f", tmp_path / "X.zarr", label_from=field)
    assert reader.labels.tolist() == ["c00", "c01", "c02"]
    assert done.layout == "clip-video-encode"
    _, done = imported(tmp_path / "f", tmp_path / "Y.zarr")
    assert any("--label-from caption" in note for note in done.notes)
    with pytest.raises(ManifestError, match="00 has youtube_id, action, caption"):
        import_features(tmp_path / "f", tmp_path / "Z.zarr", ImportOptions(label_from="clas"))


def test_clip_video_encode_in_tars(tmp_path):
    (tmp_path / "t").mkdir()
    write_tar(tmp_path / "t/ds_0.tar", ["00", "01"])
    write_tar(tmp_path / "t/ds_1.tar.gz", ["02", "03"], mode="w:gz")
    (tmp_path / "t/splits.csv").write_text("tar_file,split\nds_0,train\nds_1,val\n")
    reader, _ = imported(tmp_path / "t", tmp_path / "X.zarr", label_from="caption")
    assert reader.ids.tolist() == ["00", "01", "02", "03"]
    assert reader.labels.tolist() == ["class 0", "class 1"] * 2
    assert reader.splits.tolist() == ["train", "train", "val", "val"]
    np.testing.assert_array_equal(reader.rows("pooled", [3]).values, rows(2, seed=3))
    write_tar(tmp_path / "t/ds_2.tar", ["00"])
    reader, done = imported(tmp_path / "t", tmp_path / "Y.zarr", label_from="caption")
    assert reader.ids.tolist() == ["ds_0/00", "ds_0/01", "ds_1/02", "ds_1/03", "ds_2/00"]
    assert any("begins with its tar's name" in note for note in done.notes)
    cut = (tmp_path / "t/ds_0.tar").read_bytes()[:3000]
    (tmp_path / "cut.tar").write_bytes(cut)
    with pytest.raises(StoreError, match="damaged"):
        import_features(tmp_path / "cut.tar", tmp_path / "Z.zarr", ImportOptions())


def test_files_that_cannot_be_used_are_failed_videos_by_name(tmp_path):
    save(tmp_path / "f/run/good.npy", rows(2))
    save(tmp_path / "f/walk/objects.npy", np.array([{"a": 1}], dtype=object))
    save(tmp_path / "f/walk/ints.npy", np.arange(4))
    save(tmp_path / "f/walk/none.npy", rows(0))
    save(tmp_path / "f/walk/zeros.npy", np.concatenate([rows(1), rows(1) * 0]))
    (tmp_path / "f/walk/zero.npy").write_bytes(b"")
    (tmp_path / "f/walk/cut.npy").write_bytes((tmp_path / "f/run/good.npy").read_bytes()[:-4])
    np.savez(tmp_path / "f/walk/two.npz", a=rows(2), b=rows(2))
    np.savez(tmp_path / "f/walk/dict.npz", {"clip_embeddings": rows(2)})
    np.savez(tmp_path / "f/walk/named.npz", clip_embeddings=rows(2), other=np.arange(2))
    reader, done = imported(tmp_path / "f", tmp_path / "X.zarr")
    reasons = {row.id.rpartition("/")[2]: row.reason for row in reader.videos()}
    usual = {"good": "", "named": "", "none": "no_frames", "zero": "empty", "cut": "truncated", "two": "unreadable"}
    assert reasons == usual | dict.fromkeys(("objects", "ints", "dict"), "invalid_data") | {"zeros": "non_finite"}
    assert done.n_failed == 8
    assert "never loaded" in by_id(reader)["walk/objects"].detail
    assert "It has a, b (--key NAME)" in by_id(reader)["walk/two"].detail
    reader, _ = imported(tmp_path / "f/walk/two.npz", tmp_path / "Y.zarr", key="b")
    assert reader.ok.tolist() == [True]


def test_lists_that_are_wrong_are_one_error(tmp_path):
    save(tmp_path / "f/a/x.npy", rows(2))
    save(tmp_path / "f/b/x.npy", rows(2))
    (tmp_path / "l.csv").write_text("path,label\nx.mp4,run\nx.mp4,walk\n")
    with pytest.raises(ManifestError) as caught:
        import_features(tmp_path / "f", tmp_path / "X.zarr", ImportOptions(labels=(tmp_path / "l.csv",)))
    for words in ("name that several features have", "a/x, b/x", "listed twice", "two labels: 'run' and 'walk'"):
        assert words in str(caught.value)
    (tmp_path / "l.csv").write_text("path,label\nother.mp4,run\n")
    with pytest.raises(ManifestError, match="names not one of the features"):
        import_features(tmp_path / "f", tmp_path / "X.zarr", ImportOptions(labels=(tmp_path / "l.csv",)))
    (tmp_path / "l.csv").write_text("path,label\na/x.mp4,run\n")
    with pytest.raises(ManifestError, match="no list names"):
        import_features(tmp_path / "f", tmp_path / "X.zarr", ImportOptions(labels=(tmp_path / "l.csv",), strict=True))
    (tmp_path / "l.csv").write_text("path,label\na/x.mp4,run\nc/x.mp4,walk\n")
    _, done = imported(tmp_path / "f", tmp_path / "Y.zarr", labels=(tmp_path / "l.csv",))
    assert any("listed without features" in note and "c/x.mp4" in note for note in done.notes)
    assert not (tmp_path / "X.zarr").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--pretrained", "openai"], "give either model"),
        (["--model", "ViT-B-32"], "give either weights"),
        (["--model", "hf-hub:a/b", "--pretrained", "x"], "brings its own weights"),
        (["--model", "ViT-B-32", "--pretrained", "openai", "--base-weights", __file__], "base_weights fills"),
        (["--pack", ".", "--model", "ViT-B-32"], "the backbone is named twice"),
        (["--tap", "tokens/a"], "there is no such tap"),
    ],
)
def test_flags_that_do_not_go_together_are_a_message(flags, told, tmp_path):
    save(tmp_path / "f/run/a.npy", rows(2))
    done = CliRunner().invoke(main, ["import", str(tmp_path / "f"), str(tmp_path / "X.zarr"), *flags])
    assert done.exit_code == 2, done.exception
    assert re.match(rf"error: .*{told}", done.output)
    assert not (tmp_path / "X.zarr").exists()


def test_a_tap_has_one_name_in_a_store_however_it_is_spelled(tmp_path):
    save(tmp_path / "f/run/a.npy", np.ones((2, 3, 4), np.float32))
    reader, _ = imported(tmp_path / "f", tmp_path / "X.zarr", tap="tokens@6")
    assert list(reader.taps) == ["tokens/06"]


def test_a_damaged_json_beside_features_stops_nothing_that_does_not_ask_for_it(tmp_path):
    save(tmp_path / "f/00.npy", rows(2))
    (tmp_path / "f/00.json").write_text('{"action": ')
    reader, _ = imported(tmp_path / "f", tmp_path / "X.zarr")
    assert reader.ids.tolist() == ["00"]
    with pytest.raises(ManifestError, match="00 has nothing"):
        import_features(tmp_path / "f", tmp_path / "Y.zarr", ImportOptions(label_from="action"))
