"""The frozen text tower: token ids to features, with its parts open to an engine that runs the blocks itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import BlockOptions, ResidualBlock, Transformer
from .layers import Embedding, LayerNorm, Linear
from .tower_config import TextConfig


class FrozenText(Protocol):
    """What any text tower offers: features of whole texts, for zero-shot, adapters and the linear probe."""

    @property
    def embed_dim(self) -> int:
        """E, the width of the joint space."""

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All weights."""

    def n_needed(self, token_ids: Tensor) -> Tensor:
        """How many leading tokens of each text [C S] its feature depends on, int64 [C]."""

    def __call__(self, token_ids: Tensor) -> Tensor:
        """[C E] features, not normalised, of token ids [C S] int64 cut to at least `n_needed` columns."""


class PromptableText(FrozenText, Protocol):
    """A text tower whose inside is open, so that learned vectors can stand among its tokens.

    What is not here, the engine does not use: a family that offers this trains every text prompt. `config.path` says by
    which exact path.
    """

    @property
    def config(self) -> TextConfig:
        """Sizes, and how a text is read."""

    @property
    def positional_embedding(self) -> Tensor:
        """[n_positions W]."""

    @property
    def blocks(self) -> Blocks:
        """The residual blocks in order."""

    def embed(self, token_ids: Tensor) -> Tensor:
        """[... W] embeddings of token ids [...], without positions; the id `vocab_size` is the class embedding."""

    def visible(self, token_ids: Tensor) -> Tensor | None:
        """Who attends to whom, bool [C 1 S S]; None where `config.causal` says it all."""

    def read(self, rows: Tensor) -> Tensor:
        """[... E] features of rows [... W] that left the last block."""


class Blocks(Protocol):
    """A sequence of residual blocks."""

    def __iter__(self) -> Iterator[ResidualBlock]:
        """In order."""

    def __len__(self) -> int:
        """How many."""


