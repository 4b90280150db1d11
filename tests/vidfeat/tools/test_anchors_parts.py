"""The parts of choosing anchors, each against a plain computation: k-center, containment, class texts, lists."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from anchor_world import CLASSES, Clip, scene, still, write_store

from vidfeat.backbone import BackbonePack
from vidfeat.errors import StoreError
from vidfeat.store import StoreWriter, open_store, verify
from vidfeat.tools.anchors import AnchorError, best_matches, class_similarity, k_center, video_features
from vidfeat.tools.anchors.copying import copy_videos
from vidfeat.tools.anchors.features import Frames, class_features
from vidfeat.tools.anchors.task import file_name, read_list, source_name
from vidfeat.tools.anchors.vetting import containment


def unit_rows(n: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def plain_k_center(points: np.ndarray, n: int, first: int) -> list[int]:
    """Farthest-first by angles and plain loops."""
    chosen = [first]
    while len(chosen) < n:
        left = [i for i in range(len(points)) if i not in chosen]
        nearest = {i: min(float(np.sum((points[i] - points[j]) ** 2)) for j in chosen) for i in left}
        farthest = max(nearest.values())
        chosen.append(next(i for i in left if nearest[i] == farthest))
    return chosen


@pytest.mark.parametrize("seed", range(5))
def test_k_center_is_farthest_first(seed):
    points = unit_rows(40, seed)
    assert k_center(points, 12, first=seed).tolist() == plain_k_center(points, 12, seed)


def test_k_center_never_takes_one_twice_and_settles_ties_by_position():
    corners = np.array([[1, 0], [1, 0], [-1, 0], [0, 1], [0, -1], [-1, 0]], np.float32)
    assert k_center(corners, 6, first=0).tolist() == [0, 2, 3, 4, 1, 5]
    with pytest.raises(ValueError):
        k_center(corners, 7, first=0)


def frames_of(lengths: list[int], seed: int) -> Frames:
    values = unit_rows(sum(lengths), seed)
    return Frames(np.arange(len(lengths)), values, np.concatenate([[0], np.cumsum(lengths)]))


def plain_containment(left: np.ndarray, right: np.ndarray) -> float:
    def directed(one, other):
        return np.mean([max(float(a @ b) for b in other) for a in one])

    return max(directed(left, right), directed(right, left))


def test_containment_is_the_larger_mean_of_best_matches():
    left, right = frames_of([3, 1, 5], 0), frames_of([2, 4, 1, 3], 1)
    expected = [
        [plain_containment(a, b) for b in np.split(right.values, right.offsets[1:-1])]
        for a in np.split(left.values, left.offsets[1:-1])
    ]
    np.testing.assert_allclose(containment(left, right), expected, rtol=0, atol=1e-6)  # float32 sums of 6 products


def mixed_clips(n: int, first_seed: int) -> list[Clip]:
    clips = []
    for i in range(n):
        n_frames = 1 + (5 * i) % 7
        scenes = tuple(scene(first_seed + i + (k % 2)) for k in range(n_frames))
        clips.append(Clip(f"{first_seed}-{i}.mp4", scenes, failed=i % 6 == 5))
    return clips


@pytest.mark.parametrize(("block_bytes", "tile_pairs"), [(1, 2**10), (2000, 2**12), (2**26, 2**19)])
def test_best_matches_do_not_depend_on_how_the_stores_are_cut(block_bytes, tile_pairs, tmp_path, monkeypatch):
    monkeypatch.setattr("vidfeat.tools.anchors.features._BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("vidfeat.tools.anchors.vetting._TILE_PAIRS", tile_pairs)
    pool = open_store(write_store(tmp_path / "pool.zarr", mixed_clips(11, 0)))
    task = open_store(write_store(tmp_path / "task.zarr", mixed_clips(13, 4)))
    videos = np.flatnonzero(pool.ok)
    done = []
    found = best_matches(pool, videos, task, on_progress=lambda *counts: done.append(counts))
    for row, video in enumerate(videos):
        own = pool.rows("pooled", [video], dtype="float32").values
        own = own / np.linalg.norm(own, axis=1, keepdims=True)
        scores = {}
        for other in np.flatnonzero(task.ok):
            theirs = task.rows("pooled", [other], dtype="float32").values
            scores[other] = plain_containment(own, theirs / np.linalg.norm(theirs, axis=1, keepdims=True))
        best = max(scores, key=lambda other: scores[other])
        assert found.video_index[row] == best
        assert found.score[row] == pytest.approx(scores[best], abs=1e-5)
    assert done[-1] == (len(videos), len(videos))


def test_stores_are_read_in_blocks_of_bounded_size(tmp_path, monkeypatch):
    clips = [still(f"{i}.mp4", i) for i in range(40)]
    pool = open_store(write_store(tmp_path / "pool.zarr", clips))
    monkeypatch.setattr("vidfeat.tools.anchors.features._BLOCK_BYTES", 8 * 4 * 32 * 4)  # 8 videos of 4 frames
    asked = []
    rows = type(pool).rows
    monkeypatch.setattr(type(pool), "rows", lambda self, tap, v, **k: asked.append(len(v)) or rows(self, tap, v, **k))
    video_features(pool, np.arange(40))
    best_matches(pool, np.arange(40), pool)
    assert max(asked) <= 9, "a block may overshoot by the video that fills it"


def test_video_features_average_before_they_normalise(tmp_path):
    clips = [Clip("a", (scene(0), 3 * scene(1))), Clip("b", (scene(2),))]
    store = open_store(write_store(tmp_path / "x.zarr", clips))
    for row, feature in enumerate(video_features(store, np.arange(2))):
        mean = store.rows("pooled", [row], dtype="float32").values.mean(axis=0)
        np.testing.assert_allclose(feature, mean / np.linalg.norm(mean), atol=1e-6)


def test_class_features_are_those_of_the_text_tower(tmp_path):
    store = open_store(write_store(tmp_path / "x.zarr", [still("a", 0)]))
    pack = BackbonePack.load(tmp_path / "x.pack")
    with torch.no_grad():
        one = pack.text_tower()(pack.tokenizer().tokenize([f"a video of {name}." for name in CLASSES])).numpy()
        two = pack.text_tower()(pack.tokenizer().tokenize([f"{name} now" for name in CLASSES])).numpy()
    one /= np.linalg.norm(one, axis=1, keepdims=True)
    two /= np.linalg.norm(two, axis=1, keepdims=True)
    found = class_features(store, CLASSES, templates=["a video of {}."])
    np.testing.assert_allclose(found, one, atol=1e-6)
    mean = (one + two) / np.linalg.norm(one + two, axis=1, keepdims=True)
    np.testing.assert_allclose(class_features(store, CLASSES, templates=["a video of {}.", "{} now"]), mean, atol=1e-6)
    nearest = class_similarity(found, found)
    assert nearest.class_index.tolist() == [0, 1, 2]
    np.testing.assert_allclose(nearest.highest, 1, atol=1e-6)


@pytest.mark.parametrize("templates", [["a video"], ["{} {}"], []])
def test_a_template_without_a_place_for_the_name_is_refused(templates, tmp_path):
    store = open_store(write_store(tmp_path / "x.zarr", [still("a", 0)]))
    with pytest.raises(AnchorError, match="place of the class name"):
        class_features(store, CLASSES, templates=templates)


def test_a_class_name_that_does_not_fit_is_named(tmp_path):
    store = open_store(write_store(tmp_path / "x.zarr", [still("a", 0)]))
    with pytest.raises(AnchorError, match="do not fit the text tower"):
        class_features(store, ["x" * 90], templates=["{}"])


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("val/0wR5jVB-WPk_000417_000427.mp4 0\r\nval/b.mp4 12\r\n", ["val/0wR5jVB-WPk_000417_000427.mp4", "val/b.mp4"]),
        ("a folder/clip one.AVI 3 train\n\nb.webm\n", ["a folder/clip one.AVI", "b.webm"]),
        ("67818\n217212 19\n", ["67818", "217212"]),
        ("walk/1.mp4,walk\nrun/2.mp4, run\n", ["walk/1.mp4", "run/2.mp4"]),
        ('\ufeffpath,label\n"a, b.mp4",x\nc.mp4,y\n', ["a, b.mp4", "c.mp4"]),
        ("label,id\nx,first\ny,second\n", ["first", "second"]),
        ('"two words, really.mp4",x\n', ["two words, really.mp4"]),
        ("walk\\1.mp4 0\n", ["walk/1.mp4"]),
        ("up, down/a b.mp4 0\nup, down/c.mp4\nd.mp4,\n", ["up, down/a b.mp4", "up, down/c.mp4", "d.mp4"]),
        ("label;path\nx;a, b.mp4\ny;c.mp4\n", ["a, b.mp4", "c.mp4"]),
        ("path\tsplit\na.mp4\t\nb.mp4\ttest\n", ["a.mp4", "b.mp4"]),
        ("walk/é.mp4 walk\n", ["walk/é.mp4"]),
    ],
)
def test_lists_as_data_sets_write_them(text, entries, tmp_path):
    for encoding in ("utf-8", "cp1252") if not text.startswith("\ufeff") else ("utf-8",):
        (tmp_path / "list.txt").write_bytes(text.encode(encoding))
        assert list(read_list(tmp_path / "list.txt").entries) == entries


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no video"),
        (b"\n \n", "names no video"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"path,label\na.mp4,x\nb.mp4\n", "line 3: b.mp4"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(content, message, tmp_path):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(AnchorError, match=message):
        read_list(tmp_path / "list.csv")


def test_files_of_a_list_are_hashed_under_a_root(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"content")
    (tmp_path / "list.txt").write_text("a.mp4 0\n")
    found = read_list(tmp_path / "list.txt", root=tmp_path)
    assert found.hashes == {"a.mp4": hashlib.sha256(b"content").hexdigest()}
    (tmp_path / "list.txt").write_text("a.mp4 0\nmissing.mp4 1\n")
    with pytest.raises(AnchorError, match=r"1 of 2 listed videos(.|\n)*missing\.mp4"):
        read_list(tmp_path / "list.txt", root=tmp_path)


def test_names_of_clips_and_of_their_sources():
    assert file_name("vol_01/0wR5jVB-WPk_000417_000427.mp4") == "0wR5jVB-WPk_000417_000427"
    assert file_name("a/v1.5_take") == "v1.5_take"
    assert file_name("a/e\u0301te\u0301.mp4") == file_name("b/\udce9t\udce9.mp4") == "\xe9t\xe9"
    assert source_name("x/0wR5jVB-WPk_000417_000427.mp4") == "0wR5jVB-WPk"
    assert source_name("v_Typing_g10_c04.avi") is None


def test_a_copy_has_every_row_of_every_tap_and_view(tmp_path):
    taps = ("pooled", "tokens/00", "tokens/01")
    source = open_store(write_store(tmp_path / "pool.zarr", mixed_clips(17, 0), taps=taps, n_views=2))
    chosen = [16, 3, 8, 0, 9, 12, 1]
    copy_videos(source, chosen, tmp_path / "out.zarr")
    copy = open_store(tmp_path / "out.zarr")
    assert verify(tmp_path / "out.zarr", level="full").problems == ()
    assert (copy.pack_hash, copy.fingerprint.sha256) == (source.pack_hash, source.fingerprint.sha256)
    assert (copy.taps, copy.n_views, copy.classes) == (source.taps, source.n_views, source.classes)
    assert list(copy.pack_files()) == list(source.pack_files())
    assert copy.videos() == [source.videos()[index] for index in chosen]
    for tap in taps:
        for view in (0, 1):
            theirs, ours = source.stored_rows(tap, chosen, view=view), copy.stored_rows(tap, range(7), view=view)
            np.testing.assert_array_equal(ours.values, theirs.values)
            np.testing.assert_array_equal(ours.offsets, theirs.offsets)
            if theirs.scales is not None:
                np.testing.assert_array_equal(ours.scales, theirs.scales)
    for name in ("int8_min_cosine", "int8_max_error", "crc32c"):
        np.testing.assert_array_equal(copy.index_column(name), source.index_column(name)[chosen])


def test_a_copy_that_was_interrupted_is_completed_to_the_same_bytes(tmp_path, monkeypatch):
    source = open_store(write_store(tmp_path / "pool.zarr", [still(f"{i}", i) for i in range(20)]))
    chosen = list(range(18))
    copy_videos(source, chosen, tmp_path / "whole.zarr")
    commit, done = StoreWriter.commit, []

    def dies_at_the_third(self, *arguments):
        done.append(1)
        if len(done) == 3:
            raise KeyboardInterrupt
        return commit(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(StoreWriter, "commit", dies_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            copy_videos(source, chosen, tmp_path / "out.zarr")
    assert len(StoreWriter.attach(tmp_path / "out.zarr").committed_units()) == 2
    copy_videos(source, chosen, tmp_path / "out.zarr")
    files = {
        path: {f.relative_to(path): f.read_bytes() for f in path.rglob("*") if f.is_file() and f.name != ".lock"}
        for path in (tmp_path / "whole.zarr", tmp_path / "out.zarr")
    }
    assert files[tmp_path / "whole.zarr"] == files[tmp_path / "out.zarr"]


@pytest.mark.parametrize("other", [[1, 2], [0, 1, 2, 4], [2, 1, 0, 3]])
def test_a_store_of_another_selection_is_not_added_to(other, tmp_path):
    source = open_store(write_store(tmp_path / "pool.zarr", [still(f"{i}", i) for i in range(6)]))
    copy_videos(source, [0, 1, 2, 3], tmp_path / "out.zarr")
    copy_videos(source, [0, 1, 2, 3], tmp_path / "out.zarr")
    with pytest.raises(StoreError, match="another selection"):
        copy_videos(source, other, tmp_path / "out.zarr")
    assert len(open_store(tmp_path / "out.zarr")) == 4
