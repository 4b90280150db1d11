"""`vidfeat anchors select` and `check` on a pool with planted leaks: what is chosen, what is not, and what is said."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from anchor_world import CLASSES, Clip, scene, still, write_store
from click.testing import CliRunner, Result

from vidfeat.cli import main
from vidfeat.store import open_store, verify
from vidfeat.tools.anchors import (
    NEAR_DUPLICATE,
    AnchorError,
    CheckOptions,
    SelectOptions,
    check_anchors,
    select_anchors,
)
from vidfeat.tools.anchors.features import TEMPLATES, class_features

TASK_ID = "archery/shot.mp4"


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("classes") / "labels.csv"
    path.write_text("id,name\n" + "".join(f"{i},{name}\n" for i, name in enumerate(CLASSES)))
    return path


@pytest.fixture(scope="module")
def class_scenes(tmp_path_factory) -> np.ndarray:
    store = write_store(tmp_path_factory.mktemp("any") / "any.zarr", [still("any", 0)])
    return class_features(open_store(store), CLASSES, templates=["a video of {}."])


PLANTED = {
    "same bytes": ("content-hash", TASK_ID),
    "re-encoded": ("near-duplicate", "task-1.mp4"),
    "trimmed": ("near-duplicate", "task-2.mp4"),
    "longer": ("near-duplicate", "task-3.mp4"),
    "bytes of a failed one": ("content-hash", "task-4.mp4"),
    "again": ("repeated", "pool-00"),
}


@pytest.fixture(scope="module")
def task(tmp_path_factory, class_scenes) -> Path:
    clips = [
        still(TASK_ID, 100, content="A", label="archery"),
        still("task-1.mp4", 101, label="archery"),
        Clip("task-2.mp4", tuple(scene(s) for s in (201, 201, 202, 202, 203, 203)), label="juggling"),
        Clip("task-3.mp4", (scene(301), scene(301)), label="yoga"),
        still("task-4.mp4", 104, content="D", failed=True, label="yoga"),
    ]
    return write_store(tmp_path_factory.mktemp("task") / "task.zarr", clips)


@pytest.fixture(scope="module")
def pool(tmp_path_factory, class_scenes) -> Path:
    clips = [still(f"pool-{i:02d}", i) for i in range(30)]
    clips += [
        still("same bytes", 900, content="A"),
        still("re-encoded", 101),
        Clip("trimmed", (scene(202), scene(202))),
        Clip("longer", tuple(scene(s) for s in (302, 301, 303, 304))),
        still("bytes of a failed one", 901, content="D"),
        still("again", 902, content="pool-00"),
        still("unusable", 903, failed=True),
    ]
    clips += [Clip(f"doing {name}", (class_scenes[i],) * 3) for i, name in enumerate(CLASSES)]
    return write_store(tmp_path_factory.mktemp("pool") / "pool.zarr", clips, taps=("pooled", "tokens/01"))


def options(pool: Path, task: Path, classes: Path, **changes) -> SelectOptions:
    given = {"pool": pool, "against": (task,), "n": 8, "classes": classes, "max_similarity": 0.9} | changes
    return SelectOptions(**given)


def plain_selection(pool: Path, classes: np.ndarray, rejected: set[str], *, n: int, cut: float) -> list[str]:
    """The rule once more in plain loops, the rejected ones given by name."""
    store = open_store(pool)
    features = {}
    for index in np.flatnonzero(store.ok):
        mean = store.rows("pooled", [index], dtype="float32").values.astype(np.float64).mean(axis=0)
        features[str(store.ids[index])] = mean / np.linalg.norm(mean)
    similarity = {video: max(float(feature @ c) for c in classes) for video, feature in features.items()}
    left = [video for video in features if video not in rejected and similarity[video] <= cut]
    chosen = [min(left, key=lambda video: similarity[video])]
    while len(chosen) < n:
        rest = [video for video in left if video not in chosen]
        chosen.append(min(rest, key=lambda video: max(features[video] @ features[other] for other in chosen)))
    return chosen


def test_planted_leaks_and_lookalikes_are_never_chosen(pool, task, classes, class_scenes, tmp_path):
    selection = select_anchors(options(pool, task, classes, n=29, out=tmp_path / "a.zarr"))
    assert {hit.video: (hit.reason, hit.other) for hit in selection.hits} == PLANTED
    assert all(hit.where == str(task) for hit in selection.hits if hit.reason != "repeated")
    assert list(selection.ids) == plain_selection(pool, class_scenes, {*PLANTED}, n=29, cut=0.9)
    assert not {*selection.ids} & {*PLANTED, "unusable", *(f"doing {name}" for name in CLASSES)}
    assert [*selection.counts.values()] == [40, 39, 36, 33, 30]


def test_without_the_thresholds_the_planted_ones_are_chosen(pool, task, classes, tmp_path):
    """So it is the vetting that keeps them out above, not chance."""
    blind = options(pool, task, classes, n=36, out=tmp_path / "a.zarr", near_duplicate=1.0, max_similarity=1.0)
    assert {"re-encoded", "trimmed", "longer", "doing yoga"} <= {*select_anchors(blind).ids}


def test_the_quantile_is_of_the_whole_pool(pool, task, classes, class_scenes, tmp_path):
    given = options(pool, task, classes, out=tmp_path / "a.zarr", max_similarity=None, similarity_quantile=0.4)
    selection = select_anchors(given)
    cut = selection.report["rule"]["max_similarity"] + 1e-5  # the report rounds
    assert selection.counts["candidates: far from every class"] < 17
    assert list(selection.ids) == plain_selection(pool, class_scenes, {*PLANTED}, n=8, cut=cut)


def test_the_store_is_what_prompttune_trains_on(pool, task, classes, tmp_path):
    from prompttune.data.features import open_source

    selection = select_anchors(options(pool, task, classes, out=tmp_path / "anchors.zarr"))
    assert verify(tmp_path / "anchors.zarr", level="full").problems == ()
    source = open_source(tmp_path / "anchors.zarr", pack_hash=open_store(task).pack_hash)
    assert source.table.ids == selection.ids
    whole, mine = open_store(pool), source.reader
    for tap in ("pooled", "tokens/01"):
        theirs = whole.stored_rows(tap, selection.video_indices).values
        np.testing.assert_array_equal(mine.stored_rows(tap, range(8)).values, theirs)


def test_the_same_command_gives_the_same_bytes_and_a_seed_other_anchors(pool, task, classes, tmp_path):
    def select(name: str, seed: int | None) -> tuple[dict, bytes, tuple[str, ...]]:
        out = tmp_path / name / "a.zarr"
        selection = select_anchors(options(pool, task, classes, out=out, seed=seed, list_path=out.with_name("a.csv")))
        files = {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"}
        return files, selection.report_path.read_bytes() + out.with_name("a.csv").read_bytes(), selection.ids

    first, again, seeded = select("one", None), select("two", None), select("three", 7)
    assert first == again
    assert select("one", None) == first, "over a finished store too"
    assert {*seeded[2]} != {*first[2]}
    assert seeded == select("four", 7)


def test_the_report_accounts_for_everything(pool, task, classes, tmp_path):
    selection = select_anchors(options(pool, task, classes, list_path=tmp_path / "a.csv"))
    report = json.loads((tmp_path / "a.report.json").read_text())
    assert report == json.loads(json.dumps(selection.report))
    assert {row["id"]: row["reason"] for row in report["vetted_out"]} == {v: why for v, (why, _) in PLANTED.items()}
    near = {row["id"]: row["score"] for row in report["vetted_out"] if row["reason"] == "near-duplicate"}
    assert all(score >= 0.95 for score in near.values())
    assert len(near) == 3
    assert [row["id"] for row in report["chosen"]] == list(selection.ids)
    assert all(row["class_similarity"] <= 0.9 and row["near_duplicate_score"] < 0.95 for row in report["chosen"])
    assert report["classes"] == list(CLASSES)
    (against,) = report["against"]
    assert (against["n_videos"], against["n_without_features"], against["n_without_either"]) == (5, 1, 0)
    with open(tmp_path / "a.csv") as handle:
        assert [row["path"] for row in csv.DictReader(handle)] == list(selection.ids)


def test_classes_default_to_those_of_the_stores(pool, task, tmp_path):
    selection = select_anchors(options(pool, task, None, list_path=tmp_path / "a.csv"))
    assert selection.report["classes"] == list(CLASSES)


def test_lists_vet_by_name_by_source_and_by_content(pool, classes, tmp_path):
    clips = [still(f"vol_01/{name}.mp4", i) for i, name in enumerate(["0wR5jVB-WPk_000417_000427", "free", "also"])]
    clips += [still("vol_02/3caPS4FHFF8_000100_000110.mp4", 3), still("vol_02/other bytes.mp4", 4, content="film")]
    own = write_store(tmp_path / "pool.zarr", clips)
    (tmp_path / "film.mp4").write_bytes(b"film")
    for number, name in enumerate(("0wR5jVB-WPk_000417_000427", "3caPS4FHFF8_000036_000046")):
        (tmp_path / f"{name}.mp4").write_bytes(bytes([number]))
    names = "0wR5jVB-WPk_000417_000427.mp4 0\n3caPS4FHFF8_000036_000046.mp4 1\nfilm.mp4 1\n"
    (tmp_path / "val.txt").write_text(names)
    given = {"classes": classes, "n": 1, "list_path": tmp_path / "a.csv", "max_similarity": 1.0}
    by_name = select_anchors(SelectOptions(own, (tmp_path / "val.txt",), **given))
    assert [hit.reason for hit in by_name.hits] == ["same-name", "same-source"]
    by_content = select_anchors(SelectOptions(own, (tmp_path / "val.txt",), root=tmp_path, **given))
    assert [(hit.reason, hit.other) for hit in by_content.hits][2] == ("content-hash", "film.mp4")
    assert by_content.report["near_duplicate_scores"]["max"] is None, "a list has no features"


def test_every_problem_of_the_stores_is_named_at_once(pool, classes, tmp_path):
    other = write_store(tmp_path / "other.zarr", [still("a", 0, content="")], pack_seed=1, taps=("tokens/00",))
    with pytest.raises(AnchorError) as refused:
        select_anchors(options(pool, other, classes, list_path=tmp_path / "a.csv"))
    message = str(refused.value)
    assert open_store(other).pack_hash in message
    assert open_store(pool).pack_hash in message
    assert "no tap 'pooled'" in message
    assert "--taps pooled" in message
    assert "content hashes of 1 videos" in message
    assert not (tmp_path / "a.csv").exists()


def test_missing_hashes_can_be_allowed(pool, classes, tmp_path):
    unknown = write_store(tmp_path / "imported.zarr", [still("copy", 3, content=""), still("other", 700, content="")])
    given = options(pool, unknown, classes, list_path=tmp_path / "a.csv")
    with pytest.raises(AnchorError, match="content hashes of 2 videos"):
        select_anchors(given)
    allowed = options(pool, unknown, classes, list_path=tmp_path / "a.csv", allow_missing_hashes=True)
    hits = {hit.video: hit.reason for hit in select_anchors(allowed).hits}
    assert hits == {"pool-03": "near-duplicate", "again": "repeated"}


@pytest.mark.parametrize(
    ("changes", "remain", "knob"),
    [
        ({"n": 31}, 30, "larger pool"),
        ({"max_similarity": -0.5}, 0, "--similarity-quantile or --max-similarity"),
        ({"near_duplicate": -1.0}, 0, "--near-duplicate"),
    ],
)
def test_too_few_left_says_how_many_and_which_knob(changes, remain, knob, pool, task, classes, tmp_path):
    with pytest.raises(AnchorError) as refused:
        select_anchors(options(pool, task, classes, list_path=tmp_path / "a.csv", **changes))
    assert f"only {remain} videos of the pool can be anchors" in str(refused.value)
    assert knob in str(refused.value)


def test_options_that_make_no_sense_are_refused_together(pool):
    with pytest.raises(AnchorError) as refused:
        SelectOptions(pool, (), n=0, similarity_quantile=0.0, near_duplicate=2.0)
    assert all(word in str(refused.value) for word in ("n 0", "similarity_quantile", "near_duplicate", "--list"))
    with pytest.raises(AnchorError, match="nothing to vet against"):
        check_anchors(CheckOptions(pool, ()))


def vidfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["anchors", *(str(argument) for argument in arguments)])


def test_select_and_check_on_the_command_line(pool, task, classes, tmp_path):
    flags = ("--against", task, "--classes", classes)
    done = vidfeat("select", pool, *flags, "-n", 8, "--max-similarity", 0.9, "--out", tmp_path / "a.zarr")
    assert done.exit_code == 0, done.output
    assert "6 vetted out (3 near-duplicate, 2 content-hash, 1 repeated)" in done.output
    assert "1 failed videos have no features" in done.output
    assert (tmp_path / "a.report.json").exists()

    sound = vidfeat("check", tmp_path / "a.zarr", *flags)
    assert sound.exit_code == 0, sound.output
    assert "none of 8 anchors is in the task" in sound.output
    assert "nearest of 3 classes" in sound.output

    leaking = vidfeat("check", pool, "--against", task, "--report", tmp_path / "check.json")
    assert leaking.exit_code == 1, leaking.output
    assert all(name in leaking.output for name in PLANTED)
    hits = json.loads((tmp_path / "check.json").read_text())["hits"]
    assert {hit["id"]: (hit["reason"], hit["other"]) for hit in hits} == PLANTED


def test_without_an_output_the_store_stands_beside_the_pool(pool, task, classes, tmp_path):
    copy = tmp_path / "copy.zarr"
    shutil.copytree(pool, copy)
    done = vidfeat("select", copy, "--against", task, "--classes", classes, "-n", 8, "--max-similarity", 0.9)
    assert done.exit_code == 0, done.output
    assert "copy-anchors.zarr" in done.output.replace("\n", "")
    assert vidfeat("check", tmp_path / "copy-anchors.zarr", "--against", task).exit_code == 0


def test_the_help_names_the_defaults_that_are_used():
    shown = vidfeat("select", "--help").output
    assert f"[default: {NEAR_DUPLICATE}]" in shown
    assert f"[default: {TEMPLATES[0]}]" in shown


def test_errors_on_the_command_line_are_messages(pool, task, tmp_path):
    refused = vidfeat("select", pool, "--against", task, "-n", 99, "--list", tmp_path / "a.csv")
    assert refused.exit_code == 2
    assert "error: only" in refused.output
    assert "Traceback" not in refused.output
    missing = vidfeat("check", tmp_path / "no.zarr", "--against", task)
    assert missing.exit_code == 2
    assert "there is no store" in missing.output
