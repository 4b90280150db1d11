"""`speed text` times paths that compute the same thing, and judges its own figures; nothing here asserts a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from benchmarks.speed import text, text_paths, text_towers, text_whole
from prompttune.text.class_prompts import ClassPrompts
from prompttune.text.engine import TextContext, TextEngine, plain_encode


def rounds_of(*, sgemm: float, four: float, **seconds: float) -> list[text.Round]:
    """Three rounds on a machine that is at half, full and a third of its speed."""
    steps = {**seconds, "engine, 4 runs": four}
    return [
        {name: [text.Timing(slower * value, slower * sgemm)] for name, value in steps.items()} for slower in (2, 1, 3)
    ]


def test_a_row_compares_what_was_timed_together() -> None:
    rounds = rounds_of(open_clip=30.0, plain=20.0, engine=1.0, four=2.0, sgemm=text.SGEMM_FLOP / 1e11)
    row = text.Row.of("HMDB-51 base", 26, 1, flops=int(8e10), rounds=rounds)
    assert (row.ratio_to_open_clip, row.ratio_to_plain) == (30.0, 20.0)
    assert (row.ratio_to_open_clip_per_run_of_4, row.ratio_to_plain_per_run_of_4) == (60.0, 40.0)
    assert row.share_of_sgemm == pytest.approx(0.8)
    assert row.share_of_sgemm_of_4 == pytest.approx(1.6)
    assert (row.seconds["engine"], row.fastest_seconds["engine"]) == (2.0, 1.0)
    assert row.misses() == []


def test_missed_goals_are_named() -> None:
    rounds = rounds_of(open_clip=10.0, plain=10.0, engine=1.0, four=4.0, sgemm=text.SGEMM_FLOP / 1e11)
    row = text.Row.of("UCF-101 base", 51, 9, flops=int(1e10), rounds=rounds)
    assert [miss.split(": ")[1] for miss in row.misses()] == [
        "10.0x, goal 15x",
        "10.0x per run of four, goal 20x",
        "10% of sgemm, goal 70%",
    ]
    whole = {"memory": {"n_classes": 9, "gigabytes": {"kept": {"peak": 3.5}, "recompute": {"peak": 1.0}}}}
    whole["run"] = {"seconds": [50.0, 46.0, 44.0], "n_train": 416, "n_test": 1530}
    result = text.summary(text.Setting(("UCF-101 base",), 1, 1, "cpu"), text.Measured([row], [], 1, **whole))
    assert result["goal"]["missed"][-2:] == [
        "a step on 9 classes: 3.50 GB, goal below 3 GB",
        "a whole run as large as HMDB-51's: 46 s, goal 45 s",
    ]
    assert "416 training and 1,530 test clips" in result["readme"]["note"]
    assert not result["goal"]["met"]
    assert len(result["readme"]["rows"][0]) == len(result["readme"]["columns"])
    json.dumps(result)


def test_class_lists_are_those_of_the_goals() -> None:
    names = json.loads(text.CLASS_NAMES.read_text("utf-8"))
    assert {name: len(classes) for name, classes in names.items()} == {
        "HMDB-51 base": 26,
        "HMDB-51 new": 25,
        "UCF-101 base": 51,
        "Kinetics-400 base": 200,
    }
    assert set(names) == {*text.GOALS, "HMDB-51 new"}


def test_parts_measured_alone_leave_the_other_figures(tmp_path: Path) -> None:
    rounds = rounds_of(open_clip=10.0, plain=10.0, engine=1.0, four=4.0, sgemm=1.0)
    row = text.Row.of("UCF-101 base", 51, 9, flops=1, rounds=rounds)
    setting = text.Setting(("UCF-101 base",), 1, 1, "wall")
    out, run = tmp_path / "speed.json", {"seconds": [1.0], "n_train": 1, "n_test": 2}
    out.write_text(json.dumps(text.summary(setting, text.Measured([row], [], 1, run=run))))

    def kept(parts: Sequence[str], class_list: str = "UCF-101 base", **how: Any) -> text.Measured:
        return text.Measured.before(out, replace(setting, class_lists=(class_list,), **how), parts)

    assert kept(["run"]) == text.Measured([row], [], 1)
    assert kept(["memory"]) == text.Measured([row], [], 1, run=run)
    assert kept(text.PARTS) == text.Measured([], [], 1)
    assert kept(["steps"], "HMDB-51 base").rows == [row]
    assert kept(["steps"], plain_classes=50).rows == [row]
    assert kept(["run"], n_rounds=5).n_rounds == 1  # the row's
    assert kept(text.PARTS, n_rounds=5).n_rounds == 5
    with pytest.raises(click.UsageError, match=r"1 thread\(s\) and the wall clock"):
        kept(["run"], n_threads=2)
    of_towers = kept(["towers"], n_threads=2, clock="cpu", n_rounds=5)
    said = text.summary(replace(setting, n_threads=2, clock="cpu"), of_towers)["readme"]["note"]
    assert "1 CPU thread(s), wall clock, medians over 1 rounds" in said  # the row's, which stays
    in_pieces = kept(["steps"], plain_classes=50)
    in_pieces.add(row, replace(setting, plain_classes=50))
    assert "UCF-101 base, 9: 10.0x" in text.summary(setting, in_pieces)["readme"]["note"]


def test_the_whole_run_is_as_large_as_hmdb_51() -> None:
    clips = text_whole.hmdb_clips()
    videos = clips.videos()
    assert len([label for label, split in videos if split == "train"]) == 416
    assert len([label for label, split in videos if split == "test"]) == 1530
    assert {label for label, split in videos if split == "train"} == clips.base


@pytest.mark.long
def test_a_small_whole_run_goes_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same functions on towers of a single narrow block and a handful of clips."""
    pytest.importorskip("open_clip")
    small = {"width": 32, "heads": 2, "layers": 1}
    monkeypatch.setattr(text_whole, "CLIP_TEXT", text_whole.CLIP_TEXT | small)
    monkeypatch.setattr(text_whole, "CLIP_VISION", text_whole.CLIP_VISION | small | {"image_size": 16})
    clips = text_whole.Clips(("pour_tea", "run", "sit"), frozenset(("run", "sit")), test=1, n_frames=2)
    monkeypatch.setattr(text_whole, "hmdb_clips", lambda: clips)
    found = text_whole.whole_run(tmp_path, n_threads=1, n_rounds=1)
    assert (found["n_train"], found["n_test"]) == (32, 3)
    assert found["seconds"][0] > found["of_which_training"][0] > 0
    result = json.loads((tmp_path / "run0" / "result.json").read_text())
    assert [run["seed"] for run in result["runs"]] == [1, 2, 3]
    assert result["classes"] == {"base": ["run", "sit"], "new": ["pour_tea"]}


