"""What a text step costs through the engine, beside the plain `C x 77` path and beside the machine's own sgemm.

`python -m benchmarks speed text` builds ViT-B/16's text tower with random weights (speed does not depend on them) and
times forward + backward of 16 context vectors on real class names, round after round, everything in turn, so that a
slow moment of the machine hits all of them:

    open_clip     all classes x 77 tokens through open_clip's own tower, as the published code does
    plain         the same through our blocks (`plain_encode`), which use PyTorch's fused attention
    engine        one run, and four runs at once

It then measures towers of other families (`text_towers.py`) and two whole processes (`text_whole.py`): a base-to-new
run as large as HMDB-51's, and the memory of a step on 1,000 classes. `--part` measures one of the four alone, `--tower`
one tower, and the others' figures stay in the file.

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
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import click

from benchmarks.speed import text_towers, text_whole
from benchmarks.speed.text_paths import N_CTX, RUNS_AT_ONCE, random_towers, text_steps

RESULT = Path(__file__).parents[1] / "results" / "speed_text.json"
CLASS_NAMES = Path(__file__).with_name("class_names.json")
DEPTHS = (1, 9)  # prompted blocks; 1 is the context alone
GOALS = {"HMDB-51 base": (15.0, 20.0), "UCF-101 base": (15.0, 20.0), "Kinetics-400 base": (20.0, None)}
SGEMM_GOAL = 0.7
SCHEMA_VERSION = 4
SGEMM_SIZE = 2048
SGEMM_FLOP = 2 * SGEMM_SIZE**3
SLOW_STEPS, FAST_STEPS = ("open_clip", "plain"), ("engine", "engine, 4 runs")


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
    def rows_name(self) -> str:
        """Where its rows are kept."""
        return "rows" if self.plain_classes is None else "in_pieces"

    @property
    def now(self) -> Callable[[], float]:
        """Seconds on the chosen clock."""
        return time.perf_counter if self.clock == "wall" else time.process_time


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
    for step in steps.values():  # what the engine keeps between steps is made, and memory touched for the first time
        step()
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

    from prompttune.base.machine import keep_freed_memory

    torch.set_num_threads(setting.n_threads)
    keep_freed_memory()  # as `prompttune train` does
    towers, names = random_towers(), json.loads(CLASS_NAMES.read_text("utf-8"))
    for class_list in setting.class_lists:
        for depth in DEPTHS:
            steps, flops = text_steps(towers, names[class_list], depth, plain_classes=setting.plain_classes)
            yield Row.of(class_list, len(names[class_list]), depth, flops=flops, rounds=timed(steps, setting))


@dataclass
class Measured:
    """What the result file holds: rows, those with the plain paths in pieces, the figures of `text_whole`, and
    the setting of rows of which none is measured now."""

    rows: list[Row]
    in_pieces: list[Row]
    n_rounds: int  # the fewest of any row
    run: dict[str, Any] | None = None
    memory: dict[str, Any] | None = None
    towers: list[text_towers.TowerRow] = field(default_factory=list)
    setting: Setting | None = None

    @classmethod
    def before(cls, out: Path, setting: Setting, parts: Sequence[str]) -> Measured:
        """What the file at `out` holds, but for what is measured now.

        Raises:
            click.UsageError: rows that stay were measured on other threads or by another clock.
        """
        found = json.loads(out.read_text("utf-8")) if out.exists() else {}
        if found.get("schema_version") != SCHEMA_VERSION:
            return cls([], [], setting.n_rounds)
        kept: dict[str, list[Row]] = {}
        for name in ("rows", "in_pieces"):
            is_measured = "steps" in parts and name == setting.rows_name
            again = setting.class_lists if is_measured else ()
            kept[name] = [Row(**row) for row in found[name] if row["class_list"] not in again]
        given = (setting.n_threads, setting.clock)
        theirs = (found["setting"]["n_threads"], found["setting"]["clock"])
        # Rows of towers say themselves how they were measured, and leave what is said of the others.
        is_towers = set(parts) == {"towers"} and any(kept.values())
        if given != theirs and any(kept.values()) and not is_towers:
            raise click.UsageError(
                f"{out} holds rows of {theirs[0]} thread(s) and the {theirs[1]} clock, which {given[0]} and {given[1]} "
                "do not go with: measure everything again, or give another --out"
            )
        whole = {name: found[name] for name in ("run", "memory") if name not in parts}
        if is_towers:
            setting = Setting(**{one.name: found["setting"][one.name] for one in fields(Setting)})
        n_rounds = min(setting.n_rounds, found["setting"]["n_rounds"]) if any(kept.values()) else setting.n_rounds
        measured = cls(kept["rows"], kept["in_pieces"], n_rounds, **whole, setting=setting if is_towers else None)
        measured.towers = [text_towers.TowerRow(**row) for row in found.get("towers", [])]
        return measured

    def add(self, row: Row, setting: Setting) -> None:
        """A new row, in the order of the lists."""
        rows = getattr(self, setting.rows_name)
        rows.append(row)
        rows.sort(key=lambda one: (list(GOALS).index(one.class_list), one.depth))


def summary(setting: Setting, measured: Measured) -> dict[str, Any]:
    """The result file: setting, rows, goals, machine, versions, and the README's table."""
    from importlib.metadata import version

    setting = replace(measured.setting or setting, n_rounds=measured.n_rounds)
    rows, memory, run = measured.rows, measured.memory, measured.run
    misses = [miss for row in rows for miss in row.misses()] + text_whole.misses(memory, run)
    misses += [miss for row in measured.towers for miss in row.misses()]
    rates = [SGEMM_FLOP / row.seconds["sgemm"] / 1e9 for row in rows] or [0.0]
    return {
        "schema_version": SCHEMA_VERSION,
        "setting": asdict(setting) | {"n_ctx": N_CTX, "runs_at_once": RUNS_AT_ONCE, "tower": "ViT-B-16-quickgelu"},
        "goal": {"met": not misses, "missed": misses},
        "rows": [asdict(row) for row in rows],
        "in_pieces": [asdict(row) for row in measured.in_pieces],
        "towers": [asdict(row) for row in measured.towers],
        "memory": memory,
        "run": run,
        "sgemm_gigaflop_per_second": [min(rates), max(rates)],
        "machine": {"processor": _processor(), "cpus": os.cpu_count(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "open_clip": version("open_clip_torch"),
        },
        "readme": _readme(setting, measured, _in_pieces(measured.in_pieces) + text_whole.sentences(memory, run)),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def _in_pieces(rows: Sequence[Row]) -> str:
    ratios = ", ".join(f"{row.class_list}, {row.depth}: {row.ratio_to_open_clip:.1f}x" for row in rows)
    return f" With the plain paths in pieces, which spares memory (`--plain-classes`): {ratios}." if rows else ""


def _readme(setting: Setting, measured: Measured, whole: str) -> dict[str, Any]:
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
            for row in measured.rows
        ]
        + [row.cells() for row in measured.towers],
        "note": f"ViT-B/16's text tower, {N_CTX} context vectors, forward and backward, float32, {setting.n_threads} "
        f"CPU thread(s), {setting.clock} clock, medians over {setting.n_rounds} rounds or more. Plain paths push "
        "all classes x 77 tokens through the tower at once, as the published code does; ours differs from open_clip's "
        "in its attention kernel. "
        f"Pairs: one run, four.{whole}{text_towers.sentence(measured.towers)}",
        "command": f"python -m benchmarks speed text --rounds {setting.n_rounds} --threads {setting.n_threads} "
        f"--clock {setting.clock}",
    }


