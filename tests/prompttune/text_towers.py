"""Text towers and prompts for the engine's tests: open_clip's own as the reference, ours with the same weights."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from prompttune.text.class_prompts import ClassPrompts, Position
from prompttune.text.engine import TextContext
from vidfeat.backbone import TextConfig, TextTower

WIDTH, HEADS, LAYERS, EMBED_DIM, VOCAB = 32, 4, 12, 24, 20_000
CLASS_NAMES = (
    "playing guitar",
    "playing violin in a large orchestra",
    "run",
    "playing",
    "pour",
    "brush_hair",
    "brush teeth",
)


class WordTokenizer:
    """One token per word or sign, numbered by its letters; start and end of text have the highest ids, as in CLIP."""

    def __init__(self, *, context_length: int = 77) -> None:
        self.context_length = context_length
        self.sot_id, self.eot_id, self.pad_id = VOCAB - 2, VOCAB - 1, 0

    def encode(self, text: str) -> list[int]:
        return [1 + zlib.crc32(word.encode()) % (VOCAB - 3) for word in re.findall(r"\w+|[^\w\s]", text)]

    def tokenize(self, texts: list[str]) -> Tensor:
        rows = [[self.sot_id, *self.encode(text), self.eot_id] for text in texts]
        return torch.tensor([row + [0] * (self.context_length - len(row)) for row in rows])


def open_clip_text_model(*, activation: str = "quick_gelu", layers: int = LAYERS, seed: int = 0) -> nn.Module:
    """An open_clip CLIP with a narrow text tower, float64; its weights make attention far from uniform."""
    from open_clip import CLIP

    torch.manual_seed(seed)
    model = CLIP(
        embed_dim=EMBED_DIM,
        vision_cfg={"image_size": 8, "patch_size": 8, "width": 16, "head_width": 16, "layers": 1},
        text_cfg={"context_length": 77, "vocab_size": VOCAB, "width": WIDTH, "heads": HEADS, "layers": layers},
        quick_gelu=activation == "quick_gelu",
    )
    model = model.double().eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if name.endswith("in_proj_weight"):
            value.normal_(std=2.0 * WIDTH**-0.5)
        elif value.dim() == 2:
            value.normal_(std=value.shape[1] ** -0.5)
        elif name.endswith("bias"):
            value.normal_(std=0.3)
        elif "ln_" in name:
            value.normal_(mean=1.0, std=0.2)
    return model


def our_tower(model: nn.Module, *, activation: str = "quick_gelu") -> TextTower:
    """A TextTower with the weights of an open_clip model, in its dtype."""
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(("visual", "logit"))}
    state.pop("attn_mask", None)
    layers = len(model.transformer.resblocks)
    config = TextConfig(77, VOCAB, WIDTH, layers, HEADS, activation=activation)  # type: ignore[arg-type]
    tower = TextTower(config, embed_dim=EMBED_DIM).to(model.text_projection.dtype)
    tower.load_state_dict(state)
    return tower.eval().requires_grad_(False)


def open_clip_encode(model: nn.Module, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """What open_clip's tower makes of `C x 77` embeddings, written out image by image and run by run."""
    layout = prompts.plain_layout()
    n_classes = prompts.n_classes

    def encode(ctx: Tensor, run: int) -> Tensor:  # ctx [M W] or [C M W]
        ctx = ctx.expand(n_classes, -1, -1)
        rows = []
        for c in range(n_classes):
            embeddings = model.token_embedding(layout.token_ids[c])
            picked = [
                ctx[c, j] if j >= 0 else embedding
                for j, embedding in zip(layout.ctx_index[c].tolist(), embeddings, strict=True)
            ]
            rows.append(torch.stack(picked))
        x = torch.stack(rows) + model.positional_embedding
        for index, block in enumerate(model.transformer.resblocks):
            entering = None
            if 1 <= index <= len(context.deep):
                entering = context.deep[index - 1][run].expand(n_classes, -1, -1)
            elif index in context.class_tokens:
                entering = context.class_tokens[index][run]
            if entering is not None:
                x = torch.cat([x[:, :1], entering, x[:, 1 + prompts.n_ctx :]], dim=1)
            x = block(x, attn_mask=model.attn_mask)
        return model.ln_final(x)[torch.arange(n_classes), layout.eot_index] @ model.text_projection

    def encode_run(run: int) -> Tensor:
        if context.kind != "image":
            return encode(context.ctx[run], run)
        return torch.stack([encode(ctx, run) for ctx in context.ctx[run]])

    return torch.stack([encode_run(run) for run in range(context.n_runs)])


