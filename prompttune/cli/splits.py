"""`prompttune splits`: who trains and who tests, as a file: made, imported from the field's lists, checked, shown."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidfeat.forms import forms, print_rows
from vidfeat.terminal import say

if TYPE_CHECKING:
    from prompttune.splits.file import SplitFile

FILE = click.Path(path_type=Path)
EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOUND = 1
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a split file OUT that says something else.")


@click.group()
def splits() -> None:
    """Make, import and check split files: who trains, who tests, among which classes."""


@splits.command()
@click.argument("source")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--base-to-new", is_flag=True, help="Base and new test sets; else one test set among all classes.")
@click.option("--base", type=EXISTING_FILE, help="Base classes, one per line.  [default: first half of the class list]")
@click.option("--shots", help="K training videos per class and seed, or `up-to-K`.  [default: all]")
@click.option("--seeds", default="1,2,3", show_default=True, help="One draw of the shots each.")
@click.option(
    "--test-fraction", default=0.3, show_default=True, type=click.FloatRange(0, 1, min_open=True, max_open=True)
)
@click.option("--seed", default=0, show_default=True, help="Of the draw into training and test videos.")
@click.option("--redraw", is_flag=True, help="Draw although SOURCE has a split column.")
@click.option(
    "--group-pattern", help=r"Regular expression; what it finds in an id is its group, e.g. 'v_(\w+)_g(\d+)_'."
)
@click.option(
    "--classes", type=EXISTING_FILE, help="CSV `id,name`: class order of a CSV, and what integer labels mean."
)
@OVERWRITE
def make(
    source: str,
    out: Path,
    base_to_new: bool,
    base: Path | None,
    shots: str | None,
    seeds: str,
    classes: Any,
    overwrite: bool,
    **options: Any,
) -> None:
    """Draw a split of SOURCE, a store or a CSV `path,label[,split][,group]`, into the file OUT.

    Stratified by class, groups kept together. Where SOURCE has a split column, that is taken, and only shots are drawn.
    A run of the same seed draws the same shots.
    """
    from prompttune.cli.prompts import read_class_names
    from prompttune.data.labelled import read_labelled
    from prompttune.splits.class_files import read_class_file
    from prompttune.splits.making import MakeOptions, make_split_file

    base_classes = tuple(read_class_names(base)) if base is not None else () if base_to_new else None
    number, up_to = _shots(shots)
    made = make_split_file(
        read_labelled(source, classes=read_class_file(classes) if classes is not None else None),
        MakeOptions(base_classes=base_classes, shots=number, up_to=up_to, seeds=_seeds(seeds), **options),
        source=source,
    )
    _write(made, out, overwrite=overwrite)


@splits.command("import")
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--train", nargs=2, multiple=True, type=FILE, metavar="LIST CLASSES", help="Draw 1; repeat for 2, 3, ...")
@click.option("--test", nargs=3, multiple=True, required=True, metavar="NAME LIST CLASSES", help="Repeatable.")
@click.option("--store", help="Write this store's ids, matched with or without folders and endings.")
@click.option(
    "--allow-missing",
    is_flag=False,
    flag_value="all",
    default="0",
    metavar="[N]",
    help="Leave out what the store does not have (at most N videos), named in OUT and counted in results.",
)
@OVERWRITE
def import_(
    out: Path, train: tuple[Any, ...], test: tuple[Any, ...], store: str | None, allow_missing: str, overwrite: bool
) -> None:
    """Turn the field's own lists into the split file OUT.

    LIST has lines `path label` or `folder n_frames label`, CLASSES is a CSV `id,name`; each list is named with the
    class file its labels are ids of. Test sets named `base` and `new` make a base-to-new split.

    \b
    prompttune splits import hmdb.json --train fs_base_s1_train.txt base.csv \\
        --train fs_base_s2_train.txt base.csv \\
        --test base base_val.txt base.csv --test new novel_val.txt novel.csv
    """
    from prompttune.splits.importing import import_lists, named_draws, named_tests, onto_store

    split = import_lists(named_draws(train), named_tests(test))
    if store is not None:
        from prompttune.data.features import open_source

        allowed = None if allow_missing == "all" else _whole_number(allow_missing, "--allow-missing")
        split = onto_store(split, open_source(store).table.ids, store=store, allow_missing=allowed)
    _write(split, out, overwrite=overwrite)


@splits.command()
@click.argument("file", type=EXISTING_FILE)
@click.option("--store", help="The store it is for: videos that are not there, other labels, videos twice.")
@click.option("--anchors", multiple=True, help="A store or list that must have no test video. Repeatable.")
@click.option("--hard-prompt-source", multiple=True, help="The same, of the videos a hard prompt was trained on.")
@click.option("--hard-prompt", multiple=True, type=EXISTING_FILE, help="A prompt file not to know new classes.")
@click.option(
    "--reference",
    nargs=2,
    multiple=True,
    type=EXISTING_FILE,
    metavar="LIST CLASSES",
    help="Labels known to be right, e.g. the full validation list.",
)
@forms
def check(
    file: Path,
    store: str | None,
    anchors: Any,
    hard_prompt_source: Any,
    hard_prompt: Any,
    reference: Any,
    form: str | None,
) -> None:
    """Look for what makes results of the split FILE wrong; exit code 1 when there is anything.

    Labels outside the class list, a video in training and test, base lists read with the novel class file, videos that
    are not in the store; anchors and hard-prompt sources that touch the test videos.
    """
    from prompttune.evaluation.split_checks import CheckInputs, check_split
    from prompttune.splits.file import parse_split_file

    split = parse_split_file(file)
    report = check_split(split, CheckInputs(store or "", (*anchors, *hard_prompt_source), hard_prompt, reference))
    rows = [{"kind": "note", "text": note} for note in report.notes]
    rows += [{"kind": "problem", "text": problem} for problem in report.problems]
    if form is not None:
        print_rows(rows, form, columns=("kind", "text"))
        sys.exit(FOUND if report.problems else 0)
    _print(split)
    for row in rows:
        say(f"{row['kind'] + ':':<9}{row['text']}")
    if report.problems:
        sys.exit(FOUND)
    click.echo("no problem found")


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise click.BadParameter(f"whole numbers separated by commas, not {text!r}", param_hint="--seeds")
    return tuple(map(int, parts))


def _shots(text: str | None) -> tuple[int | None, bool]:
    """K of `K` or `up-to-K`, and which of the two; None for all."""
    if text is None:
        return None, False
    number = _whole_number(text.removeprefix("up-to-"), "--shots")
    if number < 1:
        raise click.BadParameter("at least 1", param_hint="--shots")
    return number, text.startswith("up-to-")


def _whole_number(text: str, option: str) -> int:
    if not text.isdecimal():
        raise click.BadParameter(f"a whole number, not {text!r}", param_hint=option)
    return int(text)


def _write(split: SplitFile, out: Path, *, overwrite: bool) -> None:
    from prompttune.splits.file import write_split_file
    from prompttune.splits.recordings import recordings_on_both_sides

    write_split_file(out, split, overwrite=overwrite)
    _print(split)
    for name, keys in split.made_by.get("missing", {}).items():
        say(f"{name}: {len(keys)} videos left out (missing), named in the file")
    if "failed_videos" in split.made_by:
        click.echo(f"{len(split.made_by['failed_videos'])} videos left out (failed), named in the file")
    for line in recordings_on_both_sides(split):
        say(f"warning: {line}")
    click.echo(f"split:   {out}\nnext:    {_next(split, out)}")


def _next(split: SplitFile, out: Path) -> str:
    """A command that takes the file; METHOD and STORE are for the reader to fill in."""
    if split.train is None:
        return f"prompttune eval --store STORE --split {out}"
    protocol = "" if split.is_base_to_new else " --set protocol.name=few-shot"
    return f"prompttune train --method METHOD --store STORE --split {out}{protocol}"


def _print(split: SplitFile) -> None:
    for line in split.summary():
        click.echo(line)
    click.echo(f"sha256:  {split.sha256}")
