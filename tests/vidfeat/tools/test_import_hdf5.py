"""Features of other programs in HDF5: a dataset per video, links, a table of all; what cannot be used is said."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from vidfeat.cli import main
from vidfeat.errors import StoreError
from vidfeat.store import open_store, verify
from vidfeat.tools.features.into_store import ImportOptions, import_features

h5py = pytest.importorskip("h5py")


def rows(n, width=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def write(path, videos):
    with h5py.File(path, "w") as h5:
        for name, values in videos.items():
            h5[name] = values
    return path


def imported(path, store, **options):
    done = import_features(path, store, ImportOptions(**options))
    assert verify(store, level="full").problems == ()
    return open_store(store), done


@pytest.mark.parametrize("suffix", ["", "/features", "/any_name"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_dataset_per_video_becomes_a_store(suffix, dtype, tmp_path):
    videos = {name: rows(n, seed=n).astype(dtype) for name, n in {"walk/b": 3, "walk/a": 5, "run/c": 2}.items()}
    path = write(tmp_path / "x.h5", {name + suffix: values for name, values in videos.items()})
    reader, done = imported(path, tmp_path / "Y.zarr")
    assert reader.ids.tolist() == ["run/c", "walk/a", "walk/b"]
    assert reader.labels.tolist() == ["run", "walk", "walk"]
    assert reader.classes == ("run", "walk")
    assert (reader.n_frames, done.n_failed) == (None, 0)
    for index, name in enumerate(reader.ids):
        np.testing.assert_array_equal(reader.rows("pooled", [index]).values, videos[str(name)])
    assert reader.videos()[0].pts_seconds == ()
    assert any("no backbone" in note for note in done.notes)


@pytest.mark.parametrize("names", [["v0"], ["v0", "v1"], ["a/v0", "b/v1"]])
def test_a_group_per_video_is_named_by_the_group_however_many_there_are(names, tmp_path):
    path = write(tmp_path / "x.h5", {f"{name}/features": rows(2) for name in names})
    reader, _ = imported(path, tmp_path / "Y.zarr")
    assert reader.ids.tolist() == names
    assert reader.labels.tolist() == [name.rpartition("/")[0] for name in names]


def test_videos_that_are_a_dataset_and_videos_that_are_a_group_stand_in_one_file(tmp_path):
    """As where a link was added to a file of groups: it must not make a class of every other video."""
    file = write(tmp_path / "x.h5", {"walk/a/features": rows(2), "run/b/features": rows(2), "run/c": rows(2, seed=1)})
    with h5py.File(file, "a") as h5:
        h5["run/gone"] = h5py.SoftLink("/nowhere")
    store, _ = imported(file, tmp_path / "X.zarr")
    assert list(zip(store.ids, store.labels, store.ok, strict=True)) == [
        ("run/b", "run", True),
        ("run/c", "run", True),
        ("run/gone", "run", False),
        ("walk/a", "walk", True),
    ]


def test_what_lies_beside_the_features_is_left_out_and_counted(tmp_path):
    videos = {
        "v0/features": rows(2),
        "v0/picks": np.arange(2),
        "v0/gtscore": np.ones(2, np.float32),
        "v1/features": rows(2),
    }
    reader, done = imported(write(tmp_path / "x.h5", videos), tmp_path / "Y.zarr")
    assert reader.ids.tolist() == ["v0", "v1"]
    assert any("2 x dataset left out" in note and "/v0/picks" in note for note in done.notes)
    reader, _ = imported(
        write(tmp_path / "y.h5", {"v0/a": rows(2), "v0/b": rows(2, seed=1)}), tmp_path / "Z.zarr", key="b"
    )
    np.testing.assert_array_equal(reader.rows("pooled", [0]).values, rows(2, seed=1))


def test_links_are_followed_and_counted(tmp_path):
    write(tmp_path / "other.h5", {"far/away": rows(3, seed=9)})
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["run/a"] = rows(3, seed=1)
        h5["again/a"] = h5py.SoftLink("/run/a")  # a further name of a video that is there
        h5["walk/b"] = h5py.ExternalLink("other.h5", "/far/away")
        h5["walk/gone"] = h5py.ExternalLink("absent.h5", "/x")
        h5["run/dangling"] = h5py.SoftLink("/nowhere")
        h5["loop"] = h5py.SoftLink("/")
    reader, done = imported(tmp_path / "x.h5", tmp_path / "Y.zarr")
    assert reader.ids[reader.ok].tolist() == ["run/a", "walk/b"]
    np.testing.assert_array_equal(reader.rows("pooled", [list(reader.ids).index("walk/b")]).values, rows(3, seed=9))
    failed = {row.id: row.detail for row in reader.videos() if not row.ok}
    assert failed.keys() == {"run/dangling", "walk/gone"}
    assert "absent.h5" in failed["walk/gone"]
    assert "/nowhere" in failed["run/dangling"]
    assert done.failures == {"unreadable": 2}
    assert any("2 x link to what is there under its own name: again/a, loop" in note for note in done.notes)
    assert any("5 links, 2 of them broken" in note for note in done.notes)


def test_a_broken_link_to_a_group_is_a_failed_video_of_its_class(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        for name in ("run/a", "walk/b"):
            h5[f"{name}/features"] = rows(2)
        h5["run/gone"] = h5py.SoftLink("/nowhere")
        h5["walk/half/features"] = h5py.ExternalLink("absent.h5", "/x")
    reader, _ = imported(tmp_path / "x.h5", tmp_path / "Y.zarr")
    assert [(row.id, row.label, row.ok) for row in reader.videos()] == [
        ("run/a", "run", True),
        ("run/gone", "run", False),
        ("walk/b", "walk", True),
        ("walk/half", "walk", False),
    ]
    told = CliRunner().invoke(main, ["failures", str(tmp_path / "Y.zarr")]).output
    assert "vidfeat import" in told
    assert "--retry" not in told


def test_numbers_that_hdf5_would_make_up_are_failed_videos(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["good"] = rows(2)
        h5.create_dataset("never", (2, 6), "f4")
        layout = h5py.VirtualLayout((2, 6), "f4")
        layout[:] = h5py.VirtualSource("absent.h5", "x", (2, 6))
        h5.create_virtual_dataset("virtual", layout)
    reader, _ = imported(tmp_path / "x.h5", tmp_path / "Y.zarr")
    details = {row.id: row.detail for row in reader.videos() if not row.ok}
    assert "never written" in details["never"]
    assert "absent.h5" in details["virtual"]
    assert reader.ids[reader.ok].tolist() == ["good"]


def test_float64_is_rounded_and_said(tmp_path):
    exact, tenth = np.full((2, 3), 0.5), np.full((2, 3), 0.1)
    reader, done = imported(write(tmp_path / "x.h5", {"a": exact, "b": tenth}), tmp_path / "Y.zarr")
    np.testing.assert_array_equal(reader.rows("pooled", [1]).values, tenth.astype(np.float32))
    assert any("1 videos in float64 rounded to float32" in note and note.endswith(": b") for note in done.notes)
    huge = {"a": exact, "b": np.full((2, 3), 1e300)}
    reader, done = imported(write(tmp_path / "y.h5", huge), tmp_path / "Z.zarr")
    assert done.failures == {"non_finite": 1}


def test_features_that_point_nowhere_are_failures_by_name(tmp_path):
    videos = {"a": rows(3), "zero": np.zeros((3, 6), np.float32), "frame": rows(3), "huge": rows(3) * 1e30}
    videos["frame"][1] = 0
    reader, done = imported(write(tmp_path / "x.h5", videos), tmp_path / "Y.zarr")
    assert reader.ids[reader.ok].tolist() == ["a"]
    assert done.failures == {"non_finite": 3}
    details = {row.id: row.detail for row in reader.videos() if not row.ok}
    assert details["frame"].startswith("1 of 3 rows are all zeros")


def test_videos_of_one_length_have_a_fixed_number_of_frames_and_bad_ones_are_recorded(tmp_path):
    videos = {f"v{i}": np.full((4, 2, 3), 1.0 + i, np.float32) for i in range(4)}
    videos["v2"][1, 1, 1] = np.nan
    videos["v3"] = videos["v3"][:0]
    reader, done = imported(write(tmp_path / "x.h5", videos), tmp_path / "Y.zarr", tap="tokens/06")
    assert reader.n_frames == 4
    assert reader.taps["tokens/06"].row_shape == (2, 3)
    assert [video.reason for video in reader.videos()] == ["", "", "non_finite", "no_frames"]
    assert done.n_failed == 2
    assert reader.classes == ()


def test_one_table_of_all_videos_with_their_names(tmp_path):
    values = rows(3)
    table = {"features": values, "ids": ["a.mp4", "b.mp4", "c.mp4"], "labels": ["run", "walk", "run"]}
    reader, done = imported(write(tmp_path / "x.h5", table), tmp_path / "Y.zarr")
    assert reader.ids.tolist() == ["a.mp4", "b.mp4", "c.mp4"]
    assert reader.labels.tolist() == ["run", "walk", "run"]
    np.testing.assert_array_equal(reader.rows("pooled", [0, 1, 2]).values, values)
    assert any("3 videos are one vector, taken as one frame" in note for note in done.notes)
    numbered = {"features": np.stack([values, values]), "names": ["a", "b"], "labels": np.array([1, 0])}
    (tmp_path / "c.csv").write_text("id,name\n0,walk\n1,run\n")
    reader, _ = imported(write(tmp_path / "y.h5", numbered), tmp_path / "Z.zarr", classes=tmp_path / "c.csv")
    assert (reader.labels.tolist(), reader.n_frames) == (["run", "walk"], 3)


def test_files_without_features_are_refused_with_what_they_hold(tmp_path):
    path = write(tmp_path / "x.h5", {"a": rows(3, 4), "b": rows(3, 5), "c": np.arange(3)})
    with pytest.raises(StoreError) as caught:
        import_features(path, tmp_path / "Y.zarr", ImportOptions())
    for words in ("1 x [4] (a, ...)", "1 x [5] (b, ...)"):
        assert words in str(caught.value)
    with pytest.raises(StoreError, match="no features here"):
        import_features(write(tmp_path / "empty.h5", {}), tmp_path / "Y.zarr", ImportOptions())
    with pytest.raises(StoreError, match="1 x dataset left out"):
        import_features(write(tmp_path / "ints.h5", {"c": np.arange(3)}), tmp_path / "Y.zarr", ImportOptions())
    assert not (tmp_path / "Y.zarr").exists()


def test_a_store_that_cannot_be_written_is_not_blamed_on_the_features(tmp_path):
    path = write(tmp_path / "x.h5", {"a": rows(2)})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match=r"file/Y\.zarr"):
        import_features(path, tmp_path / "file" / "Y.zarr", ImportOptions())
