"""A loss term of one's own, from its equation to trained prompts: the example of docs/architecture.md."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from torch import Tensor
from training import train_runs

from prompttune.config.methods import LOSS_TERMS
from prompttune.errors import ConfigError
from prompttune.losses.terms import StepTensors


@dataclasses.dataclass(frozen=True)
class Confident:
    """`mean_b H(softmax(logits_b / T))`: predictions are to be sharp. T is `loss_options.confident.temperature`."""

    temperature: float = 1.0

    def __call__(self, step: StepTensors) -> Tensor:
        log_p = (step.logits / self.temperature).log_softmax(dim=-1)
        return -(log_p.exp() * log_p).sum(dim=-1).mean(dim=1)


def test_own_loss_is_registered_and_trained(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_TERMS, "confident", f"{__name__}:Confident")
    tables = {"losses": {"confident": 0.5}, "loss_options": {"confident": {"temperature": 2.0}}}
    fitted = train_runs(tmp_path / "own", tables, method="coop", store=target, seeds=[1])
    log = (fitted.folder / "seed1" / "log.jsonl").read_text().splitlines()
    assert '"confident": ' in log[0]
    tables["loss_options"] = {"confident": {"power": 2.0}}
    with pytest.raises(ConfigError, match="temperature"):
        train_runs(tmp_path / "misspelt", tables, method="coop", store=target, seeds=[1])
