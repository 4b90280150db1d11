"""Captions as token rows, and open_clip's text tower run on them without its padding."""

import functools
from typing import Any

import torch

from benchmarks.world.captions import all_phrases
from benchmarks.world.clip_weights import OpenClip

BATCH_GROUPS = 4
"""Parts a batch of captions is cut into by length: short captions do not pay for the padding of long ones."""


@functools.cache
def _tokenizer() -> Any:
    from open_clip import SimpleTokenizer

    return SimpleTokenizer()


@functools.cache
def trained_token_ids() -> tuple[int, ...]:
    """The ids of every token a caption can hold, start and end included, ascending."""
    tokenizer = _tokenizer()
    ids = {token for phrase in all_phrases() for token in tokenizer.encode(phrase)}
    return tuple(sorted(ids | {tokenizer.sot_token_id, tokenizer.eot_token_id}))


class CaptionTokenizer:
    """CLIP's BPE, with ids renumbered to the rows of a small embedding table that holds `trained_token_ids` alone.

    The order of ids is kept, so the end token is still the largest and open_clip's argmax pooling still finds it.
    """

    def __init__(self) -> None:
        self.ids = trained_token_ids()
        self._row_of = {token: row for row, token in enumerate(self.ids)}

    def __call__(self, captions: tuple[str, ...] | list[str]) -> list[list[int]]:
        """The rows of each caption's tokens, start and end included, without padding."""
        tokenizer = _tokenizer()
        start, end = tokenizer.sot_token_id, tokenizer.eot_token_id
        return [[self._row_of[t] for t in (start, *tokenizer.encode(text), end)] for text in captions]


def encode_rows(model: OpenClip, rows: list[list[int]]) -> torch.Tensor:
    """Text features [B E] of token `rows`: what open_clip's `encode_text` gives, without computing the padding.

    Exact, because the tower is causal and is read at the end token.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    share = -(-len(order) // BATCH_GROUPS)
    features = [_encode_padded(model, [rows[i] for i in order[s : s + share]]) for s in range(0, len(order), share)]
    inverse = torch.empty(len(order), dtype=torch.long)
    inverse[torch.tensor(order)] = torch.arange(len(order))
    return torch.cat(features)[inverse]


def _encode_padded(model: OpenClip, rows: list[list[int]]) -> torch.Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    n = int(lengths.max())
    tokens = torch.tensor([row + [0] * (n - len(row)) for row in rows])
    x = model.token_embedding(tokens) + model.positional_embedding[:n]
    x = model.transformer(x, attn_mask=model.attn_mask[:n, :n])
    x = x[torch.arange(len(rows)), lengths - 1]
    return model.ln_final(x) @ model.text_projection
