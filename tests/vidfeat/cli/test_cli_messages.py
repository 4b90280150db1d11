"""What the command line says: results, refusals as one message, exit codes; and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from small_extraction import write_mp4, write_tiny_clip, write_videos

from vidfeat.cli import main
from vidfeat.cli.tables import print_parts, table_of
from vidfeat.clip import openclip

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> list[str]:
    """The flags that name a tiny CLIP."""
    choice = write_tiny_clip(tmp_path_factory.mktemp("clip"))
    return ["--model-config", str(choice.model_config), "--weights", str(choice.weights)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 4)


def vidfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def extract(source: Path, out: Path, *flags: object) -> Result:
    return vidfeat("extract", source, "--out", out, "--frames", 3, "--workers", 0, "--device", "cpu", *flags)


def refusal(result: Result) -> str:
    """The message of a command that refused: one error, exit code 2, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from vidfeat.cli import main\n"
        "try:\n    main(['extract', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'open_clip', 'zarr', 'av', 'decord', 'rich', 'numpy', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported: {sorted(heavy)}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--taps" in done.stdout


def test_extract_info_failures_verify(tmp_path, videos, clip):
    out = tmp_path / "X.zarr"
    result = extract(videos, out, *clip, "--taps", "pooled,tokens@0")
    assert result.exit_code == 0, result.output
    assert "4 videos, 0 failed" in result.output
    assert "nothing to do" in extract(videos, out, *clip, "--taps", "pooled,tokens@0").output
    shown = vidfeat("info", out).output
    assert "\N{BOX DRAWINGS DOWN LIGHT AND RIGHT HEAVY}" not in shown  # no heading where columns have no names
    assert shown.splitlines()[1].startswith("\N{BOX DRAWINGS LIGHT DOWN AND RIGHT}")
    for fact in ("4, 4 ok", "2 (2 videos each)", "[12 16] float16", "[12 5 32] float16", "uniform", "none"):
        assert fact in shown
    assert "no failures" in vidfeat("failures", out).output
    sound = vidfeat("verify", out, "--level", "full")
    assert sound.exit_code == 0
    assert "is sound at level full" in sound.output


def test_failures_give_exit_code_1_and_are_named(tmp_path, clip):
    root = write_videos(tmp_path / "videos", 2)
    (root / "run" / "empty.mp4").write_bytes(b"")
    out = tmp_path / "X.zarr"
    result = extract(root, out, *clip)
    assert result.exit_code == 1
    assert f"vidfeat failures {out}" in result.output
    listed = vidfeat("failures", out)
    assert listed.exit_code == 0
    assert "run/empty.mp4" in listed.output
    assert "empty" in listed.output
    assert "no failures" in vidfeat("failures", out, "--reason", "truncated").output
    unknown = vidfeat("failures", out, "--reason", "truncate")
    assert unknown.exit_code == 2
    assert "'truncated'" in unknown.output
    assert extract(root, out, *clip).exit_code == 1
    assert extract(root, out, *clip, "--allow-failures", 1).exit_code == 0
    write_mp4(root / "run" / "empty.mp4")
    assert extract(root, out, *clip, "--retry", "all").exit_code == 0


def test_verify_finds_damage_and_extract_repairs_it(tmp_path, videos, clip):
    out = tmp_path / "X.zarr"
    extract(videos, out, *clip)
    shard = next(out.glob("pooled/c.*"))
    content = bytearray(shard.read_bytes())
    content[40] ^= 16
    shard.write_bytes(content)
    assert vidfeat("verify", out).exit_code == 0  # sizes and indexes are right
    found = vidfeat("verify", out, "--level", "full")
    assert found.exit_code == 1
    assert "pooled/c." in found.output
    assert "--check full" in found.output
    assert extract(videos, out, *clip, "--check", "full").exit_code == 0
    assert vidfeat("verify", out, "--level", "full").exit_code == 0


