"""A store in an object store trains and classifies like a local one; its backbone pack is fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import ClassifyOptions, classify
from prompttune.data.features import open_source
from prompttune.data.local_pack import CACHE_VARIABLE, local_pack, pack_cache
from vidfeat.errors import PackError

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def remote(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The target store below a URL, and a pack cache of the test's own."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    fsspec.filesystem("memory").put(target, "/features/target.zarr", recursive=True)
    return "memory://features/target.zarr"


def test_a_remote_store_gives_the_local_numbers(remote: str, target: str, hard_prompt: str) -> None:
    there, here = (apply_prompts([hard_prompt], given={"store": store}) for store in (remote, target))
    assert there.runs[0].metrics == here.runs[0].metrics
    assert there.store.fingerprint == here.store.fingerprint
    options = ClassifyOptions(prompts=hard_prompt, classes=("run", "jump"))
    assert [str(video) for video in classify(remote, options)] == [str(video) for video in classify(target, options)]


def test_the_pack_is_fetched_once_and_checked(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(remote)
    folder = pack_cache() / source.pack.hash
    assert folder == source.pack.path
    assert [path.name for path in pack_cache().iterdir()] == [source.pack.hash]  # and no half-written folder
    monkeypatch.setattr(type(source.reader), "pack_files", lambda self: pytest.fail("fetched again"))
    assert local_pack(open_source(remote).reader) == folder
    (folder / "config.json").write_text("{}")
    with pytest.raises(PackError):
        open_source(remote)


def test_a_fetch_that_breaks_off_leaves_nothing(remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object) -> object:
        yield "config.json", b"{}"
        raise OSError("connection lost")

    with monkeypatch.context() as patched:
        from vidfeat.store import StoreReader

        patched.setattr(StoreReader, "pack_files", broken)
        with pytest.raises(OSError, match="connection lost"):
            open_source(remote)
    assert list(pack_cache().iterdir()) == []
    assert open_source(remote).pack.config.name == "tiny"
