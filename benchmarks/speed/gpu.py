"""What a step costs on a GPU, ours beside the published path, in one command of a few minutes.

`python -m benchmarks speed gpu` prints each figure as soon as it has it and keeps it in the result file at once, so
that a run that is cut short keeps what it measured:

    text      forward and backward of the text tower: open_clip's own, all classes x 77 tokens, and the engine
    step      whole steps of `prompttune train --method coop`, as CUDA graphs and launched kernel by kernel
    extract   videos to a store, beside the bare encoder and decoding alone: a large tower, and one that waits for both
    visual    forward and backward with visual prompts: all blocks once per run, and ours from block k

Equality is checked in the same run: the engine with open_clip in float32, steps as graphs with steps without. Where
there is no GPU nothing is timed and no file written: kernels are counted on `meta`.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from benchmarks.speed import extract, text_whole, visual
from benchmarks.speed.gpu_figures import Figure, put_into_readme, write
from benchmarks.speed.text_paths import N_CTX, Towers, open_clip_encode, random_towers

if TYPE_CHECKING:
    from torch import Tensor

    from prompttune.text.engine import TextContext
    from prompttune.training.trainer import Trainer

RESULT = Path(__file__).parents[1] / "results" / "speed_gpu.json"
CLASS_NAMES = Path(__file__).with_name("class_names.json")
README = Path(__file__).parents[2] / "README.md"
PRECISIONS = ("fp32", "bf16")
TOLERANCE = 1e-4  # of float32 values and gradients, relative to the largest
WARM_STEPS, SEVERAL = 12, 4


@dataclass(frozen=True)
class Setting:
    """What is measured; the defaults are the published sizes.

    Attributes:
        n_classes: taken of each list; None for all.
        runs: trained together.
        n_steps: whole steps of one timing.
        n_videos, towers, n_workers: of extraction; None: the workers that `vidfeat extract` takes.
        model, n_frames, first_blocks: of visual prompts.
    """

    n_rounds: int = 15
    class_lists: tuple[str, ...] = ("HMDB-51 base", "Kinetics-400 base")
    n_classes: int | None = None
    depths: tuple[int, ...] = (1, 9)
    runs: tuple[int, ...] = (1, 8, 32)
    n_steps: int = 60
    n_videos: int = 160
    towers: tuple[str, ...] = ("ViT-L-14-336", extract.TINY)
    n_workers: int | None = None
    model: str = "ViT-B-16"
    n_frames: int = 64
    first_blocks: tuple[int, ...] = (0, 6, 9, 11)


class Clock:
    """Medians of a step's milliseconds, and its peak of memory above what was there."""

    def __init__(self, device: str, n_rounds: int) -> None:
        self.device, self.n_rounds = device, n_rounds

    def wait(self) -> None:
        """Until the device has done everything."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def milliseconds(self, step: Callable[[], object], *, per: int = 1) -> float:
        """Of one of the `per` steps that a call does; the first calls make what is made once."""
        for _ in range(2):
            step()
        seconds = []
        for _ in range(self.n_rounds):
            self.wait()
            started = time.perf_counter()
            step()
            self.wait()
            seconds.append(time.perf_counter() - started)
        return 1000 * statistics.median(seconds) / per

    def megabytes(self, step: Callable[[], object]) -> float:
        """At its peak, on a GPU; 0 elsewhere."""
        import torch

        if self.device != "cuda":
            return 0.0
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        self.wait()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def of(self, steps: Mapping[str, Callable[[], object]]) -> tuple[dict[str, float], dict[str, float]]:
        """Milliseconds and megabytes of every step."""
        times = {name: self.milliseconds(step) for name, step in steps.items()}
        return times, {name: self.megabytes(step) for name, step in steps.items()}


def parts(setting: Setting, device: str) -> dict[str, Iterator[Figure]]:
    """The figures of every part, each measured when it is asked for."""
    clock = Clock(device, setting.n_rounds)
    of_parts = (text_figures, step_figures, extract_figures, visual_figures)
    return {part.__name__.split("_")[0]: part(setting, clock) for part in of_parts}


def names_of(setting: Setting, class_list: str) -> list[str]:
    """The class names of a list."""
    names: list[str] = json.loads(CLASS_NAMES.read_text("utf-8"))[class_list]
    return names[: setting.n_classes]


def context_of(n_runs: int, depth: int, width: int, device: str) -> TextContext:
    """Random context vectors that ask for a gradient; the same at every call."""
    import torch

    from prompttune.text.engine import TextContext

    generator = torch.Generator().manual_seed(0)
    rows = [(0.02 * torch.randn(n_runs, N_CTX, width, generator=generator)).to(device) for _ in range(depth)]
    rows = [own.requires_grad_() for own in rows]
    return TextContext(ctx=rows[0], deep=tuple(rows[1:]))


def text_step(encode: Callable[[TextContext], Tensor], context: TextContext, precision: str) -> Callable[[], Any]:
    """Forward and backward; gives features and gradients."""
    import torch

    from prompttune.base.devices import autocast

    def step() -> tuple[Tensor, ...]:
        with autocast(context.ctx.device, precision):
            features = encode(context)
        rows = [context.ctx, *context.deep]
        return features, *torch.autograd.grad(features.float().square().mean(), rows)

    return step


def text_figures(setting: Setting, clock: Clock) -> Iterator[Figure]:
    """The text tower alone."""
    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextEngine

    towers = random_towers()
    model, tower = towers.open_clip.to(clock.device), towers.ours.to(clock.device)
    width = tower.config.width
    for class_list in setting.class_lists:
        prompts = ClassPrompts.build(names_of(setting, class_list), towers.tokenizer, n_ctx=N_CTX)
        for depth in setting.depths:
            for precision in PRECISIONS:
                engine = TextEngine(tower)
                contexts = {n_runs: context_of(n_runs, depth, width, clock.device) for n_runs in setting.runs}
                one = contexts[setting.runs[0]]
                theirs = text_step(partial(open_clip_encode, model, prompts), one, precision)
                steps = {"open_clip": theirs} | {
                    f"engine, {n_runs} run(s)": text_step(partial(engine.encode, prompts), context, precision)
                    for n_runs, context in contexts.items()
                }
                ours = next(iter(steps[name] for name in steps if name != "open_clip"))
                yield Figure(
                    "text",
                    f"{class_list} ({prompts.n_classes}), {depth} block(s)",
                    precision,
                    *clock.of(steps),
                    difference(ours(), theirs()) if precision == "fp32" else None,
                )


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest deviation, each tensor's relative to its largest value."""
    pairs = zip(found, expected, strict=True)
    return max(float(((ours - theirs).abs().max() / theirs.abs().max()).detach()) for ours, theirs in pairs)


