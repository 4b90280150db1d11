"""What a method learns in front of the text tower: context tokens, shared, per class or per video, coupled or not.

ctx [R M W] --(+ image_net(video), CoCoOp)--> --(coupled with hard prompts)--> enters block 0
deep [R M W]                                 --(coupled too, if asked)-------> replaces it at blocks 1, 2, ...
from_visual(visual rows [R M D])             --(instead of both)-------------> one linear map per prompted block
class_net(hand-written class feature) [R C M W] (TCP) -----------------------> replaces it at one block, per class
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prompttune.base.run_axis import RunGenerators, RunParameter
from prompttune.base.run_layers import RunLinear
from prompttune.config.train_config import ContextConfig, TrainConfig
from prompttune.data.store_needs import text_depth_problems
from prompttune.errors import ConfigError, explain
from prompttune.parts.coupling import Coupling, ModalityCoupling
from prompttune.text.class_prompts import split_template
from prompttune.text.engine import TextContext
from vidfeat.backbone import BackbonePack


class LearnedContext(nn.Module):
    """The context of R runs; calling it gives what enters the text tower besides the class names.

    Args:
        config: decides which parts there are; its `context.kind` is not "none".
        pack: the backbone.
        seeds: one per run.
        n_classes: training classes; a context per class has one for each.
        hard_prompts: frozen context tokens [M W] for the coupling.

    Raises:
        ConfigError: parts that this backbone or these hard prompts cannot make.
    """

    def __init__(
        self,
        config: TrainConfig,
        pack: BackbonePack,
        *,
        seeds: Sequence[int],
        n_classes: int,
        hard_prompts: Sequence[Tensor] = (),
    ) -> None:
        super().__init__()
        context = config.context
        _check_depth(context, pack)
        self.config = context
        width, embed_dim = pack.config.open_text.width, pack.config.embed_dim
        self.ctx: RunParameter | None = None
        self.deep = nn.ModuleList()
        self.from_visual: ModalityCoupling | None = None
        if config.visual is not None and config.visual.source == "to-text":
            sizes = {"n_in": pack.config.vit.width, "n_out": width}
            self.from_visual = ModalityCoupling(depth=context.prompt_depth, seeds=seeds, **sizes)
        else:
            self.ctx = RunParameter(_start(config, pack, seeds=seeds, n_classes=n_classes))
            for block in range(1, context.prompt_depth):
                generators = RunGenerators(seeds, f"context.{block}")
                self.deep.append(RunParameter(generators.normal(context.n_ctx, width, std=context.init_std)))
        self.image_net: MetaNet | None = None
        if context.kind == "image":
            hidden = context.image_hidden or max(embed_dim // 16, 1)
            self.image_net = MetaNet(embed_dim, hidden, width, generators=RunGenerators(seeds, "image-net"))
        self.class_net: ClassNet | None = None
        if context.class_tokens_block is not None:
            generators = RunGenerators(seeds, "class-net")
            hidden = context.class_tokens_hidden or max(embed_dim // 4, 1)
            class_sizes = (embed_dim, hidden, context.n_ctx, width)
            self.class_net = ClassNet(class_sizes, generators=generators)
        self.coupling: Coupling | None = None
        if config.coupling is not None:
            self.coupling = _make_coupling(config, hard_prompts, seeds=seeds, width=width)

    @torch.no_grad()
    def start_from(self, values: Tensor) -> None:
        """Sets every run's context, and every class's, to `values` [M W]."""
        assert self.ctx is not None
        for own in self.ctx.runs:
            own.copy_(values.expand_as(own))

    @property
    def n_ctx(self) -> int:
        """Context tokens in front of the tower's first block, hard ones beside soft ones included."""
        return self.coupling.n_ctx(self.config.n_ctx) if self.coupling is not None else self.config.n_ctx

    def soft_rows(self, visual_rows: Sequence[Tensor] = ()) -> list[Tensor]:
        """Soft context of every prompted block in order, before any coupling: [R M W], the first also [R C M W].

        Args:
            visual_rows: visual prompts [R M D] of the blocks; looked at where the context is made of them.
        """
        if self.from_visual is not None:
            return list(self.from_visual(visual_rows))
        assert self.ctx is not None
        return [self.ctx(), *(parameter() for parameter in self.deep)]

    def forward(
        self, *, frozen_classes: Tensor, videos: Tensor | None = None, visual_rows: Sequence[Tensor] = ()
    ) -> TextContext:
        """What enters the text tower.

        Args:
            frozen_classes: unit features of the hand-written prompts, [C E].
            videos: unit video features [R B E]; needed where the context depends on the video.
            visual_rows: visual prompts [R M D] of the blocks; needed where the context is made of them.
        """
        n_classes = len(frozen_classes)
        (soft, *deep), kind = self.soft_rows(visual_rows), self.config.kind
        if self.image_net is not None:
            if videos is None:
                raise ValueError("a context that depends on the video needs the videos")
            soft = soft.unsqueeze(1) + self.image_net(videos).unsqueeze(2)
        if self.coupling is not None:
            soft = self.coupling(soft, n_classes=n_classes)
            deep = [self.coupling(value, block=i, n_classes=n_classes) for i, value in enumerate(deep, start=1)]
            # A dropout mask per class makes a shared context one per class, for this step.
            kind = "class" if kind == "shared" and soft.dim() == 4 else kind
        class_tokens = {block: value for block, value in enumerate(deep, start=1) if value.dim() == 4}
        shared = tuple(value for value in deep if value.dim() == 3)
        if class_tokens and shared:
            raise ConfigError("coupling.depth must cover all deep prompts or none when dropout masks are per class")
        if self.class_net is not None and self.config.class_tokens_block is not None:
            class_tokens[self.config.class_tokens_block] = self.class_net(frozen_classes)
        assert kind != "none"
        return TextContext(soft, kind=kind, deep=shared, class_tokens=class_tokens)

    @torch.no_grad()
    def exported(self, run: int, visual_rows: Sequence[Tensor] = ()) -> Tensor | None:
        """Run `run`'s context [M W] as it enters the text tower in evaluation, coupled if it is; of a context that
        depends on the video the part that does not. None where every class has its own.
        """
        if self.config.kind == "class":
            return None
        was_training = self.training
        self.eval()
        try:
            soft = self.soft_rows(visual_rows)[0]
            context = soft if self.coupling is None else self.coupling(soft)
        finally:
            self.train(was_training)
        return context[run].detach().float().cpu().clone()


