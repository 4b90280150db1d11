"""The prompt file: what a run learned, in a few kB, with where it came from. What `coupling.hard_prompts` names.

Tensors: `ctx` [M W], the context as it enters the text tower (coupled, if it was), and `learned.*`, everything the run
trained and the frozen prompts it was coupled with. The document says method, classes, split, store and backbone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prompttune.base.tensor_files import read_tensors, write_tensors
from prompttune.errors import PromptFileError, explain

KIND = "prompttune prompt"
VERSION = 1
_LEARNED = "learned."
_MADE_WITH = ("split_sha256", "store_fingerprint", "pack_hash")
_AS_STORED = ("method", "seed", "config", *_MADE_WITH, "n_ctx", "width", "versions")
DEEP = "context.deep"  # what the model calls its deep prompts: DEEP.0 enters block 1


@dataclass(frozen=True)
class PromptFile:
    """A learned prompt and its provenance.

    Attributes:
        method, seed: of the run.
        config: the run's resolved configuration.
        classes: the classes trained on.
        split_sha256, store_fingerprint, pack_hash: what it was trained on and with.
        n_ctx, width: of `ctx`; 0 where there is none.
        ctx: float32 [M W], or None where no context is shared by the classes.
        learned: every learned tensor by name.
        versions: of the packages that made it.
    """

    method: str
    seed: int
    config: Mapping[str, Any]
    classes: tuple[str, ...]
    split_sha256: str
    store_fingerprint: str
    pack_hash: str
    n_ctx: int
    width: int
    ctx: Tensor | None = field(repr=False)
    learned: Mapping[str, Tensor] = field(repr=False)
    versions: Mapping[str, str] = field(default_factory=dict)

    def hard_prompt(self, *, depth: int = 1) -> Tensor:
        """What it couples: the context [M W]; for `depth` > 1 and a deep prompt [J M W], blocks in order, J <= depth.

        Raises:
            PromptFileError: no context that classes share, or deep prompts of which the file holds a part.
        """
        if self.ctx is None:
            raise PromptFileError(explain(f"the method {self.method} learned no context that classes share"))
        names = [f"{DEEP}.{block}" for block in range(depth - 1)]
        if depth > 1 and ((self.config.get("coupling") or {}).get("depth") or 1) > 1:
            raise PromptFileError(
                explain(
                    "deep prompts that were coupled themselves are not in the file as they entered the blocks",
                    got=f"a prompt of {self.method} with coupling.depth = {self.config['coupling']['depth']}",
                    fix="a hard prompt of a method without coupling, or coupling.deep_hard = false",
                )
            )
        deep = [self.learned[name] for name in names if name in self.learned]
        return torch.stack([self.ctx, *deep]) if deep else self.ctx


def write_prompt_file(path: str | os.PathLike[str], prompt: PromptFile) -> None:
    """Writes a prompt file, whole or not at all."""
    tensors = {f"{_LEARNED}{name}": value for name, value in prompt.learned.items()}
    if prompt.ctx is not None:
        tensors["ctx"] = prompt.ctx
    document = {"format": KIND, "version": VERSION, "classes": list(prompt.classes)}
    write_tensors(path, tensors, document | {name: getattr(prompt, name) for name in _AS_STORED})


def read_prompt_file(path: str | os.PathLike[str], *, pack_hash: str | None = None) -> PromptFile:
    """The prompt file at `path`.

    Args:
        pack_hash: the backbone it must have been learned with; None for any.

    Raises:
        PromptFileError: no such file, a damaged one, one of a later version, or one learned with another backbone.
    """
    tensors, document = read_tensors(path, kind=KIND, error=PromptFileError)
    if document["version"] != VERSION:
        raise PromptFileError(
            explain("a prompt file of another version", where=path, expected=VERSION, got=document["version"])
        )
    if pack_hash is not None and document["pack_hash"] != pack_hash:
        raise PromptFileError(
            explain(
                "the prompt was learned with another backbone",
                where=path,
                expected=f"pack {pack_hash}",
                got=f"pack {document['pack_hash']} (text width {document['width']})",
                fix="train the prompt on a store of the same model: vidfeat extract --model ... --pretrained ...",
            )
        )
    return PromptFile(
        ctx=tensors.get("ctx"),
        learned={name.removeprefix(_LEARNED): v for name, v in tensors.items() if name.startswith(_LEARNED)},
        classes=tuple(document["classes"]),
        **{name: document[name] for name in _AS_STORED},
    )


def read_hard_prompt(path: str | os.PathLike[str], *, pack_hash: str, width: int) -> PromptFile:
    """The prompt file at `path`, fit to be a frozen hard prompt of a tower of that width.

    Raises:
        PromptFileError: as `read_prompt_file`; another width; or no context that classes share.
    """
    found = read_prompt_file(path)
    if found.ctx is None:
        raise PromptFileError(
            explain(
                f"the method {found.method} learned no context that classes share", where=path, expected="ctx [M W]"
            )
        )
    if found.width != width:
        raise PromptFileError(
            explain(
                "the hard prompt does not fit this text tower",
                where=path,
                expected=f"width {width} (pack {pack_hash})",
                got=f"width {found.width} (pack {found.pack_hash})",
                fix="train the hard prompt on a store of the same model",
            )
        )
    return read_prompt_file(path, pack_hash=pack_hash)
