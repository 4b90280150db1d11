"""Prompt files as a registry: what is there, in from other projects and out to them, overlap with a target.

A registry is any folder; prompt files carry their own provenance, so nothing else is kept.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from prompttune.base.tensor_files import write_bytes
from prompttune.config.train_config import merge, resolve
from prompttune.errors import ConfigError, PromptFileError, explain
from prompttune.prompts.file import PromptFile, read_prompt_file, write_prompt_file
from prompttune.prompts.foreign_checkpoints import as_prompt_file, import_context
from prompttune.prompts.suffix_words import words_behind
from prompttune.splits.class_overlap import OverlapReport, class_overlap
from vidfeat.backbone import BackbonePack

if TYPE_CHECKING:
    from prompttune.model.prompt_model import PromptModel

_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class RegistryEntry:
    """A prompt file that was found.

    Attributes:
        path: where.
        prompt: what it holds.
    """

    path: Path
    prompt: PromptFile


def list_prompts(folder: str | os.PathLike[str]) -> list[RegistryEntry]:
    """Every prompt file below a folder, by path; other safetensors files (checkpoints, packs) are not among them.

    Raises:
        PromptFileError: no such folder.
    """
    root = Path(folder)
    if not root.is_dir():
        got, fix = ("a file", f"prompttune prompts show {root}") if root.exists() else (None, None)
        raise PromptFileError(explain("there is no folder of prompt files here", where=root, got=got, fix=fix))
    found = []
    for path in sorted(root.rglob("*.safetensors")):
        try:
            found.append(RegistryEntry(path, read_prompt_file(path)))
        except PromptFileError:
            continue
    return found


def prompt_files(given: Sequence[str | os.PathLike[str]]) -> list[tuple[Path, str]]:
    """The prompt files that somebody names, each with the name of its row in a table.

    A file is a row of its own. Of a folder (`runs/coop`) or a pattern (`runs/*/seed*/prompt.safetensors`) the files
    whose paths differ in their seed alone, and whose settings do, are one row: `runs/coop/seed*/prompt.safetensors`.

    Raises:
        PromptFileError: a folder or pattern without prompt files.
    """
    found: list[tuple[Path, str]] = []
    for one in given:
        path, text = Path(one), os.fspath(one)
        if path.is_file() or not (path.is_dir() or _PATTERN.search(text)):
            found.append((path, path.as_posix()))  # one that is not there is told by who reads it
            continue
        files = [entry.path for entry in list_prompts(path)] if path.is_dir() else sorted(map(Path, glob(text)))
        if not files:
            raise PromptFileError(explain("there is no prompt file here", where=text, expected="prompt.safetensors"))
        rows = {file: re.sub(r"seed\d+", "seed*", file.as_posix()) for file in files}
        settings: dict[str, set[str]] = {}
        for file, row in rows.items():
            own = {k: v for k, v in read_prompt_file(file).config.items() if k not in ("seeds", "out", "device")}
            settings.setdefault(row, set()).add(json.dumps(own, sort_keys=True))
        found += [(file, row if len(settings[row]) == 1 else file.as_posix()) for file, row in rows.items()]
    return found


def import_prompt(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    pack: BackbonePack,
    classes: Sequence[str],
    key: str | None = None,
    position: str = "end",
    hand_written: str | None = None,
) -> PromptFile:
    """What another project's checkpoint learned, written as a prompt file.

    Args:
        checkpoint: read without running anything in it, see `hard_prompts`.
        out: the prompt file to write; never overwritten.
        pack: the backbone it was trained with; the caller vouches for it, the file cannot.
        classes: the classes it was trained on, in their order.
        key: the tensor's name where several could be meant.
        position, hand_written: see `as_prompt_file`.

    Raises:
        PromptFileError: as `import_context` and `words_behind`; a context of another width than the backbone's; parts
            that do not fit the backbone; `out` exists.
    """
    if Path(out).exists():
        raise PromptFileError(explain("the prompt file is there already", where=out, fix="another name"))
    context = import_context(checkpoint, key=key)
    if context.width != pack.config.open_text.width:
        raise PromptFileError(
            explain(
                "the context does not fit this text tower",
                where=checkpoint,
                expected=f"width {pack.config.open_text.width} ({pack.config.name})",
                got=f"width {context.width}",
                fix="name a store of the backbone it was trained with",
            )
        )
    make = partial(
        as_prompt_file, context, classes=classes, pack_hash=pack.hash, position=position, hand_written=hand_written
    )
    prompt = make()  # more or fewer classes are told before anything else
    if context.suffix is not None and context.suffix.shape[-1] == context.width:
        prompt = make(words_behind=words_behind(context.suffix, pack=pack, classes=classes, where=checkpoint))
    _require_fit(prompt, pack, checkpoint)
    write_prompt_file(out, prompt)
    return prompt


def _require_fit(prompt: PromptFile, pack: BackbonePack, checkpoint: str | os.PathLike[str]) -> None:
    """Refuses learned parts that this backbone has no place for, now and not when they are used."""
    from prompttune.model.prompt_model import PromptModel

    tables = merge(prompt.config["as_trained"], {"store": "any"})
    try:
        model = PromptModel(resolve(tables), pack, seeds=[0], classes=prompt.classes)
    except ConfigError as problem:  # its advice is for who trains: a checkpoint's depth and width are what they are
        told = str(problem).splitlines()
        got = next((line.split("got:", 1)[1].strip() for line in told if line.strip().startswith("got:")), told[0])
        raise PromptFileError(
            explain(
                "the checkpoint's prompts do not fit this backbone",
                where=checkpoint,
                expected=f"prompts of {pack.config.name} ({pack.config.pretrained})",
                got=got,
                fix="--store: a store of the backbone it was trained with",
            )
        ) from problem
    model.load_run_tensors(0, prompt.learned)


def export_prompt(prompt: PromptFile, out: str | os.PathLike[str]) -> None:
    """Writes the context alone: a safetensors file of one tensor `ctx` [M W], which any CoOp descendant can copy in.

    Raises:
        PromptFileError: no context that classes share, or `out` exists.
    """
    from safetensors.torch import save

    context = prompt.hard_prompt()
    if Path(out).exists():
        raise PromptFileError(explain("the file is there already", where=out, fix="another name"))
    write_bytes(Path(out), save({"ctx": context.contiguous()}))


def overlap_with(model: PromptModel, *, source: Sequence[str], target: Sequence[str]) -> OverlapReport:
    """Which of the target's classes the source has, by name and by frozen text features in the model's templates."""
    if not source or not target:
        return class_overlap(source, target)
    return class_overlap(
        source,
        target,
        source_features=model.frozen_text(model.class_texts(source)),
        target_features=model.frozen_text(model.class_texts(target)),
    )
