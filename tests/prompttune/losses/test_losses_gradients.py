"""Gradient norms per term and run, inert terms, ProGrad's projection, mix-up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from prompttune.base.run_axis import RunParameter
from prompttune.losses.mixup import FeatureMixup
from prompttune.training.gradients import gradient_norms, inert_terms, prograd_gradients, project_off

EXACT = {"rtol": 1e-12, "atol": 1e-13}


def parameters(seed: int = 0) -> tuple[RunParameter, RunParameter]:
    generator = torch.Generator().manual_seed(seed)
    return (
        RunParameter(torch.randn(2, 4, generator=generator, dtype=torch.float64)),
        RunParameter(torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)),
    )


def test_norms_are_those_of_one_backward_pass_per_term_and_run() -> None:
    a, b = parameters()
    terms = {
        "square": a().square().sum(dim=1),
        "mixed": a()[:, :3].sin().sum(dim=1) * b().sum(dim=(1, 2)),
        "constant": torch.zeros(2, dtype=torch.float64),
    }
    norms = gradient_norms(terms, [a.values, b.values])
    for name, value in terms.items():
        for run in range(2):
            expected = 0.0
            if value.requires_grad:
                for grad in torch.autograd.grad(value[run], [a.values, b.values], retain_graph=True, allow_unused=True):
                    expected += 0.0 if grad is None else float(grad[run].square().sum())
            assert float(norms[name][run]) == pytest.approx(expected**0.5, rel=1e-6)
    sum(terms.values()).sum().backward()  # the graph is still there
    assert a.values.grad is not None


def test_inert_terms_are_judged_per_run_over_all_logged_steps() -> None:
    main = torch.tensor([[1.0, 1.0], [0.5, 2.0]])
    norms = {
        "cross-entropy": main,
        "acts": 0.01 * main,
        "rests-once": torch.tensor([[0.0, 1.0], [1.0, 0.0]]),
        "rounding": 1e-7 * main,
        "dead-in-run-1": torch.tensor([[0.1, 0.0], [0.1, 0.0]]),
    }
    found = {term.name: term.runs for term in inert_terms(norms)}
    assert found == {"rounding": (0, 1), "dead-in-run-1": (1,)}
    assert inert_terms({name: norms[name] for name in ("acts",)}) == ()
    unweighted = inert_terms(norms, weights={"dead-in-run-1": (1.0, 0.0), "rounding": 1.0})
    assert {term.name for term in unweighted} == {"rounding"}  # run 1 gave the term no weight: nothing to report
    dead = inert_terms({"alone": torch.zeros(3, 2)})
    assert [term.runs for term in dead] == [(0, 1)]


def prograd_numpy(g: np.ndarray, k: np.ndarray, strength: float) -> np.ndarray:
    unit = k / np.linalg.norm(k)
    return g - strength * np.dot(g.ravel(), unit.ravel()) * unit if np.dot(g.ravel(), k.ravel()) < 0 else g


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_prograd_is_the_paper_equation_per_tensor_and_run(strength: float) -> None:
    a, b = parameters()
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in (*a.runs, *b.runs)]

    def losses() -> tuple[Tensor, Tensor]:
        main = (a() * torch.stack(weights[:2])).sum(dim=1) + (b() * torch.stack(weights[2:])).sum(dim=(1, 2))
        return main, a().square().sum(dim=1) - b().square().sum(dim=(1, 2))

    main, knowledge = losses()
    leaves = [a.values, b.values]
    found = prograd_gradients(main=main, knowledge=knowledge, parameters=leaves, strength=strength)
    conflicts = np.zeros((2, 2))
    for tensor, (held, sign) in enumerate(((a, 2.0), (b, -2.0))):
        for run in range(2):
            g = weights[2 * tensor + run].numpy()
            k = sign * held.runs[run].detach().numpy()
            conflicts[tensor, run] = np.vdot(g, k) < 0
            np.testing.assert_allclose(
                found[tensor][run].numpy(), prograd_numpy(g, k, strength), rtol=1e-12, atol=1e-15
            )
    assert 0 < conflicts.sum() < 4  # both branches are exercised


def test_projected_gradient_no_longer_opposes_the_knowledge() -> None:
    g = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    k = torch.tensor([[-1.0, 0.5, 0.0]], dtype=torch.float64)
    assert g[0] @ k[0] < 0
    torch.testing.assert_close(project_off(g, k)[0] @ k[0], torch.zeros((), dtype=torch.float64), **EXACT)
    assert torch.equal(project_off(g, -k), g)
    assert torch.equal(project_off(g, torch.zeros(1, 3, dtype=torch.float64)), g)


def test_prograd_without_a_gradient_leaves_the_parameter_alone() -> None:
    a, b = parameters()
    knowledge = b().sum(dim=(1, 2))
    of_a, of_b = prograd_gradients(main=a().sum(dim=1), knowledge=knowledge, parameters=[a.values, b.values])
    assert torch.equal(of_a, torch.ones(2, 4, dtype=torch.float64))
    assert of_b is None


def test_mixup_blends_features_and_labels_alike() -> None:
    mix = FeatureMixup(alpha=0.8, seeds=[5, 6]).draw(7)
    features = torch.randn(2, 7, 3, 4)
    labels = torch.randint(5, (2, 7))
    mixed, targets = mix.features(features), mix.targets(labels, 5)
    for run in range(2):
        assert sorted(mix.partner[run].tolist()) == list(range(7))
        keep = float(mix.keep[run])
        for video in range(7):
            partner = int(mix.partner[run, video])
            wanted = keep * features[run, video] + (1 - keep) * features[run, partner]
            torch.testing.assert_close(mixed[run, video], wanted)
            row = torch.zeros(5)
            row[labels[run, video]] += keep
            row[labels[run, partner]] += 1 - keep
            torch.testing.assert_close(targets[run, video], row)


def test_mixup_draws_beta_per_run_alone_or_among_others_and_resumes() -> None:
    together = FeatureMixup(alpha=0.8, seeds=[5, 6])
    alone = FeatureMixup(alpha=0.8, seeds=[6])
    draws = [together.draw(4) for _ in range(400)]
    for mix in draws[:3]:
        own = alone.draw(4)
        assert torch.equal(mix.keep[1:], own.keep)
        assert torch.equal(mix.partner[1:], own.partner)
    keep = torch.stack([mix.keep for mix in draws])
    # Beta(0.8, 0.8): mean 1/2, variance 1/(4 (2 * 0.8 + 1)) = 0.0962; 800 draws put both within 5 %.
    assert float(keep.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(keep.var()) == pytest.approx(0.0962, rel=0.1)
    state = together.state()
    after = together.draw(4)
    resumed = FeatureMixup(alpha=0.8, seeds=[5, 6])
    resumed.load_state(state)
    assert torch.equal(resumed.draw(4).keep, after.keep)
    with pytest.raises(ValueError, match="alpha > 0"):
        FeatureMixup(alpha=0.0, seeds=[1])
