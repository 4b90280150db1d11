"""What a text step costs in towers of other families: the engine beside open_clip's own tower.

    PE-Core-B-16        causal, 32 positions: the shared prefix
    ViT-B-16-SigLIP2    not causal, the last of 64 positions is read: every position of every class is computed

Towers are open_clip's own at full size with random weights; only the rows of the token embedding, of which a step
looks a few up, are cut to CLIP's vocabulary. A hook puts the context where the embedding leaves, all else is its own
forward pass. SigLIP 2's tokens are CLIP's here: at full length their number changes nothing. Four runs of it on 200
names keep more than 24 GB for the backward pass, so that every path, open_clip's too, takes its names in pieces.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed.text_paths import N_CTX, RUNS_AT_ONCE, VOCAB_SIZE, ClipTokenizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextContext
    from vidfeat.backbone import TextTower

# Faster than open_clip's tower by at least this, with one run, and per run with four.
GOALS = {"PE-Core-B-16": (5.0, 5.0), "ViT-B-16-SigLIP2": (1.0, 1.2)}
# Names whose activations are kept at once; all where a tower is not here.
NAMES_AT_ONCE = {"ViT-B-16-SigLIP2": 50}
CLASS_LISTS = ("HMDB-51 base", "Kinetics-400 base")
STEPS = ("open_clip", "engine", "engine, 4 runs")


@dataclass(frozen=True)
class TowerRow:
    """One tower on one class list.

    Attributes:
        path: which exact path the engine takes.
        names_at_once: names that go forward and backward together, on every path.
        seconds: of each step, medians over rounds, by the setting's clock.
        ratio_to_open_clip, ratio_to_open_clip_per_run_of_4: medians over rounds of the round's own ratio.
        n_rounds, n_threads, clock, load: how it was measured; what else the machine had to do, processes that wanted
            to run at the same time.
    """

    tower: str
    class_list: str
    n_classes: int
    n_positions: int
    path: str
    names_at_once: int
    gigaflop: float
    seconds: dict[str, float]
    ratio_to_open_clip: float
    ratio_to_open_clip_per_run_of_4: float
    n_rounds: int
    n_threads: int
    clock: str
    load: float

    def misses(self) -> list[str]:
        """Goals this row misses, in words."""
        one, per_run = GOALS[self.tower]
        where = f"{self.tower}, {self.class_list}"
        found = []
        if self.ratio_to_open_clip < one:
            found.append(f"{where}: {self.ratio_to_open_clip:.2f}x, goal {one:g}x")
        if self.ratio_to_open_clip_per_run_of_4 < per_run:
            found.append(f"{where}: {self.ratio_to_open_clip_per_run_of_4:.2f}x per run of four, goal {per_run:g}x")
        return found

    def cells(self) -> list[str]:
        """Its cells in the README's table of `speed text`."""
        return [
            f"{self.tower}, {self.class_list} ({self.n_classes})",
            "1",
            f"{self.seconds['open_clip']:.2f}",
            f"{self.seconds['engine']:.3f}",
            f"{self.ratio_to_open_clip:.1f}x",
            f"{self.ratio_to_open_clip_per_run_of_4:.1f}x",
            "",
            "",
        ]


def towers_of(name: str) -> tuple[nn.Module, TextTower]:
    """open_clip's text tower of that name and ours, with the same random weights."""
    import open_clip
    import torch
    from open_clip import CustomTextCLIP

    from vidfeat.backbone import TextConfig, TextTower
    from vidfeat.clip.text_config import text_config

    config = open_clip.get_model_config(name)
    text = {key: value for key, value in config["text_cfg"].items() if not key.startswith(("hf_", "tokenizer"))}
    config |= {"text_cfg": text | {"vocab_size": VOCAB_SIZE}}
    torch.manual_seed(0)
    vision = {"image_size": 8, "patch_size": 8, "width": 16, "head_width": 16, "layers": 1}
    model: Any = CustomTextCLIP(
        config["embed_dim"], vision, config["text_cfg"], quick_gelu=bool(config.get("quick_gelu"))
    )
    theirs = model.text.eval().requires_grad_(False)
    sizes = text_config(config)
    assert isinstance(sizes, TextConfig)
    ours = TextTower(sizes, embed_dim=config["embed_dim"])
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if key != "attn_mask"})
    return theirs, ours.eval().requires_grad_(False)


class FamilyTokenizer(ClipTokenizer):
    """CLIP's tokens, laid out as the tower's own tokenizer lays out its."""

    def __init__(self, tower: TextTower) -> None:
        super().__init__()
        self.context_length = tower.config.context_length
        if tower.config.pooling == "last":
            # Gemma's vocabulary has no start of text.
            self.sot_id = None


def open_clip_encode(theirs: nn.Module, prompts: ClassPrompts, context: TextContext) -> Tensor:
    """`[1 C E]` by open_clip's own forward pass, the context in its places."""
    import torch

    layout = prompts.plain_layout()
    is_ctx = (layout.ctx_index >= 0).unsqueeze(-1)
    index = layout.ctx_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, context.ctx.shape[-1])

    def with_context(_module: nn.Module, _args: Any, embedded: Tensor) -> Tensor:
        ctx = context.ctx[0].expand(prompts.n_classes, -1, -1)
        return torch.where(is_ctx, ctx.gather(1, index), embedded)

    hook = theirs.token_embedding.register_forward_hook(with_context)  # type: ignore[operator, union-attr]
    try:
        found = theirs(layout.token_ids)
    finally:
        hook.remove()
    features: Tensor = found[0] if isinstance(found, tuple) else found
    return features.unsqueeze(0)