@pytest.mark.long
def test_the_timed_paths_compute_the_same_features() -> None:
    pytest.importorskip("open_clip")
    towers = text_paths.random_towers()
    prompts = ClassPrompts.build(["playing violin", "hurling (sport)"], towers.tokenizer, n_ctx=text_paths.N_CTX)
    rows = [0.02 * torch.randn(1, text_paths.N_CTX, text_paths.WIDTH) for _ in range(3)]
    context = TextContext(ctx=rows[0], deep=tuple(rows[1:]))
    with torch.no_grad():
        expected = text_paths.open_clip_encode(towers.open_clip, prompts, context)
        for found in (plain_encode(towers.ours, prompts, context), TextEngine(towers.ours).encode(prompts, context)):
            # float32 over 12 blocks of a real width
            assert (found - expected).norm() / expected.norm() < 1e-5


def _cut_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    whole = open_clip.get_model_config

    def cut(name: str) -> dict[str, Any]:
        config = whole(name)
        config["text_cfg"] |= {"width": 32, "heads": 2, "layers": 2}
        return config

    monkeypatch.setattr(open_clip, "get_model_config", cut)


def test_towers_of_other_families_compute_what_open_clips_own_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same functions on narrow towers of two blocks: PE-Core's by the shared prefix, SigLIP 2's at full length."""
    _cut_towers(monkeypatch)
    paths = []
    for name in text_towers.GOALS:
        theirs, ours = text_towers.towers_of(name)
        prompts = ClassPrompts.build(("run", "pour tea"), text_towers.FamilyTokenizer(ours), n_ctx=text_paths.N_CTX)
        context = TextContext(torch.randn(1, text_paths.N_CTX, 32))
        expected = text_towers.open_clip_encode(theirs, prompts, context)
        torch.testing.assert_close(TextEngine(ours).encode(prompts, context), expected, rtol=1e-4, atol=1e-5)
        steps, _, path = text_towers.tower_steps(theirs, ours, ("run", "pour tea"), 1)
        together: list[int] = []
        theirs.register_forward_pre_hook(lambda _module, args, seen=together: seen.append(len(args[0])))
        for step in steps.values():
            step()
        assert together == [1, 1]  # all names, one at a time
        paths.append(path)
    assert paths == ["shared-prefix", "full-length"]


def test_rows_of_towers_say_how_they_were_measured_and_stay(tmp_path: Path) -> None:
    how = {"n_rounds": 2, "n_threads": 1, "clock": "cpu", "load": 9.0}
    seconds = {"open_clip": 3.0, "engine": 2.0, "engine, 4 runs": 11.0}
    slow = text_towers.TowerRow(
        "ViT-B-16-SigLIP2", "HMDB-51 base", 26, 64, "full-length", 26, 1.0, seconds, 1.5, 1.1, **how
    )
    assert slow.misses() == ["ViT-B-16-SigLIP2, HMDB-51 base: 1.10x per run of four, goal 1.2x"]
    setting = text.Setting(tuple(text.GOALS), 1, 2, "wall")
    out = tmp_path / "speed.json"
    result = text.summary(setting, text.Measured([], [], 1, towers=[slow]))
    out.write_text(json.dumps(result))
    assert len(result["readme"]["rows"][0]) == len(result["readme"]["columns"])
    assert "1 thread(s), cpu clock, 2 round(s), while up to 9 processes" in result["readme"]["note"]
    assert text.Measured.before(out, setting, ["run"]).towers == [slow]
    assert text.Measured.before(out, setting, ["towers"]).towers == [slow]
    again, other = (
        replace(slow, load=1.0),
        replace(slow, class_list="Kinetics-400 base", n_classes=200, names_at_once=200),
    )
    pieces = replace(other, names_at_once=50)
    assert "50 of Kinetics-400 base's names at a time" in text_towers.sentence([slow, pieces])
    assert "at a time" not in text_towers.sentence([slow, other])
    assert text_towers.with_row([other, slow], again) == [again, other]
    assert text_towers.places_of(["ViT-B-16-SigLIP2"], list(text.GOALS)) == [
        ("ViT-B-16-SigLIP2", "HMDB-51 base"),
        ("ViT-B-16-SigLIP2", "Kinetics-400 base"),
    ]


def test_a_tower_is_measured_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, on towers of two narrow blocks and its shorter list."""
    _cut_towers(monkeypatch)
    out = tmp_path / "speed.json"
    words = ["--part", "towers", "--tower", "ViT-B-16-SigLIP2", "--classes", "HMDB-51 base", "--rounds", "1"]
    done = CliRunner().invoke(text.text, [*words, "--threads", "1", "--clock", "cpu", "--out", str(out)])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(out.read_text())["towers"]
    assert (row["tower"], row["class_list"], row["path"]) == ("ViT-B-16-SigLIP2", "HMDB-51 base", "full-length")
