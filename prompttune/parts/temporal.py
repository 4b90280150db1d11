"""Temporal heads: features of frames `[R B T E]` to one feature per video `[R B E]`, or straight to scores.

| head                  | video feature                                              | trains             |
|-----------------------|------------------------------------------------------------|--------------------|
| mean                  | mean_t f_t, normalised afterwards                          | nothing            |
| mean of normalised    | mean_t f_t/|f_t|, normalised again                         | nothing            |
| `TemporalTransformer` | mean_t of a transformer over f_t + position_t              | 3.2 M a layer (512)|
| `AttentionPool`       | sum_t softmax_t(q . LN(f_t)/sqrt(E)) f_t                   | one query          |
| `concept_scores`      | per class: sum_t softmax_t(cos(f_t, t_c)/tau) f_t/|f_t|    | nothing            |

ViFi-CLIP and GA2-CLIP average before they normalise, CLIP's zero-shot evaluation on video and Tip-Adapter after: the
two differ where frames differ in length. What comes out is not normalised (the model does that), except scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.run_axis import RunGenerators, RunParameter
from prompttune.base.run_layers import RunLayerNorm, RunLinear
from prompttune.errors import explain


def mean_of_frames(frames: Tensor) -> Tensor:
    """`[R B E]`, the mean of `[R B T E]` over frames as they are."""
    return frames.mean(dim=2)


def mean_of_normalised_frames(frames: Tensor) -> Tensor:
    """`[R B E]`, the mean of `[R B T E]` over frames of unit length each."""
    return F.normalize(frames, dim=-1).mean(dim=2)


def concept_scores(frames: Tensor, class_features: Tensor, *, temperature: float = 0.01) -> Tensor:
    """Cosine-like scores `[R B C]`: each class looks at the frames that resemble it.

    `score_bc = v_bc.t_c` with `v_bc = sum_t softmax_t(f_bt.t_c / tau) f_bt` over unit frames; v is not normalised
    again, so a score is the softmax-weighted mean of the frames' cosines, and no feature per class is ever made.

    Args:
        frames: `[R B T E]`, any length.
        class_features: unit, `[R C E]` or `[R B C E]`.
        temperature: tau; towards infinity it gives the mean of the cosines, towards 0 their maximum.

    Source: Wu et al. 2023 (BIKE), whwu95/BIKE@2b20cd2 modules/video_clip.py, interaction `VCS`, tau 0.01. There
    saliency is the mean over the softmaxes of all text tokens; here the class feature alone is the query, since only
    the end token leaves the last block.
    """
    unit = F.normalize(frames, dim=-1)
    pattern = "rbte,rce->rbct" if class_features.dim() == 3 else "rbte,rbce->rbct"
    cosines = torch.einsum(pattern, unit, class_features)
    return ((cosines / temperature).softmax(dim=-1) * cosines).sum(dim=-1)


class AttentionPool(nn.Module):
    """One learned query per run weighs the frames: `sum_t softmax_t(q.LN(f_t)/sqrt(E)) f_t`.

    The query starts at zero, so training starts at the mean over frames.

    Source: the single-query form of pooling by attention (Lee et al. 2019, Set Transformer; CLIP's own ResNets).
    """

    def __init__(self, width: int, *, n_runs: int) -> None:
        super().__init__()
        self.query = RunParameter(torch.zeros(n_runs, width))

    def forward(self, frames: Tensor) -> Tensor:
        """`[R B E]` of `[R B T E]`."""
        keys = F.layer_norm(frames, frames.shape[-1:])
        scores = torch.einsum("rbte,re->rbt", keys, self.query()) / frames.shape[-1] ** 0.5
        return torch.einsum("rbt,rbte->rbe", scores.softmax(dim=-1), frames)


class TemporalTransformer(nn.Module):
    """Mean over frames of a small transformer with learned positions.

    Source: Ju et al. 2022 (A5), ju-chen/Efficient-Prompt@93852c4 src/model.py `TemporalModelling`: 8 heads, pre-norm,
    MLP ratio 4, QuickGELU, positions N(0, 0.01^2), no dropout, `residual = false`; 1 layer in the paper's main
    setting, 2 by default of its main.py. ActionCLIP, Text4Vis and GA2-CLIP's unused `Transf` head add their input to
    the output: `residual = true`.
    """

    def __init__(
        self,
        width: int,
        *,
        max_frames: int,
        seeds: Sequence[int],
        n_layers: int = 1,
        n_heads: int = 8,
        residual: bool = False,
    ) -> None:
        """
        Raises:
            ValueError: a width the heads do not divide.
        """
        super().__init__()
        if width % n_heads:
            raise ValueError(explain("heads share the width evenly", expected=f"a divisor of {width}", got=n_heads))
        positions = RunGenerators(seeds, "temporal.positions")
        self.positions = RunParameter(positions.normal(max_frames, width, std=0.01))
        self.blocks = nn.ModuleList(_Block(width, n_heads, seeds=seeds, index=index) for index in range(n_layers))
        self.residual = residual

    def forward(self, frames: Tensor) -> Tensor:
        """`[R B E]` of `[R B T E]`.

        Raises:
            ValueError: more frames than learned positions.
        """
        positions = self.positions().unsqueeze(1)
        if frames.shape[2] > positions.shape[2]:
            raise ValueError(
                explain(
                    "the temporal transformer has one learned position per frame",
                    expected=f"at most {positions.shape[2]} frames",
                    got=frames.shape[2],
                    fix=f"head.max_frames = {frames.shape[2]}",
                )
            )
        x = frames + positions[:, :, : frames.shape[2]]
        for block in self.blocks:
            x = block(x)
        return (x + frames if self.residual else x).mean(dim=2)


class _Block(nn.Module):
    """`x + attention(LN x)`, then `x + MLP(LN x)`, of R runs."""

    def __init__(self, width: int, n_heads: int, *, seeds: Sequence[int], index: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        generators = RunGenerators(seeds, f"temporal.block.{index}")
        self.ln_1 = RunLayerNorm(width, n_runs=len(seeds))
        self.in_proj = RunLinear(width, 3 * width, generators=generators, attention=True)
        self.out_proj = RunLinear(width, width, generators=generators, attention=True)
        self.ln_2 = RunLayerNorm(width, n_runs=len(seeds))
        self.c_fc = RunLinear(width, 4 * width, generators=generators)
        self.c_proj = RunLinear(4 * width, width, generators=generators)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attention(self.ln_1(x))
        hidden = self.c_fc(self.ln_2(x))
        return x + self.c_proj(hidden * torch.sigmoid(1.702 * hidden))

    def _attention(self, x: Tensor) -> Tensor:
        runs, batch, n_frames, width = x.shape
        heads = self.in_proj(x).view(runs * batch, n_frames, 3, self.n_heads, width // self.n_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(mixed.transpose(1, 2).reshape(runs, batch, n_frames, width))
