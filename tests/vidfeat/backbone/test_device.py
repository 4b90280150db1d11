"""What half precision costs on this machine, and when a person is told."""

from __future__ import annotations

import re

import pytest
import torch

from vidfeat.backbone import device as devices
from vidfeat.backbone.device import half_precision_price, slow_half_precision

CPU = torch.device("cpu")


def test_half_precision_that_slows_a_cpu_down_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "half_precision_price", {torch.bfloat16: (7.5, 47.3), torch.float16: (1.1, 0.6)}.get)
    said = slow_half_precision("bf16", CPU)
    assert said is not None
    assert re.search(r"bf16 take 7\.5 times .* backward pass 47 times: precision fp32 is faster", said)
    assert slow_half_precision("fp16", CPU) is None
    assert slow_half_precision("fp32", CPU) is None
    assert slow_half_precision("bf16", torch.device("meta")) is None


def test_the_price_is_of_both_products_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    price = half_precision_price(torch.bfloat16)
    assert min(price) > 0
    seconds = {(torch.bfloat16, True): 6.0, (torch.bfloat16, False): 40.0, (torch.float32, True): 2.0}
    monkeypatch.setattr(devices, "_product_seconds", lambda dtype, forward: seconds.get((dtype, forward), 1.0))
    assert half_precision_price(torch.bfloat16) == (3.0, 40.0)
