"""`python -m benchmarks`: quickstart, run, evidence, report, speed and world, each loaded only when it is called."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import click

from vidfeat.forms import forms, print_rows

SPEED_SUBJECTS = {
    "store": "Reading a store beside numpy.memmap and zarr-python.",
    "extract": "The extraction pipeline beside the bare encoder and decoding alone.",
    "text": "The text engine beside open_clip's own pass over every class; the whole run.",
    "visual": "Training visual prompts from later blocks beside training from the first.",
    "gpu": "All of it on a GPU beside open_clip's bf16; without one, counts of kernels.",
    "start": "Commands' start-up beside that of another commit.",
    "whole": "A whole training and a whole extraction beside another commit's.",
    "write": "Committing tokens to a store beside another commit.",
}
COMPARISON = Path(__file__).parent / "evidence.toml"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Whole comparisons of prompt-learning methods, the embedded small world, and speed measurements."""
    import_module("prompttune.base.machine").wait_briefly()


@main.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/quickstart"), show_default=True)
@click.option("--seed", default=0, show_default=True, help="Seed of the world: classes, splits, styles.")
@click.option("--workers", default=2, show_default=True, help="Processes that draw and decode videos.")
def quickstart(out: Path, seed: int, workers: int) -> None:
    """Videos -> stores -> hard prompts -> coupled prompts -> base/new/HM table, on the embedded small world."""
    import_module("benchmarks.quickstart").run(out=out, seed=seed, workers=workers)


