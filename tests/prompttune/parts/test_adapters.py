"""Adapters against plain torch and scipy computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.run_axis import n_parameters_per_run, parameters_of_run
from prompttune.parts.adapters import C_GRID, CLIPAdapter, ProbeVideos, TipAdapter, TipGrid, fit_linear_probe, sweep_c

R, B, K, C, E = 2, 7, 9, 3, 16
SEEDS = (4, 5)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def labels(*shape: int, seed: int = 1) -> Tensor:
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(seed))


def test_clip_adapter_is_the_authors_bottleneck() -> None:
    adapter, x = CLIPAdapter(E, seeds=SEEDS), 3 * draw(R, B, E)
    y = adapter(x)
    for run in range(R):
        own = parameters_of_run(adapter, run)
        plain = nn.Sequential(nn.Linear(E, E // 4, bias=False), nn.ReLU(), nn.Linear(E // 4, E, bias=False), nn.ReLU())
        plain[0].weight, plain[2].weight = nn.Parameter(own["down.weight"]), nn.Parameter(own["up.weight"])
        torch.testing.assert_close(y[run], 0.2 * plain(x[run]) + 0.8 * x[run], rtol=1e-5, atol=1e-6)
        alone = CLIPAdapter(E, seeds=SEEDS[run : run + 1])
        torch.testing.assert_close(alone(x[run : run + 1])[0], y[run], rtol=1e-5, atol=1e-6)
    assert n_parameters_per_run(CLIPAdapter(512, seeds=(1,))) == 2 * 512 * 128
    untouched = CLIPAdapter(E, seeds=SEEDS, ratio=0.0)
    assert torch.equal(untouched(x), x)


@pytest.mark.parametrize("train_keys", [False, True])
def test_tip_adapter_is_the_paper_equation(train_keys: bool) -> None:
    keys, key_labels, v = 5 * draw(R, K, E), labels(R, K), unit(draw(R, B, E, seed=2))
    adapter = TipAdapter(keys=keys, labels=key_labels, n_classes=C, train_keys=train_keys, alpha=1.3, beta=2.5)
    logits = adapter(v)
    for r in range(R):
        for b in range(B):
            wanted = [0.0] * C
            for i in range(K):
                cosine = float(F.cosine_similarity(keys[r, i], v[r, b], dim=0))
                wanted[int(key_labels[r, i])] += 1.3 * math.exp(-2.5 * (1.0 - cosine))
            torch.testing.assert_close(logits[r, b], torch.tensor(wanted), rtol=1e-5, atol=1e-5)
    assert n_parameters_per_run(adapter) == (K * E if train_keys else 0)
    if train_keys:
        logits[1].sum().backward()
        assert adapter.trained_keys.values.grad[1].norm() > 0
        assert adapter.trained_keys.values.grad[0].norm() == 0


def test_tip_search_finds_the_best_of_the_grid_on_the_videos_it_is_given() -> None:
    keys, key_labels = unit(draw(R, K, E)), labels(R, K)
    v, truth = unit(keys[:, :B] + 0.3 * draw(R, B, E, seed=3)), key_labels[:, :B]
    zero_shot = 4.0 * draw(R, B, C, seed=4)  # a prior that misleads
    grid = TipGrid(largest_beta=9.0, n_betas=7, largest_alpha=20.0, n_alphas=6)
    adapter = TipAdapter(keys=keys, labels=key_labels, n_classes=C)
    start = ((zero_shot + adapter(v)).argmax(-1) == truth).float().mean(1)
    found = adapter.search(video_features=v, labels=truth, zero_shot_logits=zero_shot, grid=grid)
    for r in range(R):
        best = (float(start[r]), 1.17, 1.0)
        for beta in grid.betas():
            for alpha in grid.alphas():
                cache = torch.exp(-beta * (1 - v[r] @ keys[r].T)) @ F.one_hot(key_labels[r], C).float()
                accuracy = float(((zero_shot[r] + alpha * cache).argmax(-1) == truth[r]).float().mean())
                if accuracy > best[0]:
                    best = (accuracy, alpha, beta)
        assert (float(found[r]), float(adapter.alpha[r]), float(adapter.beta[r])) == pytest.approx(best)
    assert (found > start).any()
    after = ((zero_shot + adapter(v)).argmax(-1) == truth).float().mean(1)
    torch.testing.assert_close(after, found)


def test_tip_grid_is_the_authors() -> None:
    """search_hp of the released code: `i * (scale - 0.1) / step + 0.1 for i in range(step)`."""
    grid = TipGrid()
    assert len(grid.betas()) == 200
    assert len(grid.alphas()) == 20
    np.testing.assert_allclose(grid.betas(), np.linspace(0.1, 7.0, 200, endpoint=False))
    np.testing.assert_allclose(grid.alphas(), np.linspace(0.1, 3.0, 20, endpoint=False))


@pytest.mark.parametrize("peak", [-5.0, -1.3, 0.4, 2.7, 6.0])
def test_sweep_closes_in_on_the_best_strength(peak: float) -> None:
    tried = []

    def accuracy(c: float) -> float:
        tried.append(c)
        return -abs(math.log10(c) - peak)

    c = sweep_c(accuracy)
    assert math.log10(c) == pytest.approx(peak, abs=2.0 / 2**7)
    assert set(C_GRID) <= set(tried)
    assert len(set(tried)) <= len(C_GRID) + 9  # one end of the bracket is new at each step


def test_sweep_takes_the_authors_side_of_equals() -> None:
    """All equal: the grid's first, then always the left end."""
    assert sweep_c(lambda c: 0.5) == pytest.approx(10.0**5)


