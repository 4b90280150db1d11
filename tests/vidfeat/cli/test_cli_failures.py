"""`vidfeat failures`: the whole cause, kinds told apart, and forms that programs read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from test_cli_names import write_store

from vidfeat.cli import main
from vidfeat.errors import DecodeError, explain
from vidfeat.store import VideoRow
from vidfeat.video.decode import probe

LONG = "the box at byte 1234 " * 20 + "ends here"
FAILED = {
    "walk/long.mp4": (
        "invalid_data",
        explain("This is no video.", where="/v/long.mp4", got=LONG, fix="Fetch it."),
        LONG,
    ),
    "walk/crash.mp4": ("invalid_data", "its decoding process died 2 times (exit code -11)", "exit code -11"),
    "walk/bug.mp4": (
        "invalid_data",
        "KeyError: 'x'\nTraceback (most recent call last):\n  f()",
        "KeyError: 'x'",
    ),
    "walk/lfs.mp4": ("invalid_data", explain("No video.", got="a Git LFS pointer, not the file"), "a Git LFS pointer"),
    "run/page.mp4": ("invalid_data", explain("No video.", got="an HTML page, as a server"), "an HTML page"),
    "run/short.mp4": ("truncated", explain("Cut.", got="3/9 frames"), "3/9 frames"),
}
KINDS = {
    "walk/long.mp4": "invalid data",
    "walk/crash.mp4": "decoding process died",
    "walk/bug.mp4": "unexpected exception",
    "walk/lfs.mp4": "Git LFS pointer",
    "run/page.mp4": "web page",
    "run/short.mp4": "truncated",
}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    rows = [VideoRow("walk/good.mp4", "walk", n_frames=1)]
    for name, (reason, detail, _) in FAILED.items():
        rows.append(VideoRow(name, name.split("/")[0], status="failed", reason=reason, detail=detail))
    return write_store(tmp_path / "X.zarr", rows)


def failures(store: Path, *flags: str) -> str:
    result = CliRunner().invoke(main, ["failures", str(store), *flags])
    assert result.exit_code == 0, result.output
    return result.output


def test_piped_text_is_whole_one_line_each(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vidfeat.cli", "failures", str(store)], capture_output=True, text=True, check=True
    )
    lines = {line.split("\t")[0]: line for line in done.stdout.splitlines() if "\t" in line}
    assert set(lines) == set(FAILED)
    for name, (reason, _, cause) in FAILED.items():
        assert cause in lines[name]
        assert f"\t{reason}\t{KINDS[name]}\t" in lines[name]
    assert "Traceback (most recent call last): | f()" in lines["walk/bug.mp4"]


def test_json_and_csv_say_the_same(store: Path) -> None:
    as_json = json.loads(failures(store, "--json"))
    as_csv = list(csv.DictReader(io.StringIO(failures(store, "--csv"))))

    assert as_json == as_csv
    assert {one["id"]: one["kind"] for one in as_json} == KINDS
    assert {one["id"]: one["detail"] for one in as_json} == {name: detail for name, (_, detail, _) in FAILED.items()}
    (long,) = [one for one in as_json if one["id"] == "walk/long.mp4"]
    assert (long["cause"], long["fix"]) == (LONG, "Fetch it.")
    assert [one["id"] for one in json.loads(failures(store, "--json", "--reason", "truncated"))] == ["run/short.mp4"]


def test_no_failures(tmp_path: Path) -> None:
    store = write_store(tmp_path / "X.zarr", [VideoRow("a.mp4", "walk", n_frames=1)])
    assert "no failures" in failures(store)
    assert json.loads(failures(store, "--json")) == []
    assert failures(store, "--csv").strip() == "id,label,split,reason,kind,cause,fix,detail"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "a Git LFS pointer"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
        (b"PK\x03\x04" + bytes(60), "an archive"),
        (b"<HTML><head><title>404</title></head></HTML>", "an HTML page"),
        (b'{"error": "quota exceeded", "code": 403}', "a JSON document"),
    ],
)
@pytest.mark.parametrize("extension", ["mp4", "avi", "mkv", "webm"])
def test_what_a_download_left_in_a_videos_place_is_named(
    tmp_path: Path, content: bytes, said: str, extension: str
) -> None:
    path = tmp_path / f"clip.{extension}"
    path.write_bytes(content)

    with pytest.raises(DecodeError, match=said) as caught:
        probe(path)

    assert caught.value.reason == "invalid_data"