def step_figures(setting: Setting, clock: Clock) -> Iterator[Figure]:
    """Whole training steps of `coop` on a store as large as HMDB-51's."""
    with tempfile.TemporaryDirectory(prefix="speed-gpu-") as folder:
        yield from steps_in(Path(folder), setting, clock)


def steps_in(work: Path, setting: Setting, clock: Clock) -> Iterator[Figure]:
    """The same, with the store in `work`."""
    pack, clips = text_whole.random_pack(work / "pack"), text_whole.hmdb_clips()
    store = text_whole.write_store(work / "hmdb.zarr", pack, clips)
    for precision in PRECISIONS:
        for n_runs in setting.runs:
            given = {"precision": precision, "device": clock.device, "seeds": list(range(1, n_runs + 1))}
            trainers = {graph: coop_trainer(store, clips, graph=graph, **given) for graph in ("auto", "off")}
            for trainer in trainers.values():
                trainer.train(until=WARM_STEPS)
            after = [(trainer.device_step.parameters.values.clone(),) for trainer in trainers.values()]
            names = {"auto": "as a graph", "off": "kernel by kernel"}
            if (reason := trainers["auto"].graphed.reason) is not None:
                names["auto"] = f"no graph ({reason})"
            yield Figure(
                "step",
                f"coop, {setting.class_lists[0]}, {n_runs} run(s)",
                precision,
                {
                    names[graph]: clock.milliseconds(steps_of(trainer, setting.n_steps), per=setting.n_steps)
                    for graph, trainer in trainers.items()
                },
                {},
                difference(*after),
            )


def coop_trainer(store: Path, clips: text_whole.Clips, **given: Any) -> Trainer:
    """At its first step, and long enough; steps of one kind, as logging is left out."""
    from prompttune.config.runs import expand_runs
    from prompttune.data.protocols import open_sources
    from prompttune.training.run_group import make_trainer, prepare

    tables = {
        "method": "coop",
        "store": str(store),
        "protocol": {"base_classes": sorted(clips.base)},
        "optim": {"epochs": 10_000},
        "log": {"every": 100_000},
        **given,
    }
    runs = expand_runs(tables, {})
    return make_trainer(prepare(runs, open_sources(runs[0].config)))


def steps_of(trainer: Trainer, n_steps: int) -> Callable[[], None]:
    """That many steps more at each call."""

    def run() -> None:
        trainer.train(until=trainer.step_index + n_steps)

    return run


