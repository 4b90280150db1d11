"""Which words of the vocabulary a learned context is nearest to: a look at it, not its meaning.

Source: Zhou et al. 2022 (CoOp), section 4.4 and interpret_prompt.py: Euclidean distance to the token embedding. Learned
vectors often lie far from every word, so the distance to the nearest is printed beside it, and what two words of the
vocabulary are usually apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prompttune.errors import PromptFileError, explain
from prompttune.prompts.file import PromptFile
from vidfeat.backbone import BackbonePack

_SAMPLE = 1000


@dataclass(frozen=True)
class NearWord:
    """A word beside one learned vector.

    Attributes:
        block: of the text tower that the vector enters.
        class_name: whose context it is; "" where classes share it.
        vector: its place in the context, from 0.
        rank: 1 for the nearest.
        distance: Euclidean, in the space of token embeddings.
    """

    block: int
    class_name: str
    vector: int
    rank: int
    word: str
    distance: float


def nearest_words(prompt: PromptFile, pack: BackbonePack, *, n: int = 5) -> list[NearWord]:
    """The n nearest words of every vector that enters block 0; deeper ones live in another space, so not theirs.

    Raises:
        PromptFileError: no context, or no vocabulary that can be spelled.
    """
    context = prompt.ctx if prompt.ctx is not None else prompt.learned.get("context.ctx")
    tokenizer = pack.tokenizer()
    if context is None or not hasattr(tokenizer, "decode"):
        what = "there is no learned context" if context is None else "this backbone's vocabulary cannot be spelled"
        raise PromptFileError(explain(what, got=f"{prompt.method}, {pack.config.name}"))
    table = _embeddings(pack)
    rows = context if context.dim() == 3 else context[None]
    names = prompt.classes if context.dim() == 3 else ("",)
    found = []
    for name, vectors in zip(names, rows, strict=True):
        apart = torch.cdist(vectors.float(), table, compute_mode="donot_use_mm_for_euclid_dist")  # exact for near ones
        distances, ids = apart.topk(min(n, len(table)), largest=False)
        for vector, (own, words) in enumerate(zip(distances.tolist(), ids.tolist(), strict=True)):
            found += [
                NearWord(0, name, vector, rank, tokenizer.decode([word]).strip(), distance)
                for rank, (distance, word) in enumerate(zip(own, words, strict=True), 1)
            ]
    return found


def usual_distance(pack: BackbonePack) -> float:
    """Median distance from a word to its nearest other word, over evenly spaced words of the vocabulary."""
    table = _embeddings(pack)
    some = table[:: max(1, len(table) // _SAMPLE)]
    return float(torch.cdist(some, table).topk(2, largest=False).values[:, 1].median())


@torch.no_grad()
def _embeddings(pack: BackbonePack) -> Tensor:
    """[vocabulary W], of the words that the pack has an embedding for (a small pack leaves out rows of zeros)."""
    tower = pack.text_tower()
    return tower.embed(torch.arange(pack.tokenizer().vocab_size)).float().cpu()
