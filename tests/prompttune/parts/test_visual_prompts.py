"""Prompted features and the prompts' gradients equal a plain computation on open_clip's own tower.

Tolerances: values 1e-5, gradients 1e-4 of the largest entry, float32; both sides sum in another order (measured: below
2e-6 and 6e-6).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.launches import Launches
from prompttune.config.sections import VisualConfig
from prompttune.errors import ConfigError
from prompttune.parts import frozen_blocks, visual_prompts
from prompttune.parts.visual_prompts import (
    Recompute,
    VisualContext,
    VisualPrompts,
    placement,
    prompted_forward,
)
from vidfeat.backbone import VisionTower

VALUES, GRADIENTS = 1e-5, 1e-4
N_RUNS, N_FRAMES, N_LAYERS = 2, 3, 5
CONFIG: dict[str, Any] = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": N_LAYERS},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    from open_clip import CLIP

    torch.manual_seed(0)
    model = CLIP(**CONFIG).eval().requires_grad_(False)
    for name, value in model.visual.named_parameters():
        if name.endswith("bias") or "ln_" in name:
            value.add_(0.1 * torch.randn_like(value))
    return model


@pytest.fixture(scope="module")
def tower(clip: nn.Module, tmp_path_factory) -> VisionTower:
    from vidfeat.clip.openclip import from_state_dict

    loaded = from_state_dict(clip.state_dict(), model_config=CONFIG)
    return loaded.write_pack(tmp_path_factory.mktemp("packs") / "pack").vision_tower()


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.randn(N_FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def random_rows(depth: int, *, n_prompts: int = 2, n_runs: int = N_RUNS, seed: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n_runs, n_prompts, 48, generator=generator).requires_grad_() for _ in range(depth))


def plain_features(visual: nn.Module, pixels: Tensor, rows: tuple[Tensor, ...], first_block: int) -> Tensor:
    """[R N E] through open_clip's modules, every row computed: the published recipe, one run at a time."""
    features = []
    for run in range(len(rows[0])):
        x = visual.conv1(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
        n_tokens = x.shape[1]
        if first_block == 0:
            x = torch.cat([x, rows[0][run].expand(len(x), -1, -1)], dim=1)
        x = visual.ln_pre(x)
        for index, block in enumerate(visual.transformer.resblocks):
            depth = index - first_block
            if 0 <= depth < len(rows) and index > 0:
                x = torch.cat([x[:, :n_tokens], rows[depth][run].expand(len(x), -1, -1)], dim=1)
            x = block(x)
        pooled, _ = visual._pool(x)
        features.append(pooled @ visual.proj)
    return torch.stack(features)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def gradients(features: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((features * direction).sum(), rows)


def every_placement() -> list[tuple[int, int]]:
    return [(first, depth) for first in range(N_LAYERS) for depth in range(1, N_LAYERS - first + 1)]


@pytest.mark.parametrize("on_device", [False, True], ids=["cpu", "device"])
@pytest.mark.parametrize(("first_block", "depth"), every_placement())
def test_equals_the_plain_computation_wherever_and_however_deep(
    clip, tower, pixels, first_block, depth, on_device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In both forms: rows apart from the tokens, and, as on a GPU, together with them."""
    monkeypatch.setattr(visual_prompts, "launches_cost", lambda like: on_device)
    rows = random_rows(depth)
    tokens = tower.taps(pixels, [first_block]).tokens[first_block]
    expected = plain_features(clip.visual, pixels, rows, first_block)
    found = prompted_forward(tower, tokens, prompts=VisualPrompts(rows, first_block))
    assert found.shape == (N_RUNS, N_FRAMES, 24)
    assert relative_error(found, expected) < VALUES
    for ours, theirs in zip(gradients(found, rows), gradients(expected, rows), strict=True):
        assert relative_error(ours, theirs) < GRADIENTS


@pytest.mark.parametrize("recompute", [Recompute(per_block=True), Recompute(frames_per_chunk=2), Recompute(True, 1)])
@pytest.mark.parametrize(("first_block", "depth"), [(0, 3), (2, 1), (1, 4)])
def test_recomputing_changes_nothing(tower, pixels, recompute, first_block, depth) -> None:
    rows = random_rows(depth)
    tokens = tower.taps(pixels, [first_block]).tokens[first_block]
    prompts = VisualPrompts(rows, first_block)
    kept, again = (prompted_forward(tower, tokens, prompts=prompts, recompute=r) for r in (Recompute(), recompute))
    assert relative_error(again, kept) < VALUES
    for ours, theirs in zip(gradients(again, rows), gradients(kept, rows), strict=True):
        assert relative_error(ours, theirs) < GRADIENTS


def test_half_precision_on_a_device_is_as_near_as_on_a_cpu(tower, pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 keeps 8 bits: both forms are off from float32 by as much (measured: values 0.0043, gradients 0.0074)."""
    rows = random_rows(4)
    tokens, prompts = tower.taps(pixels, [0]).tokens[0], VisualPrompts(rows, 0)
    exact = prompted_forward(tower, tokens, prompts=prompts)
    expected = gradients(exact, rows)
    for on_device in (False, True):
        for module in (visual_prompts, frozen_blocks):
            monkeypatch.setattr(module, "launches_cost", lambda like, is_it=on_device: is_it)
        monkeypatch.setattr(frozen_blocks, "_MADE", WeakKeyDictionary())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = prompted_forward(tower, tokens, prompts=prompts).float()
        assert relative_error(found, exact) < 0.01
        for ours, theirs in zip(gradients(found, rows), expected, strict=True):
            assert relative_error(ours, theirs) < 0.02


@pytest.mark.parametrize("recompute", [Recompute(), Recompute(True, 2)], ids=["kept", "recomputed"])
def test_half_precision_converts_no_weight_twice(tower, pixels, recompute, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit what autocast makes of the tower's own weights, without converting them."""
    rows = random_rows(3)
    tokens, prompts = tower.taps(pixels, [1]).tokens[1], VisualPrompts(rows, 1)

    def step() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            features = prompted_forward(tower, tokens, prompts=prompts, recompute=recompute).float()
        return features.detach(), *gradients(features, rows)

    def n_conversions() -> int:
        with Launches("cpu") as launches:
            step()
        return launches.counts["_to_copy"]

    found, n_ours = step(), n_conversions()
    monkeypatch.setattr(visual_prompts, "frozen_blocks", lambda tower: tower.blocks)
    expected, n_autocasts = step(), n_conversions()
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # Four matrices and their biases in each of four blocks; what is left are rows.
    assert n_autocasts - n_ours >= 4 * 2 * (N_LAYERS - 1)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch.compile without its C++ kernels, whose making takes minutes: traced and differentiated all the same."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    visual_prompts._compiled_blocks.cache_clear()
    yield
    visual_prompts._compiled_blocks.cache_clear()


@pytest.mark.usefixtures("traced")
def test_compiled_blocks_change_nothing(tower, pixels) -> None:
    """Two numbers of frames in one loss, as videos and anchors are; a term's gradient over a graph that is kept."""
    rows = random_rows(2)
    tokens, prompts = tower.taps(pixels, [3]).tokens[3], VisualPrompts(rows, 3)

    def terms(compiled: bool) -> list[Tensor]:
        videos, anchors = tokens, tokens[:2]
        return [prompted_forward(tower, frames, prompts=prompts, compiled=compiled) for frames in (videos, anchors)]

    for found, plain in zip(terms(compiled=True), terms(compiled=False), strict=True):
        assert relative_error(found, plain) < VALUES
    first, second = terms(compiled=True)
    torch.autograd.grad(first.sum(), rows, retain_graph=True)
    expected = torch.autograd.grad(sum(part.square().sum() for part in terms(compiled=False)), rows)
    for ours, theirs in zip(
        torch.autograd.grad(first.square().sum() + second.square().sum(), rows), expected, strict=True
    ):
        assert relative_error(ours, theirs) < GRADIENTS
    assert counters["frames"]["ok"] == counters["frames"]["total"] > 0  # nothing ran uncompiled


def test_without_a_compiler_the_message_says_so(tower, pixels, monkeypatch: pytest.MonkeyPatch) -> None:
    def backend(*_: Any) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    visual_prompts._compiled_blocks.cache_clear()
    with pytest.raises(ConfigError, match=r"visual\.compile = false"):
        prompted_forward(
            tower, tower.taps(pixels, [4]).tokens[4], prompts=VisualPrompts(random_rows(1), 4), compiled=True
        )
    visual_prompts._compiled_blocks.cache_clear()


def test_recomputing_keeps_less(tower, pixels) -> None:
    """Counted in bytes that autograd keeps, not in time."""
    tokens = tower.taps(pixels.repeat(4, 1, 1, 1), [0]).tokens[0]
    kept = {}
    for name, recompute in {
        "all": Recompute(),
        "per block": Recompute(per_block=True),
        "chunk": Recompute(frames_per_chunk=3),
    }.items():
        sizes: list[int] = []

        def pack(tensor: Tensor, sizes: list[int] = sizes) -> Tensor:
            sizes.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            prompted_forward(tower, tokens, prompts=VisualPrompts(random_rows(3)), recompute=recompute)
        kept[name] = sum(sizes)
    assert kept["per block"] < 0.5 * kept["all"]
    assert kept["chunk"] < kept["per block"]


def test_every_run_is_as_if_alone(tower, pixels) -> None:
    rows = random_rows(3)
    tokens = tower.taps(pixels, [1]).tokens[1]
    together = prompted_forward(tower, tokens, prompts=VisualPrompts(rows, 1))
    for run in range(N_RUNS):
        own = tuple(block[run : run + 1].detach().requires_grad_() for block in rows)
        alone = prompted_forward(tower, tokens, prompts=VisualPrompts(own, 1))
        assert relative_error(together[run : run + 1], alone) < VALUES
        others = torch.autograd.grad(together[run].square().sum(), rows, retain_graph=True)
        for ours, theirs in zip(others, torch.autograd.grad(alone.square().sum(), own), strict=True):
            assert relative_error(ours[run : run + 1], theirs) < GRADIENTS
            assert ours[1 - run].abs().max() == 0


def test_runs_may_bring_their_own_frames(tower, pixels) -> None:
    rows = random_rows(2)
    tokens = tower.taps(pixels, [2]).tokens[2]
    own = torch.stack([tokens, tokens.flip(0)])
    found = prompted_forward(tower, own, prompts=VisualPrompts(rows, 2))
    shared = prompted_forward(tower, tokens, prompts=VisualPrompts(rows, 2))
    assert relative_error(found[0], shared[0]) < VALUES
    assert relative_error(found[1], shared[1].flip(0)) < VALUES


def test_blocks_may_have_different_numbers_of_rows(clip, tower, pixels) -> None:
    rows = (*random_rows(1, n_prompts=4), *random_rows(1, n_prompts=1), *random_rows(1, n_prompts=3))
    expected = plain_features(clip.visual, pixels, rows, 0)
    tokens = tower.taps(pixels, [0]).tokens[0]
    assert relative_error(prompted_forward(tower, tokens, prompts=VisualPrompts(rows)), expected) < VALUES


def test_rows_through_a_map_get_their_gradient(clip, tower, pixels) -> None:
    """MaPLe's visual prompts are a linear map of the text prompts."""
    text_rows, weight = torch.randn(N_RUNS, 2, 16), torch.randn(48, 16, requires_grad=True)

    def mapped() -> tuple[Tensor, ...]:
        return text_rows @ weight.T, text_rows.tanh() @ weight.T

    found = prompted_forward(tower, tower.taps(pixels, [0]).tokens[0], prompts=VisualPrompts(mapped()))
    expected = plain_features(clip.visual, pixels, mapped(), 0)
    (ours,), (theirs,) = gradients(found, (weight,)), gradients(expected, (weight,))
    assert relative_error(ours, theirs) < GRADIENTS


def test_gradients_reach_tokens_that_ask_for_them(tower, pixels) -> None:
    tokens = tower.taps(pixels, [1]).tokens[1].requires_grad_()
    (gradient,) = gradients(prompted_forward(tower, tokens, prompts=VisualPrompts(random_rows(2), 1)), (tokens,))
    assert gradient.abs().max() > 0


def test_float16_tokens_as_stored(tower, pixels) -> None:
    """Only their rounding, 2^-11 of each value, is left."""
    tokens = tower.taps(pixels, [1]).tokens[1]
    prompts = VisualPrompts(random_rows(2), 1)
    assert (
        relative_error(
            prompted_forward(tower, tokens.half(), prompts=prompts), prompted_forward(tower, tokens, prompts=prompts)
        )
        < 3e-3
    )


def n_flops(tower: VisionTower, tokens: Tensor, rows: tuple[Tensor, ...], first_block: int) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        prompted_forward(tower, tokens, prompts=VisualPrompts(rows, first_block)).sum().backward()
    return counter.get_total_flops()


def test_a_late_step_costs_its_share_of_the_blocks(tower, pixels) -> None:
    """Counted in operations, forward and backward: at most the share of the blocks that run."""
    costs = {
        first: n_flops(tower, tower.taps(pixels, [first]).tokens[first], random_rows(2), first) for first in (0, 1, 3)
    }
    for first in (1, 3):
        assert costs[first] / costs[0] <= 1.1 * (N_LAYERS - first) / N_LAYERS


def test_what_nobody_reads_is_not_computed(clip, tower, pixels) -> None:
    """Deep prompts in every block cost less than rows carried along, and less than the plain computation."""
    tokens = tower.taps(pixels, [0]).tokens[0]
    deep = n_flops(tower, tokens, random_rows(N_LAYERS, n_prompts=8), 0)
    carried = n_flops(tower, tokens, random_rows(1, n_prompts=8), 0)
    counter = FlopCounterMode(display=False)
    with counter:
        plain_features(clip.visual, pixels, random_rows(N_LAYERS, n_prompts=8), 0).sum().backward()
    assert deep < 0.85 * carried
    assert deep < 0.65 * counter.get_total_flops()


def test_placement_names() -> None:
    assert [placement(block) for block in (0, 1, 11)] == ["published", "late(1)", "late(11)"]
    assert VisualPrompts(random_rows(1), 6).placement == "late(6)"


def test_trainable_rows(tower) -> None:
    config = VisualConfig(n_prompts=16, depth=3, first_block=2)
    context = VisualContext(tower, config=config, seeds=[1, 2])
    prompts = context()
    assert [tuple(rows.shape) for rows in prompts.rows] == [(2, 16, 48)] * 3
    assert (prompts.first_block, prompts.last_block, prompts.n_runs) == (2, 4, 2)
    assert sum(value.numel() for value in context.parameters()) == 2 * 3 * 16 * 48
    values = torch.stack(prompts.rows).detach()
    assert values.std() == pytest.approx(0.02, rel=0.1)
    alone = VisualContext(tower, config=config, seeds=[2])()
    assert all(torch.equal(a[1], b[0]) for a, b in zip(prompts.rows, alone.rows, strict=True))
    assert not torch.equal(prompts.rows[0], prompts.rows[1])


@pytest.mark.parametrize(("first_block", "depth"), [(0, 6), (5, 1), (3, 3)])
def test_blocks_the_tower_does_not_have(tower, first_block, depth) -> None:
    with pytest.raises(ValueError, match=rf"{depth} blocks from block {first_block}"):
        prompted_forward(tower, torch.zeros(1, 17, 48), prompts=VisualPrompts(random_rows(depth), first_block))
    with pytest.raises(ValueError, match="no such blocks to prompt"):
        VisualContext(tower, config=VisualConfig(n_prompts=2, depth=depth, first_block=first_block), seeds=[1])


@pytest.mark.parametrize(
    ("tokens", "width"),
    [
        (torch.zeros(3, 17, 32), 48),
        (torch.zeros(3, 16, 48), 48),
        (torch.zeros(17, 48), 48),
        (torch.zeros(3, 3, 17, 48), 48),
        (torch.zeros(3, 17, 48, dtype=torch.int8), 48),
        (torch.zeros(3, 17, 48), 32),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tower, tokens, width) -> None:
    with pytest.raises(ValueError, match="do not fit each other"):
        prompted_forward(tower, tokens, prompts=VisualPrompts((torch.zeros(2, 4, width),)))


@pytest.mark.parametrize(
    "rows", [(), (torch.zeros(4, 48),), (torch.zeros(1, 0, 48),), (torch.zeros(1, 2, 48), torch.zeros(2, 2, 48))]
)
def test_rows_that_are_no_prompts_are_refused(rows) -> None:
    with pytest.raises(ValueError, match="visual prompts"):
        VisualPrompts(rows)
    with pytest.raises(ValueError, match="at least"):
        VisualPrompts((torch.zeros(1, 2, 48),), -1)
    with pytest.raises(ValueError, match="at least 1"):
        Recompute(frames_per_chunk=0)
