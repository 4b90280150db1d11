"""Context vectors out of other projects' checkpoints, without running anything the file contains.

A torch checkpoint is a pickle: loading one can run any program its author put in. Here it is read by torch's
weights-only unpickler, which rebuilds tensors and plain containers and refuses everything else. Configuration objects
and numpy scalars, which the CoOp line saves beside the weights, are replaced by empty stand-ins of their names; their
own code is never imported. Files of any other content are refused, with the way to convert them.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prompttune.errors import PromptFileError, explain
from prompttune.prompts.file import PromptFile
from prompttune.prompts.released_parts import ReleasedParts, released_parts

# The context's name in CoOp, KgCoOp, ProGrad, MaPLe, PromptSRC and ViFi-CLIP; in GA2-CLIP.
CONTEXT_NAMES = ("ctx", "ctx_VPT")
# Real checkpoints wrap their tensors two or three times; a dictionary that holds itself must end somewhere.
_DEEPEST_NESTING = 6
# Deep prompts of the text tower in PromptSRC, ViFi-CLIP and GA2-CLIP.
_DEEP_NAME = re.compile(r"(?:^|\.)text_encoder\.transformer\.resblocks\.(\d+)\.VPT_shallow$")


@dataclass(frozen=True)
class ImportedContext:
    """A context found in a checkpoint.

    Attributes:
        ctx: float32 `[M W]`, the vectors beside the class name; `[C M W]` where every class has its own.
        deep: float32 `[J-1 M W]`, those that replace them at the input of blocks 1, 2, ...; None without deep prompts.
        key: the context's name in the file.
        path: where it was read.
        sha256: of the whole file.
        dtype: as it was stored.
        n_classes: how many classes the file was trained on, where it says so (`token_prefix`); None where not.
        parts: what else was learned, as parts of ours.
        suffix: float32 `[C S W]`, embeddings of the words behind the context, where the file has them.
    """

    ctx: Tensor = field(repr=False)
    deep: Tensor | None = field(repr=False)
    key: str
    path: str
    sha256: str
    dtype: str
    n_classes: int | None = None
    parts: ReleasedParts = field(default_factory=ReleasedParts)
    suffix: Tensor | None = field(default=None, repr=False)

    @property
    def n_ctx(self) -> int:
        return self.ctx.shape[-2]

    @property
    def width(self) -> int:
        return self.ctx.shape[-1]

    @property
    def left_out(self) -> tuple[str, ...]:
        """Learned tensors that no prompt file of ours takes: the rest alone is not what was trained."""
        return self.parts.left_out

    def stacked(self) -> Tensor:
        """`[J M W]` with the text input's context first, as `Coupling` takes hard prompts of several blocks."""
        first = self.ctx.unsqueeze(0)
        return first if self.deep is None else torch.cat([first, self.deep])


def import_context(path: str | os.PathLike[str], *, key: str | None = None) -> ImportedContext:
    """The context in a CoOp-, ViFi- or GA2-style checkpoint, or in a safetensors file of tensors.

    Args:
        path: a torch checkpoint or a safetensors file.
        key: the tensor's name, or how it ends; None where one name alone ends in `ctx` or `ctx_VPT`.

    Raises:
        PromptFileError: no such file; a file with more in it than tensors and plain values; no context, or several.
    """
    tensors = dict(_named_tensors(_read(Path(path))))
    name = _context_key(tensors, path=path, key=key)
    found = tensors[name]
    if found.dim() not in (2, 3) or not found.is_floating_point():
        raise PromptFileError(
            explain(
                "this is no context",
                where=f"{path}, {name}",
                expected="a floating-point tensor [M W], or [C M W] for a context per class",
                got=f"{found.dtype} {list(found.shape)}",
                fix="name another tensor: --key NAME",
            )
        )
    if not torch.isfinite(found).all():
        raise PromptFileError(explain("the context is not finite", where=f"{path}, {name}"))
    return ImportedContext(
        ctx=found.detach().float().clone(),
        deep=_deep_prompts(tensors, like=found, path=path),
        key=name,
        path=str(path),
        sha256=hashlib.sha256(Path(path).read_bytes()).hexdigest(),
        dtype=str(found.dtype).removeprefix("torch."),
        n_classes=len(found) if found.dim() == 3 else _n_classes(tensors, name),
        parts=released_parts(tensors, name, found),
        suffix=tensors.get(_beside(name, "token_suffix")),
    )


