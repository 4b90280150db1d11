"""All runs' optimiser in a few operations: bit for bit torch.optim's own, run by run; what fp16's scaling does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from training import short_runs

from prompttune.config.sections import OptimConfig
from prompttune.training.optimisers import FlatParameters, LossScale, make_optimiser

N_STEPS = 7
SHAPES = {"context": (5, 33), "bias": (7,), "net": (3, 4, 9)}


def torchs_own(optim: OptimConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if optim.name == "sgd":
        return torch.optim.SGD(parameters, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay)
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay)


@pytest.mark.parametrize("unreached", [False, True])
@pytest.mark.parametrize(
    ("name", "per_run"),
    [
        ("sgd", [{"lr": 0.1, "momentum": 0.9}, {"lr": 0.03, "momentum": 0.0}, {"lr": 0.1, "weight_decay": 0.0}]),
        ("sgd", [{"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}] * 3),
        ("adam", [{"lr": 0.1}, {"lr": 0.03, "weight_decay": 0.1}, {"lr": 0.02}]),
        ("adamw", [{"lr": 0.1}, {"lr": 0.03, "weight_decay": 0.1}, {"lr": 0.02, "weight_decay": 0.0}]),
    ],
)
def test_every_run_gets_the_bits_that_torch_would_give_it_alone(name: str, per_run: list, unreached: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    optims = [OptimConfig(name=name, **options) for options in per_run]  # type: ignore[arg-type]
    start = {key: torch.randn(3, *shape, generator=generator) for key, shape in SHAPES.items()}
    rates = torch.tensor([[optim.lr * (step + 1) / N_STEPS for optim in optims] for step in range(N_STEPS)]).double()
    flat = FlatParameters({key: nn.Parameter(value.clone()) for key, value in start.items()})
    ours = make_optimiser(flat, optims, rates)
    alone = [[nn.Parameter(value[run].clone()) for value in start.values()] for run in range(3)]
    theirs = [torchs_own(optim, own) for optim, own in zip(optims, alone, strict=True)]
    ok = torch.tensor(True)
    for step in range(N_STEPS):
        found = [torch.randn(value.shape, generator=generator) for value in start.values()]
        given = [None if unreached and place == 1 else value for place, value in enumerate(found)]
        ours.update(flat.flat(given), ours.coefficients(step), flat.may_move(ok))
        for run, optimiser in enumerate(theirs):
            for parameter, value in zip(alone[run], given, strict=True):
                parameter.grad = None if value is None else value[run].clone()
            for group in optimiser.param_groups:
                group["lr"] = float(rates[step, run])
            optimiser.step()
        for place, leaf in enumerate(flat.leaves):
            for run in range(3):
                assert torch.equal(leaf[run], alone[run][place]), (step, place, run)
    before, state = flat.values.clone(), {key: value.clone() for key, value in ours.named_state().items()}
    ours.update(torch.full_like(flat.values, torch.nan), ours.coefficients(0), flat.may_move(torch.tensor(False)))
    assert torch.equal(flat.values, before)
    assert all(torch.equal(value, state[key]) for key, value in ours.named_state().items())


def test_loss_scale_is_that_of_torch() -> None:
    ours, theirs = LossScale(), torch.amp.GradScaler("cpu")
    ours.INTERVAL = 3
    theirs.set_growth_interval(3)
    parameter = nn.Parameter(torch.zeros(1, 2))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    for gradient in (1.0, torch.inf, 2.0, 1.0, 1.0, 1.0, torch.nan, 1.0):
        scale = float(theirs.scale(torch.ones(())))
        assert ours.scale == scale
        parameter.grad = torch.full((1, 2), gradient * scale)
        found, finite = ours.unscaled(parameter.grad.clone())
        theirs.unscale_(optimiser)
        assert torch.equal(found, parameter.grad) or not finite.all()
        assert bool(finite.all()) == bool(torch.tensor(gradient).isfinite())
        theirs.step(optimiser)
        theirs.update()


def test_training_imports_neither_dynamo_nor_sympy(tmp_path: Path, target: str, visual_target: str) -> None:
    tables = {
        "coop": {"store": target, "optim": {"name": "adamw"}},
        "vpt": {"store": visual_target, "optim": {"epochs": 1}, "visual": {"recompute": True}},
    }
    code = ["import sys", "from prompttune.cli import main"]
    for method, given in tables.items():
        (run,) = short_runs(given, method=method, seeds=[1])
        (tmp_path / f"{method}.toml").write_text(run.config.to_toml())
        command = ["train", str(tmp_path / f"{method}.toml"), "--out", str(tmp_path / method)]
        code += ["try:", f"    main({command!r})", "except SystemExit as done:", "    assert not done.code"]
    code.append("print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
