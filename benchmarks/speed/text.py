"""What a text step costs through the engine, beside the plain `C x 77` path and beside the machine's own sgemm.

`python -m benchmarks speed text` builds ViT-B/16's text tower with random weights (speed does not depend on them) and
times forward + backward of 16 context vectors on real class names, round after round, everything in turn, so that a
slow moment of the machine hits all of them:

    open_clip     all classes x 77 tokens through open_clip's own tower, as the published code does
    plain         the same through our blocks (`plain_encode`), which use PyTorch's fused attention
    engine        one run, and four runs at once

It then measures two whole processes (`text_whole.py`): a base-to-new run as large as HMDB-51's, and the memory of a
step on 1,000 classes. `--part` measures one of the three alone and leaves the others' figures in the file.

A machine that others share changes its speed by half within a minute, so everything is compared with its neighbours in
time: a ratio is the median over rounds of the round's own ratio, a share of sgemm the median over steps, each beside
the square products timed just before and just after it. The plain paths take all classes at once, as the published
code does: 9 GB for the 200 of Kinetics-400, slower than 50 at a time (`--plain-classes 50`; docs/log.md has both).
`--clock cpu` counts processor time instead of the wall clock's, for one thread on a machine that is busy with other
work.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.speed import text_whole

if TYPE_CHECKING:
    from torch import Tensor

    from prompttune.class_prompts import ClassPrompts
    from prompttune.text_engine import TextContext
    from vidfeat.backbone import TextTower

RESULT = Path(__file__).parents[1] / "results" / "speed_text.json"
CLASS_NAMES = Path(__file__).with_name("class_names.json")
N_CTX, RUNS_AT_ONCE = 16, 4
DEPTHS = (1, 9)  # prompted blocks; 1 is the context alone
GOALS = {"HMDB-51 base": (15.0, 20.0), "UCF-101 base": (15.0, 20.0), "Kinetics-400 base": (20.0, None)}
SGEMM_GOAL = 0.7
SGEMM_SIZE = 2048
SGEMM_FLOP = 2 * SGEMM_SIZE**3
SLOW_STEPS, FAST_STEPS = ("open_clip", "plain"), ("engine", "engine, 4 runs")
# Source: open_clip's model config ViT-B-16-quickgelu, text_cfg and embed_dim.
CONTEXT_LENGTH, VOCAB_SIZE, WIDTH, LAYERS, HEADS, EMBED_DIM = 77, 49408, 512, 12, 8, 512


@dataclass(frozen=True)
class Setting:
    """What is timed: which class lists, how many rounds, on how many threads, by which clock ("wall" or "cpu"), and how
    many classes the plain paths take at once (None: all)."""

    class_lists: tuple[str, ...]
    n_rounds: int
    n_threads: int
    clock: str
    plain_classes: int | None = None

    @property
    def now(self) -> Callable[[], float]:
        """Seconds on the chosen clock."""
        return time.perf_counter if self.clock == "wall" else time.process_time


@dataclass(frozen=True)
class Towers:
    """One set of weights, in open_clip's model and in our tower, and CLIP's tokenizer."""

    open_clip: Any
    ours: TextTower
    tokenizer: Any


class ClipTokenizer:
    """open_clip's tokenizer in the words of ours."""

    def __init__(self) -> None:
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer()
        self.encode: Callable[[str], list[int]] = tokenizer.encode
        self.sot_id, self.eot_id = tokenizer.sot_token_id, tokenizer.eot_token_id
        self.context_length = CONTEXT_LENGTH


def random_towers() -> Towers:
    """Towers with the same random weights."""
    import torch
    from open_clip.model import CLIP

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
    words = model.token_embedding(layout.token_ids)
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

    from prompttune.class_prompts import ClassPrompts
    from prompttune.text_engine import TextContext, TextEngine, plain_encode

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


@dataclass(frozen=True)
class Timing:
    """Seconds of one step, and of a square product beside it: the mean of those just before and just after."""

    seconds: float
    sgemm: float


Round = dict[str, list[Timing]]


def sgemm_clock(setting: Setting) -> Callable[[], float]:
    """Seconds of one square single-precision product, large enough for the machine's full rate; the mean of three."""
    import torch

    left, right = torch.randn(SGEMM_SIZE, SGEMM_SIZE), torch.randn(SGEMM_SIZE, SGEMM_SIZE)
    out = torch.empty(SGEMM_SIZE, SGEMM_SIZE)

    def clock() -> float:
        start = setting.now()
        for _ in range(3):
            torch.mm(left, right, out=out)
        return (setting.now() - start) / 3

    return clock


def timed(steps: dict[str, Callable[[], None]], setting: Setting) -> list[Round]:
    """Every step in turn, round after round; what takes a fraction of the slowest is timed four times per round."""
    sgemm, rounds = sgemm_clock(setting), list[Round]()
    for name in FAST_STEPS:  # warms up what the engine keeps between steps
        steps[name]()
    before = sgemm()
    for _ in range(setting.n_rounds):
        rounds.append({name: [] for name in steps})
        for name, step in steps.items():
            for _ in range(4 if name in FAST_STEPS else 1):
                start = setting.now()
                step()
                seconds, after = setting.now() - start, sgemm()
                rounds[-1][name].append(Timing(seconds, (before + after) / 2))
                before = after
    return rounds