def tower_steps(
    theirs: nn.Module, ours: TextTower, class_names: Sequence[str], names_at_once: int
) -> tuple[dict[str, Callable[[], None]], int, str]:
    """One forward and backward over all names per path, the operations of one run's, and the engine's path."""
    import torch

    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextContext, TextEngine

    tokenizer = FamilyTokenizer(ours)
    pieces = [
        ClassPrompts.build(class_names[start : start + names_at_once], tokenizer, n_ctx=N_CTX)
        for start in range(0, len(class_names), names_at_once)
    ]
    engine = TextEngine(ours)
    one, four = (
        TextContext((0.02 * torch.randn(n_runs, N_CTX, ours.config.width)).requires_grad_())
        for n_runs in (1, RUNS_AT_ONCE)
    )

    def step(encode: Callable[[ClassPrompts], Tensor]) -> Callable[[], None]:
        def run() -> None:
            for prompts in pieces:
                encode(prompts).square().sum().backward()

        return run

    steps = {
        "open_clip": step(lambda prompts: open_clip_encode(theirs, prompts, one)),
        "engine": step(lambda prompts: engine.encode(prompts, one)),
        "engine, 4 runs": step(lambda prompts: engine.encode(prompts, four)),
    }
    return (
        steps,
        sum(engine.flops(prompts, one).total for prompts in pieces),
        engine.path(pieces[0], one).partition(":")[0],
    )


def places_of(towers: Sequence[str], class_lists: Sequence[str]) -> list[tuple[str, str]]:
    """What to measure: each of these towers on those of CLASS_LISTS that are among these."""
    return [(tower, name) for tower in GOALS if tower in towers for name in CLASS_LISTS if name in class_lists]


def measure(
    places: Sequence[tuple[str, str]],
    file: Path,
    *,
    now: Callable[[], float],
    n_rounds: int,
    n_threads: int,
    clock: str,
) -> Iterator[TowerRow]:
    """A row per place, each as soon as it is measured: every step in turn, round after round.

    Args:
        places: towers, and class lists out of the JSON `file`.
        now: seconds by that clock.
    """
    import torch

    from prompttune.base.machine import keep_freed_memory

    torch.set_num_threads(n_threads)
    keep_freed_memory()  # as `prompttune train` does
    names = json.loads(file.read_text("utf-8"))
    for tower in dict.fromkeys(tower for tower, _ in places):
        theirs, ours = towers_of(tower)
        for class_list in (name for at, name in places if at == tower):
            n_classes = len(names[class_list])
            names_at_once = min(NAMES_AT_ONCE.get(tower, n_classes), n_classes)
            steps, flops, path = tower_steps(theirs, ours, names[class_list], names_at_once)
            rounds = in_turn(steps, now=now, n_rounds=n_rounds)
            one, four = (statistics.median(it["open_clip"] / it[step] for it in rounds) for step in STEPS[1:])
            yield TowerRow(
                tower=tower,
                class_list=class_list,
                n_classes=n_classes,
                n_positions=ours.config.n_positions,
                path=path,
                names_at_once=names_at_once,
                gigaflop=flops / 1e9,
                seconds={step: statistics.median(it[step] for it in rounds) for step in STEPS},
                ratio_to_open_clip=one,
                ratio_to_open_clip_per_run_of_4=RUNS_AT_ONCE * four,
                n_rounds=n_rounds,
                n_threads=n_threads,
                clock=clock,
                load=os.getloadavg()[0],
            )


def in_turn(
    steps: Mapping[str, Callable[[], None]], *, now: Callable[[], float], n_rounds: int
) -> list[dict[str, float]]:
    """Seconds of each step, round after round, behind one that makes what is made once and touches its memory."""

    def seconds(step: Callable[[], None]) -> float:
        start = now()
        step()
        return now() - start

    for step in steps.values():
        step()
    return [{name: seconds(step) for name, step in steps.items()} for _ in range(n_rounds)]


def with_row(rows: Sequence[TowerRow], new: TowerRow) -> list[TowerRow]:
    """The rows, by tower and size of the list, with a new one in the place of its like."""
    others = [row for row in rows if (row.tower, row.class_list) != (new.tower, new.class_list)]
    return sorted([*others, new], key=lambda row: (list(GOALS).index(row.tower), row.n_classes))


def sentence(rows: Sequence[TowerRow]) -> str:
    """How they were measured, for the README; empty without any."""
    how = sorted({f"{row.n_threads} thread(s), {row.clock} clock, {row.n_rounds} round(s)" for row in rows})
    load = max((row.load for row in rows), default=0.0)
    busy = f", while up to {load:.0f} processes wanted the machine's cores: ratios count" if load > 2 else ""
    pieces = "".join(
        f" {row.tower} takes {row.names_at_once} of {row.class_list}'s names at a time on every path, as memory asks."
        for row in rows
        if row.names_at_once < row.n_classes
    )
    return f" Rows that name a tower: {'; '.join(how)}{busy}.{pieces}" if rows else ""
