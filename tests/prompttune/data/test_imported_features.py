"""Features from other programs train, are evaluated and classified as the same features of a store of ours are."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from training import train_runs

from prompttune.api.apply_prompts import apply_prompts
from prompttune.api.classify import ClassifyOptions, classify
from prompttune.errors import FeatureError, SplitError
from vidfeat.cli import main
from vidfeat.store import open_store


def vidfeat(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory, target: str) -> Path:
    """A folder with `npy/`, the features of target.zarr as video_features leaves them, and `list.csv`, its videos."""
    folder = tmp_path_factory.mktemp("features")
    reader = open_store(target)
    (folder / "npy").mkdir()
    with open(folder / "list.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        for row, video in enumerate(reader.videos()):
            rows.writerow([video.id, video.label, video.split])
            name = f"npy/{video.id.replace('/', '-').removesuffix('.mp4')}_clip.npy"
            np.save(folder / name, np.array(reader.rows("pooled", [row]).values.tolist()))
    text = (folder / "list.csv").read_text().splitlines()
    (folder / "flat.csv").write_text("\n".join([text[0], *(line.replace("/", "-", 1) for line in text[1:])]) + "\n")
    return folder


@pytest.fixture(scope="module")
def imported(features: Path, target: str) -> str:
    done = vidfeat("import", features / "npy", features / "X.zarr", "--pack", target, "--labels", features / "flat.csv")
    assert done.exit_code == 0, done.output
    assert "88 videos of 8 classes, 0 failed (npy files)" in done.output
    return str(features / "X.zarr")


def test_training_evaluation_and_classification_are_those_of_the_same_store(
    tmp_path: Path, target: str, imported: str
) -> None:
    assert open_store(imported).pack_hash == open_store(target).pack_hash
    accuracies = []
    for name, store in (("own", target), ("imported", imported)):
        fitted = train_runs(tmp_path / name, method="coop", store=store, seeds=[1])
        prompt = fitted.folder / "seed1" / "prompt.safetensors"
        result = apply_prompts([prompt], given={"store": store})
        found = classify(store, ClassifyOptions(prompts=prompt))
        accuracies.append((result.runs[0].metrics, [(video.classes, video.scores) for video in found]))
    assert accuracies[0] == accuracies[1], "the same numbers in the same order"


def test_videos_without_classes_give_no_accuracy(tmp_path: Path, features: Path, target: str) -> None:
    """Of one class "" every video would be right. The advice, followed, leads to an accuracy."""
    store = str(tmp_path / "U.zarr")
    assert vidfeat("import", features / "npy", store, "--pack", target).exit_code == 0
    with pytest.raises(SplitError, match=r"88 of 88 videos have no class[\s\S]*vidfeat relabel STORE --labels LIST"):
        apply_prompts([], given={"store": store})
    protocol = {"name": "few-shot", "shots": 1, "test_fraction": 0.5}
    with pytest.raises(SplitError, match="have no class"):
        train_runs(tmp_path / "run", {"protocol": protocol}, method="coop", store=store, seeds=[1])
    assert len(classify(store, ClassifyOptions(classes=("run", "jump")))) == 88
    rows = [f"{key},{key.split('-')[0]}" for key in open_store(store).ids]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    assert vidfeat("relabel", store, "--labels", tmp_path / "list.csv").exit_code == 0
    assert 0 < apply_prompts([], given={"store": store}).runs[0].tests["test"].top1 < 1


def test_what_needs_the_videos_says_so(tmp_path: Path, imported: str, features: Path) -> None:
    with pytest.raises(FeatureError, match="takes their place"):
        train_runs(tmp_path / "runs", method="vpt", store=imported, seeds=[1])
    done = vidfeat("verify", imported, "--level", "deep", "--source", features)
    assert done.exit_code == 2
    assert "features made elsewhere" in done.output
    assert "--level full" in done.output
    done = vidfeat("verify", imported, "--level", "full")
    assert done.exit_code == 0


def test_another_backbone_is_refused_by_its_width_and_a_repeated_import_changes_nothing(
    features: Path, stores: Path, imported: str, target: str, tmp_path: Path
) -> None:
    again = ("import", features / "npy", imported, "--pack", target, "--labels", features / "flat.csv")
    before = (Path(imported) / "manifest.json").read_bytes()
    assert vidfeat(*again).exit_code == 0
    assert (Path(imported) / "manifest.json").read_bytes() == before
    shutil.copytree(features / "npy", tmp_path / "npy")
    for path in (tmp_path / "npy").iterdir():
        np.save(path, np.load(path)[:, :16])
    done = vidfeat("import", tmp_path / "npy", tmp_path / "X.zarr", "--pack", target)
    assert done.exit_code == 2
    assert "rows of [24] for the tap pooled" in done.output
    assert "16 is the width before the projection" in done.output
    assert not (tmp_path / "X.zarr").exists()


def test_an_export_without_a_pack_gets_one_and_labels_are_changed_by_relabel(
    features: Path, target: str, tmp_path: Path
) -> None:
    pytest.importorskip("h5py")
    assert vidfeat("import", features / "npy", tmp_path / "bare.zarr").exit_code == 0
    with pytest.raises(FeatureError, match=r"no backbone[\s\S]*vidfeat export .*bare\.zarr FEATURES\.h5"):
        classify(str(tmp_path / "bare.zarr"), ClassifyOptions(classes=("run", "jump")))
    # The advice, followed to its end:
    assert vidfeat("export", tmp_path / "bare.zarr", tmp_path / "x.h5").exit_code == 0
    done = vidfeat("import", tmp_path / "x.h5", tmp_path / "X.zarr", "--pack", target)
    assert done.exit_code == 0, done.output
    assert vidfeat("relabel", tmp_path / "X.zarr", "--labels", features / "flat.csv").exit_code == 2  # other ids
    classify(str(tmp_path / "X.zarr"), ClassifyOptions(classes=("run", "jump")))
    done = vidfeat("import", tmp_path / "x.h5", tmp_path / "Y.zarr", "--labels", features / "flat.csv")
    assert "vidfeat relabel" in done.output
