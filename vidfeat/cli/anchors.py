"""The commands `vidfeat anchors select` and `vidfeat anchors check`. Heavy imports are inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

FOUND = 1
FILE = click.Path(dir_okay=False, path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
EXISTING_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


def _vetting_options(command: Any) -> Any:
    for option in (
        click.option("--allow-missing-hashes", is_flag=True, help="Go by features and names where hashes are unknown."),
        click.option("--near-duplicate", type=click.FloatRange(-1, 1), help="Score that is a hit.  [default: 0.95]"),
        click.option("--template", "templates", multiple=True, help="Repeatable.  [default: a video of {}.]"),
        click.option("--classes", type=EXISTING_FILE, help="CSV `id,name`.  [default: the classes of the stores]"),
        click.option("--root", type=EXISTING_FOLDER, help="Folder of the lists' videos, to hash their files, too."),
        click.option(
            "--against",
            multiple=True,
            required=True,
            help="A store or a list of the task; repeat it for train, validation, test, base and new.",
        ),
    ):
        command = option(command)
    return command


@click.group()
def anchors() -> None:
    """Irrelevant videos for a task: choose them, or check that none is one of the task."""


@anchors.command()
@click.argument("pool")
@_vetting_options
@click.option("-n", "n", type=click.IntRange(min=1), default=256, show_default=True, help="How many.")
@click.option("--out", help="The store to write.  [default, without --list: POOL-anchors.zarr]")
@click.option("--list", "list_path", type=FILE, help="A CSV of the chosen ids to write.")
@click.option(
    "--similarity-quantile",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="Candidates are this share of the pool, the least similar to any class.",
)
@click.option("--max-similarity", type=click.FloatRange(-1, 1), help="A cosine instead of --similarity-quantile.")
@click.option("--seed", type=int, help="Begin with a random candidate.  [default: the least similar to any class]")
def select(pool: str, **flags: Any) -> None:
    """Choose irrelevant videos from POOL, a store made with the same model as the task's.

    Far from every class text, spread out, and vetted: no video of the task by content, by name, or frame by frame.
    """
    from vidfeat.cli.anchor_tables import print_selection
    from vidfeat.tools.anchors import SelectOptions, select_anchors

    if flags["out"] is None and flags["list_path"] is None:
        flags["out"] = f"{pool.rstrip('/').removesuffix('.zarr')}-anchors.zarr"
    options = SelectOptions(pool, **_given(flags))
    with _progress() as on_progress:
        selection = select_anchors(options, on_progress=on_progress)
    written = [one for one in (options.out, options.list_path, selection.report_path) if one is not None]
    print_selection(selection, written)


@anchors.command()
@click.argument("store")
@_vetting_options
@click.option("--report", "report_path", type=FILE, help="A JSON file to write.")
def check(store: str, **flags: Any) -> None:
    """Say which videos of STORE are videos of the task, and how similar they are to its classes.

    The exit code is 1 when there is any hit.
    """
    from vidfeat.cli.anchor_tables import print_check
    from vidfeat.tools.anchors import CheckOptions, check_anchors

    with _progress() as on_progress:
        found = check_anchors(CheckOptions(store, **_given(flags)), on_progress=on_progress)
    print_check(found)
    sys.exit(FOUND if found.hits else 0)


def _given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given; the options know the defaults of the others."""
    return {name: value for name, value in flags.items() if value is not None and value != ()}


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import Progress

    from vidfeat.extraction.progress import plain_console

    with Progress(console=plain_console(stderr=True), transient=True) as progress:
        bar = progress.add_task("comparing frames", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
