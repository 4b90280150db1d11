"""Datasets on disk: a folder of mp4 files with `videos.csv` (`path,label,split`) and `classes.csv` (`id,name`)."""

import csv
import dataclasses
import json
import multiprocessing
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.world.plans import DatasetPlan, LabelledVideo, plan_dataset, plan_videos
from benchmarks.world.videos import render_video, write_video

FORMAT_VERSION = 1
_DESCRIPTION = "dataset.json"


class WorldError(Exception):
    """A dataset of the world cannot be made where it was asked for."""


@dataclass(frozen=True)
class DatasetFiles:
    """A dataset on disk. Paths in `videos_csv` are relative to `root`.

    Class ids are row numbers of `classes_csv`; `base_classes` are its first half, `new_classes` its second. The
    dataset `irrelevant` has no classes: `classes_csv` is None and both lists are empty.
    """

    name: str
    root: Path
    videos_csv: Path
    classes_csv: Path | None
    base_classes: tuple[str, ...]
    new_classes: tuple[str, ...]
    n_videos: int


def make_dataset(name: str, out_dir: Path, *, seed: int = 0, workers: int | None = None) -> DatasetFiles:
    """Draw the dataset `name` ("target", "other" or "irrelevant") of the world `seed` into `out_dir/name`.

    The folder appears whole or not at all; where the same dataset lies there already it is returned as it is. `workers`
    processes draw and encode, one per core unless told.

    Raises:
        ValueError: there is no dataset of that name.
        WorldError: `out_dir/name` holds something else.
    """
    plan = plan_dataset(name, seed)
    root = Path(out_dir) / name
    videos = list(plan_videos(plan))
    if root.exists():
        _refuse_other(root, plan)
        return _files(root, plan, len(videos))
    partial = root.with_name(f".{name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    for folder in {(partial / video.path).parent for video in videos}:
        folder.mkdir(parents=True)
    _draw_all(partial, videos, workers or os.cpu_count() or 1)
    _write_lists(partial, plan, videos)
    (partial / _DESCRIPTION).write_text(json.dumps(_description(plan), indent=1) + "\n")
    partial.rename(root)
    return _files(root, plan, len(videos))


def _draw_all(root: Path, videos: list[LabelledVideo], workers: int) -> None:
    jobs = [(root / video.path, video) for video in videos]
    if workers == 1:
        for job in jobs:
            _draw(job)
        return
    # Spawned, not forked: a fork of a process whose torch threads run may hang.
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in pool.imap_unordered(_draw, jobs, chunksize=16):
            pass


def _draw(job: tuple[Path, LabelledVideo]) -> None:
    path, labelled = job
    write_video(path, render_video(labelled.video), labelled.video.crf)


def _write_lists(root: Path, plan: DatasetPlan, videos: list[LabelledVideo]) -> None:
    with (root / "videos.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label", "split"))
        writer.writerows((video.path, video.label, video.split) for video in videos)
    if plan.name == "irrelevant":
        return
    with (root / "classes.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("id", "name"))
        writer.writerows(enumerate(plan.class_names))


def _description(plan: DatasetPlan) -> dict[str, object]:
    return {"format_version": FORMAT_VERSION, **json.loads(json.dumps(dataclasses.asdict(plan)))}


def _refuse_other(root: Path, plan: DatasetPlan) -> None:
    path = root / _DESCRIPTION
    found = json.loads(path.read_text()) if path.is_file() else None
    expected = _description(plan)
    if found == expected:
        return
    if found is None:
        what = f"a {path.name} that describes {plan.name!r}, got a folder without one"
    else:
        fields = [key for key in expected if found.get(key) != expected[key]]
        what = f"{plan.name!r} of seed {plan.seed}, got a dataset that differs in: {', '.join(fields)}"
    raise WorldError(f"{root} is in the way: expected {what}. Remove the folder or choose another --out.")


def _files(root: Path, plan: DatasetPlan, n_videos: int) -> DatasetFiles:
    labelled = plan.name != "irrelevant"
    names = plan.class_names if labelled else ()
    half = len(names) // 2
    return DatasetFiles(
        name=plan.name,
        root=root,
        videos_csv=root / "videos.csv",
        classes_csv=root / "classes.csv" if labelled else None,
        base_classes=names[:half],
        new_classes=names[half:],
        n_videos=n_videos,
    )
