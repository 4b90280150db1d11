"""Files that change under a store: replaced, touched, moved, gone, broken; and stores from before this was recorded."""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_extraction import digests, small_options, write_mp4, write_videos

from vidfeat.errors import StoreError
from vidfeat.extraction import recipe, unit_runner
from vidfeat.extraction.extract import ExtractSummary, extract_or_resume
from vidfeat.extraction.options import ModelChoice, OptionsError
from vidfeat.extraction.relabel import relabel
from vidfeat.store import StoreWriter, open_store, verify

Extract = Callable[..., ExtractSummary]


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    return write_videos(tmp_path / "videos", 4)


@pytest.fixture
def extract(tmp_path: Path, videos: Path, model: ModelChoice, capsys) -> Extract:
    def run(out: str = "X.zarr", **changes: object) -> ExtractSummary:
        options = small_options(videos, tmp_path / out, model, taps=("pooled",))
        return extract_or_resume(replace(options, **changes))  # type: ignore[arg-type]

    return run


def rows_of(store: Path, tap: str = "pooled") -> dict[str, list[float]]:
    reader = open_store(store)
    good = np.flatnonzero(reader.ok)
    rows = reader.rows(tap, good)
    return {str(reader.ids[index]): rows[place].tolist() for place, index in enumerate(good)}


def require_like_new(tmp_path: Path, extract: Extract, **changes: object) -> None:
    """The store has just what a new one of the same files has, and every byte of it is sound."""
    extract("fresh.zarr", **changes)
    assert rows_of(tmp_path / "X.zarr") == rows_of(tmp_path / "fresh.zarr")
    assert verify(tmp_path / "X.zarr", level="full").problems == ()
    assert verify(tmp_path / "X.zarr", level="full").notes == ()
    shutil.rmtree(tmp_path / "fresh.zarr")


def test_files_that_are_the_same_are_nothing_to_do(tmp_path, videos, extract, capsys):
    extract()
    before = digests(tmp_path / "X.zarr")

    assert extract().nothing_to_do

    assert digests(tmp_path / "X.zarr") == before
    assert "note:" not in capsys.readouterr().err
    for row in open_store(tmp_path / "X.zarr").videos():
        status = (videos / row.id).stat()
        assert (row.n_source_bytes, row.source_mtime_ns) == (status.st_size, status.st_mtime_ns)


def test_a_relabelled_store_is_added_to_from_the_same_folder(tmp_path, videos, extract):
    """The advice of the refusal, followed to its end."""
    extract()
    (tmp_path / "labels.csv").write_text("path,label,split\nrun/001.mp4,sprint,test\nrun/003.mp4,sprint,test\n")
    relabel(tmp_path / "X.zarr", tmp_path / "labels.csv")
    write_mp4(videos / "jump" / "900.mp4", seed=9)
    write_mp4(videos / "run" / "901.mp4", seed=10)
    with pytest.raises(StoreError, match=r"run/001\.mp4[\s\S]*the same command with --keep-labels"):
        extract()

    added = extract(keep_labels=True)

    assert added.n_videos == 6
    store = open_store(tmp_path / "X.zarr")
    assert store.classes == ("jump", "sprint", "run")
    labels = dict(zip(store.ids, zip(store.labels, store.splits, strict=True), strict=True))
    assert labels["run/001.mp4"] == labels["run/003.mp4"] == ("sprint", "test")
    assert labels["run/901.mp4"] == ("run", "")
    assert store.ok.all()
    assert verify(tmp_path / "X.zarr", level="full").problems == ()
    assert extract(keep_labels=True).nothing_to_do