def as_prompt_file(
    context: ImportedContext,
    *,
    classes: Sequence[str],
    pack_hash: str,
    words_behind: str = "",
    position: str = "end",
    hand_written: str | None = None,
) -> PromptFile:
    """The context as a prompt file of ours, for `coupling.hard_prompts`, `eval` and `classify`.

    Args:
        classes: the classes it was trained on, in their order.
        pack_hash: the backbone it was trained with, which the file cannot tell.
        words_behind: frozen words between the context and the name (MaPLe's "of a").
        position: where the context stands, as CoOp's CLASS_TOKEN_POSITION, which the file cannot tell.
        hand_written: the template of the hand-written prompts that the method reads (TCP); the file cannot tell.

    Raises:
        PromptFileError: more or fewer classes than it was trained on.
    """
    _require_classes(context, classes)
    parts, per_class = context.parts, context.ctx.dim() == 3
    shape = {"kind": "class" if per_class else "shared", "n_ctx": context.n_ctx, "init": "random"}
    shape |= {"init_pad": False, "words_behind": words_behind, "position": position}
    tables: dict[str, Any] = {"method": parts.method, "context": shape | parts.context}
    if parts.visual:
        tables["visual"] = parts.visual
    if hand_written is not None:
        tables["templates"] = {"zero_shot": hand_written}
    missing = list(context.left_out)
    if parts.asks_template and hand_written is None:
        missing.append(f"{parts.method} reads hand-written prompts: import with --hand-written TEMPLATE")
    origin = {"imported_from": Path(context.path).name, "sha256": context.sha256, "key": context.key}
    return PromptFile(
        method="imported",
        seed=0,
        config=origin | {"left_out": missing, "as_trained": tables},
        classes=tuple(classes),
        split_sha256="",
        store_fingerprint="",
        pack_hash=pack_hash,
        n_ctx=context.n_ctx,
        width=context.width,
        ctx=None if per_class else context.ctx,
        learned=parts.learned | {"context.ctx": context.ctx.clone()},
    )


def _require_classes(context: ImportedContext, classes: Sequence[str]) -> None:
    if context.n_classes not in (None, len(classes)):
        raise PromptFileError(
            explain(
                "the class file is not the one the context was trained on",
                where=context.path,
                expected=f"{context.n_classes} classes (the length of its token_prefix)",
                got=len(classes),
                fix="the class file of that training: base classes alone where it was base-to-new",
            )
        )


def _context_key(tensors: Mapping[str, Tensor], *, path: object, key: str | None) -> str:
    if key is not None:
        if key in tensors:
            return key
        fitting = [name for name in tensors if name.endswith(f".{key}")]
        if len(fitting) == 1:
            return fitting[0]
        raise PromptFileError(
            explain("no such tensor in the checkpoint", where=path, expected=key, got=_listed(fitting or list(tensors)))
        )
    found = [name for name in tensors if name.rsplit(".", 1)[-1] in CONTEXT_NAMES]
    if len(found) == 1:
        return found[0]
    if "ctx" in found:  # on top: a prompt file of ours, which holds the learned parts below it
        return "ctx"
    if not found:
        raise PromptFileError(
            explain(
                "no context in the checkpoint",
                where=path,
                expected="a tensor named ctx or ctx_VPT, as in CoOp, ViFi-CLIP and GA2-CLIP",
                got=_listed(list(tensors)) or "no tensor at all",
                fix="name the tensor: --key NAME",
            )
        )
    raise PromptFileError(
        explain("several contexts in the checkpoint", where=path, got=_listed(found), fix="name one: --key NAME")
    )


def _deep_prompts(tensors: Mapping[str, Tensor], *, like: Tensor, path: object) -> Tensor | None:
    found = {int(match[1]): value for name, value in tensors.items() if (match := _DEEP_NAME.search(name))}
    if not found:
        return None
    blocks = sorted(found)
    if blocks != list(range(1, len(blocks) + 1)) or any(value.shape != like.shape for value in found.values()):
        raise PromptFileError(
            explain(
                "deep prompts that do not continue the context",
                where=path,
                expected=f"one [M W] = {list(like.shape)} for each of blocks 1, 2, ...",
                got=", ".join(f"block {block}: {list(found[block].shape)}" for block in blocks),
            )
        )
    return torch.stack([found[block].detach().float() for block in blocks])


def _n_classes(tensors: Mapping[str, Tensor], key: str) -> int | None:
    """Rows of the `token_prefix` that lies beside the context."""
    prefix = tensors.get(_beside(key, "token_prefix"))
    return None if prefix is None else len(prefix)