@dataclass(frozen=True)
class Row:
    """One class list at one depth.

    Attributes:
        gigaflop: what exact computation of one run needs.
        seconds, fastest_seconds: of each step, median and minimum over all timings.
        ratio_to_open_clip, ...: medians over rounds.
        share_of_sgemm, share_of_sgemm_of_4: on the operations that exact computation needs; medians over steps.
    """

    class_list: str
    n_classes: int
    depth: int
    gigaflop: float
    seconds: dict[str, float]
    fastest_seconds: dict[str, float]
    ratio_to_open_clip: float
    ratio_to_plain: float
    ratio_to_open_clip_per_run_of_4: float
    ratio_to_plain_per_run_of_4: float
    share_of_sgemm: float
    share_of_sgemm_of_4: float

    @classmethod
    def of(cls, class_list: str, n_classes: int, depth: int, *, flops: int, rounds: Sequence[Round]) -> Row:
        """The row of one measurement."""
        all_seconds = {
            name: [timing.seconds for one in rounds for timing in one[name]] for name in (*SLOW_STEPS, *FAST_STEPS)
        }
        all_seconds["sgemm"] = [timing.sgemm for one in rounds for timings in one.values() for timing in timings]

        def of_round(one: Round, name: str) -> float:
            return statistics.median(timing.seconds for timing in one[name])

        def ratio(slow: str, fast: str, n_runs: int) -> float:
            return n_runs * statistics.median(of_round(one, slow) / of_round(one, fast) for one in rounds)

        def share(name: str, n_runs: int) -> float:
            timings = [timing for one in rounds for timing in one[name]]
            return n_runs * flops / SGEMM_FLOP * statistics.median(it.sgemm / it.seconds for it in timings)

        one, four = FAST_STEPS
        return cls(
            class_list=class_list,
            n_classes=n_classes,
            depth=depth,
            gigaflop=flops / 1e9,
            seconds={name: statistics.median(values) for name, values in all_seconds.items()},
            fastest_seconds={name: min(values) for name, values in all_seconds.items()},
            ratio_to_open_clip=ratio("open_clip", one, 1),
            ratio_to_plain=ratio("plain", one, 1),
            ratio_to_open_clip_per_run_of_4=ratio("open_clip", four, RUNS_AT_ONCE),
            ratio_to_plain_per_run_of_4=ratio("plain", four, RUNS_AT_ONCE),
            share_of_sgemm=share(one, 1),
            share_of_sgemm_of_4=share(four, RUNS_AT_ONCE),
        )

    def misses(self) -> list[str]:
        """Goals this row misses, in words."""
        one, per_run = GOALS[self.class_list]
        where = f"{self.class_list}, {self.depth} prompted block(s)"
        found = []
        if self.ratio_to_open_clip < one:
            found.append(f"{where}: {self.ratio_to_open_clip:.1f}x, goal {one:.0f}x")
        if per_run is not None and self.ratio_to_open_clip_per_run_of_4 < per_run:
            found.append(f"{where}: {self.ratio_to_open_clip_per_run_of_4:.1f}x per run of four, goal {per_run:.0f}x")
        if max(self.share_of_sgemm, self.share_of_sgemm_of_4) < SGEMM_GOAL:
            found.append(f"{where}: {self.share_of_sgemm:.0%} of sgemm, goal {SGEMM_GOAL:.0%}")
        return found


def measure(setting: Setting) -> Iterator[Row]:
    """A row per class list and depth, each as soon as it is measured."""
    import torch

    from prompttune.machine import keep_freed_memory

    torch.set_num_threads(setting.n_threads)
    keep_freed_memory()  # as `prompttune train` does
    towers, names = random_towers(), json.loads(CLASS_NAMES.read_text("utf-8"))
    for class_list in setting.class_lists:
        for depth in DEPTHS:
            steps, flops = text_steps(towers, names[class_list], depth, plain_classes=setting.plain_classes)
            yield Row.of(class_list, len(names[class_list]), depth, flops=flops, rounds=timed(steps, setting))


