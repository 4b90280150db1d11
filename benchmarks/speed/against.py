"""Whole commands of this tree against the same commands of another revision, in turns, on the same inputs.

    python -m benchmarks speed start --against 11a389d    commands whose time is their start
    python -m benchmarks speed whole --against 11a389d    a base-to-new run of HMDB-51's size, an extraction
    python -m benchmarks speed write --against 11a389d    committing tokens

Stores and clips are made once, by this tree, prompts by the other; the other revision is `git archive`d into a
temporary folder. Every round runs each command in either tree, which of them first alternating; a ratio is new
seconds / old seconds of one round.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

HERE = Path(__file__).parents[2]
Arguments = Sequence[str | Path]


@dataclass(frozen=True)
class Case:
    """One command of a comparison.

    Attributes:
        name: for the table.
        arguments: what follows `python` on the command line; OUT stands for the output path of the run, TREE for
            `new` or `old`.
        exit_code: the one that is right.
        prints_seconds: its last line is the time that counts, in place of the whole process's.
    """

    name: str
    arguments: Arguments
    exit_code: int = 0
    prints_seconds: bool = False


@dataclass(frozen=True)
class Measured:
    """Seconds of each round of one case, here and at the other revision."""

    name: str
    new: tuple[float, ...]
    old: tuple[float, ...]

    @property
    def ratios(self) -> list[float]:
        """New / old of each round."""
        return [new / old for new, old in zip(self.new, self.old, strict=True)]


def tree_at(revision: str, folder: Path) -> Path:
    """The files of a revision of this repository, in `folder`.

    Raises:
        click.ClickException: git knows no such revision, or this is no git checkout.
    """
    folder.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", "--format=tar", revision], cwd=HERE, capture_output=True, check=False)
    if archive.returncode:
        raise click.ClickException(f"git archive {revision}: {archive.stderr.decode(errors='replace').strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def compare(cases: Sequence[Case], *, other: Path, work: Path, n_rounds: int, n_threads: int) -> list[Measured]:
    """Every case in both trees, `n_rounds` times after one round that is not counted (imports compile, files get warm).

    Raises:
        click.ClickException: a command ended otherwise than it should.
    """
    found = []
    for case in cases:
        seconds: dict[Path, list[float]] = {HERE: [], other: []}
        for round_ in range(n_rounds + 1):
            trees = (HERE, other) if round_ % 2 else (other, HERE)
            for tree in trees:
                taken = run_once(case, tree, work, n_threads)
                if round_:
                    seconds[tree].append(taken)
        found.append(Measured(case.name, tuple(seconds[HERE]), tuple(seconds[other])))
        click.echo(row_of(found[-1]))
    return found


def run_once(case: Case, tree: Path, work: Path, n_threads: int) -> float:
    """Seconds of one run of a case, with that tree's packages."""
    out = work / "out"
    shutil.rmtree(out, ignore_errors=True)
    environment = os.environ | {"OMP_NUM_THREADS": str(n_threads), "PYTHONPATH": str(tree), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [
        sys.executable,
        *(str(part).replace("OUT", str(out)).replace("TREE", name_of(tree)) for part in case.arguments),
    ]
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != case.exit_code:
        raise click.ClickException(
            f"{case.name} in {tree}: exit code {done.returncode}, not {case.exit_code}\n{done.stderr[-2000:]}"
        )
    return float(done.stdout.split()[-1]) if case.prints_seconds else seconds


def prepare(tree: Path, arguments: Arguments) -> None:
    """Runs a command of a tree that makes an input: of the older one, where what it writes is read by both.

    Raises:
        click.ClickException: it failed; with the end of what it said.
    """
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")


def name_of(tree: Path) -> str:
    """What TREE stands for."""
    return "new" if tree == HERE else "old"


def row_of(measured: Measured) -> str:
    """One line: the case, the median ratio with its range, and the median seconds of both."""
    ratios = measured.ratios
    return (
        f"{measured.name:<34} {statistics.median(ratios):5.2f}  ({min(ratios):.2f} to {max(ratios):.2f})  "
        f"{statistics.median(measured.new):7.2f} {statistics.median(measured.old):7.2f}"
    )


def command(subject: str, make_cases: Callable[[Path, Path, bool], list[Case]], arguments: list[str]) -> int:
    """The command line of one subject; 0 when measured.

    make_cases: gets an empty folder for the inputs, the other revision's tree, and whether inputs are to be small.
    """

    @click.command(help=f"Compare {subject} with another revision of this repository, in turns.")
    @click.option("--against", "revision", required=True, metavar="REV", help="A git revision, e.g. 11a389d or main~5.")
    @click.option("--rounds", default=5, show_default=True, help="Counted rounds.")
    @click.option("--threads", default=os.cpu_count() or 1, show_default=True, help="CPU threads of a command.")
    @click.option("--only", help="Only cases whose name contains this.")
    @click.option("--small", is_flag=True, help="Tiny inputs: whether it works, not what it takes.")
    def measure(revision: str, rounds: int, threads: int, only: str | None, small: bool) -> None:
        with tempfile.TemporaryDirectory(prefix="speed-") as folder:
            work = Path(folder)
            other = tree_at(revision, work / "other")
            (work / "inputs").mkdir()
            every = make_cases(work / "inputs", other, small)
            cases = [case for case in every if only is None or only in case.name]
            if not cases:
                names = "; ".join(case.name for case in every)
                raise click.BadParameter(f"no case has {only!r} in its name: {names}", param_hint="--only")
            click.echo(f"{'new / old, median of ' + str(rounds):<34} ratio  (range)          new, s  old, s")
            compare(cases, other=other, work=work, n_rounds=rounds, n_threads=threads)

    return measure.main(args=arguments, prog_name=f"python -m benchmarks speed {subject}", standalone_mode=False) or 0
