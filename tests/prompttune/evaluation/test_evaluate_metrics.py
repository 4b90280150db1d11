"""Accuracies against scikit-learn and by hand; every video once; both harmonic means by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, f1_score, top_k_accuracy_score

from prompttune.evaluation.evaluate import (
    Predictions,
    harmonic_mean,
    load_predictions,
    metrics,
    save_predictions,
    spread,
    summarise,
)
from prompttune.evaluation.results import test_result as result_of_test


def predictions(n: int = 50, n_classes: int = 7, seed: int = 0, name: str = "test") -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_classes, (n,), generator=generator)
    logits = torch.randn(n, n_classes, generator=generator)
    logits[torch.arange(n), labels] += 1.0
    ids = tuple(f"v{i}" for i in range(n))
    return Predictions(name, ids, tuple(f"c{i}" for i in range(n_classes)), labels, logits)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_top_k_equals_scikit_learn(k: int) -> None:
    found = predictions()
    expected = top_k_accuracy_score(found.labels.numpy(), found.logits.numpy(), k=k, labels=range(7))
    assert found.top(k) == pytest.approx(expected, abs=1e-6)


def test_per_class_and_confusion_agree_with_scikit_learn() -> None:
    found = predictions()
    matrix = confusion_matrix(found.labels.numpy(), found.logits.argmax(1).numpy(), labels=range(7))
    assert np.array_equal(found.confusion().numpy(), matrix)
    for index, name in enumerate(found.classes):
        assert found.per_class()[name] == pytest.approx(matrix[index, index] / matrix[index].sum())


def test_ties_give_no_credit() -> None:
    flat = Predictions("t", ("v", "w"), ("a", "b"), torch.tensor([0, 1]), torch.zeros(2, 2))
    assert flat.top(1) == 0.0
    assert flat.per_class() == {"a": 0.0, "b": 0.0}
    assert flat.top(2) == 1.0


def test_classes_without_test_videos_are_not_scored() -> None:
    found = Predictions("t", ("v",), ("a", "b"), torch.tensor([0]), torch.tensor([[2.0, 1.0]]))
    assert found.per_class() == {"a": 1.0}


def test_calibration_error_by_hand() -> None:
    # Confidence 0.8 everywhere, right in 1 of 2: the one bin that is filled is off by 0.3.
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2]]).log()
    found = Predictions("t", ("v", "w"), ("a", "b"), torch.tensor([0, 1]), logits)
    assert found.calibration_error() == pytest.approx(0.3, abs=1e-6)


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.8, 0.4) == pytest.approx(2 * 0.8 * 0.4 / 1.2)
    assert harmonic_mean(0.0, 0.0) == 0.0
    with pytest.raises(ValueError):
        harmonic_mean(-0.1, 0.5)


def test_both_harmonic_means_are_named_and_differ() -> None:
    runs = [{"base": 0.9, "new": 0.3}, {"base": 0.5, "new": 0.7}]
    full = [run | {"harmonic_mean": harmonic_mean(run["base"], run["new"])} for run in runs]
    summary = summarise(full)
    assert summary["harmonic_mean"].mean == pytest.approx((0.45 + 0.7 / 1.2) / 2)
    assert summary["harmonic_mean_of_means"].mean == pytest.approx(harmonic_mean(0.7, 0.5))
    assert summary["base"].std == pytest.approx(np.std([0.9, 0.5], ddof=1))
    assert spread([0.4]).std is None


def test_macro_f1_and_mean_per_class_agree_with_scikit_learn() -> None:
    found = predictions()
    predicted = found.logits.argmax(1).numpy()
    expected = f1_score(found.labels.numpy(), predicted, labels=range(7), average="macro", zero_division=0)
    assert found.macro_f1() == pytest.approx(expected, abs=1e-6)
    said = result_of_test(found)
    assert said.macro_f1 == found.macro_f1()
    assert said.mean_per_class == pytest.approx(balanced_accuracy_score(found.labels.numpy(), predicted), abs=1e-6)
    # Classes without test videos are in neither mean, even where videos were taken for them.
    few = Predictions("t", ("x", "y", "z"), ("a", "b", "c"), torch.tensor([0, 0, 1]), torch.eye(3)[[0, 2, 1]])
    assert few.macro_f1() == pytest.approx((2 / 3 + 1) / 2)
    assert result_of_test(few).mean_per_class == pytest.approx((1 / 2 + 1) / 2)


def test_a_tie_is_no_answer_in_f1() -> None:
    tied = Predictions("t", ("x", "y"), ("a", "b"), torch.tensor([0, 1]), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert (tied.top(1), tied.macro_f1()) == (0.5, 0.5)


def test_metrics_of_test_sets() -> None:
    base, new = predictions(name="base"), predictions(seed=1, name="new")
    found = metrics({"base": base, "new": new})
    assert found == {"base": base.top(1), "new": new.top(1), "harmonic_mean": harmonic_mean(base.top(1), new.top(1))}
    assert metrics({"test": base}) == {"test": base.top(1)}


def test_predictions_survive_the_disk(tmp_path) -> None:
    found = predictions()
    save_predictions(str(tmp_path / "p.npz"), {"base": found})
    back = load_predictions(str(tmp_path / "p.npz"))["base"]
    assert back.ids == found.ids
    assert back.classes == found.classes
    assert torch.equal(back.labels, found.labels)
    assert torch.equal(back.logits, found.logits)


def test_predictions_check_their_axes() -> None:
    with pytest.raises(ValueError):
        Predictions("t", ("v",), ("a", "b"), torch.tensor([0, 1]), torch.zeros(2, 2))
