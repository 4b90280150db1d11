"""Coupling: hard prompts (context learned elsewhere, frozen) and soft prompts (learned here) -> mixed context.

Notation: h a hard prompt `[M W]`, s the soft context `[R M W]`, `[;]` concatenation along channels.

| variant      | mixed context                                         |
|--------------|-------------------------------------------------------|
| `released`   | drop(relu(Linear([h1; h2; ...; s])))                  |
| `linear`     | drop(Linear([h1; ...; s]))                            |
| `two-layer`  | drop(Linear(relu(Linear([h1; ...; s]))))              |
| `residual`   | s + drop(relu(Linear([h1; ...; s])))                  |
| `token`      | s, h1, h2, ... one after the other in the sequence    |

Any setting of a variant may be changed (`residual = true` with a two-layer mapping, say): see `CouplingConfig`.

Source: BBYL9413/GA2-CLIP@29762ec modules/video_clip.py `VLPromptLearner` (variant `released`, dropout 0.5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompttune.base.run_axis import RunGenerators
from prompttune.base.run_layers import RunDropout, RunLinear
from prompttune.config.sections import CouplingConfig
from prompttune.errors import explain

RELEASED_DROPOUT = 0.5


class Coupling(nn.Module):
    """Mixes R runs' soft context with frozen hard prompts, block by block.

    The hard prompts are buffers: saved with the module, never trained. Called for the text input as `coupling(soft)`
    and for the deep prompt entering prompted block j as `coupling(soft_j, block=j)`.
    """

    def __init__(
        self, hard_prompts: Sequence[Tensor], *, config: CouplingConfig, seeds: Sequence[int], width: int
    ) -> None:
        """Takes H hard prompts `[M_h W]` (or `[J M_h W]`, one per prompted block; a shallower one repeats its last),
        the runs' seeds [R] and the text width W.

        Raises:
            ValueError: no hard prompt, or one of another width.
        """
        super().__init__()
        self.variant, self.n_hard, self.depth = config.variant, len(hard_prompts), config.depth or 1
        self.residual = config.variant == "residual" if config.residual is None else config.residual
        self.dropout = RELEASED_DROPOUT if config.dropout is None else config.dropout
        self.dropout_mask, self.shared_mapping = config.dropout_mask or "shared", bool(config.shared_mapping)
        _check_hard_prompts(hard_prompts, width=width)
        for index, hard in enumerate(hard_prompts):
            self.register_buffer(f"hard_{index}", hard.detach().clone().float())
        mappings, dropouts = [], []
        if self.variant != "token":
            for block in range(1 if self.shared_mapping else self.depth):
                generators = RunGenerators(seeds, f"coupling.mapping.{block}")
                mappings.append(_Mapping(self.n_hard + 1, width, variant=self.variant, generators=generators))
                if config.init == "soft":
                    mappings[-1].start_at_soft(residual=self.residual)
            for block in range(self.depth):
                generators = RunGenerators(seeds, f"coupling.dropout.{block}")
                dropouts.append(RunDropout(self.dropout, generators=generators))
        self.mappings = nn.ModuleList(mappings)
        self.dropouts = nn.ModuleList(dropouts)

    def couples(self, block: int) -> bool:
        """Whether the context entering block `block` (0 = the text input) is mixed or passed on as it is."""
        return block < self.depth

    def n_ctx(self, n_soft: int, block: int = 0) -> int:
        """How many context tokens come out for `n_soft` soft ones."""
        if self.variant == "token" and self.couples(block):
            return n_soft + sum(hard.shape[0] for hard in self._hard(block))
        return n_soft

    def masks_per_class(self, block: int = 0) -> bool:
        """Whether the next call gives each class a context of its own, because dropout draws a mask per class."""
        drops = len(self.dropouts) > 0 and self.dropout > 0 and self.training
        return drops and self.dropout_mask == "per-class" and self.couples(block)

    def forward(self, soft: Tensor, *, block: int = 0, n_classes: int | None = None) -> Tensor:
        """Mixed context `[R ... M' W]` of soft context `[R ... M W]` (shared, per class or per video).

        While training with a dropout mask per class, shared soft context `[R M W]` comes back as `[R C M W]` with
        C = `n_classes`. Everything else keeps the axes it came with.

        Raises:
            ValueError: `n_classes` missing where it is needed, or M unlike a hard prompt's on the channel axis.
        """
        if not self.couples(block):
            return soft
        hard = self._hard(block)
        if self.variant == "token":
            beside = [h.to(soft.dtype).expand(*soft.shape[:-2], *h.shape) for h in hard]
            return torch.cat([soft, *beside], dim=-2)
        for h in hard:
            if h.shape[0] != soft.shape[-2]:
                raise ValueError(
                    explain(
                        "channel coupling pairs hard and soft tokens one to one",
                        expected=f"hard prompts of {soft.shape[-2]} tokens, as many as the soft context has",
                        got=f"a hard prompt of {h.shape[0]} tokens",
                        fix=f"--set context.n_ctx={h.shape[0]}, or coupling.variant=token, which needs no equal length",
                    )
                )
        mapping = self.mappings[0 if self.shared_mapping else block]
        mapped = mapping(torch.cat([*(h.to(soft.dtype).expand_as(soft) for h in hard), soft], dim=-1))
        mapped = self._drop(mapped, block=block, n_classes=n_classes, shared=soft.dim() == 3)
        if self.residual:
            return (soft.unsqueeze(1) if mapped.dim() > soft.dim() else soft) + mapped
        return mapped

    def _hard(self, block: int) -> list[Tensor]:
        prompts = [self.get_buffer(f"hard_{index}") for index in range(self.n_hard)]
        return [hard if hard.dim() == 2 else hard[min(block, len(hard) - 1)] for hard in prompts]

    def _drop(self, mapped: Tensor, *, block: int, n_classes: int | None, shared: bool) -> Tensor:
        if self.masks_per_class(block) and shared:
            if n_classes is None:
                raise ValueError("a dropout mask per class needs n_classes")
            mapped = mapped.unsqueeze(1).expand(-1, n_classes, -1, -1)
        elif self.dropout_mask == "shared" and not shared and self.training:
            # One mask for every class or video: drawn once on [R 1.. M W] and broadcast.
            ones = mapped.new_ones(mapped.shape[0], *[1] * (mapped.dim() - 3), *mapped.shape[-2:])
            return mapped * self.dropouts[block](ones)
        return self.dropouts[block](mapped)


class _Mapping(nn.Module):
    """The learned map from n_parts x W channels back to W, without dropout and residual path."""

    def __init__(self, n_parts: int, width: int, *, variant: str, generators: RunGenerators) -> None:
        super().__init__()
        self.variant = variant
        self.first = RunLinear(n_parts * width, width, generators=generators)
        self.second = RunLinear(width, width, generators=generators) if self.variant == "two-layer" else None

    def start_at_soft(self, *, residual: bool) -> None:
        """Sets the weights so that the mixed prompt is the soft one, which is added behind the map if `residual`."""
        _, width, n_in = self.first.weight().shape
        if not residual:  # linear: [0 ... 0 I], the soft prompt itself
            self.first.fill(weight=torch.eye(n_in)[-width:])
        elif self.second is not None:
            self.second.fill(weight=torch.zeros(width, width))
        else:
            self.first.fill(weight=torch.zeros(width, n_in))

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        if self.variant != "linear":
            y = y.relu()
        return y if self.second is None else self.second(y)


def _check_hard_prompts(hard_prompts: Sequence[Tensor], *, width: int) -> None:
    if not hard_prompts:
        raise ValueError(
            explain(
                "coupling needs at least one hard prompt",
                expected="hard_prompts = [a prompt file, ...]",
                got="none",
                fix='name a prompt file trained on another data set, or set coupling = "none"',
            )
        )
    for index, hard in enumerate(hard_prompts):
        if hard.dim() not in (2, 3) or hard.shape[-1] != width:
            raise ValueError(
                explain(
                    f"hard prompt {index} does not fit this text tower",
                    expected=f"[M {width}] or [J M {width}]",
                    got=f"{list(hard.shape)}",
                    fix="a hard prompt must be trained on a backbone of the same text width",
                )
            )


class ModalityCoupling(nn.Module):
    """Prompts of one tower made from those of the other: one linear map per prompted block, trained with the prompts.

    MaPLe's direction is text to vision: `ModalityCoupling(depth=9, n_in=W, n_out=D, seeds=seeds)` gives the visual
    prompts of block j from the text prompts of block j, so that gradients of both towers meet in the text prompts. The
    other way round takes `n_in=D, n_out=W`.

    Source: Khattak et al. 2023 (MaPLe), trainers/maple.py `proj` and `compound_prompt_projections`, Linear 512 -> 768.
    There the maps of the deeper blocks start as copies of one another; here each is drawn for itself.
    """

    def __init__(self, *, depth: int, n_in: int, n_out: int, seeds: Sequence[int]) -> None:
        super().__init__()
        self.maps = nn.ModuleList(
            RunLinear(n_in, n_out, generators=RunGenerators(seeds, f"coupling.modality.{block}"))
            for block in range(depth)
        )

    def forward(self, prompts: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Prompts `[R M n_out]` of each prompted block, from the other tower's `[R M n_in]`.

        Raises:
            ValueError: another number of blocks than `depth`.
        """
        if len(prompts) != len(self.maps):
            raise ValueError(
                explain(
                    "coupled towers are prompted equally deep", expected=f"{len(self.maps)} blocks", got=len(prompts)
                )
            )
        return tuple(project(block) for project, block in zip(self.maps, prompts, strict=True))
