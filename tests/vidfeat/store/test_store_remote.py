"""Stores in an object store: written, resumed, verified and read over the wire of a real S3 server process (moto)."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import numpy as np
import pytest
import small_store
from small_extraction import digests, extract, small_options, write_tiny_clip, write_videos
from small_store import FAILED_VIDEO, SmallStore, pooled_of_video_3, tree

from vidfeat.errors import StoreCorruptError, StoreIncompleteError, StoreNotFoundError
from vidfeat.store import StoreWriter, open_store, verify
from vidfeat.store.location import files_at
from vidfeat.store.remote import RemoteFiles

s3fs = pytest.importorskip("s3fs")
pytest.importorskip("moto.server")

pytestmark = pytest.mark.long  # a server, and processes that each import an S3 client

WORLD = SmallStore(n_videos=7, n_views=2)
BUCKET = "features"


@pytest.fixture(scope="module")
def server():
    """The address of an S3 server of our own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(address, timeout=1)
                break
            except OSError:
                assert process.poll() is None, "the server died"
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def bucket(server):
    """A bucket, with everything s3fs needs in the environment, as on a real machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", server)
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem(use_listings_cache=False).mkdir(BUCKET)
        yield f"s3://{BUCKET}"


@pytest.fixture
def url(bucket, request):
    """A place for one store."""
    return f"{bucket}/{request.node.name.translate(str.maketrans('[]', '--'))}/X.zarr"


@pytest.fixture(scope="module")
def whole(bucket):
    """A finished store; who changes it puts it back."""
    WORLD.extract(f"{bucket}/whole/X.zarr")
    return f"{bucket}/whole/X.zarr"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same store on a disk."""
    path = tmp_path_factory.mktemp("local") / "X.zarr"
    WORLD.extract(path)
    return path


def objects(url):
    files = files_at(url)
    return {name: files.read(name) for name in files.listing()}


def require_as_on_a_disk(url, local):
    assert objects(url) == {name: content for name, content in tree(local).items() if name != "commits/.lock"}


def check_rows(reader):
    for tap in WORLD.spec.taps:
        for view in range(2):
            rows = reader.rows(tap.name, [6, 0, 3], view=view)
            for position, index in enumerate([6, 0, 3]):
                np.testing.assert_array_equal(rows[position], WORLD.rows(tap.name, index, view).astype(np.float16))


def test_a_remote_store_is_the_local_one(whole, local):
    require_as_on_a_disk(whole, local)
    reader = open_store(whole)
    assert reader.videos() == open_store(local).videos()
    assert str(reader.pack_path) == f"{whole}/pack"
    check_rows(reader)
    for level in ("fast", "full"):
        report = verify(whole, level=level)
        assert report.problems == ()
        assert report.notes == ()


@pytest.mark.parametrize(("step", "count"), [("shard:durable", 2), ("record:created", 2)])
def test_a_killed_remote_writer_is_resumed(url, local, step, count):
    options = json.dumps({"n_videos": WORLD.n_videos, "n_views": WORLD.n_views})
    command = [sys.executable, small_store.__file__, url, options, step, str(count)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL
    with pytest.raises((StoreIncompleteError, StoreNotFoundError)):
        open_store(url)
    WORLD.extract(url)
    require_as_on_a_disk(url, local)


def test_damage_in_the_bucket_is_found_and_repaired(whole, local):
    files = files_at(whole)
    content = bytearray(files.read("tokens/02/c.1.0.0"))
    content[100] ^= 1
    files.write("tokens/02/c.1.0.0", content, step="damage")
    with pytest.raises(StoreCorruptError, match=r"c\.1\.0\.0"):
        open_store(whole).rows("tokens/02", [3])
    report = verify(whole, level="full")
    assert report.bad_units == (1,)
    writer = StoreWriter.open(whole)
    for unit in writer.repair(report):
        WORLD.commit(writer, unit)
    writer.finalize()
    require_as_on_a_disk(whole, local)
    shard = files.read("pooled/c.0.0")
    files.remove("pooled/c.0.0")
    with pytest.raises(StoreCorruptError, match="missing"):  # zarr alone would say NaN
        open_store(whole).rows("pooled", [0])
    files.write("pooled/c.0.0", shard, step="back")


def test_what_is_missing_is_added(url):
    SmallStore(n_videos=5, n_views=1).extract(url)
    WORLD.extract(url)
    reader = open_store(url)
    check_rows(reader)
    assert np.flatnonzero(~reader.ok).tolist() == [FAILED_VIDEO]
    assert verify(url, level="full").problems == ()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_readers_of_remote_stores_work_in_other_processes(whole, method):
    reader = open_store(whole)
    here = pooled_of_video_3(reader)
    with multiprocessing.get_context(method).Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply_async(pooled_of_video_3, (reader,)).get(timeout=120), here)


def test_nothing_there_is_no_store(url):
    with pytest.raises(StoreNotFoundError, match="no store"):
        open_store(url)
    assert os.environ["AWS_ENDPOINT_URL"]


def test_an_extraction_goes_on_where_its_pack_was_half_written(url, tmp_path, monkeypatch):
    videos, local = write_videos(tmp_path / "videos", 2), tmp_path / "X.zarr"
    options = small_options(videos, local, write_tiny_clip(tmp_path / "clip"), taps=("pooled",))
    extract(options)
    write = RemoteFiles.write

    def until_the_text_tower(self, path, content, *, step):
        if path == "pack/text.safetensors":
            raise KeyboardInterrupt
        write(self, path, content, step=step)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFiles, "write", until_the_text_tower)
        with pytest.raises(KeyboardInterrupt):
            extract(replace(options, out=url))
    assert list(objects(url)) == ["pack/config.json"]
    extract(replace(options, out=url))
    assert {name: hashlib.sha256(content).hexdigest() for name, content in objects(url).items()} == digests(local)
