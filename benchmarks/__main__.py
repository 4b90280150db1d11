"""`python -m benchmarks`: quickstart, run, report, speed and world, each loaded only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import click

SPEED_SUBJECTS = ("store", "extract", "text", "visual")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Whole comparisons of prompt-learning methods, the embedded small world, and speed measurements."""


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/quickstart"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the world: classes, splits, styles.")
@click.option("--workers", default=2, show_default=True, help="Processes that draw and decode videos.")
def quickstart(out: Path, seed: int, workers: int) -> None:
    """Videos -> stores -> hard prompts -> coupled prompts -> base/new/HM table, on the embedded small world."""
    import_module("benchmarks.quickstart").run(out=out, seed=seed, workers=workers)


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("subject", type=click.Choice(SPEED_SUBJECTS))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def speed(subject: str, arguments: tuple[str, ...]) -> None:
    """Measure one part against its plain counterpart, as ratios in one run, into benchmarks/results."""
    sys.exit(import_module(f"benchmarks.speed.{subject}").main(list(arguments)))


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def world(arguments: tuple[str, ...]) -> None:
    """Make the small world's videos, pre-train its CLIP, calibrate it (`python -m benchmarks world --help`)."""
    import_module("benchmarks.world.__main__").main(list(arguments))


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