def test_deep_verification_compares_with_the_files(tmp_path, clip):
    root = write_videos(tmp_path / "videos", 3)
    out = tmp_path / "X.zarr"
    extract(root, out, *clip, "--taps", "pooled,tokens@1", "--views", 2)
    deep = ("verify", out, "--level", "deep", "-k", 3, "--device", "cpu")
    assert "--source" in refusal(vidfeat(*deep))
    sound = vidfeat(*deep, "--source", root)
    assert sound.exit_code == 0, sound.output
    assert "3 videos extracted again" in sound.output
    write_mp4(root / "run" / "001.mp4", n_frames=30, seed=50)
    changed = vidfeat(*deep, "--source", root)
    assert changed.exit_code == 1
    assert "run/001.mp4: content_sha256" in changed.output
    assert "run/001.mp4, pooled, view 1: differs" in changed.output
    assert "jump/000.mp4" not in changed.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--model", "ViT-B-32", "--model-config", "CONFIG"], "two ways to say the same"),
        ([], "no model"),
        (["--model-config", "CONFIG"], "--model-config needs --weights"),
        (["CLIP", "--taps", "pooled,tokens"], "neither pooled nor tokens@L"),
        (["CLIP", "--taps", "tokens@9"], "has no such block"),
        (["CLIP", "--sampling", "sometimes"], "sometimes"),
        (["CLIP", "--sampling", "fps"], "rate"),
        (["CLIP", "--dtype", "float8"], "float8"),
        (["CLIP", "--views", "0"], "n_views"),
        (["CLIP", "--units", "3/2"], "units 3/2"),
        (["CLIP", "--units", "half"], "half"),
        (["CLIP", "--decoder", "vlc"], "vlc"),
        (["CLIP", "--device", "cuda:77"], "cuda:77"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, videos, clip, flags, words):
    flags = [clip[1] if flag == "CONFIG" else flag for flag in flags]
    flags = [*clip, *flags[1:]] if flags[:1] == ["CLIP"] else flags
    assert words in refusal(extract(videos, tmp_path / "X.zarr", *flags))
    assert not (tmp_path / "X.zarr").exists()


def test_several_problems_are_reported_together(tmp_path, videos):
    said = refusal(extract(videos, tmp_path / "X.zarr", "--dtype", "float8", "--taps", "heads", "--units", "0/2"))
    for words in ("no model", "float8", "heads", "units 0/2"):
        assert words in said


def test_a_source_that_cannot_be_used_is_refused(tmp_path, videos, clip):
    out = tmp_path / "X.zarr"
    assert "does not exist" in refusal(extract(tmp_path / "nowhere", out, *clip))
    (tmp_path / "hollow").mkdir()
    assert "no class folder" in refusal(extract(tmp_path / "hollow", out, *clip))
    listing, classes = tmp_path / "list.csv", tmp_path / "classes.csv"
    listing.write_text("path,label\nrun/001.mp4,run\njump/000.mp4,hop\n")
    classes.write_text("id,name\n0,jump\n1,run\n")
    assert "hop" in refusal(extract(listing, out, *clip, "--root", videos, "--classes", classes))
    listing.write_text("path,label\nrun/001.mp4,run\nrun/missing.mp4,run\n")
    assert "missing.mp4" in refusal(extract(listing, out, *clip, "--root", videos))


def test_a_store_of_another_model_is_refused(tmp_path, videos, clip):
    out = tmp_path / "X.zarr"
    extract(videos, out, *clip)
    other = write_tiny_clip(tmp_path / "other", seed=3)
    said = refusal(extract(videos, out, "--model-config", other.model_config, "--weights", other.weights))
    assert "model.weights_sha256" in said
    said = refusal(extract(videos, out, *clip, "--frames", "5", "--sampling", "segments-first"))
    assert "sampling.kind" in said
    assert "sampling.n_frames" in said


@pytest.mark.parametrize("command", ["info", "failures", "verify"])
def test_a_store_that_is_not_there(tmp_path, command):
    assert "nowhere.zarr" in refusal(vidfeat(command, tmp_path / "nowhere.zarr"))


def test_an_unfinished_store_says_so(tmp_path, videos, clip):
    out = tmp_path / "X.zarr"
    extract(videos, out, *clip, "--units", "2/2")  # one unit in all: this share is empty
    said = refusal(vidfeat("info", out))
    assert "finished" in said


def test_doctor_and_crosscheck(videos):
    assert "pyav" in vidfeat("doctor").output
    checked = vidfeat("crosscheck", videos, "--n", 2)
    assert checked.output.count(".mp4") == 2


