"""The command line: `train`, `plan`, `eval`, `classify`, `methods`; `prompts` and `splits` have modules of their own.

Nothing heavy is imported until a command runs, so `--help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prompttune import __version__
from prompttune.cli.prompts import prompts as prompts_group
from prompttune.cli.splits import splits as splits_group
from vidfeat.forms import forms, print_rows
from vidfeat.startup import quick_exit, quick_imports
from vidfeat.terminal import say

if TYPE_CHECKING:
    from prompttune.config.runs import Run
    from prompttune.evaluation.results import Result


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """Train prompts for CLIP on cached video features, in seconds.

    A store of features comes from `vidfeat extract`; everything else is here.
    """


_TRAINING_OPTIONS = (
    click.argument("config", required=False, type=click.Path(path_type=Path)),
    click.option("--method", help="A row of `prompttune methods`."),
    click.option("--store", help="The feature store to train and test on."),
    click.option("--seeds", help="Seeds, separated by commas: one run each, trained together."),
    click.option("--shots", help="Training videos per class: 16, `up-to-16` where some have fewer, `none` for all."),
    click.option("--split", "split_file", help="A split file of `prompttune splits`: who trains, who tests."),
    click.option(
        "--val", "val_shots", type=int, help="Shots held out for validation; prompts of the best epoch are kept."
    ),
    click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Any key of `prompttune methods NAME`; commas open a run axis. A text with commas is quoted twice: "
        """--set 'templates.zero_shot="clip, of {}."'.""",
    ),
    click.option("--out", help="The run folder [default: runs/METHOD-STORE]."),
    click.option("--device", help="auto, cpu, cuda, cuda:1, mps [default: auto]."),
)


def training_options(command: Callable[..., None]) -> Callable[..., None]:
    """What `train` and `plan` are given alike."""
    for option in reversed(_TRAINING_OPTIONS):
        command = option(command)
    return command


@cli.command()
@training_options
@click.option("--overwrite", is_flag=True, help="Start anew in a folder that holds another or a finished run.")
@forms
def train(config: Path | None, overrides: tuple[str, ...], overwrite: bool, form: str | None, **named: Any) -> None:
    """Train a method and evaluate it.

    CONFIG is a TOML file; options and --set come on top of it. Killed anywhere, the same command goes on where it was.

    \b
    prompttune train --method coop --store target.zarr --seeds 1,2,3
    prompttune train --method coop --store target.zarr --set optim.lr=0.002,0.01
    """
    runs, axes = _runs(config, overrides, named)  # before torch is imported: a mistyped word is told at once

    with quick_imports():
        from prompttune.api.step_bar import StepBar
        from prompttune.base.console import plain_console
        from prompttune.training.fit import FitOptions, fit
        from prompttune.training.run_folder import CHECKPOINTS, run_folder_name

    out = run_folder_name(runs[0].config)
    try:
        with StepBar() as bar:
            fitted = fit(runs, out, axes=axes, options=FitOptions(overwrite=overwrite, on_step=bar.on_step))
    except KeyboardInterrupt:
        kept = (out / CHECKPOINTS).exists()
        goes_on = f"the same command goes on from its checkpoint in {out}" if kept else "nothing was trained yet"
        say(f"interrupted; {goes_on}", err=True)
        sys.exit(130)
    if _print_result(fitted.result, form):
        return
    console = plain_console()
    _print_notes(fitted.result)
    for store in (fitted.result.store, *fitted.result.other_stores.values()):
        if store.failed_videos:
            console.print(f"{len(store.failed_videos)} failed videos of {store.path} are in no split")
    console.print(f"results: {fitted.folder}/result.json", soft_wrap=True)
    prompt = fitted.folder / runs[0].name / "prompt.safetensors"
    if prompt.exists():
        console.print(f"next:    prompttune eval --store ANOTHER.zarr --prompts {prompt}", soft_wrap=True)


@cli.command()
@training_options
@forms
def plan(config: Path | None, overrides: tuple[str, ...], form: str | None, **named: Any) -> None:
    """Say what `train` with the same arguments will take: store bytes, GFLOP and seconds per step, memory.

    Measures this machine for a few seconds (with visual.compile longer: kernels are made) and keeps nothing. A
    configuration that the stores cannot serve is refused with the `vidfeat extract` command that would make it so.

    \b
    prompttune plan --method ivlp --store target.zarr --seeds 1,2,3
    """
    runs, _ = _runs(config, overrides, named)

    with quick_imports():
        from prompttune.training.plan import plan_training

    planned = plan_training(runs)
    if form is not None:
        return print_rows([asdict(planned) | {"seconds": planned.seconds}], form)
    for line in planned.lines():
        say(line)


@cli.command("eval")
@click.option("--store", required=True, help="The feature store to test on.")
@click.option(
    "--prompts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Prompt files, a run folder, or a pattern in quotes: seeds of one setting are one row. None: zero-shot.",
)
@click.argument("more_prompts", nargs=-1, type=click.Path(path_type=Path))
@click.option("--split", "split_file", help="A split file of `prompttune splits`; its test sets are taken.")
@click.option("--base-to-new", is_flag=True, help="Base and new classes each among their own, instead of all together.")
@click.option("--average", is_flag=True, help="Also the mean of the logits of a row's prompt files, its seeds say.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help='E.g. templates.zero_shot="a photo of {}."'
)
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps [default: auto].")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A run folder for result.json and predictions: the report counts it in.",
)
@forms
def evaluate(
    prompts: tuple[Path, ...],
    more_prompts: tuple[Path, ...],
    base_to_new: bool,
    average: bool,
    overrides: tuple[str, ...],
    out: Path | None,
    form: str | None,
    **named: Any,
) -> None:
    """Test learned prompts, or zero-shot CLIP, on a store.

    \b
    prompttune eval --store target.zarr
    prompttune eval --store target.zarr --prompts runs/coop-target --average
    prompttune eval --store k400.zarr --set templates.ensemble=@clip-kinetics
    """
    if more_prompts and not prompts:
        raise click.UsageError(f"{more_prompts[0]} is no option; prompt files come after --prompts")
    prompts += more_prompts
    with quick_imports():
        from prompttune.config.effects import require_effect_in_evaluation
        from prompttune.config.runs import parse_overrides, set_keys
        from prompttune.errors import ConfigError

    given, axes = parse_overrides([*_as_overrides(named), *overrides])
    if axes:
        raise ConfigError(f"eval has no run axes; one value each for {', '.join(axes)}")
    require_effect_in_evaluation(set_keys(overrides), zero_shot=not prompts)

    with quick_imports():
        from prompttune.api.apply_prompts import apply_prompts
        from prompttune.base.console import plain_console

    result = apply_prompts(prompts, given=given, base_to_new=base_to_new, average=average, out=out)
    printed = _print_result(result, form)
    console = plain_console(stderr=printed)
    if not printed:
        _print_notes(result)
    if out is not None:
        console.print(f"results: {out}/result.json", soft_wrap=True)


@cli.command()
@click.argument("source")
@click.option("--prompts", type=click.Path(path_type=Path), help="A trained prompt file; none for zero-shot CLIP.")
@click.option(
    "--classes", help="Names separated by commas, a JSON list, or a file of them.  [default: those trained on]"
)
@click.option("--like", help="For video files: the store whose backbone, frames and crop are taken, or a pack.")
@click.option("--frames", "n_frames", type=click.IntRange(min=1), help="Frames per video, where --like is a pack.")
@click.option("--template", default="", help='Of zero-shot prompts.  [default: "a video of a person {}."]')
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes per video.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A CSV `video,rank,class,score` to write.")
@forms
def classify(source: str, classes: str | None, out: Path | None, form: str | None, **options: Any) -> None:
    """Tell what the videos of SOURCE show: a store, a video file, or a folder of video files.

    A store needs no video library and no open_clip. Video files are decoded and encoded like the videos of --like.

    \b
    prompttune classify new.zarr --prompts runs/coop/seed1/prompt.safetensors
    prompttune classify clip.mp4 --like target.zarr --classes "sit down,walk"
    """
    with quick_imports():
        from prompttune.api.classify import ClassifyOptions
        from prompttune.api.classify import classify as classify_videos
        from prompttune.base.console import plain_console
        from prompttune.base.tensor_files import require_writable
        from prompttune.cli.tables import classified_rows, classified_table, write_classified

    if out is not None:
        require_writable(out)
    found = classify_videos(source, ClassifyOptions(classes=() if classes is None else classes, **options))
    if out is not None:
        write_classified(out, found)
    if form is not None:
        print_rows(classified_rows(found), form)
    else:
        plain_console().print(classified_table(found))
    broken = [video for video in found if video.error]
    for video in broken:
        say(f"{video.id}: not classified: {video.error}", err=True)
    if broken:
        sys.exit(1)


@cli.command()
@click.argument("name", required=False)
@forms
def methods(name: str | None, form: str | None) -> None:
    """List the methods; with NAME, one method's source and its whole configuration.

    What is printed for NAME after the source is a TOML file that `prompttune train` takes.
    """
    from prompttune.base.console import plain_console
    from prompttune.cli.tables import describe_method, method_rows, methods_table

    if form is not None:
        print_rows([row for row in method_rows() if name in (None, row["name"])], form)
    elif name is None:
        plain_console().print(methods_table())
    else:
        click.echo(describe_method(name))


@cli.command()
@click.argument("results", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--format", "form", type=click.Choice(("html", "md", "latex", "csv")), default="html", show_default=True)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="A file.  [default: RESULTS/report.html; stdout]"
)
@click.option("--baseline", help="Label of the line others are set against.  [default: zero-shot]")
@click.option("--videos", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Where the videos are.")
def report(out: Path | None, **options: Any) -> None:
    """Make the page, or the table, of the run folders in RESULTS: compared, with intervals, plots and thumbnails.

    The page needs `pip install "prompttune[report]"`; tables need nothing more.

    \b
    prompttune report runs
    prompttune report runs --format latex
    """
    from prompttune.report.command import ReportOptions, write_report

    written = write_report(ReportOptions(**options), out)
    if written is not None:
        click.echo(f"written: {written}")


cli.add_command(prompts_group)
cli.add_command(splits_group)


def _runs(
    config: Path | None, overrides: tuple[str, ...], named: dict[str, Any]
) -> tuple[list[Run], dict[str, list[Any]]]:
    """The runs of a command line, and its run axes."""
    with quick_imports():
        from prompttune.config.effects import require_effect
        from prompttune.config.runs import expand_runs, parse_overrides, set_keys
        from prompttune.config.train_config import merge, read_toml

    plain, axes = parse_overrides([*_as_overrides(named), *overrides])
    runs = expand_runs(merge(read_toml(config) if config is not None else {}, plain), axes)
    require_effect([*set_keys(overrides), *axes], runs)
    return runs, axes


def _print_result(result: Result, form: str | None) -> bool:
    """The result's table, or its rows alone for a program; whether it was the latter."""
    from prompttune.base.console import plain_console
    from prompttune.cli.result_table import result_rows, result_tables

    if form is not None:
        print_rows(result_rows(result), form)
        return True
    console = plain_console()
    for part in result_tables(result):
        console.print(part, soft_wrap=isinstance(part, str))
    return False


