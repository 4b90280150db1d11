"""`prompttune prompts`: the registry of prompt files on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from vidfeat.forms import forms, print_rows
from vidfeat.terminal import say


@click.group()
def prompts() -> None:
    """List, show, spell, import, export and compare prompt files."""


@prompts.command("list")
@click.argument("folder", type=click.Path(path_type=Path))
@forms
def list_(folder: Path, form: str | None) -> None:
    """List every prompt file below FOLDER."""
    from rich.table import Table

    from prompttune.base.console import plain_console
    from prompttune.prompts.registry import list_prompts

    found = list_prompts(folder)
    names = ("method", "seed", "n_ctx", "width", "pack_hash")
    rows = [
        {"file": entry.path.relative_to(folder).as_posix()}
        | {name: getattr(entry.prompt, name) for name in names}
        | {"classes": len(entry.prompt.classes)}
        for entry in found
    ]
    if form is not None:
        return print_rows(rows, form, columns=("file", *names, "classes"))
    if not rows:
        return say(f"no prompt file below {folder}: `prompttune train` writes one for each run", err=True)
    table = Table()
    for name in ("file", "method", "seed", "n_ctx", "width", "classes"):
        table.add_column(name, overflow="fold", no_wrap=name != "file")
    for row in rows:
        table.add_row(*(str(row[str(column.header)]) for column in table.columns))
    plain_console().print(table)
    for pack in dict.fromkeys(row["pack_hash"] for row in rows):
        click.echo(f"pack:    {pack} ({sum(row['pack_hash'] == pack for row in rows)} files)")


@prompts.command()
@click.argument("file", type=click.Path(path_type=Path))
@forms
def show(file: Path, form: str | None) -> None:
    """Show what FILE holds and where it comes from."""
    from prompttune.prompts.file import read_prompt_file

    held = read_prompt_file(file)
    names = ("method", "seed", "n_ctx", "width", "split_sha256", "store_fingerprint", "pack_hash")
    facts = {name: getattr(held, name) for name in names}
    origin = {name: held.config[name] for name in ("imported_from", "sha256", "key") if name in held.config}
    if form is not None:
        learned = {name: list(value.shape) for name, value in held.learned.items()}
        return print_rows([facts | {"classes": list(held.classes), "learned": learned} | origin], form)
    for name, value in facts.items():
        click.echo(f"{name + ':':<20}{value}")
    say(f"{'classes:':<20}{len(held.classes)}: {', '.join(held.classes)}")
    for name, value in held.learned.items():
        click.echo(f"{'learned:':<20}{name} {list(value.shape)}")
    for name, value in origin.items():
        click.echo(f"{name + ':':<20}{value}")


@prompts.command("import")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--store", required=True, help="A store of the backbone the context was trained with.")
@click.option(
    "--classes",
    required=True,
    help="Classes it was trained on: names separated by commas, a JSON list, or a file of them.",
)
@click.option("--key", help="The tensor's name, where several could be meant.")
@click.option(
    "--position",
    type=click.Choice(["end", "middle", "front"]),
    default="end",
    show_default=True,
    help="Where the context stands (CLASS_TOKEN_POSITION).",
)
@click.option("--hand-written", metavar="TEMPLATE", help="TCP's hand-written prompt: 'a photo of a person doing {}.'.")
def import_(checkpoint: Path, out: Path, store: str, classes: str, **given: str | None) -> None:
    """Write what a CHECKPOINT of CoOp, CoCoOp, KgCoOp, ProGrad, TCP, MaPLe, IVLP or PromptSRC learned to the file OUT.

    Of ViFi- and GA2-style checkpoints the context. The checkpoint is read as tensors alone; nothing it contains is run.
    """
    from prompttune.data.features import open_source
    from prompttune.prompts.registry import import_prompt

    names = read_class_names(classes)
    held = import_prompt(checkpoint, out, pack=open_source(store).pack, classes=names, **given)  # type: ignore[arg-type]
    trained = held.config["as_trained"]
    click.echo(f"prompt:  {out} ({held.n_ctx} tokens of width {held.width}, {len(names)} classes)")
    words = f"[{held.n_ctx}] {trained['context']['words_behind']}".rstrip()
    click.echo(f'read as: {trained["method"]}, prompts "{words} {{}}."')
    if held.config["left_out"]:
        say(f"left out, so that it can be coupled but not evaluated: {', '.join(held.config['left_out'])}")
    else:
        click.echo(f"next:    prompttune eval --store {store} --prompts {out}")


@prompts.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--store", required=True, help="A store of the backbone the prompt was learned with.")
@click.option("--nearest", default=3, show_default=True, help="How many words for each vector.")
@forms
def words(file: Path, store: str, nearest: int, form: str | None) -> None:
    """Show the words nearest to each learned vector of FILE, with their distances in the token embedding."""
    from dataclasses import asdict

    from rich.table import Table

    from prompttune.base.console import plain_console
    from prompttune.data.features import open_source
    from prompttune.prompts.file import read_prompt_file
    from prompttune.prompts.nearest_words import nearest_words, usual_distance

    pack = open_source(store).pack
    found = nearest_words(read_prompt_file(file, pack_hash=pack.hash), pack, n=nearest)
    if form is not None:
        return print_rows([asdict(word) for word in found], form)
    table = Table()
    for head in ("vector", "nearest words (distance)"):
        table.add_column(head, overflow="fold")
    lines: dict[tuple[str, int], list[str]] = {}
    for word in found:
        lines.setdefault((word.class_name, word.vector), []).append(f"{word.word} ({word.distance:.3f})")
    for (name, vector), near in lines.items():
        table.add_row(f"{name} {vector}".strip(), ", ".join(near))
    plain_console().print(table)
    say(f"words of this vocabulary are {usual_distance(pack):.3f} from their nearest other word (median)")


@prompts.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def export(file: Path, out: Path) -> None:
    """Write the context of the prompt FILE to OUT: safetensors with one tensor `ctx`."""
    from prompttune.prompts.file import read_prompt_file
    from prompttune.prompts.registry import export_prompt

    export_prompt(read_prompt_file(file), out)
    click.echo(f"context: {out}")


@prompts.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--store", required=True, help="The target's store; the second half of its classes is new.")
@click.option("--classes", help="The target's new classes, where they are others: names or a file, as for import.")
@click.option("--nearest", default=5, show_default=True, help="How many of the nearest other pairs to show.")
@forms
def overlap(file: Path, store: str, classes: str | None, nearest: int, form: str | None) -> None:
    """Tell which of a target's new classes the prompt FILE was in fact trained on."""
    from prompttune.config.train_config import resolve
    from prompttune.data.features import open_source
    from prompttune.model.prompt_model import PromptModel
    from prompttune.prompts.file import read_prompt_file
    from prompttune.prompts.registry import overlap_with

    source = open_source(store)
    held = read_prompt_file(file, pack_hash=source.pack.hash)
    target = tuple(read_class_names(classes)) if classes is not None else second_half(source.table.classes)
    model = PromptModel(resolve({"method": "zero-shot", "store": store}), source.pack, seeds=[0], classes=target)
    report = overlap_with(model, source=held.classes, target=target)
    told = {pair.target for pair in report.overlaps}
    near = [pair for pair in report.nearest if pair.target not in told][:nearest]
    rows = [
        {"kind": kind, "target": pair.target, "source": pair.source, "cosine": pair.cosine}
        for kind, pair in [*((pair.kind, pair) for pair in report.overlaps), *(("nearest", pair) for pair in near)]
    ]
    if form is not None:
        return print_rows(rows, form)
    say(report.summary())
    for row in rows:
        say(f"  {row['kind']:<12}{row['target']} ~ {row['source']}  (cosine {row['cosine']})")


def second_half(classes: Sequence[str]) -> tuple[str, ...]:
    """The new classes of base-to-new, whether or not the store has splits."""
    return tuple(classes[(len(classes) + 1) // 2 :])


def read_class_names(given: str | Path) -> list[str]:
    """Class names out of a command line, as `classify --classes` takes them: a class file, or the names themselves."""
    from prompttune.splits.class_files import named_classes

    return list(named_classes(str(given)))