def test_export_and_import_bring_the_store_back(tmp_path, videos, clip):
    pytest.importorskip("h5py")
    out, hdf5, back = tmp_path / "X.zarr", tmp_path / "X.h5", tmp_path / "Y.zarr"
    extract(videos, out, *clip)
    assert vidfeat("export", out, hdf5).output == f"wrote {hdf5}\n"
    assert vidfeat("import", hdf5, back).output.startswith(f"{back}: 4 videos of 2 classes, 0 failed")
    facts = vidfeat("info", back).output.replace(str(back), str(out))
    assert facts == vidfeat("info", out).output
    assert "the file exists" in refusal(vidfeat("export", out, hdf5))
    hdf5.write_bytes(b"no HDF5")
    assert str(hdf5) in refusal(vidfeat("import", hdf5, tmp_path / "Z.zarr"))


def test_a_full_or_forbidden_disk_is_one_message(tmp_path, videos, clip, monkeypatch):
    import errno
    import os

    real = os.fsync

    def fsync(descriptor: int) -> None:
        if "text.safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        said = refusal(extract(videos, tmp_path / "X.zarr", *clip))
    assert "the backbone pack cannot be written" in said
    assert "No space left on device" in said
    assert extract(videos, tmp_path / "X.zarr", *clip).exit_code == 0

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "manifest.json")

    monkeypatch.setattr("vidfeat.store.files.LocalFiles.read", refuse)
    said = refusal(vidfeat("info", tmp_path / "X.zarr"))
    assert "manifest.json" in said
    assert "Permission denied" in said


def test_without_the_video_side_the_extra_is_named(tmp_path, videos, clip, monkeypatch):
    openclip.clip_merges.cache_clear()
    monkeypatch.setattr(openclip, "find_spec", lambda name: None)
    said = refusal(extract(videos, tmp_path / "X.zarr", *clip))
    assert "pip install 'prompttune[extract]'" in said


def test_a_folder_that_is_no_source_points_to_a_list(tmp_path, videos, clip):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "a.mp4").write_bytes(b"x")
    said = refusal(extract(tmp_path / "flat", tmp_path / "X.zarr", *clip))
    assert "video outside any class folder" in said
    assert "a CSV with the header path,label" in said


def test_an_object_store_out_of_reach_is_one_message(monkeypatch):
    exceptions = pytest.importorskip("botocore.exceptions")

    def refuse(*_: object) -> None:
        raise exceptions.EndpointConnectionError(endpoint_url="http://127.0.0.1:1/bucket")

    monkeypatch.setattr("vidfeat.store.reader.files_at", refuse)
    said = refusal(vidfeat("info", "s3://bucket/X.zarr"))
    assert "the object store cannot be used" in said
    assert "http://127.0.0.1:1/bucket" in said


def test_what_is_left_out_of_a_folder_is_said_and_strict_refuses_it(tmp_path, clip):
    root = write_videos(tmp_path / "videos", 2)
    (root / "LICENSE").write_text("all rights")
    (root / "run" / "notes.txt").write_text("none")
    (root / "empty").mkdir()
    out = tmp_path / "X.zarr"

    strict = refusal(extract(root, out, *clip, "--strict"))
    assert "run/notes.txt" in strict
    assert not out.exists()
    result = extract(root, out, *clip)

    assert result.exit_code == 0, result.output
    assert "note: left out 2 x file that is no video by its extension" in result.stderr
    assert "note: left out 1 x folder without a video: empty" in result.stderr
    assert "2 videos, 0 failed" in result.output
    planned = vidfeat("plan", root, "--out", tmp_path / "Y.zarr", *clip, "--calibrate-seconds", 0)
    assert "note: left out 2 x file" in planned.output


def test_lines_in_a_pipe_are_whole_and_tables_as_wide_as_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of("", "name", "detail")
    table.add_row("a" * 30, "b" * 100)
    for asked, width in ((None, 160), ("60", 60)):
        monkeypatch.delenv("COLUMNS", raising=False) if asked is None else monkeypatch.setenv("COLUMNS", asked)
        print_parts("a sentence " * 40, table)
        sentence, *rows = capsys.readouterr().out.rstrip("\n").split("\n")
        assert len(sentence) == 440
        assert max(map(len, rows)) in range(width - 25, width + 1)
        assert "".join(rows).count("b") == 100
