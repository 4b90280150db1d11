"""The frozen text tower: token ids to features, with its parts open to an engine that runs the blocks itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Transformer
from .config import TextConfig
from .layers import Embedding, LayerNorm


class TextTower(nn.Module):
    """CLIP's causal text transformer with open_clip's parameter names; frozen, differentiable in its activations.

    `token_embedding`, `positional_embedding`, `blocks`, `ln_final` and `text_projection` are public: `forward` is the
    plain path through them.

    Source: mlfoundations/open_clip, src/open_clip/model.py, CLIP.encode_text (3.3.0).
    """

    def __init__(self, config: TextConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))
        self.transformer = Transformer(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
        )
        self.ln_final = LayerNorm(config.width)

    @property
    def blocks(self) -> nn.ModuleList:
        """The residual blocks in order (each a ResidualBlock)."""
        return self.transformer.resblocks

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.config.layers

    @property
    def embed_dim(self) -> int:
        """E, the width of the joint space."""
        return self.text_projection.shape[1]

    def embed(self, token_ids: Tensor) -> Tensor:
        """[... W] embeddings of token ids [...], without positions."""
        return self.token_embedding(token_ids)

    def encode_embeddings(self, embeddings: Tensor, *, eot_index: Tensor) -> Tensor:
        """[C E] features, not normalised, of embeddings [C S W] without positions, read at `eot_index` [C] int64.

        Positions [0, S) are added; S may be shorter than the context length, as rows behind EOT never act.
        """
        length = embeddings.shape[1]
        if length > self.config.context_length:
            raise ValueError(f"{length} text tokens do not fit the context length {self.config.context_length}")
        x = embeddings + self.positional_embedding[:length].to(embeddings.dtype)
        for block in self.blocks:
            x = block(x, is_causal=True)
        return self.ln_final(x[torch.arange(len(x), device=x.device), eot_index]) @ self.text_projection

    def forward(self, token_ids: Tensor) -> Tensor:
        """[C E] features of token ids [C S] int64, not normalised; open_clip's `encode_text`.

        The end-of-text token has the highest id of the vocabulary, so it is found by argmax, as CLIP does.
        """
        return self.encode_embeddings(self.embed(token_ids), eot_index=token_ids.argmax(dim=-1))