@pytest.mark.parametrize("same_size", [False, True])
def test_a_replaced_file_is_named_and_refreshed(tmp_path, videos, extract, capsys, same_size):
    extract()
    before = rows_of(tmp_path / "X.zarr")
    file, n_bytes = videos / "run" / "001.mp4", (videos / "run" / "001.mp4").stat().st_size
    write_mp4(file, n_frames=5 if same_size else 30, seed=99)
    if same_size:  # the end of an mp4 may be padded with a box that players skip
        n_free = n_bytes - file.stat().st_size
        assert n_free > 8
        file.write_bytes(file.read_bytes() + n_free.to_bytes(4, "big") + b"free" + bytes(n_free - 8))

    kept = extract()

    said = capsys.readouterr().err
    assert "1 x file changed since it was extracted: run/001.mp4" in said
    assert ("another content of the same size" if same_size else f"was {n_bytes:,}") in said
    assert "--refresh" in said
    assert kept.nothing_to_do
    assert kept.n_changed == 1
    assert rows_of(tmp_path / "X.zarr") == before

    refreshed = extract(refresh=True)

    assert refreshed.n_changed == 0
    assert refreshed.n_frames == 4
    after = rows_of(tmp_path / "X.zarr")
    assert after["run/001.mp4"] != before.pop("run/001.mp4")
    assert before.items() <= after.items()
    require_like_new(tmp_path, extract)
    assert extract(refresh=True).nothing_to_do
    # Taps that come later are compared with the new file.
    extract(taps=("pooled", "tokens@1"))
    assert len(rows_of(tmp_path / "X.zarr", "tokens/01")) == 4


def test_a_touched_file_is_read_once_and_then_known(tmp_path, videos, extract, capsys, monkeypatch):
    extract()
    os.utime(videos / "run" / "001.mp4", ns=(1, 1_000_000_007))

    first = extract()

    assert first.nothing_to_do
    assert first.n_changed == 0
    assert "note:" not in capsys.readouterr().err
    rows = {row.id: row for row in open_store(tmp_path / "X.zarr").videos()}
    assert rows["run/001.mp4"].source_mtime_ns == 1_000_000_007
    monkeypatch.setattr("vidfeat.extraction.identity.file_sha256", lambda path: pytest.fail("read again"))
    assert extract().nothing_to_do
    monkeypatch.undo()
    require_like_new(tmp_path, extract)


def test_a_file_that_was_replaced_by_a_broken_one_fails_and_comes_back(tmp_path, videos, extract):
    extract()
    file = videos / "run" / "001.mp4"
    good = file.read_bytes()
    file.write_bytes(b"")

    assert extract(refresh=True, allow_failures=1).failures == {"empty": 1}
    assert "run/001.mp4" not in rows_of(tmp_path / "X.zarr")

    file.write_bytes(good)
    assert extract(allow_failures=1).n_changed == 1
    assert extract(refresh=True).failures == {}
    require_like_new(tmp_path, extract)