def _beside(key: str, name: str) -> str:
    return f"{key.rpartition('.')[0]}.{name}".lstrip(".")


def _listed(names: Sequence[str], limit: int = 12) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _named_tensors(value: Any, prefix: str = "", *, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Dotted name and tensor of everything in nested dictionaries; the wrapping ones (`state_dict`, ...) included."""
    if isinstance(value, Tensor):
        yield prefix or "tensor", value
    elif isinstance(value, dict) and depth < _DEEPEST_NESTING:
        for name, inner in value.items():
            yield from _named_tensors(inner, f"{prefix}.{name}" if prefix else str(name), depth=depth + 1)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise PromptFileError(explain("there is no checkpoint here", where=path))
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if start[8:9] == b"{":  # eight bytes of header length, then JSON
            from safetensors.torch import load_file

            return load_file(path)
        with _stand_ins(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as refused:
        raise PromptFileError(
            explain(
                "the checkpoint holds more than tensors and plain values, and nothing in it was run",
                where=path,
                got=_refused_name(str(refused)),
                fix="if you trust where it comes from, load it there and save its tensors alone: "
                "torch.save(model.state_dict(), ...) or safetensors.torch.save_file",
            )
        ) from None
    except Exception as problem:  # damaged files surface as many types: RuntimeError, EOFError, KeyError, ...
        raise PromptFileError(explain("this is no checkpoint that can be read", where=path, got=problem)) from None


def _refused_name(message: str) -> str:
    """What the unpickler stumbled over, out of its long advice."""
    match = re.search(r"GLOBAL ([\w.]+)", message)
    if match:
        return match[1]
    return message.rsplit("WeightsUnpickler error:", 1)[-1].strip().splitlines()[0]


# Saved beside the weights by: yacs configurations (ViFi-CLIP, X-CLIP, Dassl), DotMap (Text4Vis, GA2-CLIP), argparse.
_CONFIGURATIONS = ("yacs.config.CfgNode", "dotmap.DotMap", "argparse.Namespace")
# Containers and plain types of Python's own, which optimisers and schedulers hold; the stand-ins take their place, too.
_PYTHONS_OWN = {
    *(f"builtins.{name}" for name in ("dict", "float", "int", "list", "object", "set", "str", "tuple")),
    *(f"collections.{name}" for name in ("defaultdict", "deque")),
    *("copyreg._reconstructor", "datetime.datetime", "functools.partial", "types.SimpleNamespace"),
    *(f"pathlib.{name}" for name in ("Path", "PosixPath", "PurePath", "PurePosixPath", "WindowsPath")),
}
# What a numpy scalar (Dassl's validation accuracy) consists of, by the names of numpy 1 and 2.
_SCALAR_PARTS = (
    "numpy.dtype",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float64", "Float32", "Int64")),
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


class _EmptyConfiguration:
    """Takes the place of a configuration class: makes plain dictionaries, the only thing the unpickler fills."""

    def __new__(cls, *_: object) -> Any:
        return OrderedDict()


class _IgnoredScalar:
    """Takes the place of a numpy scalar or its type: takes whatever it is given and keeps nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


def _passed_over(path: Path) -> list[str]:
    """Names in the file that stand-ins take the place of: of other people's packages, never of Python's own or modules.

    Dassl's schedulers are objects (`torch.optim.lr_scheduler.CosineAnnealingLR` once warm-up is on), configurations are
    of any package. A pickled `torch.nn` module is refused: its weights are not where a state dict has them.
    """
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # torch's format of before 2020, or TorchScript: only what is known beforehand
        return [*_CONFIGURATIONS, *_SCALAR_PARTS]
    own = (*(f"{name}." for name in sys.stdlib_module_names), "torch.nn.")
    foreign = [name for name in found if name in _PYTHONS_OWN or not name.startswith(own)]
    return list(dict.fromkeys([*_CONFIGURATIONS, *_SCALAR_PARTS, *foreign]))


@contextmanager
def _stand_ins(path: Path) -> Iterator[None]:
    """Lets the weights-only unpickler pass over those names, giving it stand-ins in place of the real things."""
    made: list[Any] = []
    for full in _passed_over(path):
        module, name = full.rsplit(".", 1)
        base = _IgnoredScalar if full.startswith("numpy.") else _EmptyConfiguration
        made.append(type(name, (base,), {"__module__": module}))
    before: list[Any] = list(torch.serialization.get_safe_globals())
    torch.serialization.add_safe_globals(made)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
