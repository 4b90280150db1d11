"""Class names as prompts: which token stands where, with places kept free for the learned context."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from prompttune.errors import ClassPromptError, explain

Position = Literal["end", "front", "middle"]
POSITIONS: tuple[Position, ...] = get_args(Position)
DEFAULT_TEMPLATE = "{}."


class PromptTokenizer(Protocol):
    """What this module needs of a pack's tokenizer."""

    @property
    def sot_id(self) -> int | None:
        """What stands before every text; None where nothing does (T5's and Gemma's vocabularies)."""

    @property
    def eot_id(self) -> int | None:
        """What stands behind every text; None where nothing does."""

    @property
    def pad_id(self) -> int:
        """What fills a text up to the context length."""

    @property
    def context_length(self) -> int:
        """Tokens per text, start and end included."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without start and end of text."""


@dataclass(frozen=True)
class PlainLayout:
    """The prompts as rows of the whole context length S, the way every CoOp descendant lays them out.

    The reference path runs on it, and the exact one where padding acts.

    Attributes:
        token_ids: int64 `[C S]`, 0 where a context vector stands, padding behind the last token.
        ctx_index: int64 `[C S]`, which context vector stands there, -1 where a token stands.
        eot_index: int64 `[C]`, the position of the last token, EOT where there is one.
    """

    token_ids: Tensor
    ctx_index: Tensor
    eot_index: Tensor