@main.command()
@click.argument("suite", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), default=Path(), help="Folder that store paths are relative to."
)
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [default: runs/NAME of the suite]")
@click.option("--plan", "only_plan", is_flag=True, help="Only say what would run: time, memory, what is missing.")
@click.option("--only", multiple=True, metavar="PATTERN", help="Cells whose name, label or store matches. Repeatable.")
@click.option("--allow-missing", is_flag=True, help="Run what can run; record the cells that cannot as failures.")
@click.option("--engine", type=click.Choice(("local", "ray")), default="local", show_default=True)
@click.option("--address", help="Of the Ray cluster, `auto` to find it.  [default: one on this machine]")
@click.option("--overwrite", is_flag=True, help="Train finished cells again.")
@forms
def run(suite: Path, data: Path, out: Path | None, only_plan: bool, form: str | None, **options: Any) -> None:
    """Run a suite: methods x stores x protocols x shots x seeds. The same command resumes it.

    Exit code 1 when a cell failed, 2 when the suite cannot run as it is, 130 when it was interrupted.
    """
    runner, suites = import_module("benchmarks.runner"), import_module("benchmarks.suite")
    console = import_module("prompttune.base.console").plain_console(stderr=form is not None)
    folder = out or Path("runs") / suite.stem
    given = runner.RunOptions(**options)
    try:
        loaded = suites.load_suite(suite)
        if only_plan:
            sys.exit(_show_plan(runner.make_plan(loaded, out=folder, data=data, options=given), form, console))
        outcome = runner.run_suite(loaded, out=folder, data=data, console=console, options=given)
    except (import_module("prompttune.errors").PrompttuneError, import_module("vidfeat.errors").VidfeatError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is done is kept in {folder}, and the same command goes on from there", err=True)
        sys.exit(130)
    if form is not None:
        print_rows(import_module("benchmarks.table").plain_rows(outcome.finished), form)
    console.print(f"{outcome.seconds:.0f} s. Results: {folder}\nNext: prompttune report {folder}", soft_wrap=True)
    sys.exit(1 if outcome.failures else 0)


def _show_plan(plan: Any, form: str | None, console: Any) -> int:
    """Prints the plan; the exit code, 1 where a cell cannot run."""
    if form is not None:
        print_rows(plan.rows(), form)
    else:
        for part in plan.parts():
            console.print(part, soft_wrap=isinstance(part, str))
        for name, problem in plan.problems.items():
            click.echo(f"{name}: {problem}")
    return 1 if plan.problems else 0


@main.command()
@click.argument("comparison", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=False)
@click.option("--plug", is_flag=True, help="Anchors and coupling on every host, over several worlds.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder of the stores.  [default: runs/quickstart/stores; with --plug: runs/worlds]",
)
@click.option("--out", type=click.Path(path_type=Path), help="[default: runs/evidence; with --plug: runs/plug]")
@click.option("--engine", type=click.Choice(("local", "ray")), default="local", show_default=True)
def evidence(comparison: Path | None, plug: bool, data: Path | None, out: Path | None, engine: str) -> None:
    """Tune every method on another data set, compare them on the target, write docs/findings.md's table and figures.

    The same command resumes it. `--engine ray` trains as many cells at a time as there are cores.
    """
    out = out or Path("runs/plug" if plug else "runs/evidence")
    data = data or Path("runs/worlds" if plug else "runs/quickstart/stores")
    options = import_module("benchmarks.runner").RunOptions(engine=engine)
    try:
        written = (_plug if plug else _comparison)(comparison, out, data, options)
    except (import_module("prompttune.errors").PrompttuneError, import_module("vidfeat.errors").VidfeatError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        click.echo(f"interrupted; what is done is kept in {out}, and the same command goes on from there", err=True)
        sys.exit(130)
    click.echo(f"written: {', '.join(map(str, written))}\nNext: python -m benchmarks readme")


def _comparison(comparison: Path | None, out: Path, data: Path, options: Any) -> list[Path]:
    module, figures = import_module("benchmarks.evidence"), import_module("benchmarks.evidence_figures")
    loaded = module.load_evidence(comparison or COMPARISON)
    record = module.write_record(loaded, module.run_evidence(loaded, out=out, data=data, options=options), out=out)
    return [module.RESULT, *figures.draw_figures(record, baseline=loaded.baseline)]


def _plug(study: Path | None, out: Path, data: Path, options: Any) -> list[Path]:
    module, records = import_module("benchmarks.plug"), import_module("benchmarks.plug_record")
    figures = import_module("benchmarks.evidence_figures")
    loaded = module.load_study(study or COMPARISON.with_name("plug.toml"))
    settings = module.run_study(loaded, out=out, data=data, options=options)
    path = module.RESULTS / f"{loaded.record}.json"
    if loaded.until == "plugs":
        records.write_search(loaded, settings, out=out, data=data, path=path)
        return [path]
    record = records.write_record(loaded, settings, out=out, data=data, path=path)
    return [path, *([figures.draw_forest(record, name=loaded.record)] if loaded.all_arms else [])]


@main.command()
@click.option("--seeds", default="0,1,2,3,4", show_default=True, help="Of the worlds, separated by commas.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/worlds"), show_default=True)
@click.option("--workers", default=2, show_default=True, help="Processes that draw and decode videos.")
@click.option("--sources", is_flag=True, help="Also worldN/sources.zarr: the other worlds' other sets, joined.")
def worlds(seeds: str, out: Path, workers: int, sources: bool) -> None:
    """Videos and stores, tokens included, of several worlds of the generator; what is finished is not made again."""
    numbers = [int(text) for text in seeds.split(",")]
    import_module("benchmarks.quickstart").make_worlds(numbers, out=out, workers=workers)
    if sources:
        import_module("benchmarks.sources").make_sources(numbers, data=out)
    click.echo(f"Next: python -m benchmarks evidence --plug --data {out}")


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def report(arguments: tuple[str, ...]) -> None:
    """`prompttune report`: the table and the page of a suite's results."""
    import_module("prompttune.cli").main(["report", *arguments])


@main.command()
@click.option("--check", is_flag=True, help="Only say what is out of date; exit code 1 when anything is.")
def readme(check: bool) -> None:
    """Write the pages' tables from benchmarks/results, and docs/result-format.md from the result's fields."""
    tables, page = import_module("benchmarks.readme"), import_module("benchmarks.result_page")
    texts = {path: path.read_text(encoding="utf-8") for path in map(Path, tables.PAGES) if path.exists()}
    stale = [name for text in texts.values() for name in tables.stale_blocks(text)]
    if not page.PAGE.exists() or page.PAGE.read_text(encoding="utf-8") != page.render_page():
        stale.append(page.PAGE.name)
    if not check:
        for path, text in texts.items():
            path.write_text(tables.render(text), encoding="utf-8")
        page.PAGE.write_text(page.render_page(), encoding="utf-8")
    click.echo(f"{'out of date' if check else 'written'}: {', '.join(stale) or 'nothing'}")
    sys.exit(1 if check and stale else 0)


@main.group()
def speed() -> None:
    """Measure one part against its plain counterpart, as ratios in one run, into benchmarks/results."""


def _handed_on(group: click.Group, name: str, module: str, about: str) -> None:
    """A command whose module, imported when it is called, reads the words behind it, `--help` among them."""

    @group.command(name, help=about, context_settings={"ignore_unknown_options": True, "help_option_names": []})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def _(arguments: tuple[str, ...]) -> None:
        sys.exit(import_module(module).main(list(arguments)))


for _name, _about in SPEED_SUBJECTS.items():
    _handed_on(speed, _name, f"benchmarks.speed.{_name}", _about)
_handed_on(main, "damage", "benchmarks.damage", "Which damaged clips are listed, handed on right, or handed on wrong.")
_handed_on(main, "install-size", "benchmarks.install_size", "What installing weighs, and what each extra adds.")
_handed_on(
    main, "world", "benchmarks.world.__main__", "Make the small world's videos, pre-train its CLIP, calibrate it."
)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
