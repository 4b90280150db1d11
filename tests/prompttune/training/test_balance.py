"""Anchors as shares of the task's gradient: against autograd, alone and together, in trainings of several hosts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training import short_runs, train_runs, trainer_of

from prompttune.config.train_config import resolve
from prompttune.errors import ConfigError, InertTermError
from prompttune.losses.terms import StepLosses
from prompttune.training.balance import LIMIT, Balance, make_balance

HOSTS: dict[str, dict[str, Any]] = {
    "coop": {},
    "kgcoop": {},
    "promptsrc-text": {"context": {"prompt_depth": 3}, "aggregation": {"mean": 1.0}},
}


def anchored(stores: Path, **given: Any) -> dict[str, Any]:
    anchors = {"store": str(stores / "irrelevant.zarr"), "loss": "distill", "n_anchors": 4, "weighting": "balanced"}
    return {"anchors": anchors | given}


def some_losses(parameters: list[Tensor]) -> StepLosses:
    """Two task terms and four anchors of two runs; the last anchor reaches no parameter."""
    a, b = parameters
    runs = torch.arange(1.0, 3.0)
    return StepLosses(
        {
            "cross-entropy": (a.sin().sum(dim=1) + b.square().sum(dim=1)) * runs,
            "knowledge-guided": a.square().sum(dim=1),
            "anchor-distill": 3.0 * a.cos().sum(dim=1),
            "anchor-text-anchor": 2e-4 * b.sum(dim=1),
            "anchor-additive": 1e-9 * b.sum(dim=1),
            "anchor-feature": torch.zeros(2),
        }
    )


def test_each_anchor_s_gradient_is_its_share_of_the_task_s() -> None:
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(2, n, generator=generator).requires_grad_() for n in (5, 3)]
    shares = {"anchor-distill": [0.3, 0.0], "anchor-text-anchor": [1.0, 1.0], "anchor-feature": [1.0, 1.0]}
    shares["anchor-additive"] = [1.0, 1.0]
    balance = Balance({name: torch.tensor(share) for name, share in shares.items()})
    found, factors = balance.gradients(some_losses(parameters), parameters, scale=1.0)
    # The same as the gradient of the sum with the factors as fixed numbers.
    scaled = some_losses(parameters).scaled(factors)
    expected = torch.autograd.grad(scaled.total.sum(), parameters, retain_graph=True)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        torch.testing.assert_close(one, other)

    def norm(*names: str) -> Tensor:
        value = torch.stack([scaled.terms[name] for name in names]).sum()
        own = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        return torch.cat([g.flatten(1) for g in own if g is not None], dim=1).norm(dim=1)

    task = norm("cross-entropy", "knowledge-guided")
    torch.testing.assert_close(norm("anchor-distill"), torch.tensor([0.3, 0.0]) * task)
    assert (factors["anchor-text-anchor"] == LIMIT).all()
    assert (factors["anchor-feature"] == 0).all()
    assert (factors["anchor-additive"] == 0).all()  # rounding is not made to say something
    larger, same = balance.gradients(some_losses(parameters), parameters, scale=1024.0)
    for one, other in zip(larger, found, strict=True):
        assert one is not None and other is not None  # noqa: PT018
        torch.testing.assert_close(one / 1024.0, other)
    torch.testing.assert_close(same["anchor-distill"], factors["anchor-distill"])


@pytest.mark.parametrize("host", HOSTS)
def test_one_share_is_the_same_share_of_every_host(host: str, tmp_path: Path, stores: Path, target: str) -> None:
    tables = {"method": host, **HOSTS[host], **anchored(stores, weight=0.3), "log": {"every": 1}}
    fitted = train_runs(tmp_path / "run", tables, store=target, seeds=[1])
    lines = [json.loads(line) for line in (fitted.folder / "seed1" / "log.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    for line in lines:
        norms = line["term_gradient_norms"]
        task = [name for name in norms if not name.startswith("anchor-")]
        if task == ["cross-entropy"]:
            assert norms["anchor-distill"] == pytest.approx(0.3 * norms["cross-entropy"], rel=1e-4)
        # The norm of a sum lies between the difference and the sum of its parts' norms.
        assert norms["anchor-distill"] <= 0.3 * sum(norms[name] for name in task) * (1 + 1e-4)
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)


def test_runs_of_several_shares_together_are_each_alone(stores: Path, target: str) -> None:
    axes = {"anchors.weight": [0.1, 1.0]}
    tables = {"method": "coop", **anchored(stores, also={"text-anchor": 0.2})}
    together, trainer = trainer_of(short_runs(tables, axes, store=target, seeds=[1]))
    for _ in range(4):
        trainer.step()
    for place, weight in enumerate((0.1, 1.0)):
        alone, own = trainer_of(short_runs({**tables, **anchored(stores, weight=weight, also={"text-anchor": 0.2})},
                                           store=target, seeds=[1]))  # fmt: skip
        for _ in range(4):
            own.step()
        mine, theirs = together.model.run_tensors(place), alone.model.run_tensors(0)
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-6)  # sums of other order


def test_micro_batches_are_balanced_each_by_its_own(stores: Path, target: str) -> None:
    tables = {"method": "coop", **anchored(stores), "optim": {"accumulate": 2}, "log": {"every": 1}}
    _, trainer = trainer_of(short_runs(tables, store=target, seeds=[1]))
    record = trainer.step()
    assert torch.isfinite(record.gradient_norm).all()
    assert record.term_gradient_norms["anchor-distill"] == pytest.approx(
        record.term_gradient_norms["cross-entropy"], rel=1e-4
    )


def test_fixed_weights_stay_as_they_are_and_what_cannot_be_balanced_is_refused(
    tmp_path: Path, stores: Path, target: str
) -> None:
    fixed = short_runs({"method": "coop", **anchored(stores, weighting="fixed")}, store=target)
    assert make_balance(fixed, device=torch.device("cpu")) is None
    assert make_balance(short_runs({"method": "coop"}, store=target), device=torch.device("cpu")) is None
    with pytest.raises(ConfigError, match=r"anchors\.weighting"):
        resolve({"method": "prograd", "store": target, **anchored(stores)})
    # A term without a gradient stays without one, and is told as ever.
    inert = anchored(stores, loss="additive", negatives="released", n_anchors=1)
    with pytest.raises(InertTermError, match="anchor-additive"):
        train_runs(tmp_path / "inert", {"method": "coop", **inert}, store=target, seeds=[1])
