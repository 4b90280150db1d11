"""A plain CoOp for calibration alone: learned context in front of every class name, the C x 77 path, nothing clever.

Source: Zhou et al. 2022, "Learning to Prompt for Vision-Language Models", unified context, class at the end.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.world.clip_weights import OpenClip
from benchmarks.world.features import VideoFeatures

TEMPLATE = "a video of {}."


@dataclass(frozen=True)
class CoopOptions:
    """How CoOp is trained. SGD with a cosine to zero; momentum 0.9, weight decay 5e-4 as in the paper's code."""

    n_ctx: int = 16
    shots: int = 16
    epochs: int = 200
    batch_size: int = 32
    learning_rate: float = 1e-2


class ContextTextEncoder:
    """Class features of `names` under a context, from open_clip's text tower, cut after the longest name."""

    def __init__(self, model: OpenClip, names: tuple[str, ...], n_ctx: int):
        from open_clip import get_tokenizer

        texts = [" ".join(["x"] * n_ctx) + f" {name}." if n_ctx else TEMPLATE.format(name) for name in names]
        tokens = get_tokenizer("ViT-B-32")(texts)
        self._end = tokens.argmax(dim=-1)
        tokens = tokens[:, : int(self._end.max()) + 1]
        self._model, self._n_ctx = model, n_ctx
        with torch.no_grad():
            self._embeddings = model.token_embedding(tokens)

    def __call__(self, context: torch.Tensor | None = None) -> torch.Tensor:
        """Features [C E] of length 1 with `context` [M W] in the places after the start token."""
        model, x = self._model, self._embeddings
        n = x.shape[1]
        if context is not None:
            shared = context.expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], shared, x[:, 1 + self._n_ctx :]], dim=1)
        x = model.transformer(x + model.positional_embedding[:n], attn_mask=model.attn_mask[:n, :n])
        x = model.ln_final(x[torch.arange(len(x)), self._end]) @ model.text_projection
        return F.normalize(x, dim=-1)


def accuracy(class_features: torch.Tensor, data: VideoFeatures, class_ids: range) -> float:
    """Top-1 accuracy in percent on the test videos of `class_ids`, among these classes alone; row i is class_ids[i]."""
    chosen = ~data.is_train & (data.labels >= class_ids.start) & (data.labels < class_ids.stop)
    predicted = (data.features[chosen] @ class_features.T).argmax(dim=1) + class_ids.start
    return 100.0 * (predicted == data.labels[chosen]).float().mean().item()


def train_context(
    model: OpenClip, names: tuple[str, ...], data: VideoFeatures, options: CoopOptions, seed: int
) -> torch.Tensor:
    """The context [M W] learned from `options.shots` train videos of each of the first `len(names)` classes."""
    rng = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    encode = ContextTextEncoder(model, names, options.n_ctx)
    chosen = torch.cat([_draw_shots(data, c, options.shots, rng) for c in range(len(names))])
    features, labels = data.features[chosen], data.labels[chosen]
    width = model.token_embedding.embedding_dim
    context = nn.Parameter(0.02 * torch.randn(options.n_ctx, width, generator=rng))
    optimizer = torch.optim.SGD([context], lr=options.learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.epochs)
    scale = model.logit_scale.exp().item()
    for _ in range(options.epochs):
        for batch in torch.randperm(len(chosen), generator=rng).split(options.batch_size):
            loss = F.cross_entropy(scale * features[batch] @ encode(context).T, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return context.detach()


def _draw_shots(data: VideoFeatures, class_id: int, shots: int, rng: torch.Generator) -> torch.Tensor:
    indices = torch.nonzero(data.is_train & (data.labels == class_id)).flatten()
    return indices[torch.randperm(len(indices), generator=rng)[:shots]]
