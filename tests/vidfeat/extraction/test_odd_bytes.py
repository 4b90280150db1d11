"""Bytes that are no UTF-8, in a file's title and in its name: neither decides whether its pictures are read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from small_extraction import small_options, write_mp4, write_tiny_clip, write_videos
from video_files import frame_picture, read_numbers

from vidfeat.extraction.extract import extract_or_resume
from vidfeat.extraction.relabel import relabel
from vidfeat.store import open_store
from vidfeat.tools.hdf5 import export_hdf5, import_hdf5
from vidfeat.video.decode import available_decoders, decode_all, probe
from vidfeat.video.preprocess import ViewSpec
from vidfeat.video.sampling import SamplingPolicy, video_seed


def write_titled(path: Path, *, title: str) -> Path:
    """A video of ten numbered frames with a title tag."""
    with av.open(str(path), "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.metadata["title"] = title
        for number in range(10):
            picture = np.ascontiguousarray(frame_picture(number, width=96, height=64))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("extension", ["mp4", "avi", "mkv", "mov"])
@pytest.mark.parametrize("decoder", ["auto", "pyav", "decord"])
def test_a_title_that_is_not_utf_8_costs_no_frame(tmp_path: Path, extension: str, decoder: str) -> None:
    works = {status.name for status in available_decoders() if status.works}
    if decoder not in {"auto", *works}:
        pytest.skip(f"{decoder} does not work here")
    path = write_titled(tmp_path / f"clip.{extension}", title="CafX au lait")
    content = path.read_bytes()
    assert b"CafX au lait" in content
    path.write_bytes(content.replace(b"CafX au lait", b"Caf\xe9 au lait"))

    assert probe(path).n_packets == 10
    assert read_numbers(decode_all(path, decoder=decoder).pixels) == list(range(10))


def test_the_seed_of_a_name_that_is_utf_8_is_what_it_was() -> None:
    assert video_seed(0, "clapping/00.mp4") == 5481109098540503651
    assert video_seed(3, "café.mp4") != video_seed(3, os.fsdecode(b"caf\xe9.mp4"))


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
@pytest.mark.parametrize(
    "changes",
    [{}, {"views": ViewSpec(n_views=2)}, {"sampling": SamplingPolicy("segments-random", n_frames=4)}],
    ids=["plain", "views", "random"],
)
def test_a_name_that_is_not_utf_8_goes_all_the_way(tmp_path: Path, changes: dict[str, object]) -> None:
    root = write_videos(tmp_path / "videos", 3)
    write_mp4(root / "run" / "x.mp4", n_frames=9, seed=9)
    os.rename(root / "run" / "x.mp4", os.path.join(os.fsencode(root), b"run/caf\xe9.mp4"))
    with open(os.path.join(os.fsencode(root), b"run/empt\xff.mp4"), "wb"):
        pass
    store, key = tmp_path / "X.zarr", os.fsdecode(b"run/caf\xe9.mp4")
    options = small_options(
        root, store, write_tiny_clip(tmp_path / "clip"), taps=("pooled",), allow_failures=1, **changes
    )

    assert extract_or_resume(options, quiet=True).failures == {"empty": 1}

    assert [row.ok for row in open_store(store).videos() if row.id == key] == [True]
    assert extract_or_resume(options, quiet=True).nothing_to_do
    labels = tmp_path / "labels.csv"
    labels.write_bytes(b"path,label\nrun/caf\xe9.mp4,jump\n")
    assert relabel(store, labels).n_changed == 1
    import_hdf5(export_hdf5(store, tmp_path / "X.h5"), tmp_path / "Y.zarr")
    assert open_store(tmp_path / "Y.zarr").videos() == open_store(store).videos()
    if not changes:
        for command in (
            ["vidfeat.cli", "failures", str(store)],
            ["prompttune.cli", "eval", "--store", str(store), "--out", str(tmp_path / "out")],
        ):
            strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
            done = subprocess.run([sys.executable, "-m", *command], capture_output=True, env=strict)
            assert done.returncode == 0, done.stderr
        assert b"empt\\udcff" in (tmp_path / "out" / "result.json").read_bytes()
        from prompttune.evaluation.results import Result

        result = Result.read(tmp_path / "out")
        assert result.write(tmp_path).read_bytes() == (tmp_path / "out" / "result.json").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux alone")
def test_a_decoder_that_wants_utf_8_leaves_other_names_to_pyav(tmp_path: Path) -> None:
    if "decord" not in {status.name for status in available_decoders() if status.works}:
        pytest.skip("decord does not work here")
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.mp4")
    os.rename(write_titled(tmp_path / "x.mp4", title="x"), path)
    read = decode_all(os.fsdecode(path), decoder="decord")
    assert (read_numbers(read.pixels), read.decoder.partition(" ")[0]) == (list(range(10)), "pyav")
