"""Adapters over fixed features: linear probe, Tip-Adapter(-F), CLIP-Adapter. None of them sees a test video.

Notation: f a video's pooled feature, v = f/|f|, t_c a unit class feature, s the logit scale.

| method        | logits                                                                   | trains                |
|---------------|--------------------------------------------------------------------------|-----------------------|
| linear probe  | W v + b, logistic regression with L2 strength 1/C                         | W, b (by L-BFGS)      |
| Tip-Adapter   | s v.t_c + alpha sum_i exp(-beta (1 - v.k_i)) [label of i is c]            | nothing               |
| Tip-Adapter-F | the same                                                                 | the keys k_i          |
| CLIP-Adapter  | s v'.t_c, v' = norm(r A(f) + (1 - r) f), A = ReLU(W2 ReLU(W1 f))          | W1, W2                |

A linear probe and the cache part of Tip-Adapter know the training classes alone: on new classes the first has no
logits and the second adds none.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prompttune.base.run_axis import RunGenerators, RunParameter
from prompttune.base.run_layers import RunLinear
from prompttune.errors import ConfigError, explain

# Source: KaiyangZhou/CoOp@61a9cd3 lpclip/linear_probe.py.
C_GRID = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6)
C_STEPS = 8


class CLIPAdapter(nn.Module):
    """`r A(f) + (1 - r) f` of R runs: a bottleneck beside the identity, on features before normalisation.

    Source: Gao et al. 2021 (CLIP-Adapter), gaopengcuhk/CLIP-Adapter@9ac913a clip_adapter.py: reduction 4, no biases,
    ReLU after both layers, ratio 0.2.
    """

    def __init__(self, width: int, *, seeds: Sequence[int], ratio: float = 0.2, reduction: int = 4) -> None:
        super().__init__()
        self.ratio = ratio
        generators = RunGenerators(seeds, "clip-adapter")
        self.down = RunLinear(width, width // reduction, generators=generators, bias=False)
        self.up = RunLinear(width // reduction, width, generators=generators, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Adapted features `[R ... E]`, not normalised, of `[R ... E]`, not normalised."""
        return self.ratio * self.up(self.down(features).relu()).relu() + (1.0 - self.ratio) * features


class TipAdapter(nn.Module):
    """A cache of the training videos that adds to the zero-shot logits; with trained keys it is Tip-Adapter-F.

    Attributes:
        keys: `[R K E]`, unit training features (a `RunParameter` where they are trained; then no longer unit).
        values: one-hot labels `[R K C]`.
        alpha: `[R]`, weight of the cache.
        beta: `[R]`, sharpness of the affinity.

    Source: Zhang et al. 2022 (Tip-Adapter), gaopengcuhk/Tip-Adapter@327763e main.py; alpha 1.17, beta 1 (ImageNet).
    Its keys are the mean of 10 augmented passes (`head.tip_keys = "views"` with a store of 11 views). F: AdamW 1e-3,
    eps 1e-4, 20 epochs, batch 256, cosine; the best epoch on test data, as released, is not offered.
    """

    alpha: Tensor
    beta: Tensor
    values: Tensor

    def __init__(
        self,
        *,
        keys: Tensor,
        labels: Tensor,
        n_classes: int,
        train_keys: bool = False,
        alpha: float = 1.17,
        beta: float = 1.0,
    ) -> None:
        """Takes training features `[R K E]` of any length and their labels `[R K]` in `[0, n_classes)`."""
        super().__init__()
        unit = F.normalize(keys.float(), dim=-1)
        self.trained_keys = RunParameter(unit) if train_keys else None
        if not train_keys:
            self.register_buffer("fixed_keys", unit)
        self.register_buffer("values", F.one_hot(labels, n_classes).float())
        self.register_buffer("alpha", torch.full((len(keys),), float(alpha)))
        self.register_buffer("beta", torch.full((len(keys),), float(beta)))

    @property
    def keys(self) -> Tensor:
        return self.get_buffer("fixed_keys") if self.trained_keys is None else self.trained_keys()

    def forward(self, video_features: Tensor) -> Tensor:
        """Logits `[R B C]` to be added to the zero-shot ones, of unit `[R B E]`."""
        affinity = torch.einsum("rbe,rke->rbk", video_features, self.keys)
        weights = torch.exp(-self.beta.view(-1, 1, 1) * (1.0 - affinity))
        return self.alpha.view(-1, 1, 1) * torch.einsum("rbk,rkc->rbc", weights, self.values)

    @torch.no_grad()
    def search(
        self, *, video_features: Tensor, labels: Tensor, zero_shot_logits: Tensor, grid: TipGrid | None = None
    ) -> Tensor:
        """The best validation accuracy of each run `[R]`; sets alpha and beta to where it is reached first.

        Every (beta, alpha) of the grid is tried, beta outermost, as the authors do; what is in use now is tried first
        and stays unless something is strictly better.

        Args:
            video_features: validation videos, unit `[R B E]`; never test videos.
            labels: `[R B]`.
            zero_shot_logits: `[R B C]`, scale included.
        """
        grid = grid or TipGrid()
        affinity = torch.einsum("rbe,rke->rbk", video_features, self.keys)
        best = _accuracy(zero_shot_logits + self(video_features), labels)
        for beta in grid.betas():
            cache = torch.einsum("rbk,rkc->rbc", torch.exp(-beta * (1.0 - affinity)), self.values)
            for alpha in grid.alphas():
                accuracy = _accuracy(zero_shot_logits + alpha * cache, labels)
                better = accuracy > best
                best = torch.where(better, accuracy, best)
                self.beta[better], self.alpha[better] = beta, alpha
        return best


