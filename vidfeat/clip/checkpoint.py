"""A checkpoint file read into open_clip's tensor names, whichever code base saved it; no pickled code ever runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidfeat.backbone.weights import EMBEDDING, EMBEDDING_IDS, EMBEDDING_ROWS, expand_embedding
from vidfeat.errors import UnsupportedModelError, explain

_WRAPPERS = ("state_dict", "model_state_dict", "model")
# Order matters: wrapping prefixes come off first, then a code base's names for the towers.
_WRAPPING_PREFIXES = ("module.", "_orig_mod.", "model.")
_TOWER_PREFIXES = (("image_encoder.", "visual."), ("text_encoder.", ""), ("text.", ""))
_TEXT_TENSORS = (EMBEDDING, "positional_embedding", "text_projection", "cls_emb")
_TEXT_MODULES = ("transformer.", "ln_final.", "text_projection.")
# The projection behind a text tower of transformers; its buffers, which older files hold, are no weights.
_PROJECTION, _POSITION_IDS = "text.proj.", "position_ids"
# Saved by OpenAI's code beside the weights; sizes and a constant mask, no weights.
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size", "attn_mask"}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of one file under open_clip's names.

    Attributes:
        path: the file.
        text, visual: states of the towers (`visual.` taken off).
        logit_scale: not exponentiated, as stored; None when the file has none.
        logit_bias: SigLIP's; None for models without one.
        leftovers: names of tensors outside both towers, as stored (prompt learners, fusion heads).
        openai_code: True when the names show that OpenAI's model code made it, whose activation is always QuickGELU.
    """

    path: Path
    text: dict[str, Tensor]
    visual: dict[str, Tensor]
    logit_scale: float | None
    logit_bias: float | None
    leftovers: tuple[str, ...]
    openai_code: bool


class InertObject(dict[Any, Any]):
    """Stands for any pickled object of a checkpoint that is no tensor: accepts what is put into it, does nothing."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


def read_checkpoint(path: str | os.PathLike[str], *, vocab_size: int) -> Checkpoint:
    """The towers of a checkpoint file.

    Reads `.safetensors` (also with a compact token embedding: `token_embedding.ids` [n] int64 and
    `token_embedding.rows` [n W] in place of `token_embedding.weight`) and torch files, through `weights_only=True`.
    Wrappers (`state_dict`, `model`, ...), `module.` and the names of ViFi-CLIP's line (`image_encoder.`,
    `text_encoder.`) are mapped to open_clip's.

    Raises:
        FileNotFoundError: no such file.
        UnsupportedModelError: a file that cannot be read without running its code, or two tensors of one name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(explain("there is no such weights file", where=path, fix="check the path"))
    return part_state(_flat(_read_tensors(path, vocab_size), path), path=path, vocab_size=vocab_size)


def part_state(tensors: Mapping[str, Tensor], *, path: Path, vocab_size: int) -> Checkpoint:
    """A flat state dict under open_clip's names, parted into its towers; `path` is what errors call it.

    Raises:
        UnsupportedModelError: two tensors of one name, or a compact embedding that does not fit the vocabulary.
    """
    openai_code = any(name.startswith(("image_encoder.", "input_resolution")) for name in map(_unwrapped, tensors))
    named = _renamed(tensors, path)
    if EMBEDDING_IDS in named and EMBEDDING_ROWS in named:
        ids, rows = named.pop(EMBEDDING_IDS)[1], named.pop(EMBEDDING_ROWS)[1]
        try:
            named[EMBEDDING] = (EMBEDDING, expand_embedding(ids=ids, rows=rows, vocab_size=vocab_size))
        except ValueError as error:
            raise UnsupportedModelError(
                explain("the compact token embedding cannot be", where=path, got=error)
            ) from error
    scale, bias = named.pop("logit_scale", None), named.pop("logit_bias", None)
    text = {name: value for name, (stored, value) in named.items() if _is_text(name) or _PROJECTION in stored}
    others = {stored for name, (stored, _) in named.items() if name not in text and not name.startswith("visual.")}
    return Checkpoint(
        path=path,
        text={name: value for name, value in text.items() if not name.endswith(_POSITION_IDS)},
        visual={
            name.removeprefix("visual."): value for name, (_, value) in named.items() if name.startswith("visual.")
        },
        logit_scale=None if scale is None else float(scale[1]),
        logit_bias=None if bias is None else float(bias[1]),
        leftovers=tuple(sorted(others)),
        openai_code=openai_code,
    )


def _is_text(name: str) -> bool:
    return name in _TEXT_TENSORS or name.startswith(_TEXT_MODULES)


def _read_tensors(path: Path, vocab_size: int) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                declared = (file.metadata() or {}).get("vocab_size", str(vocab_size))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        except SafetensorError as error:
            raise UnsupportedModelError(
                explain("this is not a whole safetensors file", where=path, got=error)
            ) from error
        if declared != str(vocab_size):
            raise UnsupportedModelError(
                explain(
                    "these weights have another vocabulary than the model config",
                    where=path,
                    expected=f"{vocab_size} tokens",
                    got=f"{declared} (metadata of the file)",
                )
            )
        return tensors
    return _read_torch_file(path)


def _read_torch_file(path: Path) -> Any:
    """The content of a torch file, with every pickled global that is not torch's own replaced by an inert object."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        placeholders = [(InertObject, name) for name in unknown]
        with torch.serialization.safe_globals(placeholders):  # type: ignore[arg-type]
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch raises half a dozen unrelated types here (RuntimeError, UnpicklingError, EOFError, AttributeError, ...).
        raise UnsupportedModelError(
            explain(
                "this weights file cannot be read as plain tensors",
                where=path,
                expected="safetensors, or a torch file of tensors (TorchScript archives hold code and are not read)",
                got=f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}",
                fix="save the model's state_dict() as safetensors where you trust the file, and give that",
            )
        ) from error


def _flat(content: Any, path: Path) -> dict[str, Tensor]:
    """The state dict inside a checkpoint: itself, or what a known wrapper key holds."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {}
    if isinstance(content, Mapping):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:10])) if isinstance(content, Mapping) else type(content).__name__
        raise UnsupportedModelError(
            explain(
                "this weights file holds no state dict",
                where=path,
                expected=f"tensors by name, at the top or under one of {', '.join(_WRAPPERS)}",
                got=keys,
            )
        )
    return tensors


def _unwrapped(name: str) -> str:
    stripped = True
    while stripped:
        stripped = False
        for prefix in _WRAPPING_PREFIXES:
            if name.startswith(prefix):
                name, stripped = name.removeprefix(prefix), True
    return name


def _renamed(tensors: Mapping[str, Tensor], path: Path) -> dict[str, tuple[str, Tensor]]:
    """{open_clip's name: (stored name, tensor)}."""
    named: dict[str, tuple[str, Tensor]] = {}
    for stored, value in tensors.items():
        name = _unwrapped(stored)
        for prefix, replacement in _TOWER_PREFIXES:
            if name.startswith(prefix):
                name = replacement + name.removeprefix(prefix)
                break
        if name in _NOT_WEIGHTS:
            continue
        if name in named:
            raise UnsupportedModelError(
                explain(
                    "two tensors of this weights file are the same part of the model",
                    where=path,
                    got=f"{named[name][0]} and {stored}, both {name}",
                    fix="save the one model you want on its own",
                )
            )
        named[name] = (stored, value)
    return named