def clusters(n: int, *, seed: int, spread: float = 0.6, n_classes: int = C) -> tuple[Tensor, Tensor]:
    centres = unit(draw(n_classes, E, seed=77))
    y = torch.arange(n * n_classes) % n_classes
    return unit(centres[y] + spread * draw(len(y), E, seed=seed)), y


def test_probe_minimises_the_regularised_log_loss_of_its_training_videos() -> None:
    from scipy.optimize import minimize

    x, y = clusters(12, seed=1)
    val_x, val_y = clusters(6, seed=2)
    probe = fit_linear_probe(ProbeVideos(features=x, labels=y, val_features=val_x, val_labels=val_y))
    assert probe.converged

    data, onehot = x.double().numpy(), np.eye(C)[y.numpy()]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = flat[: C * E].reshape(C, E), flat[C * E :]
        logits = data @ w.T + b
        logits -= logits.max(1, keepdims=True)
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        residual = np.exp(log_p) - onehot
        value = -probe.c * (onehot * log_p).sum() + 0.5 * (w**2).sum()
        return value, np.concatenate([(probe.c * residual.T @ data + w).ravel(), probe.c * residual.sum(0)])

    best = minimize(loss, np.zeros(C * E + C), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-9})
    mine = loss(np.concatenate([probe.weight.double().numpy().ravel(), probe.bias.double().numpy()]))[0]
    assert mine == pytest.approx(best.fun, rel=1e-4)
    predicted = probe.logits(val_x).argmax(1)
    assert float((predicted == val_y).float().mean()) == pytest.approx(probe.validation_accuracy)
    assert probe.validation_accuracy > 0.6


def test_validation_videos_choose_the_strength_and_nothing_else() -> None:
    x, y = clusters(8, seed=1, spread=1.2)
    probes = [
        fit_linear_probe(ProbeVideos(features=x, labels=y, val_features=vx, val_labels=vy), n_steps=4)
        for vx, vy in (
            clusters(6, seed=2, spread=1.2),
            clusters(6, seed=3, spread=0.1),
            clusters(6, seed=9, spread=1.2),
        )
    ]
    assert len({probe.c for probe in probes}) > 1
    by_c: dict[float, Tensor] = {}
    for probe in probes:
        torch.testing.assert_close(probe.weight, by_c.setdefault(probe.c, probe.weight), rtol=0, atol=0)


def test_two_classes_give_two_rows_of_logits() -> None:
    x, y = clusters(10, seed=1, n_classes=2)
    probe = fit_linear_probe(ProbeVideos(features=x, labels=y, val_features=x, val_labels=y), n_steps=2)
    assert probe.weight.shape == (2, E)
    assert float((probe.logits(x).argmax(1) == y).float().mean()) == pytest.approx(probe.validation_accuracy)


def test_what_cannot_be_fitted_is_said_at_once() -> None:
    x, y = clusters(4, seed=1)
    with pytest.raises(ValueError) as caught:
        ProbeVideos(features=x[y != 1], labels=y[y != 1], val_features=x[:0], val_labels=y[:0])
    for part in ("no validation videos", "classes without a training video: [1]"):
        assert part in str(caught.value)
    with pytest.raises(ValueError, match=r"validation classes without a training video: \[2\]"):
        ProbeVideos(features=x[y < 2], labels=y[y < 2], val_features=x, val_labels=y)