@dataclass(frozen=True)
class ClassPrompts:
    """Tokenised class names around `n_ctx` places for context vectors, one prompt per class.

    `position` says where the context stands, in CoOp's words seen from the class name's end of the prompt:

    =========  ==========================================
    end        `SOS ctx name . EOT`
    front      `SOS name ctx . EOT`
    middle     `SOS ctx[:n_ctx // 2] name ctx[n_ctx // 2:] . EOT`
    =========  ==========================================

    In a vocabulary without SOS or EOT the same stands without them: the context then starts at position 0
    (docs/decisions/0005).

    The name comes with the template's words before it, the full stop with those behind it: `"{}"` gives A5's
    `SOS prefix name postfix EOT` in the middle position. A name and what follows it are tokenised together, and the
    name is the first tokens of that, as many as it has alone; `(sport).` ends in one token, which then is the name's.

    Attributes:
        class_names: as given, in order.
        name_ids: per class, the template's words before the name and the name.
        ending_ids: per class, the template's words behind the name; without EOT.

    Source: KaiyangZhou/CoOp, trainers/coop.py, PromptLearner.forward (end, middle, front).
    """

    class_names: tuple[str, ...]
    n_ctx: int
    position: Position
    template: str
    name_ids: tuple[tuple[int, ...], ...]
    ending_ids: tuple[tuple[int, ...], ...]
    sot_id: int | None
    eot_id: int | None
    pad_id: int
    context_length: int

    @classmethod
    def build(
        cls,
        class_names: Sequence[str],
        tokenizer: PromptTokenizer,
        *,
        n_ctx: int,
        position: Position = "end",
        template: str | None = None,
    ) -> ClassPrompts:
        """The prompts of `class_names`, in that order; underscores in a name are read as blanks.

        Args:
            n_ctx: number of context vectors M; 0 makes prompts of words alone.
            position: where they stand, one of `POSITIONS`.
            template: the frozen words, with `{}` where the name goes; `"{}."` when None.

        Raises:
            ClassPromptError: a prompt longer than the context length, an empty name, the same name twice, a template
                without exactly one `{}`. Every class concerned is named.
        """
        _require_place(position, n_ctx)
        template = DEFAULT_TEMPLATE if template is None else template
        words_before, words_behind = split_template(template)
        names = [name.replace("_", " ").strip() for name in class_names]
        n_name_ids = [len(tokenizer.encode(words_before + name)) for name in names]
        full_ids = [tuple(tokenizer.encode(words_before + name + words_behind)) for name in names]
        prompts = cls(
            class_names=tuple(class_names),
            n_ctx=n_ctx,
            position=position,
            template=template,
            name_ids=tuple(ids[:n] for ids, n in zip(full_ids, n_name_ids, strict=True)),
            ending_ids=tuple(ids[n:] for ids, n in zip(full_ids, n_name_ids, strict=True)),
            sot_id=tokenizer.sot_id,
            eot_id=tokenizer.eot_id,
            pad_id=tokenizer.pad_id,
            context_length=tokenizer.context_length,
        )
        problems = [
            *_empty_names(class_names, names, tokenizer),
            *_repeated_names(class_names, full_ids),
            *prompts._too_long(),
        ]
        if not names:
            problems.append("there are no class names")
        if problems:
            raise ClassPromptError(
                explain(f"{len(problems)} problem(s) with the class names", got="\n            ".join(problems))
            )
        return prompts

    @property
    def n_classes(self) -> int:
        """C."""
        return len(self.class_names)

    @property
    def n_ctx_before(self) -> int:
        """How many context vectors stand in front of the name."""
        return {"end": self.n_ctx, "front": 0, "middle": self.n_ctx // 2}[self.position]

    @property
    def n_start(self) -> int:
        """Positions before the first slot: 1 for SOS, or 0."""
        return int(self.sot_id is not None)

    def slots(self, class_index: int) -> tuple[int, ...]:
        """What stands behind SOS, up to EOT: a token id, or `~j` (negative) for context vector j."""
        ctx = tuple(~j for j in range(self.n_ctx))
        before, behind = ctx[: self.n_ctx_before], ctx[self.n_ctx_before :]
        eot = () if self.eot_id is None else (self.eot_id,)
        return (*before, *self.name_ids[class_index], *behind, *self.ending_ids[class_index], *eot)

    def n_tokens(self, class_index: int) -> int:
        """Tokens of that class's prompt, start and end of text included."""
        return self.n_start + len(self.slots(class_index))

    def subset(self, class_indices: Sequence[int]) -> ClassPrompts:
        """The prompts of these classes alone, in the order given."""
        return replace(
            self,
            class_names=tuple(self.class_names[c] for c in class_indices),
            name_ids=tuple(self.name_ids[c] for c in class_indices),
            ending_ids=tuple(self.ending_ids[c] for c in class_indices),
        )

    def plain_layout(self) -> PlainLayout:
        """The same prompts as padded `[C S]` rows."""
        token_ids = torch.full((self.n_classes, self.context_length), self.pad_id, dtype=torch.int64)
        ctx_index = torch.full_like(token_ids, -1)
        eot_index = torch.zeros(self.n_classes, dtype=torch.int64)
        for c in range(self.n_classes):
            start = () if self.sot_id is None else (self.sot_id,)
            slots = torch.tensor([*start, *self.slots(c)])
            token_ids[c, : len(slots)] = slots.clamp(min=0)
            ctx_index[c, : len(slots)] = torch.where(slots < 0, ~slots, -1)
            eot_index[c] = len(slots) - 1
        return PlainLayout(token_ids=token_ids, ctx_index=ctx_index, eot_index=eot_index)

    def _too_long(self) -> list[str]:
        counts = [(name, self.n_tokens(c)) for c, name in enumerate(self.class_names)]
        return [
            f"{name!r} makes a prompt of {count} tokens, {count - self.context_length} more than the text tower's "
            f"{self.context_length}: shorten the name or the template, or use fewer than {self.n_ctx} context vectors"
            for name, count in counts
            if count > self.context_length
        ]


def split_template(template: str) -> tuple[str, str]:
    """The words before and behind the one `{}` of a template.

    Raises:
        ClassPromptError: no `{}`, or several.
    """
    parts = template.split("{}")
    if len(parts) != 2:
        raise ClassPromptError(
            explain("a template says where the class name goes", expected='exactly one "{}"', got=repr(template))
        )
    return parts[0], parts[1]


def _require_place(position: str, n_ctx: int) -> None:
    if position not in POSITIONS or n_ctx < 0:
        expected, got = f"{POSITIONS}, n_ctx >= 0", f"{position!r}, n_ctx {n_ctx}"
        raise ClassPromptError(explain("no such place for the context", expected=expected, got=got))


def _empty_names(class_names: Sequence[str], names: Sequence[str], tokenizer: PromptTokenizer) -> list[str]:
    return [
        f"class {index} has an empty name ({given!r})"
        for index, (given, name) in enumerate(zip(class_names, names, strict=True))
        if not tokenizer.encode(name)
    ]


def _repeated_names(class_names: Sequence[str], full_ids: Sequence[tuple[int, ...]]) -> list[str]:
    first_with: dict[tuple[int, ...], str] = {}
    problems = []
    for given, ids in zip(class_names, full_ids, strict=True):
        if ids in first_with:
            problems.append(f"{first_with[ids]!r} and {given!r} are the same tokens: no prompt could tell them apart")
        first_with.setdefault(ids, given)
    return problems


def clean_class_name(name: str, *, split_camel_case: bool = False, replace_underscores: bool = True) -> str:
    """The words of a class name: underscores as blanks unless they are to stay; CamelCase split where asked for.

    `HorseRiding` is `Horse Riding`, `TVShow` is `TV Show`; the case of letters is left alone.

    Source: KaiyangZhou/CoOp trainers/coop.py (`name.replace("_", " ")`). UCF-101's names are CamelCase, which GA2-CLIP
    and ViFi-CLIP leave joined.
    """
    if split_camel_case:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    if replace_underscores:
        name = name.replace("_", " ")
    return " ".join(name.split())