def _print_notes(result: Result) -> None:
    for note in result.notes:
        say(f"note:    {note}")


def _as_overrides(named: dict[str, Any]) -> list[str]:
    """Named options as `KEY=VALUE`, those not given left out."""
    keys = {name: f"protocol.{name}" for name in ("shots", "val_shots", "split_file")}
    texts = [f"{keys.get(name, name)}={value}" for name, value in named.items() if value is not None]
    if named.get("val_shots"):
        texts.append("selection=val")
    return texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: an error of the project is one message and exit code 2, never a traceback.

    Args:
        arguments: what follows `prompttune`; None for those of the process.
    """
    from prompttune.base.machine import wait_briefly
    from prompttune.cli.notes import print_notes
    from prompttune.errors import PrompttuneError, explain
    from vidfeat.errors import VidfeatError

    wait_briefly()
    quick_exit()
    print_notes()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # A file name may hold bytes that are no text here: they are printed as they are.
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")
    try:
        cli(arguments, prog_name="prompttune")
    except (PrompttuneError, VidfeatError) as error:
        say(f"error: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # a folder that is not there or cannot be written, a full disk
        fix = "check that the path exists, that this user may use it, and that its disk has room; or name another"
        told = explain("a file cannot be used", where=error.filename, got=error.strerror or error, fix=fix)
        say(f"error: {told}", err=True)
        sys.exit(2)