@dataclass(frozen=True)
class ContextCase:
    """One way to put learned vectors into the tower; `depth` is the number of prompted blocks J, the first included."""

    name: str
    kind: str = "shared"
    position: Position = "end"
    depth: int = 1
    class_token_block: int | None = None
    n_ctx: int = 5
    template: str | None = None
    per_class_dropout: bool = False

    def prompts(self, class_names: tuple[str, ...] = CLASS_NAMES) -> ClassPrompts:
        return ClassPrompts.build(
            class_names, WordTokenizer(), n_ctx=self.n_ctx, position=self.position, template=self.template
        )

    def leaves(self, *, n_runs: int, n_classes: int = len(CLASS_NAMES), seed: int = 1) -> dict[str, Any]:
        """The tensors that train, float64."""
        generator = torch.Generator().manual_seed(seed)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(*shape, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()

        middle = {"shared": (), "class": (n_classes,), "image": (2,)}[self.kind]
        if self.per_class_dropout:
            middle = ()
        leaves: dict[str, Any] = {"ctx": leaf(n_runs, *middle, self.n_ctx)}
        for block in range(1, self.depth):
            leaves[f"deep{block}"] = leaf(n_runs, self.n_ctx)
        if self.class_token_block is not None:
            leaves["class_tokens"] = leaf(n_runs, n_classes, self.n_ctx)
        return leaves

    def context(self, leaves: dict[str, Any], *, n_classes: int = len(CLASS_NAMES)) -> TextContext:
        ctx = leaves["ctx"]
        if self.per_class_dropout:
            # One mask per class makes a shared context class-specific, as GA2-CLIP's mapping does.
            mask = torch.rand(1, n_classes, self.n_ctx, WIDTH, generator=torch.Generator().manual_seed(7)) < 0.5
            ctx = ctx.unsqueeze(1) * mask * 2
        tokens = {} if self.class_token_block is None else {self.class_token_block: leaves["class_tokens"]}
        return TextContext(
            ctx=ctx,
            kind=self.kind,  # type: ignore[arg-type]
            deep=tuple(leaves[f"deep{block}"] for block in range(1, self.depth)),
            class_tokens=tokens,
        )


CASES = (
    ContextCase("shared-end"),
    ContextCase("shared-middle", position="middle"),
    ContextCase("shared-front", position="front"),
    ContextCase("class-end", kind="class"),
    ContextCase("class-middle", kind="class", position="middle"),
    ContextCase("class-front", kind="class", position="front"),
    ContextCase("image-end", kind="image"),
    ContextCase("image-front", kind="image", position="front"),
    ContextCase("deep-9", depth=9),
    ContextCase("deep-12", depth=12),
    ContextCase("deep-9-per-class-dropout", kind="class", depth=9, per_class_dropout=True),
    ContextCase("deep-9-image", kind="image", depth=9),
    ContextCase("class-tokens-at-8", class_token_block=8),
    ContextCase("class-tokens-at-8-after-deep-4", class_token_block=8, depth=4),
    ContextCase("class-tokens-at-8-image", kind="image", class_token_block=8),
    ContextCase("class-tokens-in-the-last-block", class_token_block=11, depth=11),
    ContextCase("prefix-and-postfix", position="middle", template="{}", n_ctx=6),
    ContextCase("one-vector", n_ctx=1),
    ContextCase("words-before-the-name", template="a video of a person {} outdoors."),
    ContextCase("long-context", n_ctx=40),
)