def extract_figures(setting: Setting, clock: Clock) -> Iterator[Figure]:
    """Milliseconds of a frame from file to features, and the pipeline's share of the slower of its two halves."""
    from vidfeat.extraction.options import Machine

    n_workers = Machine(workers=setting.n_workers).n_workers
    sizes = extract.Setting(setting.n_videos, 1.0, 64, 2, n_workers, clock.device)
    precision = "fp32" if clock.device == "cpu" else "bf16"
    with tempfile.TemporaryDirectory(prefix="speed-gpu-") as folder:
        paths = extract.write_clips(Path(folder), sizes)
        for tower in setting.towers:
            rates = extract.fastest_rates(tower, precision, sizes, paths)
            whole = {name: rates.pop(name) for name in list(rates) if name.startswith("pipeline")}
            slower = min(rates.values())
            rates |= {f"{name} ({rate / slower:.2f} of the slower)": rate for name, rate in whole.items()}
            milliseconds = {name: 1000 / rate for name, rate in rates.items()}
            yield Figure("extract", f"{tower}, a frame, {n_workers} worker(s)", precision, milliseconds, {})


def visual_figures(setting: Setting, clock: Clock) -> Iterator[Figure]:
    """Visual prompts of one run and of several, by the block where they join."""
    for precision in PRECISIONS:
        for n_runs in (1, SEVERAL):
            sizes = visual.Setting(setting.model, setting.n_frames, 16, 9, n_runs, setting.n_rounds, 1)
            steps = visual.timed_steps(sizes, setting.first_blocks, device=clock.device, precision=precision)
            of = f"{setting.model}, {setting.n_frames} frames, {n_runs} run(s)"
            yield Figure("visual", of, precision, *clock.of(steps))


def counted(setting: Setting, towers: Towers) -> Iterator[tuple[str, str, int]]:
    """Kernels of a forward and backward pass of one run, on `meta`: (of what, precision, how many)."""
    from prompttune.text.class_prompts import ClassPrompts
    from prompttune.text.engine import TextEngine

    tower = towers.ours.to("meta")
    for class_list in setting.class_lists:
        prompts = ClassPrompts.build(names_of(setting, class_list), towers.tokenizer, n_ctx=N_CTX)
        for depth in setting.depths:
            for precision in PRECISIONS:
                engine, context = TextEngine(tower), context_of(1, depth, tower.config.width, "meta")
                step = text_step(partial(engine.encode, prompts), context, precision)
                yield f"text, {class_list} ({prompts.n_classes}), {depth} block(s)", precision, n_kernels(step)
    sizes = visual.Setting(setting.model, setting.n_frames, 16, 9, 1, 1, 1)
    for precision in PRECISIONS:
        steps = visual.timed_steps(sizes, setting.first_blocks, device="meta", precision=precision)
        for name, step in steps.items():
            yield f"visual, {setting.model}, {name}", precision, n_kernels(step)


def n_kernels(step: Callable[[], object]) -> int:
    """Of its second call: the first makes what is made once."""
    from benchmarks.speed.launches import Launches

    step()
    with Launches() as launches:
        step()
    return launches.total


@click.command()
@click.option("--rounds", "n_rounds", default=Setting.n_rounds, show_default=True, help="Timed calls of each step.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def gpu(n_rounds: int, out: Path) -> None:
    """Time text, whole and visual steps on a GPU beside the published path; without one, count kernels."""
    import torch

    setting = Setting(n_rounds=n_rounds)
    if not torch.cuda.is_available():
        click.echo("no GPU here: nothing is timed or written. Kernels of one run's forward and backward")
        click.echo(
            "pass, counted on PyTorch's meta (those of whole steps: tests/prompttune/training/test_launches.py):"
        )
        for of, precision, n in counted(setting, random_towers()):
            click.echo(f"{of:<42} {precision}  {n:>5}")
        return
    problems = measure(setting, "cuda", out)
    put_into_readme(README)
    click.echo(f"Written to {out}; `python -m benchmarks readme` puts the table into the README")
    if problems:
        raise click.ClickException("; ".join(problems))


def measure(setting: Setting, device: str, out: Path) -> list[str]:
    """Keeps every figure in `out` and prints it at once; which of them deviate too much, and which parts failed.

    A part that fails is told, and the next one measured; Ctrl-C and SIGTERM end the run with what there is.
    """
    from vidfeat.extraction.extract import sigterm_as_interrupt

    found: list[Figure] = []
    failed: list[str] = []
    try:
        with sigterm_as_interrupt():
            for part, figures in parts(setting, device).items():
                try:
                    for figure in figures:
                        found.append(figure)
                        write(out, asdict(setting), found)
                        click.echo(figure.line())
                except RuntimeError as error:  # of the device: no memory left, a kernel it does not have
                    failed.append(f"{part}: {error}")
                    click.echo(f"failed: {failed[-1]}", err=True)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what was measured is in {out}" if found else "interrupted; nothing was measured yet")
    return [f"{one.of} differs" for one in found if one.error is not None and one.error > TOLERANCE] + failed


def main(arguments: list[str]) -> int:
    """0 when measured; click's exit code otherwise."""
    return gpu.main(args=arguments, prog_name="python -m benchmarks speed gpu", standalone_mode=False) or 0
