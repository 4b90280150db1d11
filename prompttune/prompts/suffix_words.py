"""Which words stood behind a released context: CoOp's line saves their embeddings beside it, as `token_suffix`.

The rows are rows of the text tower's own embedding, so they tell the words of every prompt: the class names in their
order, frozen words between context and name (MaPLe learns two tokens and keeps "of a"), and whether the checkpoint is
of this backbone at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prompttune.errors import PromptFileError, explain
from prompttune.text.class_prompts import clean_class_name
from vidfeat.backbone import BackbonePack, Tokenizer

# Released in half precision, and PromptSRC's are a weighted sum of equal rows in it: 2^-11 of a value, twenty times.
_TOLERANCE = 2e-2


def words_behind(suffix: Tensor, *, pack: BackbonePack, classes: Sequence[str], where: object) -> str:
    """The frozen words between the context and the class name, "" for none; the name is followed by a full stop.

    Args:
        suffix: `token_suffix` [C S W].
        classes: those it was trained on, in their order.

    Raises:
        PromptFileError: embeddings of another backbone; prompts of other classes, or in another order; words behind the
            name, which no prompt of ours has.
    """
    tokenizer = pack.tokenizer()
    if not isinstance(tokenizer, Tokenizer):  # of another family than CLIP's, which these releases are all of
        return ""
    with torch.no_grad():
        table = pack.text_tower().embed(torch.arange(tokenizer.vocab_size)).float().cpu()
    rows = _token_ids(suffix, table=table, end=tokenizer.eot_id, pack=pack, where=where)
    names = [clean_class_name(name) for name in classes]
    for before, behind in _around(rows, names, tokenizer, table):
        texts = [before + name + behind for name in names]
        if all(_alike(tokenizer.encode(text), ids, table) for text, ids in zip(texts, rows, strict=True)):
            if behind != ".":
                got = f"{before}{{}}{behind}"
                what = "the checkpoint's prompts have words behind the class name, which a learned context has not here"
                raise PromptFileError(
                    explain(what, where=f"{where}, token_suffix", expected="[M] {}.", got=f"[M] {got}")
                )
            return before.strip()
    held = [tokenizer.decode(ids).strip() for ids in rows]
    first = next((place for place, text in enumerate(held) if names[place].lower() not in text), 0)
    raise PromptFileError(
        explain(
            "the classes are not those of the checkpoint, or not in its order",
            where=f"{where}, token_suffix",
            expected=f"class {first}: {held[first]!r}" + (f" (then {', '.join(held[first + 1 : first + 4])})"),
            got=f"class {first}: {classes[first]!r}",
            fix="the class file of that training, in its order (Dassl sorts by label)",
        )
    )


def _alike(ids: Sequence[int], others: Sequence[int], table: Tensor) -> bool:
    """Whether the tower is given the same for both: tokens that it never learned may share one embedding."""
    return len(ids) == len(others) and torch.equal(table[list(ids)], table[list(others)])


def _around(
    rows: Sequence[list[int]], names: Sequence[str], tokenizer: Tokenizer, table: Tensor
) -> list[tuple[str, str]]:
    """What may be the words before and behind the name, seen from a class whose name ends in a letter or digit."""
    place = next((index for index, name in enumerate(names) if name[-1:].isalnum()), 0)
    ids, name_ids = rows[place], tokenizer.encode(names[place])
    found = []
    for start in range(len(ids) - len(name_ids) + 1):
        if _alike(ids[start : start + len(name_ids)], name_ids, table):
            before, behind = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start + len(name_ids) :]).strip()
            found.append((before, f" {behind}" if behind[:1].isalnum() else behind))
    return found


def _token_ids(suffix: Tensor, *, table: Tensor, end: int, pack: BackbonePack, where: object) -> list[list[int]]:
    """Ids of each class up to the `end` of its text; of tokens with one embedding any."""
    rows: list[list[int]] = [[] for _ in suffix]
    open_rows = list(range(len(suffix)))
    for column in suffix.detach().float().unbind(1):
        own = column[open_rows]
        nearest = torch.cdist(own, table).argmin(dim=1)
        error = (own - table[nearest]).abs().amax(dim=1) / own.abs().amax(dim=1).clamp(min=1e-6)
        if bool((error > _TOLERANCE).any()):
            raise PromptFileError(
                explain(
                    "the checkpoint was trained with another backbone than this one",
                    where=f"{where}, token_suffix",
                    expected=f"word embeddings of {pack.config.name} ({pack.config.pretrained})",
                    got=f"rows that are {float(error.max()):.2g} off the nearest",
                    fix="--store: a store of the backbone it was trained with",
                )
            )
        for row, token in zip(open_rows, nearest.tolist(), strict=True):
            rows[row].append(token)
        open_rows = [row for row in open_rows if rows[row][-1] != end]
        for ids in rows:
            if ids and ids[-1] == end:
                ids.pop()
        if not open_rows:
            break
    return rows