def summary(setting: Setting, rows: list[Row], whole: dict[str, Any] | None = None) -> dict[str, Any]:
    """The result file: setting, rows, goals, machine, versions, and the README's table.

    Args:
        whole: `memory` and `run` of `text_whole`, as far as they were measured.
    """
    from importlib.metadata import version

    memory, run = (whole or {}).get("memory"), (whole or {}).get("run")
    misses = [miss for row in rows for miss in row.misses()] + text_whole.misses(memory, run)
    rates = [SGEMM_FLOP / row.seconds["sgemm"] / 1e9 for row in rows] or [0.0]
    return {
        "schema_version": 3,
        "setting": asdict(setting) | {"n_ctx": N_CTX, "runs_at_once": RUNS_AT_ONCE, "tower": "ViT-B-16-quickgelu"},
        "goal": {"met": not misses, "missed": misses},
        "rows": [asdict(row) for row in rows],
        "memory": memory,
        "run": run,
        "sgemm_gigaflop_per_second": [min(rates), max(rates)],
        "machine": {"processor": _processor(), "cpus": os.cpu_count(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "open_clip": version("open_clip_torch"),
        },
        "readme": _readme(setting, rows, text_whole.sentences(memory, run)),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _readme(setting: Setting, rows: list[Row], whole: str) -> dict[str, Any]:
    return {
        "columns": [
            "class names",
            "prompted blocks",
            "open_clip, s",
            "engine, s",
            "faster",
            "per run, 4 at once",
            "beside our plain path",
            "share of sgemm",
        ],
        "rows": [
            [
                f"{row.class_list} ({row.n_classes})",
                str(row.depth),
                f"{row.seconds['open_clip']:.2f}",
                f"{row.seconds['engine']:.3f}",
                f"{row.ratio_to_open_clip:.1f}x",
                f"{row.ratio_to_open_clip_per_run_of_4:.1f}x",
                f"{row.ratio_to_plain:.1f}x, {row.ratio_to_plain_per_run_of_4:.1f}x",
                f"{row.share_of_sgemm:.0%}, {row.share_of_sgemm_of_4:.0%}",
            ]
            for row in rows
        ],
        "note": f"ViT-B/16's text tower, {N_CTX} context vectors, forward and backward, float32, {setting.n_threads} "
        f"CPU thread(s), {setting.clock} clock, medians over {setting.n_rounds} rounds or more. Plain paths push "
        f"{setting.plain_classes or 'all'} classes x 77 tokens through the tower at a time (the published code: all; "
        "50 at a time spare memory and are faster for Kinetics-400, see docs/log.md); ours differs from open_clip's in "
        "its attention kernel. "
        f"Pairs: one run, four.{whole}",
        "command": f"python -m benchmarks speed text --rounds {setting.n_rounds} --threads {setting.n_threads} "
        f"--clock {setting.clock}" + (f" --plain-classes {setting.plain_classes}" if setting.plain_classes else ""),
    }


PARTS = ("steps", "run", "memory")


def measured_before(
    out: Path, parts: Sequence[str], class_lists: Sequence[str] = tuple(GOALS)
) -> tuple[list[Row], dict[str, Any]]:
    """Rows and whole figures of the file at `out`, but for the parts and class lists that are measured now."""
    found = json.loads(out.read_text("utf-8")) if out.exists() else {}
    again = class_lists if "steps" in parts else ()
    rows = [Row(**row) for row in found.get("rows", []) if row["class_list"] not in again]
    return rows, {name: found.get(name) for name in ("run", "memory") if name not in parts}


@click.command()
@click.option("--classes", "class_lists", type=click.Choice(list(GOALS)), multiple=True, help="[default: all lists]")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="[default: all parts]")
@click.option("--rounds", default=3, show_default=True, help="Timed rounds.")
@click.option("--threads", default=os.cpu_count() or 1, help="CPU threads. [default: all]")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="Of the steps.")
@click.option("--plain-classes", type=int, help="Classes at once on the plain paths. [default: all, as published]")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def text(
    class_lists: tuple[str, ...],
    parts: tuple[str, ...],
    rounds: int,
    threads: int,
    clock: str,
    plain_classes: int | None,
    out: Path,
) -> None:
    """Time text steps on real class names: open_clip's tower, our plain path, the engine with one run and with four;
    then a whole run and the memory of a step on 1,000 classes."""
    from benchmarks.readme import markdown_table

    setting = Setting(class_lists or tuple(GOALS), rounds, threads, clock, plain_classes)
    parts = parts or PARTS
    out.parent.mkdir(parents=True, exist_ok=True)
    rows, whole = measured_before(out, parts, setting.class_lists)

    def write() -> dict[str, Any]:
        # After every row and part: a long measurement that is stopped is not lost.
        result = summary(setting, rows, whole)
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return result

    if "memory" in parts:
        whole["memory"] = text_whole.step_memory()
        write()
    if "run" in parts:
        with tempfile.TemporaryDirectory() as work:
            whole["run"] = text_whole.whole_run(Path(work), n_threads=threads, n_rounds=rounds)
        write()
    for row in measure(setting) if "steps" in parts else ():
        rows.append(row)
        rows.sort(key=lambda one: (list(GOALS).index(one.class_list), one.depth))
        write()
        click.echo(f"{row.class_list}, {row.depth} prompted block(s): {row.ratio_to_open_clip:.1f}x", err=True)
    result = write()
    click.echo(markdown_table(result["readme"]["columns"], result["readme"]["rows"]))
    click.echo(f"\n{result['readme']['note']}\nWritten to {out}")
    for miss in result["goal"]["missed"]:
        click.echo(f"goal missed: {miss}")


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return text.main(args=arguments, prog_name="python -m benchmarks speed text", standalone_mode=False) or 0


if __name__ == "__main__":
    text(prog_name="python -m benchmarks.speed.text")
