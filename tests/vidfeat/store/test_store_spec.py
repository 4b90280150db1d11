"""What a store may be asked to hold, and the fingerprint that guards it."""

from __future__ import annotations

import numpy as np
import pytest
from small_store import SmallStore, Video

from vidfeat.errors import FingerprintMismatchError, StoreCorruptError, StoreError
from vidfeat.store import (
    POOLED,
    Fingerprint,
    StoreSpec,
    StoreWriter,
    Tap,
    TapSpec,
    VideoRow,
    require_same_fingerprint,
    storage_problem,
    tap_flags,
    token_layers,
)
from vidfeat.store.records import canonical_json, seal, unseal


@pytest.mark.parametrize(
    ("name", "row_shape", "dtype"),
    [
        ("index/x", (4,), "float16"),
        ("Pooled", (4,), "float16"),
        ("../x", (4,), "float16"),
        ("x", (), "float16"),
        ("x", (4, 0), "float16"),
        ("x", (4,), "bfloat16"),
        ("x", (4,), "int8"),
    ],
)
def test_taps_that_cannot_be_stored_are_refused(name, row_shape, dtype):
    with pytest.raises(ValueError, match="cannot be stored"):
        TapSpec(name, row_shape, dtype)


def test_all_problems_of_a_spec_come_together():
    tap = TapSpec("a", (4,))
    with pytest.raises(ValueError) as caught:
        StoreSpec((tap, tap), n_frames=None, n_views=0, classes=("x", "x"), compressor="lz4")
    for word in ("no name twice", "max_frames", "n_views", "one class twice", "lz4"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="cannot also hold"):
        StoreSpec((tap, TapSpec("a/b", (4,))), n_frames=1)


def test_a_video_row_cannot_contradict_itself():
    with pytest.raises(ValueError) as caught:
        VideoRow("v", "l", n_frames=2, pts_seconds=(0.0,), reason="empty", content_sha256="xyz", fps=float("nan"))
    for word in ("1 pts_seconds for 2 frames", "reason 'empty'", "xyz", "not finite"):
        assert word in str(caught.value)
    with pytest.raises(ValueError, match="none of unreadable"):
        VideoRow.failed(Video("v", "l"), reason="bad luck")
    row = SmallStore().facts(3)
    assert VideoRow.from_json(row.to_json()) == row


def test_fingerprints_differ_field_by_field():
    left = Fingerprint({"model": {"weights": "ab", "size": [1, 2]}, "decoder": "pyav 18"})
    right = Fingerprint({"model": {"weights": "cd", "size": [1, 2]}, "views": "centre"})
    assert [str(d) for d in left.diff(right)] == [
        "decoder: 'pyav 18' != '(absent)'",
        "model.weights: 'ab' != 'cd'",
        "views: '(absent)' != 'centre'",
    ]
    same = Fingerprint({"decoder": "pyav 18", "model": {"size": (1, 2), "weights": "ab"}})
    assert left.diff(same) == []
    assert left.sha256 == same.sha256 != right.sha256
    require_same_fingerprint(left, same, left_name="a", right_name="b", fix="c")
    with pytest.raises(FingerprintMismatchError) as caught:
        require_same_fingerprint(left, right, left_name="train.zarr", right_name="anchors.zarr", fix="extract again")
    for word in ("model.weights = 'ab'", "model.weights = 'cd'", "train.zarr", "anchors.zarr", "extract again"):
        assert word in str(caught.value)


def test_an_existing_store_refuses_another_fingerprint(tmp_path):
    SmallStore().extract(tmp_path / "X.zarr")
    other = SmallStore(fields={"model": {"weights": "ff"}, "size": 224})
    with pytest.raises(FingerprintMismatchError, match=r"model\.weights = 'ff'"):
        other.extract(tmp_path / "X.zarr")


@pytest.mark.parametrize(
    ("values", "dtype", "word"),
    [
        ([1.0, np.nan], "float16", "1 of 2 values"),
        ([1.0, -np.inf], "float32", "1 of 2 values"),
        ([1.0, 65520.0], "float16", "65504"),
        ([-70000.0], "float16", "65504"),
        ([65504.0, -65504.0], "float16", None),
        ([70000.0], "float32", None),
        ([], "float16", None),
    ],
)
def test_values_that_lose_their_meaning_are_named(values, dtype, word):
    problem = storage_problem(np.array(values, np.float32), dtype)
    assert problem is None if word is None else word in problem


def test_every_half_is_told_finite_or_not_by_its_bits():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert [storage_problem(halves[i : i + 1], "float16") is None for i in range(2**16)] == np.isfinite(halves).tolist()
    finite = halves[np.isfinite(halves)]
    assert storage_problem(finite, "float16") is storage_problem(finite[::-2], "float32") is None
    assert storage_problem(np.append(finite, np.float16("nan")), "float16") == "1 of 63489 values are NaN or infinite"


def test_a_manifest_with_twins_or_unknown_labels_is_refused_in_one_message(tmp_path):
    videos = [Video("a", "walk"), Video("a", "walk"), Video("b", "fly"), Video("", "walk")]
    with pytest.raises(StoreError) as caught:
        StoreWriter.create(tmp_path / "X.zarr", SmallStore().spec, videos)
    for word in ("'a' appears twice", "'fly'", "empty id"):
        assert word in str(caught.value)
    assert not (tmp_path / "X.zarr").exists()


def test_sealed_json_notices_any_change_of_its_bytes():
    document = {"b": [1.5, "ü"], "a": None}
    content = seal(document)
    assert unseal(content, path="x") == document
    for damaged in (
        content + b" ",
        content.replace(b"\\u00fc", "ü".encode()),
        content.replace(b"1.5", b"1.50"),
        b"",
        b"[]",
    ):
        with pytest.raises(StoreCorruptError, match="x"):
            unseal(damaged, path="x")
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_a_tap_has_one_name_however_it_is_spelled() -> None:
    assert (Tap().name, Tap().flag, Tap.of("pooled"), POOLED) == ("pooled", "pooled", Tap(), "pooled")
    assert (Tap(6).name, Tap(6).flag, Tap(11).name) == ("tokens/06", "tokens@6", "tokens/11")
    assert Tap.of("tokens/06") == Tap.of("tokens@6") == Tap.of("tokens@06") == Tap(6)
    assert Tap.of("tokens") is None
    assert Tap.of("tokens/06/x") is None
    assert token_layers(["pooled", "tokens/06", "theirs", "tokens@2", "tokens@6"]) == (6, 2)
    assert tap_flags(["pooled", "tokens/06", "theirs"]) == "pooled,tokens@6,theirs"