class MetaNet(nn.Module):
    """CoCoOp's meta-net of R runs: a unit video feature to a shift of all context tokens.

    Source: Zhou et al. 2022 (CoCoOp), KaiyangZhou/CoOp trainers/cocoop.py `meta_net`: Linear(E, E/16), ReLU,
    Linear(E/16, W), on normalised features.
    """

    def __init__(self, embed_dim: int, hidden: int, width: int, *, generators: RunGenerators) -> None:
        super().__init__()
        self.first = RunLinear(embed_dim, hidden, generators=generators)
        self.second = RunLinear(hidden, width, generators=generators)

    def forward(self, videos: Tensor) -> Tensor:
        """[R B W] of [R B E]."""
        return self.second(self.first(videos).relu())


class ClassNet(nn.Module):
    """TCP's class-aware tokens of R runs: a class's hand-written feature to M tokens.

    Source: Yao et al. 2024 (TCP), htyao89/Textual-based_Class-aware_prompt_tuning trainers/tcp.py `meta_net`: Linear(E,
    E/4), QuickGELU, Linear(E/4, M W), on normalised features; what it gives replaces the context at block 8.
    """

    def __init__(self, sizes: tuple[int, int, int, int], *, generators: RunGenerators) -> None:
        super().__init__()
        embed_dim, hidden, self.n_ctx, self.width = sizes
        self.first = RunLinear(embed_dim, hidden, generators=generators)
        self.second = RunLinear(hidden, self.n_ctx * self.width, generators=generators)

    def forward(self, frozen_classes: Tensor) -> Tensor:
        """[R C M W] of [C E]."""
        n_runs = self.first.weight.n_runs
        hidden = self.first(frozen_classes.expand(n_runs, *frozen_classes.shape))
        tokens = self.second(hidden * torch.sigmoid(1.702 * hidden))
        return tokens.unflatten(-1, (self.n_ctx, self.width))


def _start(config: TrainConfig, pack: BackbonePack, *, seeds: Sequence[int], n_classes: int) -> Tensor:
    """Initial values [R M W], or [R C M W] for a context per class."""
    context = config.context
    per_class = (n_classes,) if context.kind == "class" else ()
    if context.init == "random":
        shape = (*per_class, context.n_ctx, pack.config.open_text.width)
        return RunGenerators(seeds, "context").normal(*shape, std=context.init_std)
    if context.init.startswith("@"):  # whoever trains puts the file's values here, see `start_from`
        return torch.zeros(len(seeds), *per_class, context.n_ctx, pack.config.open_text.width)
    if context.init.endswith(".safetensors"):
        what, fix = "a prompt file to start from is named with an @", f"context.init = @{context.init}"
        raise ConfigError(explain(what, where="context.init", got=context.init, fix=fix))
    words = split_template(config.templates.zero_shot)[0].strip() if context.init == "template" else context.init
    ids = pack.tokenizer().encode(words)
    n_zeros = context.n_ctx - len(ids)
    if n_zeros and not (context.init_pad and n_zeros > 0):
        padded = ", or context.init_pad = true for zeros before the words" if n_zeros > 0 else ""
        raise ConfigError(
            explain(
                "the context's words are not as many tokens as the context",
                where="context.init",
                expected=f"context.n_ctx = {context.n_ctx} tokens",
                got=f"{words!r}, {len(ids)} tokens",
                fix=f"context.n_ctx = {len(ids)}{padded}",
            )
        )
    tower = pack.text_tower()
    with torch.no_grad():
        values = tower.embed(torch.tensor(ids, device=tower.positional_embedding.device)).float().cpu()
    # Words end where the class name begins, as in the hand-written prompt. Source: ProGrad, trainers/prograd.py.
    values = torch.cat([values.new_zeros(n_zeros, values.shape[1]), values])
    return values.expand(len(seeds), *per_class, -1, -1)


def _make_coupling(
    config: TrainConfig, hard_prompts: Sequence[Tensor], *, seeds: Sequence[int], width: int
) -> Coupling:
    assert config.coupling is not None
    try:
        coupling = Coupling(hard_prompts, config=config.coupling, seeds=seeds, width=width)
        with torch.no_grad():  # finds hard prompts that do not pair with the soft ones before anything is trained
            for block in range(coupling.depth):
                coupling.eval()(torch.zeros(len(seeds), config.context.n_ctx, width), block=block)
        return coupling.train()
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_depth(context: ContextConfig, pack: BackbonePack) -> None:
    if too_deep := list(text_depth_problems(context, pack)):
        got = "; ".join(problem for problem, _ in too_deep)
        fix = " ".join(setting for _, setting in too_deep)
        raise ConfigError(explain("the text tower is too shallow for this method", got=got, fix=fix))