class TextTower(nn.Module):
    """The text transformer of open_clip's models, with its parameter names; frozen, differentiable in its activations.

    `token_embedding`, `positional_embedding`, `blocks`, `ln_final` and `text_projection` are public: `forward` is the
    plain path through them.

    With pooling `class`, CoCa's: a class embedding stands behind the last of the `context_length` tokens and is read.
    Padding is hidden by a mask that open_clip's weights were trained with, one place off: the row *behind* a padding
    token is hidden from all, so the first padding token is seen, and the class embedding does not see itself unless
    the text fills the whole length. Token `pad_id` counts as padding inside a text, too (CLIP's is "!").

    Source: mlfoundations/open_clip, src/open_clip/model.py, CLIP.encode_text; src/open_clip/transformer.py,
    TextTransformer (3.3.0).
    """

    def __init__(self, config: TextConfig, *, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        self.embed_dim = embed_dim
        self.token_embedding = Embedding(config.vocab_size, config.width)
        self.positional_embedding = nn.Parameter(torch.empty(config.n_positions, config.width))
        self.cls_emb = nn.Parameter(torch.empty(config.width)) if config.pooling == "class" else None
        self.text_projection: nn.Parameter | Linear | None = None
        if config.projection == "matrix":
            self.text_projection = nn.Parameter(torch.empty(config.width, embed_dim))
        elif config.projection == "linear":
            self.text_projection = Linear(config.width, embed_dim)
        elif config.width != embed_dim:
            raise ValueError(f"text tower: no projection from width {config.width} to the joint space's {embed_dim}")
        self.transformer = Transformer(
            layers=config.layers,
            width=config.width,
            heads=config.heads,
            mlp_width=config.mlp_width,
            activation=config.activation,
            options=BlockOptions(norm_eps=config.norm_eps),
        )
        self.ln_final = LayerNorm(config.width, eps=config.norm_eps)

    @property
    def blocks(self) -> Blocks:
        """The residual blocks in order."""
        return cast("Blocks", self.transformer.resblocks)

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.config.layers

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""
        return self.positional_embedding.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.positional_embedding.device

    def embed(self, token_ids: Tensor) -> Tensor:
        """[... W] embeddings of token ids [...], without positions; the id `vocab_size` is the class embedding."""
        if self.cls_emb is None:
            return self.token_embedding(token_ids)
        is_class = token_ids == self.config.vocab_size
        words = self.token_embedding(token_ids.masked_fill(is_class, 0))
        return torch.where(is_class.unsqueeze(-1), self.cls_emb, words)

    def read(self, rows: Tensor) -> Tensor:
        """[... E] features of rows [... W] that left the last block; gradients reach the rows alone."""
        norm, projection = self.ln_final, self.text_projection
        rows = F.layer_norm(rows, norm.normalized_shape, norm.weight.detach(), norm.bias.detach(), norm.eps)
        if isinstance(projection, Linear):
            return F.linear(rows, projection.weight.detach(), projection.bias.detach())
        return rows if projection is None else rows @ projection.detach()

    def visible(self, token_ids: Tensor) -> Tensor | None:
        """Who attends to whom, bool [C 1 S S]; None where `config.causal` says it all.

        Args:
            token_ids: [C S]; of pooling `class` with the class embedding's id in front or not, whatever its length.
        """
        if self.config.pooling != "class":
            return None
        length = token_ids.shape[1]
        shown = torch.ones_like(token_ids, dtype=torch.bool)
        shown[:, 1:] = token_ids[:, :-1] != self.config.pad_id
        causal = torch.ones(length, length, dtype=torch.bool, device=token_ids.device).tril()
        return (causal & shown.unsqueeze(1)).unsqueeze(1)

    def read_index(self, token_ids: Tensor) -> Tensor:
        """The position that is read, int64 [C], of texts [C S]."""
        if self.config.pooling == "argmax":
            return token_ids.argmax(dim=-1)
        if self.config.eos_id is not None:
            return token_ids.eq(self.config.eos_id).int().argmax(dim=-1)
        return token_ids.new_full((len(token_ids),), self.config.n_positions - 1)

    def n_needed(self, token_ids: Tensor) -> Tensor:
        """How many leading tokens of each text [C S] its feature depends on, int64 [C]: where each token attends to
        those before it alone, what stands behind the row that is read never acts."""
        if self.config.path == "shared-prefix" and self.config.pooling != "class":
            return self.read_index(token_ids) + 1
        return token_ids.new_full((len(token_ids),), self.config.context_length)

    def encode_embeddings(self, embeddings: Tensor, *, read_index: Tensor, visible: Tensor | None = None) -> Tensor:
        """[C E] features, not normalised, of embeddings [C S W] without positions, read at `read_index` [C] int64.

        Positions [0, S) are added; S may be shorter than all positions where those behind never act (`n_needed`).
        `visible` bool [C 1 S S] takes the place of the causal rule.
        """
        length = embeddings.shape[1]
        if length > self.config.n_positions:
            raise ValueError(f"{length} text tokens do not fit the context length {self.config.n_positions}")
        x = embeddings + self.positional_embedding[:length].to(embeddings.dtype)
        is_causal = self.config.causal and visible is None
        for block in self.blocks:
            x = block(x, is_causal=is_causal, visible=visible)
        return self.read(x[torch.arange(len(x), device=x.device), read_index])

    def forward(self, token_ids: Tensor) -> Tensor:
        """[C E] features of token ids [C S] int64, not normalised; open_clip's `encode_text`.

        Raises:
            ValueError: texts cut shorter than what acts on the feature.
        """
        if self.config.pooling == "class":
            token_ids = F.pad(token_ids, (0, 1), value=self.config.vocab_size)
        index = self.read_index(token_ids)
        if self.config.pooling in ("last", "class") or not self.config.causal:
            expected = self.config.n_positions
            if token_ids.shape[1] != expected:
                raise ValueError(f"all {expected} positions change the feature, the texts have {token_ids.shape[1]}")
        return self.encode_embeddings(self.embed(token_ids), read_index=index, visible=self.visible(token_ids))
