"""Datasets of the world on disk: real mp4 files, honest lists, classes that do not leak between datasets."""

import csv
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.world import datasets
from benchmarks.world.datasets import WorldError, make_dataset
from benchmarks.world.plans import DATASET_NAMES, IRRELEVANT_LABEL, plan_dataset, plan_videos
from benchmarks.world.videos import FRAMES_PER_SECOND, N_FRAMES, render_video, write_video


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets of a few videos: plans as they are, but for the number of classes and videos."""

    def tiny_plan(name: str, seed: int = 0):  # type: ignore[no-untyped-def]
        plan = plan_dataset(name, seed)
        return replace(plan, classes=plan.classes[:4], n_train=2, n_test=1 if name != "irrelevant" else 0)

    monkeypatch.setattr(datasets, "plan_dataset", tiny_plan)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_files_decode_and_lists_name_every_file(tiny: None, tmp_path: Path, name: str) -> None:
    files = make_dataset(name, tmp_path, workers=1)
    rows = _rows(files.videos_csv)
    assert len(rows) == files.n_videos
    assert {row["path"] for row in rows} == {str(p.relative_to(files.root)) for p in files.root.rglob("*.mp4")}
    plan = plan_dataset(name)
    for row in rows:
        with av.open(str(files.root / row["path"])) as container:
            stream = container.streams.video[0]
            assert stream.codec_context.name == "h264"
            assert stream.average_rate == FRAMES_PER_SECOND
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) == N_FRAMES
        assert {frame.shape for frame in frames} == {(plan.height, plan.width, 3)}
        assert len({frame.tobytes() for frame in frames}) > 1, "nothing moves"
    if name == "irrelevant":
        assert files.classes_csv is None
        assert {row["label"] for row in rows} == {IRRELEVANT_LABEL}
    else:
        assert files.classes_csv is not None
        classes = _rows(files.classes_csv)
        assert [row["id"] for row in classes] == ["0", "1", "2", "3"]
        assert tuple(row["name"] for row in classes) == files.base_classes + files.new_classes
        assert {row["label"] for row in rows} == {row["name"] for row in classes}
        assert {row["split"] for row in rows} == {"train", "test"}


def test_same_seed_gives_the_same_bytes(tiny: None, tmp_path: Path) -> None:
    first = make_dataset("target", tmp_path / "a", seed=4, workers=1)
    again = make_dataset("target", tmp_path / "b", seed=4, workers=2)
    for path in sorted(p for p in first.root.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again.root / path.relative_to(first.root)).read_bytes(), path
    other = make_dataset("target", tmp_path / "c", seed=5, workers=1)
    assert other.base_classes != first.base_classes


def test_an_existing_dataset_is_kept_and_another_is_refused(tiny: None, tmp_path: Path) -> None:
    files = make_dataset("other", tmp_path, workers=1)
    video = next(files.root.rglob("*.mp4"))
    written = video.stat().st_mtime_ns
    assert make_dataset("other", tmp_path, workers=1) == files
    assert video.stat().st_mtime_ns == written
    with pytest.raises(WorldError, match="seed, classes"):
        make_dataset("other", tmp_path, seed=1, workers=1)


def test_a_failed_run_leaves_no_dataset(tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(datasets, "write_video", fail)
    with pytest.raises(OSError, match="disk full"):
        make_dataset("target", tmp_path, workers=1)
    assert not (tmp_path / "target").exists()
    monkeypatch.undo()


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="target, other, irrelevant"):
        make_dataset("kinetics", tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_classes_do_not_leak(seed: int) -> None:
    target, other, irrelevant = (plan_dataset(name, seed) for name in DATASET_NAMES)
    assert len(set(target.classes)) == 40
    assert len(other.classes) % 2 == 0
    assert not set(target.classes) & set(other.classes)
    things, actions = {c.thing for c in target.classes}, {c.action for c in target.classes}
    for labelled in plan_videos(irrelevant):
        clip = labelled.video.clip
        assert clip.thing not in things
        assert clip.action not in actions
        assert clip.thing is None or f"{clip.thing} {clip.action}" not in other.class_names


def test_there_are_enough_videos_for_several_draws_of_16_shots() -> None:
    for name in ("target", "other"):
        plan = plan_dataset(name)
        videos = list(plan_videos(plan))
        assert len({v.path for v in videos}) == len(videos) == len(plan.classes) * (plan.n_train + plan.n_test)
        assert plan.n_train >= 24
        assert len({(v.video.clip, v.video.look) for v in videos}) == len(videos), "two videos are the same"


def test_compression_loses_little_and_something(tmp_path: Path) -> None:
    video = next(plan_videos(plan_dataset("target"))).video
    frames = render_video(video)
    write_video(tmp_path / "clip.mp4", frames, video.crf)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        decoded = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    error = np.abs(decoded.astype(int) - frames).mean()
    # Chroma subsampling and a crf of 18-30 cost a few levels of 255; a swapped channel or a wrong frame costs tens.
    assert 0 < error < 15
