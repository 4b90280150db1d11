"""What releases save beside a context, under their own names, as parts of ours.

    prompt_learner.ctx                                                    context.ctx          CoOp and all below
    prompt_learner.meta_net.linear1|linear2 (W outputs)                   context.image_net    CoCoOp
    prompt_learner.meta_net.linear1|linear2 (M W outputs)                 context.class_net    TCP
    text_encoder.transformer.resblocks.I.VPT_shallow                      context.deep         IVLP, PromptSRC
    image_encoder.VPT, image_encoder.transformer.resblocks.I.VPT_shallow  visual.own           IVLP, PromptSRC
    prompt_learner.compound_prompts_text.I                                context.deep         MaPLe
    prompt_learner.proj, prompt_learner.compound_prompt_projections.I     visual.from_text     MaPLe

Sources: KaiyangZhou/CoOp trainers/cocoop.py; muzairkhattak/multimodal-prompt-learning@904dbd7 trainers/maple.py,
clip/model.py; muzairkhattak/PromptSRC@8be7dcf trainers/promptsrc.py; htyao89/Textual-based_Class-aware_prompt_tuning
@680b736 trainers/tcp.py, clip_text/model.py (`layers=[8]`, `weights=[1.0]`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

TCP_BLOCK = 8
_DEEP = r"transformer\.resblocks\.(\d+)\.VPT_shallow"
# Everything that is learned in these projects, wherever it is.
_LEARNED = re.compile(
    r"(?:^|\.)(?:meta_net\.|compound_prompts_text\.|compound_prompt_projections\.|prompt_learner\.proj\.|image_encoder\..*VPT)"
    r"|(?:^|\.)proj_b2n_VPT\.|^(?:state_dict\.)?proj\.|(?:^|\.)text_encoder\.transformer\.resblocks\.\d+\.VPT_shallow$"
)


@dataclass
class ReleasedParts:
    """A release's learned tensors by our names, and the configuration whose parts they are.

    Attributes:
        method: ours with the same parts.
        context, visual: keys of these tables beyond the number of tokens; `visual` is empty without visual prompts.
        learned: tensors by the names of `PromptModel.run_tensors`, `context.ctx` aside.
        left_out: learned tensors that no part of ours takes, or that lack their other half.
        asks_template: the method reads hand-written prompts, whose words the file does not tell.
    """

    method: str = "coop"
    context: dict[str, Any] = field(default_factory=dict)
    visual: dict[str, Any] = field(default_factory=dict)
    learned: dict[str, Tensor] = field(default_factory=dict, repr=False)
    left_out: tuple[str, ...] = ()
    asks_template: bool = False


def released_parts(tensors: Mapping[str, Tensor], key: str, ctx: Tensor) -> ReleasedParts:
    """What lies beside the context `key`: `ctx` [M W] or [C M W]."""
    learner = key.rpartition(".")[0] + "." if "." in key else ""
    model = learner.removesuffix("prompt_learner.")
    reader = _Reader(tensors, learner=learner, model=model, n_ctx=ctx.shape[-2], width=ctx.shape[-1])
    found = ReleasedParts()
    if ctx.dim() == 2:  # a context per class stands alone in every release
        reader.meta_net(found)
        reader.deep_text(found)
        reader.visual(found)
        reader.maple(found)
    found.left_out = tuple(sorted(name for name in tensors if _LEARNED.search(name) and name not in reader.used))
    return found


class _Reader:
    """Takes tensors by their release's names and keeps which ones it took."""

    def __init__(self, tensors: Mapping[str, Tensor], *, learner: str, model: str, n_ctx: int, width: int) -> None:
        self._tensors, self._learner, self._model = tensors, learner, model
        self._n_ctx, self._width = n_ctx, width
        self.used: set[str] = set()

    def meta_net(self, found: ReleasedParts) -> None:
        """CoCoOp's or TCP's, told apart by what comes out of it."""
        names = [f"{self._learner}meta_net.{layer}.{part}" for layer in ("linear1", "linear2") for part in _PARTS]
        if not all(name in self._tensors for name in names):
            return
        first, _, second, _ = (self._tensors[name] for name in names)
        hidden, n_out = first.shape[0], second.shape[0]
        if n_out == self._n_ctx * self._width and self._n_ctx > 1:
            found.method, found.asks_template, own = "tcp", True, "class_net"
            found.context |= {"class_tokens_block": TCP_BLOCK, "class_tokens_hidden": hidden}
        elif n_out == self._width:
            found.method, own = "cocoop", "image_net"
            found.context |= {"kind": "image", "image_hidden": hidden}
        else:
            return
        ours = [f"context.{own}.{layer}.{part}" for layer in ("first", "second") for part in _PARTS]
        self._take(found, dict(zip(names, ours, strict=True)))

    def deep_text(self, found: ReleasedParts) -> None:
        """Text prompts of blocks 1, 2, ... that stand in the place of the context."""
        blocks = self._numbered(re.escape(f"{self._model}text_encoder.") + _DEEP)
        shape = (self._n_ctx, self._width)
        if blocks and _in_order(blocks, first=1) and all(self._tensors[n].shape == shape for n in blocks.values()):
            found.context["prompt_depth"] = 1 + len(blocks)
            self._take(found, {name: f"context.deep.{block - 1}" for block, name in blocks.items()})

    def visual(self, found: ReleasedParts) -> None:
        """Visual prompts of their own at block 0 and, deep, at blocks 1, 2, ..."""
        first = f"{self._model}image_encoder.VPT"
        blocks = self._numbered(re.escape(f"{self._model}image_encoder.") + _DEEP)
        if first not in self._tensors or not _in_order(blocks, first=1):
            return
        names = [first, *(blocks[block] for block in sorted(blocks))]
        shapes = {tuple(self._tensors[name].shape) for name in names}
        if len(shapes) == 1 and self._tensors[first].dim() == 2:
            found.method = "ivlp"
            found.visual |= {"n_prompts": len(self._tensors[first]), "depth": len(names), "source": "own"}
            self._take(found, {name: f"visual.own.blocks.{block}" for block, name in enumerate(names)})

    def maple(self, found: ReleasedParts) -> None:
        """MaPLe's compound prompts and their maps into the image tower."""
        deep = self._numbered(re.escape(f"{self._learner}compound_prompts_text.") + r"(\d+)")
        maps = [f"{self._learner}proj", *(f"{self._learner}compound_prompt_projections.{i}" for i in range(len(deep)))]
        names = {
            f"{name}.{part}": f"visual.from_text.maps.{j}.{part}" for j, name in enumerate(maps) for part in _PARTS
        }
        is_whole = all(name in self._tensors for name in names) and _in_order(deep, first=0)
        if not is_whole or found.visual:
            return
        found.method = "maple"
        found.context["prompt_depth"] = 1 + len(deep)
        found.visual |= {"n_prompts": self._n_ctx, "depth": 1 + len(deep), "source": "from-text"}
        self._take(found, names | {name: f"context.deep.{block}" for block, name in deep.items()})

    def _numbered(self, pattern: str) -> dict[int, str]:
        matches = ((re.fullmatch(pattern, name), name) for name in self._tensors)
        return {int(match[1]): name for match, name in matches if match}

    def _take(self, found: ReleasedParts, names: Mapping[str, str]) -> None:
        for theirs, ours in names.items():
            found.learned[ours] = self._tensors[theirs].detach().float().clone()
            self.used.add(theirs)


_PARTS = ("weight", "bias")


def _in_order(blocks: Mapping[int, str], *, first: int) -> bool:
    return sorted(blocks) == list(range(first, first + len(blocks)))
