"""Which version of vidfeat may do what with a store: reading goes by zarr.json, writing and verifying by the plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_store import SmallStore

from vidfeat.errors import StoreCorruptError, StoreError
from vidfeat.store import StoreWriter, VideoRow, open_store, verify
from vidfeat.store.commits import FileRecord
from vidfeat.store.records import seal


def with_plan_version(path: Path, version: int) -> None:
    spec = path / "plan/spec.json"
    document = json.loads(spec.read_text())
    del document["sha256"]
    spec.write_bytes(seal(document | {"format_version": version}))


def reseal_root(path: Path, version: int) -> None:
    """The root metadata with another version, and a manifest that agrees with it."""
    root, manifest = path / "zarr.json", path / "manifest.json"
    document = json.loads(root.read_text())
    document["attributes"]["vidfeat"]["format_version"] = version
    root.write_text(json.dumps(document))
    listed = json.loads(manifest.read_text())
    del listed["sha256"]
    listed["files"]["zarr.json"] = FileRecord.of(root.read_bytes()).to_json()
    manifest.write_bytes(seal(listed))


def test_what_is_written_now_is_read_as_version_1_and_written_as_2(tmp_path: Path) -> None:
    SmallStore().extract(tmp_path / "X.zarr")
    about = json.loads((tmp_path / "X.zarr/zarr.json").read_text())["attributes"]["vidfeat"]
    assert about["format_version"] == 1
    assert json.loads((tmp_path / "X.zarr/plan/spec.json").read_text())["format_version"] == 2


def test_a_store_of_before_is_read_verified_and_extended(tmp_path: Path) -> None:
    path = tmp_path / "X.zarr"
    SmallStore(n_videos=7).extract(path)
    with_plan_version(path, 1)
    StoreWriter.open(path).finalize()
    assert verify(path, level="full").problems == ()
    SmallStore(n_videos=9).extract(path)
    assert len(open_store(path).ids) == 9
    assert json.loads((path / "plan/spec.json").read_text())["format_version"] == 1


def test_a_later_version_is_one_message_whose_fix_is_an_update(tmp_path: Path) -> None:
    path = tmp_path / "X.zarr"
    SmallStore().extract(path)
    with_plan_version(path, 3)
    for use in (StoreWriter.attach, lambda where: verify(where, level="fast").require_sound()):
        with pytest.raises(StoreError, match=r"later format version[\s\S]*1 or 2[\s\S]*got: +3[\s\S]*pip install -U"):
            use(path)
    open_store(path)  # reading asks nothing of the plan
    reseal_root(path, 2)
    with pytest.raises(StoreCorruptError, match=r"later format version[\s\S]*expected: 1\n[\s\S]*got: +2\n"):
        open_store(path)
    reseal_root(path, 0)
    with pytest.raises(StoreCorruptError, match="no format version that is known"):
        open_store(path)


def test_facts_of_a_later_version_are_named() -> None:
    document = VideoRow("a.mp4", "a", n_frames=1).to_json() | {"mood": "good"}
    with pytest.raises(StoreError, match=r"later version of vidfeat[\s\S]*'a\.mp4'[\s\S]*mood"):
        VideoRow.from_json(document)
