"""Visual prompts in every family of image towers equal a plain computation on open_clip's and timm's own modules.

The plain side lets their blocks run with rows put behind the tokens by hooks, and takes the rows away before the head
(docs/decisions/0004-heads-and-prompt-rows.md). Tolerances: values 1e-5, gradients 1e-4 of the largest entry, float32.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from openclip_models import relative_error
from torch import Tensor, nn
from vision_families import OURS, family_clip, family_config, image_features, open_clips_blocks, random_pixels

from prompttune.parts.visual_prompts import Recompute, VisualPrompts, prompted_forward
from vidfeat.backbone import VisionTower
from vidfeat.clip.openclip import from_state_dict

VALUES, GRADIENTS = 1e-5, 1e-4
N_RUNS, N_PROMPTS = 2, 3


class Both:
    """open_clip's model, our tower with its weights, and pictures."""

    def __init__(self, family: str) -> None:
        config = family_config(family)
        self.clip = family_clip(family)
        loaded = from_state_dict(self.clip.state_dict(), model_config=config)
        self.tower = VisionTower(loaded.config.vit, embed_dim=loaded.config.embed_dim).requires_grad_(False).eval()
        self.tower.load_state_dict(loaded.visual_state)
        self.pixels = random_pixels(config)


@pytest.fixture(scope="module", params=OURS)
def both(request: Any) -> Both:
    return Both(request.param)


def plain_features(model: nn.Module, pixels: Tensor, rows: tuple[Tensor, ...], first: int, n_tokens: int) -> Tensor:
    """[R N E]: one run at a time, every row computed by open_clip's own blocks."""
    visual: Any = model.visual
    norm = visual.trunk.norm_pre if hasattr(visual, "trunk") else visual.ln_pre
    blocks = open_clips_blocks(model)

    def run_with(of_run: list[Tensor]) -> Tensor:
        def enter(index: int) -> Any:
            def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> Any:
                x = args[0]
                if first <= index < first + len(of_run):
                    own = of_run[index - first]
                    own = norm(own) if index == 0 else own
                    x = torch.cat([x[:, :n_tokens], own.expand(len(x), -1, -1)], dim=1)
                rope = kwargs.get("rope")
                if rope is not None and x.shape[1] > n_tokens:
                    # timm turns all rows behind the class token; by the angle zero, a row stays as it is.
                    n_more = x.shape[1] - n_tokens
                    still = torch.cat(
                        [torch.zeros(n_more, rope.shape[1] // 2), torch.ones(n_more, rope.shape[1] // 2)], 1
                    )
                    kwargs = kwargs | {"rope": torch.cat([rope, still])}
                return (x, *args[1:]), kwargs

            return hook

        with ExitStack() as hooks:
            for index, block in enumerate(blocks):
                hooks.callback(block.register_forward_pre_hook(enter(index), with_kwargs=True).remove)
            hooks.callback(blocks[-1].register_forward_hook(lambda _, __, x: x[:, :n_tokens]).remove)
            return image_features(model, pixels)

    return torch.stack([run_with([block_rows[run] for block_rows in rows]) for run in range(len(rows[0]))])


def random_rows(depth: int, width: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    return tuple(torch.randn(N_RUNS, N_PROMPTS, width, generator=generator).requires_grad_() for _ in range(depth))


def gradients(features: Tensor, rows: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    direction = torch.randn(features.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((features * direction).sum(), rows)


def test_values_and_gradients_for_every_first_block_and_depth(both: Both) -> None:
    config, n_layers = both.tower.config, both.tower.n_layers
    taps = both.tower.taps(both.pixels, range(n_layers))
    for first in range(n_layers):
        for depth in range(1, n_layers - first + 1):
            rows = random_rows(depth, config.width)
            expected = plain_features(both.clip, both.pixels, rows, first, config.n_tokens)
            found = prompted_forward(both.tower, taps.tokens[first], prompts=VisualPrompts(rows, first))
            assert relative_error(found.detach(), expected.detach()) < VALUES, (first, depth)
            for ours, theirs in zip(gradients(found, rows), gradients(expected, rows), strict=True):
                assert relative_error(ours, theirs) < GRADIENTS, (first, depth)


def test_recomputing_changes_nothing(both: Both) -> None:
    rows = random_rows(2, both.tower.config.width)
    prompts = VisualPrompts(rows, 0)
    tokens = both.tower.taps(both.pixels, [0]).tokens[0]
    kept, again = (
        prompted_forward(both.tower, tokens, prompts=prompts, recompute=recompute)
        for recompute in (Recompute(), Recompute(per_block=True, frames_per_chunk=1))
    )
    assert relative_error(again.detach(), kept.detach()) < VALUES
    for ours, theirs in zip(gradients(again, rows), gradients(kept, rows), strict=True):
        assert relative_error(ours, theirs) < GRADIENTS
