"""The paths that `speed text` times: open_clip's own tower, our plain path, the engine; one set of random weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextContext
    from vidfeat.backbone import TextTower

N_CTX, RUNS_AT_ONCE = 16, 4
# Source: open_clip's model config ViT-B-16-quickgelu, text_cfg and embed_dim.
CONTEXT_LENGTH, VOCAB_SIZE, WIDTH, LAYERS, HEADS, EMBED_DIM = 77, 49408, 512, 12, 8, 512


@dataclass(frozen=True)
class Towers:
    """One set of weights, in open_clip's model and in our tower, and CLIP's tokenizer."""

    open_clip: Any
    ours: TextTower
    tokenizer: Any


class ClipTokenizer:
    """open_clip's tokenizer in the words of ours."""

    def __init__(self) -> None:
        from open_clip import SimpleTokenizer

        tokenizer = SimpleTokenizer()
        self.encode: Callable[[str], list[int]] = tokenizer.encode
        self.sot_id, self.eot_id = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.context_length, self.pad_id = CONTEXT_LENGTH, 0


def random_towers() -> Towers:
    """Towers with the same random weights."""
    import torch
    from open_clip import CLIP

    from vidfeat.backbone import TextConfig, TextTower

    torch.manual_seed(0)
    text = {
        "context_length": CONTEXT_LENGTH,
        "vocab_size": VOCAB_SIZE,
        "width": WIDTH,
        "heads": HEADS,
        "layers": LAYERS,
    }
    vision = {"image_size": 8, "patch_size": 8, "width": 16, "head_width": 16, "layers": 1}
    model = CLIP(EMBED_DIM, vision, text, quick_gelu=True).eval().requires_grad_(False)  # type: ignore[arg-type]
    config = TextConfig(CONTEXT_LENGTH, VOCAB_SIZE, WIDTH, LAYERS, HEADS, activation="quick_gelu")
    tower = TextTower(config, embed_dim=EMBED_DIM)
    names = set(tower.state_dict())
    tower.load_state_dict({name: value for name, value in model.state_dict().items() if name in names})
    return Towers(open_clip=model, ours=tower.eval().requires_grad_(False), tokenizer=ClipTokenizer())


def open_clip_encode(model: Any, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """`[1 C E]` through open_clip's own blocks, all 77 positions."""
    import torch

    layout, n_classes = prompts.plain_layout(), prompts.n_classes
    words = model.token_embedding(layout.token_ids.to(context.ctx.device))
    x = torch.cat([words[:, :1], context.ctx.expand(n_classes, -1, -1), words[:, 1 + N_CTX :]], dim=1)
    x = x + model.positional_embedding
    for index, block in enumerate(model.transformer.resblocks):
        if 1 <= index <= len(context.deep):
            rows = context.deep[index - 1].expand(n_classes, -1, -1)
            x = torch.cat([x[:, :1], rows, x[:, 1 + N_CTX :]], dim=1)
        x = block(x, attn_mask=model.attn_mask)
    x = model.ln_final(x[torch.arange(n_classes), layout.eot_index])
    return (x @ model.text_projection).unsqueeze(0)


def text_steps(
    towers: Towers, class_names: Sequence[str], depth: int, *, plain_classes: int | None = None
) -> tuple[dict[str, Callable[[], None]], int]:
    """One forward and backward per path, and the operations that exact computation needs for one run."""
    import torch

    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextContext, TextEngine, plain_encode

    prompts = ClassPrompts.build(class_names, towers.tokenizer, n_ctx=N_CTX)
    size = plain_classes or len(class_names)
    starts = range(0, len(class_names), size)
    pieces = [prompts.subset(range(start, min(start + size, len(class_names)))) for start in starts]
    engine = TextEngine(towers.ours)

    def context_of(n_runs: int) -> TextContext:
        rows = [(0.02 * torch.randn(n_runs, N_CTX, WIDTH)).requires_grad_() for _ in range(depth)]
        return TextContext(ctx=rows[0], deep=tuple(rows[1:]))

    def step(encode: Callable[[ClassPrompts], Tensor], parts: Sequence[ClassPrompts]) -> Callable[[], None]:
        def run() -> None:
            for part in parts:
                encode(part).square().mean().backward()

        return run

    one, several = context_of(1), context_of(RUNS_AT_ONCE)
    steps = {
        "open_clip": step(lambda part: open_clip_encode(towers.open_clip, part, one), pieces),
        "plain": step(lambda part: plain_encode(towers.ours, part, one), pieces),
        "engine": step(lambda part: engine.encode(part, one), [prompts]),
        "engine, 4 runs": step(lambda part: engine.encode(part, several), [prompts]),
    }
    return steps, engine.flops(prompts, one).total
