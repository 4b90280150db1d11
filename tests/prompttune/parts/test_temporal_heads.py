"""Temporal heads against torch's own modules, run by run; float32, tolerance 1e-5 (order of sums)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.run_axis import n_parameters_per_run, parameters_of_run
from prompttune.parts.temporal import (
    AttentionPool,
    TemporalTransformer,
    concept_scores,
    mean_of_frames,
    mean_of_normalised_frames,
)

SEEDS, B, T, E, C = (2, 9), 3, 6, 16, 4
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def frames(seed: int = 0) -> Tensor:
    lengths = torch.linspace(0.2, 4.0, T).view(1, 1, T, 1)  # unequal lengths, where the two means differ
    return torch.randn(len(SEEDS), B, T, E, generator=torch.Generator().manual_seed(seed)) * lengths


class PlainBlock(nn.Module):
    """A5's block as torch modules, with the parameters of one run."""

    def __init__(self, own: dict[str, nn.Parameter], n_heads: int) -> None:
        super().__init__()
        self.own, self.attn = own, nn.MultiheadAttention(E, n_heads, batch_first=True)
        self.attn.load_state_dict(
            {
                "in_proj_weight": own["in_proj.weight"],
                "in_proj_bias": own["in_proj.bias"],
                "out_proj.weight": own["out_proj.weight"],
                "out_proj.bias": own["out_proj.bias"],
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        own = self.own
        normal = F.layer_norm(x, (E,), own["ln_1.weight"], own["ln_1.bias"])
        x = x + self.attn(normal, normal, normal, need_weights=False)[0]
        hidden = F.linear(
            F.layer_norm(x, (E,), own["ln_2.weight"], own["ln_2.bias"]), own["c_fc.weight"], own["c_fc.bias"]
        )
        return x + F.linear(hidden * torch.sigmoid(1.702 * hidden), own["c_proj.weight"], own["c_proj.bias"])


def jitter(module: nn.Module) -> None:
    """Moves every parameter off its special start (zero biases, unit norms), so that a swapped one is seen."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize(("n_layers", "residual"), [(1, False), (2, False), (1, True)])
def test_transformer_is_torch_attention_with_positions(n_layers: int, residual: bool) -> None:
    head = TemporalTransformer(E, max_frames=T, seeds=SEEDS, n_layers=n_layers, n_heads=4, residual=residual)
    jitter(head)
    x = frames()
    y = head(x)
    for run in range(len(SEEDS)):
        wanted = x[run] + head.positions.runs[run]
        for block in head.blocks:
            wanted = PlainBlock(parameters_of_run(block, run), 4)(wanted)
        wanted = (wanted + x[run] if residual else wanted).mean(dim=1)
        torch.testing.assert_close(y[run], wanted, **CLOSE)


def test_transformer_starts_as_torch_starts_it() -> None:
    head = TemporalTransformer(128, max_frames=T, seeds=(1,), n_heads=8)
    own = parameters_of_run(head, 0)
    like = nn.MultiheadAttention(128, 8)
    for name, weight in (("in_proj", like.in_proj_weight), ("out_proj", like.out_proj.weight)):
        mine = own[f"blocks.0.{name}.weight"]
        assert mine.shape == weight.shape
        torch.testing.assert_close(mine.std(), weight.std(), rtol=0.03, atol=0)
        assert not own[f"blocks.0.{name}.bias"].any()
    assert own["positions"].std().item() == pytest.approx(0.01, rel=0.1)
    # A5 at CLIP's 512 channels: 16 positions and one block.
    full = TemporalTransformer(512, max_frames=16, seeds=(1,))
    assert n_parameters_per_run(full) == 16 * 512 + 12 * 512**2 + 13 * 512


def test_runs_together_are_runs_alone() -> None:
    x = frames()
    together = TemporalTransformer(E, max_frames=T, seeds=SEEDS, n_heads=4)(x)
    for run, seed in enumerate(SEEDS):
        alone = TemporalTransformer(E, max_frames=T, seeds=(seed,), n_heads=4)(x[run : run + 1])
        torch.testing.assert_close(alone[0], together[run], **CLOSE)


def test_order_of_frames_matters_to_the_transformer_alone() -> None:
    x, pool = frames(), AttentionPool(E, n_runs=2)
    jitter(pool)
    head = TemporalTransformer(E, max_frames=T, seeds=SEEDS, n_heads=4)
    jitter(head)
    assert not torch.allclose(head(x), head(x.flip(2)), atol=1e-3)
    torch.testing.assert_close(pool(x), pool(x.flip(2)), **CLOSE)


def test_attention_pool_starts_at_the_mean_and_is_its_equation() -> None:
    x, pool = frames(), AttentionPool(E, n_runs=2)
    torch.testing.assert_close(pool(x), mean_of_frames(x), **CLOSE)
    jitter(pool)
    y = pool(x)
    for run in range(2):
        for video in range(B):
            keys = nn.LayerNorm(E)(x[run, video]).detach()
            weights = torch.softmax(keys @ pool.query.runs[run] / E**0.5, dim=0)
            torch.testing.assert_close(y[run, video], weights @ x[run, video], **CLOSE)


def test_two_means_differ_by_the_frames_lengths() -> None:
    x = frames()
    before, after = mean_of_frames(x), mean_of_normalised_frames(x)
    torch.testing.assert_close(after[1, 2], torch.stack([f / f.norm() for f in x[1, 2]]).mean(0), **CLOSE)
    assert F.cosine_similarity(before, after, dim=-1).max() < 0.999
    same = F.normalize(x, dim=-1)
    torch.testing.assert_close(mean_of_frames(same), mean_of_normalised_frames(same), **CLOSE)


def test_concept_scores_are_the_class_wise_weighted_feature() -> None:
    x = frames()
    classes = F.normalize(torch.randn(len(SEEDS), C, E), dim=-1)
    scores = concept_scores(x, classes, temperature=0.1)
    for run in range(len(SEEDS)):
        for video in range(B):
            unit = F.normalize(x[run, video], dim=-1)
            for c in range(C):
                saliency = torch.softmax(unit @ classes[run, c] / 0.1, dim=0)
                feature = (saliency.unsqueeze(1) * unit).sum(0)
                torch.testing.assert_close(scores[run, video, c], feature @ classes[run, c], **CLOSE)
    per_video = classes.unsqueeze(1).expand(-1, B, -1, -1)
    torch.testing.assert_close(concept_scores(x, per_video, temperature=0.1), scores, **CLOSE)


def test_concept_scores_lie_between_mean_and_maximum() -> None:
    x = frames()
    classes = F.normalize(torch.randn(len(SEEDS), C, E), dim=-1)
    cosines = torch.einsum("rbte,rce->rbct", F.normalize(x, dim=-1), classes)
    torch.testing.assert_close(concept_scores(x, classes, temperature=1e4), cosines.mean(-1), rtol=0, atol=1e-4)
    torch.testing.assert_close(concept_scores(x, classes, temperature=1e-4), cosines.amax(-1), rtol=0, atol=1e-4)


def test_problems_are_explained() -> None:
    with pytest.raises(ValueError, match="evenly"):
        TemporalTransformer(E, max_frames=T, seeds=SEEDS, n_heads=5)
    with pytest.raises(ValueError, match=f"head.max_frames = {T}"):
        TemporalTransformer(E, max_frames=T - 1, seeds=SEEDS, n_heads=4)(frames())
    fewer = TemporalTransformer(E, max_frames=T + 3, seeds=SEEDS, n_heads=4)
    assert fewer(frames()).shape == (len(SEEDS), B, E)
