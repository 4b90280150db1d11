"""From Python: three lines from a store to numbers, scikit-learn's conventions, readable objects, few public names."""

from __future__ import annotations

import copy
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone, is_classifier
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from tiny_store import CLASSES
from training import train_runs

import prompttune
from prompttune import PromptClassifier
from prompttune.api.step_bar import StepBar, in_notebook
from prompttune.errors import ConfigError, FeatureError, SplitError
from prompttune.prompts.file import read_prompt_file

SHORT: dict[str, Any] = {"optim__epochs": 4, "optim__batch_size": 8, "optim__lr": 0.01, "optim__warmup_epochs": 1.0}


def test_the_public_names_are_these() -> None:
    assert sorted(prompttune.__all__) == [
        "PromptClassifier",
        "__version__",
        "classify_videos",
        "evaluate_prompts",
        "load_results",
        "open_store",
        "read_split_file",
        "run_training",
    ]
    for name in prompttune.__all__:
        assert getattr(prompttune, name) is not None
    assert set(prompttune.__all__) <= set(dir(prompttune))
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        prompttune.trian  # noqa: B018


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, prompttune; print(sorted({'torch', 'sklearn', 'pandas', 'zarr', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_three_lines_give_the_numbers_of_the_command(tmp_path: Path, target: str) -> None:
    store = prompttune.open_store(target)
    split = store.split("base-to-new", shots=4, seed=2)
    frame = PromptClassifier(store, method="coop", seed=2, **SHORT).fit(split).evaluate(split)
    (run,) = train_runs(tmp_path / "run", method="coop", store=target, seeds=[2]).result.runs
    for name in ("base", "new", "harmonic_mean"):
        assert frame.loc[name, "top1"] == pytest.approx(run.metrics[name])
    assert frame.loc["new", "top5"] == pytest.approx(run.tests["new"].top5)
    assert frame.loc["new", "n_videos"] == run.tests["new"].n_videos


def test_objects_say_what_they_are(tmp_path: Path, target: str) -> None:
    store = prompttune.open_store(target)
    assert repr(store).startswith(
        f"VideoStore({target}: 88 videos of 8 classes (40 test, 48 train), 3 frames each, tiny"
    )
    split = store.split("base-to-new", shots=4)
    assert repr(split) == "Split(base-to-new: train 16, base 20, new 20 videos; 4 classes train)"
    assert repr(split.test("new")) == "TestSet(new: 20 videos of 4 classes)"
    assert "method='coop'" in repr(PromptClassifier(target, method="coop", context__n_ctx=4)) or "n_ctx" in repr(
        PromptClassifier(target, method="coop", context__n_ctx=4)
    )
    heard: dict[str, list[dict[str, Any]]] = {"seed1": [], "seed2": []}
    fitted = prompttune.run_training(
        store,
        "coop",
        out=tmp_path / "run",
        on_log=lambda run, line: heard[run].append(dict(line)),
        seeds=[1, 2],
        protocol__shots=4,
        **SHORT,
    )
    for run, lines in heard.items():
        assert lines
        assert lines == [json.loads(line) for line in (tmp_path / "run" / run / "log.jsonl").read_text().splitlines()]
    assert repr(fitted.result).startswith("Result(coop, base-to-new, 2 runs: base ")
    assert len(fitted.result.frame) == 2
    frame = prompttune.load_results(tmp_path)
    assert list(frame["seed"]) == [1, 2]
    assert list(store.frame.columns) == ["id", "label", "split", "group", "usable"]
    assert len(store) == len(store.frame) == 88


def test_lists_are_run_axes(tmp_path: Path, target: str) -> None:
    options = {**SHORT, "optim__lr": [0.002, 0.01], "optim__epochs": 1}
    fitted = prompttune.run_training(target, "coop", out=tmp_path / "run", seeds=[1], protocol__shots=2, **options)
    assert fitted.result.axes == {"optim.lr": [0.002, 0.01]}
    assert len(fitted.result.cells) == 2


def test_evaluation_and_classification_are_calls(target: str, hard_prompt: str) -> None:
    result = prompttune.evaluate_prompts(target, hard_prompt, base_to_new=True)
    assert set(result.runs[0].tests) == {"base", "new"}
    found = prompttune.classify_videos(target, prompts=hard_prompt, classes=CLASSES, top=1)
    assert str(found[0]).startswith("run/000.mp4: ")


def test_videos_are_given_by_ids_or_rows_with_labels_of_ones_own(target: str) -> None:
    store = prompttune.open_store(target)
    chosen = np.isin(store.labels, ("run", "swim", "ride")) & (store.splits == "train")
    held = np.isin(store.labels, ("run", "swim", "ride")) & (store.splits == "test")
    by_id = PromptClassifier(store, **SHORT).fit(store.ids[chosen], store.labels[chosen])
    by_row = PromptClassifier(store, **SHORT).fit(np.flatnonzero(chosen))
    assert list(by_id.classes_) == ["ride", "run", "swim"]
    assert np.array_equal(by_id.predict_proba(store.ids[held]), by_row.predict_proba(np.flatnonzero(held)))
    predicted = by_id.predict(store.ids[held])
    assert by_id.score(store.ids[held], store.labels[held]) == pytest.approx(np.mean(predicted == store.labels[held]))
    assert by_id.score(store.ids[held]) == by_id.score(store.ids[held], store.labels[held])
    np.testing.assert_allclose(by_id.predict_proba(store.ids[held]).sum(axis=1), 1, atol=1e-5)
    assert np.array_equal(
        by_id.decision_function(store.ids[held]).argmax(1), by_id.predict_proba(store.ids[held]).argmax(1)
    )
    renamed = PromptClassifier(store, **SHORT).fit(store.ids[chosen], [f"to_{name}" for name in store.labels[chosen]])
    assert list(renamed.classes_) == ["to_ride", "to_run", "to_swim"]
    with pytest.raises(FeatureError, match="not in the class list"):
        by_id.score(store.ids[:1], ["fly"])
    assert set(by_id.predict(store.ids[store.splits == "test"], classes=["jump", "climb"])) <= {"jump", "climb"}
    with pytest.raises(SplitError, match="given twice"):
        PromptClassifier(store, **SHORT).fit([*store.ids[:3], store.ids[0]])


def test_scikit_learns_conventions(target: str) -> None:
    store = prompttune.open_store(target)
    classifier = PromptClassifier(store, method="coop", seed=3, **SHORT)
    assert is_classifier(classifier)
    copied = clone(classifier)
    assert copied is not classifier
    assert copied.get_params() == classifier.get_params()
    assert copied.store is store
    assert copied.set_params(optim__lr=0.5, seed=4).get_params()["optim__lr"] == 0.5
    assert classifier.get_params()["optim__lr"] == 0.01
    with pytest.raises(ValueError, match="optim__lr"):
        copied.set_params(optim__lrr=1)
    with pytest.raises(NotFittedError):
        classifier.predict(store.ids[:2])
    with pytest.raises(ConfigError, match="no store"):
        PromptClassifier().fit(store.ids[:2])
    with pytest.raises(ConfigError, match=r"optim\.lr"):
        PromptClassifier(store, optim__lrr=1).fit(store.ids[:2])
    assert copy.deepcopy(store) is store
    again = pickle.loads(pickle.dumps(store))
    assert np.array_equal(again.ids, store.ids)


def test_cross_validation_and_grid_search_run_on_ids(target: str) -> None:
    store = prompttune.open_store(target)
    few = np.isin(store.labels, ("run", "swim"))
    scores = cross_val_score(PromptClassifier(store, **SHORT), store.ids[few], store.labels[few], cv=2)
    assert len(scores) == 2
    assert scores.min() > 0.5
    grid = GridSearchCV(PromptClassifier(store, **SHORT), {"optim__lr": [1e-6, 0.01]}, cv=2, scoring="accuracy")
    grid.fit(store.ids[few], store.labels[few])
    assert set(grid.cv_results_["param_optim__lr"]) == {1e-6, 0.01}
    assert grid.best_estimator_.predict(store.ids[few]).shape == (few.sum(),)


@pytest.mark.parametrize("method", ["zero-shot", "tip-adapter", "linear-probe"])
def test_methods_without_a_training_loop_fit_too(target: str, method: str) -> None:
    store = prompttune.open_store(target)
    split = store.split("few-shot", shots=4, val_shots=1)
    options = {"protocol__val_shots": 1} if method == "linear-probe" else {}
    classifier = PromptClassifier(store, method=method, **options).fit(split)
    if method == "zero-shot":
        zero_shot = prompttune.evaluate_prompts(store).runs[0].tests["test"].top1
        assert classifier.score(split) == zero_shot == PromptClassifier(store, method=method).fit(split).score(split)
    else:
        assert classifier.score(split) > 2 / len(CLASSES)


def test_what_was_fitted_is_saved_as_a_prompt_file(tmp_path: Path, target: str) -> None:
    store = prompttune.open_store(target)
    split = store.split("base-to-new", shots=4)
    classifier = PromptClassifier(store, **SHORT).fit(split)
    path = classifier.save(tmp_path / "prompt.safetensors")
    assert read_prompt_file(path).classes == split.classes
    result = prompttune.evaluate_prompts(store, path, base_to_new=True)
    assert result.runs[0].metrics["new"] == pytest.approx(classifier.evaluate(split).loc["new", "top1"])


def test_a_bar_is_drawn_where_somebody_looks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell, looks_on in ((None, False), (SimpleNamespace(), False), (SimpleNamespace(kernel=object()), True)):
        monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell))
        assert in_notebook() is looks_on
        assert StepBar().show is looks_on  # under pytest the standard error is no terminal
    assert StepBar(show=False).show is False


def test_the_progress_bar_counts_every_step(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = prompttune.open_store(target)
    split = store.split("few-shot", shots=4)
    PromptClassifier(store, progress=True, **SHORT).fit(split)
    drawn = capsys.readouterr().err
    assert "coop (1 run)" in drawn
    assert re.search(r"epoch 4/4  loss [\d.]+  acc [\d.]+%", drawn)
    assert "16/16" in drawn
    PromptClassifier(store, progress=False, **SHORT).fit(split)
    assert capsys.readouterr().err == ""


def test_the_three_lines_of_the_readme_need_neither_pandas_nor_scikit_learn(target: str) -> None:
    code = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
hidden = ("pandas", "sklearn")
PathFinder.find_spec = lambda name, *rest: None if name.partition(".")[0] in hidden else find(name, *rest)
import prompttune
store = prompttune.open_store({target!r})
split = store.split("base-to-new", shots=4)
told = prompttune.PromptClassifier(store, method="zero-shot").fit(split).evaluate(split)
print(sorted(told), 0 <= told["base"]["top1"] <= 1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['base', 'harmonic_mean', 'new'] True\n"