def test_a_refresh_that_was_interrupted_goes_on(tmp_path, videos, extract, monkeypatch):
    extract()
    write_mp4(videos / "run" / "001.mp4", n_frames=30, seed=99)
    with monkeypatch.context() as patch:
        patch.setattr("vidfeat.extraction.extract._run", lambda *args, **kwargs: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            extract(refresh=True)

    resumed = extract()

    assert (resumed.n_changed, resumed.n_units_done) == (0, 1)
    require_like_new(tmp_path, extract)


def test_taps_of_a_changed_file_do_not_join_those_of_the_old_one(tmp_path, videos, extract):
    extract()
    before = digests(tmp_path / "X.zarr")
    write_mp4(videos / "run" / "001.mp4", n_frames=30, seed=99)

    with pytest.raises(OptionsError, match=r"run/001\.mp4(.|\n)*--refresh"):
        extract(taps=("pooled", "tokens@1"))

    assert digests(tmp_path / "X.zarr") == before
    extract(taps=("pooled", "tokens@1"), refresh=True)
    extract("fresh.zarr", taps=("pooled", "tokens@1"))
    for tap in ("pooled", "tokens/01"):
        assert rows_of(tmp_path / "X.zarr", tap) == rows_of(tmp_path / "fresh.zarr", tap)
    assert verify(tmp_path / "X.zarr", level="full").problems == ()


def test_a_moved_video_is_named_and_pruned(tmp_path, videos, extract, capsys):
    extract()
    (videos / "run" / "001.mp4").rename(videos / "jump" / "moved.mp4")

    assert extract().n_videos == 5

    said = capsys.readouterr().err
    assert "1 x video moved: run/001.mp4 -> jump/moved.mp4" in said
    assert "--prune" in said
    assert extract(prune=True).n_videos == 4
    require_like_new(tmp_path, extract)
    capsys.readouterr()
    assert extract(prune=True).nothing_to_do
    assert "note:" not in capsys.readouterr().err


def test_moved_and_pruned_at_once(tmp_path, videos, extract):
    extract()
    (videos / "run" / "001.mp4").rename(videos / "jump" / "moved.mp4")
    assert extract(prune=True).n_videos == 4
    require_like_new(tmp_path, extract)


def test_a_video_that_is_gone_stays_until_it_is_pruned_and_may_come_back(tmp_path, videos, extract, capsys):
    extract()
    before = rows_of(tmp_path / "X.zarr")
    file = videos / "run" / "001.mp4"
    content = file.read_bytes()
    file.unlink()

    assert extract().n_videos == 4
    assert "1 x video of the store is gone from the source: run/001.mp4; their features stay" in capsys.readouterr().err
    assert extract(prune=True).n_videos == 3
    require_like_new(tmp_path, extract)
    # Views, taps and retries of the others do not ask for it.
    extract(taps=("pooled", "tokens@1"), retry="all")
    file.write_bytes(content)
    assert extract(taps=("pooled", "tokens@1")).n_videos == 4
    assert rows_of(tmp_path / "X.zarr") == before
    assert verify(tmp_path / "X.zarr", level="full").problems == ()


def test_a_file_in_another_unicode_form_than_the_store_s_is_not_gone(tmp_path, videos, extract, capsys):
    here, listed = (unicodedata.normalize(form, "été") for form in ("NFD", "NFC"))
    (videos / "run").rename(videos / here)
    (tmp_path / "list.csv").write_text(f"path,label\n{listed}/001.mp4,run\njump/000.mp4,jump\n", encoding="utf-8")
    assert extract(source=tmp_path / "list.csv", root=videos).n_videos == 2
    (tmp_path / "list.csv").write_text("path,label\njump/000.mp4,jump\n")

    assert extract(source=tmp_path / "list.csv", root=videos, prune=True).n_videos == 2

    assert "gone" not in capsys.readouterr().err


def test_a_video_that_vanished_before_it_was_extracted_is_pruned(tmp_path, videos, extract, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("vidfeat.extraction.extract._run", lambda *args, **kwargs: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            extract()
    (videos / "run" / "001.mp4").unlink()

    with pytest.raises(OptionsError, match=r"run/001\.mp4"):
        extract()

    summary = extract(prune=True)
    assert (summary.n_videos, summary.n_failed) == (3, 0)
    require_like_new(tmp_path, extract)


def test_another_root_says_nothing_about_what_is_gone(tmp_path, videos, extract, capsys):
    extract()
    other = write_videos(tmp_path / "others", 1, first=7)

    assert extract(source=other, prune=True).n_videos == 5
    assert "gone" not in capsys.readouterr().err


def test_a_store_from_before_opens_and_resumes_unchanged(tmp_path, videos, extract, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(recipe, "stat_facts", lambda path: {})
        patch.setattr(unit_runner, "stat_facts", lambda path: {})
        extract()
    files = [path for path in digests(tmp_path / "X.zarr") if "source_mtime" in path or "n_source_bytes" in path]
    assert files == []
    assert b"source_mtime_ns" not in b"".join(p.read_bytes() for p in (tmp_path / "X.zarr" / "commits").iterdir())
    before = digests(tmp_path / "X.zarr")
    write_mp4(videos / "run" / "001.mp4", n_frames=30, seed=99)

    assert extract(refresh=True).nothing_to_do

    assert digests(tmp_path / "X.zarr") == before
    assert open_store(tmp_path / "X.zarr").videos()[0].source_mtime_ns == 0
    assert verify(tmp_path / "X.zarr", level="full").problems == ()
    write_videos(videos, 1, first=8)
    assert extract().n_videos == 5
    known = [row.source_mtime_ns != 0 for row in open_store(tmp_path / "X.zarr").videos()]
    assert known == [False, False, False, False, True]
    assert StoreWriter.attach(tmp_path / "X.zarr").plan.changes == ()
