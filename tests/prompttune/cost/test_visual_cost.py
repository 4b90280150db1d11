"""The counted cost of a step is what torch counts and keeps when the step runs."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from prompttune.config.sections import VisualConfig
from prompttune.cost.visual import VisualStep, visual_step_cost
from prompttune.parts.visual_prompts import Recompute, VisualContext, prompted_forward
from vidfeat.backbone import VisionConfig, VisionTower
from vidfeat.backbone.tower_config import AttentionPool, Rotary

CONFIG = VisionConfig(image_size=56, patch_size=8, width=64, layers=5, heads=2, activation="quick_gelu")
EMBED_DIM = 32


# What other families have: a mean or an attention pool, rotary positions, gates and norms inside, norms behind.
FAMILIES = {
    "mean": replace(CONFIG, pool="mean", norm_after_pool=True, pre_norm=False, projection="linear"),
    "siglip": replace(
        CONFIG, class_token=False, pool="attention", attention_pool=AttentionPool(4, 64, 128), projection=None
    ),
    "coca": replace(CONFIG, pool="attention", attention_pool=AttentionPool(4, 48, norms=True), norm_after_pool=True),
    "eva02": replace(
        CONFIG,
        rotary=Rotary((7, 7)),
        gated_mlp=True,
        activation="silu",
        mlp_norm=True,
        attention_norm=True,
        mlp_ratio=2.5,
    ),
    "eva02-E": replace(CONFIG, norm_order="post"),
}


def tower_of(config: VisionConfig) -> VisionTower:
    torch.manual_seed(0)
    tower = VisionTower(config, embed_dim=EMBED_DIM).requires_grad_(False)
    for value in tower.parameters():
        value.normal_(std=0.1)
    return tower


@pytest.fixture(scope="module")
def tower() -> VisionTower:
    return tower_of(CONFIG)


def frames(step: VisualStep, config: VisionConfig = CONFIG) -> Tensor:
    lead = (step.n_frames,) if step.shared_frames else (step.n_runs, step.n_frames)
    return torch.randn(*lead, config.n_tokens, config.width)


SHAPES = [
    (VisualConfig(n_prompts=n_prompts, depth=depth, first_block=first), VisualStep(n_frames, n_runs, shared))
    for (first, depth), n_prompts, (n_frames, n_runs, shared) in itertools.product(
        [(0, 1), (0, 3), (0, 5), (2, 1), (2, 3), (4, 1)], [2, 9], [(3, 1, True), (2, 2, True), (2, 2, False)]
    )
]


@pytest.mark.parametrize(("visual", "step"), SHAPES, ids=str)
def test_operations_and_kept_bytes(tower: VisionTower, visual, step) -> None:
    """Operations exactly; bytes within 10 %, as norms keep two floats per row more, and rows before they join."""
    check_counts(tower, visual, step)


@pytest.mark.parametrize(("visual", "step"), SHAPES[::2], ids=str)
def test_operations_and_kept_bytes_on_a_device(tower: VisionTower, visual, step, monkeypatch) -> None:
    """Where rows are computed with every frame's tokens, to save kernels."""
    monkeypatch.setattr("prompttune.parts.visual_prompts.launches_cost", lambda like: True)
    check_counts(tower, visual, replace(step, rows_with_tokens=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_and_kept_bytes_of_other_families(family: str) -> None:
    tower = tower_of(FAMILIES[family])
    for visual, step in SHAPES[::5]:
        check_counts(tower, visual, step)


def check_counts(tower: VisionTower, visual: VisualConfig, step: VisualStep) -> None:
    cost = visual_step_cost(tower.config, embed_dim=EMBED_DIM, visual=visual, step=step)
    prompts = VisualContext(tower, config=visual, seeds=range(step.n_runs))()
    tokens = frames(step, tower.config)
    frozen = {value.untyped_storage().data_ptr() for value in tower.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in frozen:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward = FlopCounterMode(display=False)
        with forward:
            features = prompted_forward(tower, tokens, prompts=prompts)
    backward = FlopCounterMode(display=False)
    with backward:
        features.sum().backward()
    assert forward.get_total_flops() == cost.forward_flops
    assert backward.get_total_flops() == cost.backward_flops
    assert sum(kept.values()) == pytest.approx(cost.kept_bytes, rel=0.1)


@pytest.mark.parametrize("recompute", [Recompute(per_block=True), Recompute(frames_per_chunk=2)])
def test_recomputing_costs_one_more_forward_pass_and_keeps_less(recompute: Recompute) -> None:
    visual = VisualConfig(n_prompts=4, depth=3, first_block=1)
    plain = visual_step_cost(CONFIG, embed_dim=EMBED_DIM, visual=visual, step=VisualStep(16))
    again = visual_step_cost(CONFIG, embed_dim=EMBED_DIM, visual=visual, step=VisualStep(16, recompute=recompute))
    assert again.forward_flops == plain.forward_flops
    assert again.backward_flops == plain.backward_flops + plain.forward_flops
    assert again.kept_bytes < 0.5 * plain.kept_bytes


def test_a_chunk_as_large_as_the_step_recomputes_nothing() -> None:
    visual = VisualConfig(n_prompts=4)
    plain = visual_step_cost(CONFIG, embed_dim=EMBED_DIM, visual=visual, step=VisualStep(4))
    same = VisualStep(4, recompute=Recompute(frames_per_chunk=4))
    assert visual_step_cost(CONFIG, embed_dim=EMBED_DIM, visual=visual, step=same) == plain
