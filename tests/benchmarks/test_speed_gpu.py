"""`speed gpu`, on a CPU: every part measures what it says, keeps it at once, and without a GPU counts kernels."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from benchmarks.readme import markdown_table
from benchmarks.speed import extract, gpu, text_paths, text_whole, visual

TINY = gpu.Setting(
    n_rounds=1, class_lists=("HMDB-51 base",), n_classes=2, depths=(1,), runs=(1, 2), n_steps=2, model="tiny",
    n_frames=2, first_blocks=(0, 3), n_videos=2, towers=("tiny",), n_workers=0,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Towers of two blocks in place of twelve."""
    for name, value in {"LAYERS": 2, "WIDTH": 64, "HEADS": 2, "EMBED_DIM": 32}.items():
        monkeypatch.setattr(text_paths, name, value)
    monkeypatch.setattr(gpu, "WARM_STEPS", 2)
    monkeypatch.setitem(visual.SIZES, "tiny", (32, 16, 32, 4, 2, 16))
    monkeypatch.setitem(extract.SIZES, "tiny", (32, 16, 64, 1, 16))
    shapes = {"layers": 2, "width": 64, "heads": 2}
    vision, text = text_whole.CLIP_VISION | shapes, text_whole.CLIP_TEXT | shapes
    pack, clips = text_whole.random_pack, text_whole.hmdb_clips()
    few = text_whole.Clips(clips.classes[:4], frozenset(clips.classes[:2]), train=16, test=1, n_frames=1)
    monkeypatch.setattr(text_whole, "random_pack", lambda path: pack(path, vision=vision, text=text, embed_dim=32))
    monkeypatch.setattr(text_whole, "hmdb_clips", lambda: few)


@pytest.mark.usefixtures("small")
def test_every_part_is_measured_and_equal(tmp_path: Path) -> None:
    out = tmp_path / "speed_gpu.json"
    assert gpu.measure(TINY, "cpu", out) == []
    written = json.loads(out.read_text())
    assert [one["part"] for one in written["figures"]] == ["text"] * 2 + ["step"] * 4 + ["extract"] + ["visual"] * 4
    assert all(value > 0 for one in written["figures"] for value in one["milliseconds"].values())
    assert {"open_clip", "engine, 1 run(s)", "engine, 2 run(s)"} == set(written["figures"][0]["milliseconds"])
    assert any("CUDA" in name for name in written["figures"][2]["milliseconds"])
    assert {"bare encoder", "decoding alone"} < set(written["figures"][6]["milliseconds"])
    errors = [one["error"] for one in written["figures"] if one["error"] is not None]
    assert len(errors) == 5
    assert max(errors) < 1e-5
    assert len(written["readme"]["rows"]) == 11
    assert "ms" in markdown_table(written["readme"]["columns"], written["readme"]["rows"])
    assert {"card", "driver", "torch"} <= set(written["machine"])


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_what_was_measured_before_an_interrupt_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "speed_gpu.json"

    def cut_short() -> Iterator[gpu.Figure]:
        yield gpu.Figure("text", "some names", "fp32", {"open_clip": 2.0}, {}, error=0.5)
        assert "some names" in capsys.readouterr().out  # before the next one is begun
        assert json.loads(out.read_text())["figures"][0]["milliseconds"] == {"open_clip": 2.0}
        signal.raise_signal(asked)
        yield gpu.Figure("text", "more names", "fp32", {"open_clip": 2.0}, {})

    monkeypatch.setattr(gpu, "parts", lambda *_: {"text": cut_short(), "step": cut_short()})
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts `command &` with it ignored
    try:
        assert gpu.measure(TINY, "cpu", out) == ["some names differs"]
    finally:
        signal.signal(signal.SIGINT, before)
    assert "interrupted" in capsys.readouterr().out
    assert [one["of"] for one in json.loads(out.read_text())["figures"]] == ["some names"]
    assert list(tmp_path.iterdir()) == [out]


def test_a_part_that_fails_costs_no_other_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing() -> Iterator[gpu.Figure]:
        raise torch.OutOfMemoryError("no memory left")
        yield

    there = gpu.Figure("step", "coop", "fp32", {"as a graph": 2.0}, {})
    monkeypatch.setattr(gpu, "parts", lambda *_: {"text": failing(), "step": iter([there])})
    out = tmp_path / "speed_gpu.json"
    assert gpu.measure(TINY, "cpu", out) == ["text: no memory left"]
    assert [one["part"] for one in json.loads(out.read_text())["figures"]] == ["step"]


@pytest.mark.usefixtures("small")
def test_without_a_gpu_kernels_are_counted_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(gpu, "Setting", lambda n_rounds: TINY)
    done = CliRunner().invoke(gpu.gpu, ["--out", str(tmp_path / "out.json")])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].startswith("no GPU here")
    kernels = [int(line.split()[-1]) for line in lines[2:]]
    of = ["text, HMDB-51 base (2), 1 block(s)", *("visual, tiny, " + name for name in ("plain", "block 0", "block 3"))]
    assert [line[:42].strip() for line in lines[2:]] == [of[0], of[0], *of[1:], *of[1:]]
    assert 0 < kernels[0] < kernels[1]  # bf16 casts
    assert all(fp32 < bf16 for fp32, bf16 in zip(kernels[2:5], kernels[5:], strict=True))
    assert not list(tmp_path.iterdir())


def test_kernels_are_counted_when_what_is_made_once_is_there() -> None:
    made: list[torch.Tensor] = []

    def step() -> torch.Tensor:
        if not made:
            made.append(torch.ones(3, device="meta").exp().sin())
        return made[0] * 2

    assert gpu.n_kernels(step) == 1


def test_the_readme_gets_its_block_once(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- end: speed_text -->\nb\n")
    gpu.put_into_readme(readme)
    once = readme.read_text()
    gpu.put_into_readme(readme)
    assert readme.read_text() == once
    assert once.count("<!-- begin: speed_gpu -->\n<!-- end: speed_gpu -->") == 1
    assert once.endswith("b\n")