@dataclass(frozen=True)
class TipGrid:
    """The values of alpha and beta that are tried on validation videos: evenly spaced in `[0.1, largest)`.

    Source: gaopengcuhk/Tip-Adapter@327763e utils.py `search_hp`, configs/imagenet.yaml: beta to 7 in 200 steps, alpha
    to 3 in 20.
    """

    largest_beta: float = 7.0
    n_betas: int = 200
    largest_alpha: float = 3.0
    n_alphas: int = 20

    def betas(self) -> list[float]:
        return [0.1 + i * (self.largest_beta - 0.1) / self.n_betas for i in range(self.n_betas)]

    def alphas(self) -> list[float]:
        return [0.1 + i * (self.largest_alpha - 0.1) / self.n_alphas for i in range(self.n_alphas)]


def _accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == labels).float().mean(dim=1)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted linear probe of one run.

    Attributes:
        weight: float32 `[C E]`.
        bias: float32 `[C]`.
        c: the inverse L2 strength that was selected.
        validation_accuracy: of the probe that was selected.
        converged: whether L-BFGS stopped before its last iteration.
    """

    weight: Tensor
    bias: Tensor
    c: float
    validation_accuracy: float
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """`[B C]` of `features [B E]`, normalised as those it was fitted on."""
        return features @ self.weight.to(features).T + self.bias.to(features)


@dataclass(frozen=True, kw_only=True)
class ProbeVideos:
    """Features and labels a linear probe may look at: training and validation videos, no others.

    Attributes:
        features: `[n E]`, unit.
        labels: int64 `[n]` in `[0, C)`.
        val_features: `[m E]`, unit; selects C alone.
        val_labels: int64 `[m]`.
    """

    features: Tensor
    labels: Tensor
    val_features: Tensor
    val_labels: Tensor

    def __post_init__(self) -> None:
        problems = []
        if len(self.features) != len(self.labels) or len(self.val_features) != len(self.val_labels):
            problems.append("features and labels of unequal number")
        if len(self.val_labels) == 0:
            problems.append("no validation videos: C is selected on them (protocol.val_shots, 4 of 16 in the paper)")
        classes = set(self.labels.tolist())
        if missing := sorted(set(range(max(classes, default=-1) + 1)) - classes):
            problems.append(f"classes without a training video: {missing}")
        if unknown := sorted(set(self.val_labels.tolist()) - classes):
            problems.append(f"validation classes without a training video: {unknown}")
        if len(classes) < 2:
            problems.append(f"{len(classes)} class; a probe needs at least 2")
        if problems:
            raise ValueError(explain("a linear probe cannot be fitted on these videos", got="; ".join(problems)))


def fit_linear_probe(videos: ProbeVideos, *, n_steps: int = C_STEPS, max_iterations: int = 1000) -> LinearProbe:
    """The logistic regression whose C is best on the validation videos, by the paper's sweep.

    Fitted on the training videos alone, in float64; the validation videos choose C and nothing else.

    Source: Radford et al. 2021, appendix A.3; KaiyangZhou/CoOp@61a9cd3 lpclip/linear_probe.py (L-BFGS, 1,000
    iterations).
    """
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise ConfigError(
            explain("a linear probe is fitted by scikit-learn, which is not installed", fix="pip install scikit-learn")
        ) from None

    x, y = videos.features.double().cpu().numpy(), videos.labels.cpu().numpy()
    val_x, val_y = videos.val_features.double().cpu().numpy(), videos.val_labels.cpu().numpy()
    fitted: dict[float, LogisticRegression] = {}

    def accuracy(c: float) -> float:
        if c not in fitted:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # `converged` tells of the one that is kept
                fitted[c] = LogisticRegression(C=c, max_iter=max_iterations).fit(x, y)
        return float(np.mean(fitted[c].predict(val_x) == val_y))

    c = sweep_c(accuracy, n_steps=n_steps)
    weight, bias = fitted[c].coef_, fitted[c].intercept_
    if len(weight) == 1:  # two classes: scikit-learn keeps the second one's row, against 0 for the first
        weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
    return LinearProbe(
        weight=torch.from_numpy(weight).float(),
        bias=torch.from_numpy(bias).float(),
        c=c,
        validation_accuracy=accuracy(c),
        converged=bool(fitted[c].n_iter_.max() < max_iterations),
    )


def sweep_c(accuracy: Callable[[float], float], *, n_steps: int = C_STEPS) -> float:
    """The C that a coarse grid and `n_steps` halvings of the interval around its best one arrive at.

    The grid's best (the largest C of equals) is bracketed by a factor 10 on both sides; each step keeps the half, in
    log10 C, of the better end, the left one of equals. The last better end is the answer.

    Source: KaiyangZhou/CoOp@61a9cd3 lpclip/linear_probe.py; the same steps, on validation accuracy alone.
    """
    peak = max(C_GRID, key=accuracy)
    left, right = np.log10(peak) - 1.0, np.log10(peak) + 1.0
    best = peak
    for _ in range(n_steps):
        middle = 0.5 * (left + right)
        c_left, c_right = float(10.0**left), float(10.0**right)
        if accuracy(c_left) < accuracy(c_right):
            best, left = c_right, middle
        else:
            best, right = c_left, middle
    return best