PARTS = ("steps", "run", "memory", "towers")


@click.command()
@click.option("--classes", "class_lists", type=click.Choice(list(GOALS)), multiple=True, help="[default: all lists]")
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, help="[default: all parts]")
@click.option("--tower", "towers", type=click.Choice(list(text_towers.GOALS)), multiple=True, help="[default: both]")
@click.option("--rounds", "n_rounds", default=3, show_default=True, help="Timed rounds.")
@click.option("--threads", "n_threads", default=os.cpu_count() or 1, help="CPU threads. [default: all]")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True, help="Of the steps.")
@click.option(
    "--plain-classes",
    type=click.IntRange(min=1),
    help="Classes at a time on the plain paths; such rows are kept beside the others. [default: all, as published]",
)
@click.option("--out", type=click.Path(path_type=Path), default=RESULT, show_default=False)
def text(class_lists: tuple[str, ...], parts: tuple[str, ...], towers: tuple[str, ...], out: Path, **how: Any) -> None:
    """Time text steps on real class names: open_clip's tower, our plain path, the engine with one run and with four;
    then a whole run and the memory of a step on 1,000 classes."""
    from benchmarks.readme import markdown_table

    setting, parts = Setting(class_lists or tuple(GOALS), **how), parts or PARTS
    out.parent.mkdir(parents=True, exist_ok=True)
    measured = Measured.before(out, setting, parts)

    def write() -> dict[str, Any]:
        # After every row and part: a long measurement that is stopped is not lost.
        result = summary(setting, measured)
        out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return result

    if "memory" in parts:
        measured.memory = text_whole.step_memory()
        write()
    if "run" in parts:
        with tempfile.TemporaryDirectory() as work:
            measured.run = text_whole.whole_run(Path(work), n_threads=setting.n_threads, n_rounds=setting.n_rounds)
        write()
    for row in measure(setting) if "steps" in parts else ():
        measured.add(row, setting)
        write()
        click.echo(f"{row.class_list}, {row.depth} prompted block(s): {row.ratio_to_open_clip:.1f}x", err=True)
    if "towers" in parts:
        how = {"n_rounds": setting.n_rounds, "n_threads": setting.n_threads, "clock": setting.clock}
        places = text_towers.places_of(towers or tuple(text_towers.GOALS), setting.class_lists)
        for tower_row in text_towers.measure(places, CLASS_NAMES, now=setting.now, **how):
            measured.towers = text_towers.with_row(measured.towers, tower_row)
            write()
            click.echo(f"{tower_row.tower}, {tower_row.class_list}: {tower_row.ratio_to_open_clip:.1f}x", err=True)
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
