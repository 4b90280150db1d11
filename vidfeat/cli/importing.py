"""`vidfeat import` (features of other programs, exported stores) and `vidfeat manifest` (what of a list is there)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from vidfeat.cli.flags import FILE, FOLDER_OR_FILE, MODEL_OPTIONS, together
from vidfeat.forms import forms

FAILED_VIDEOS = 1


@click.command("import")
@click.argument("source", type=FOLDER_OR_FILE)
@click.argument("store")
@together(
    click.option("--pack", type=FOLDER_OR_FILE, help="The backbone of the features: a pack, or a store that has it."),
    MODEL_OPTIONS,
    click.option(
        "--labels", "lists", type=FILE, multiple=True, help="List of videos and classes, as for extract; repeatable."
    ),
    click.option(
        "--classes", type=FILE, help="CSV `id,name`, lines or JSON: class names, their order, what integers mean."
    ),
    click.option("--label-from", metavar="FIELD", help="What beside the features is the class: caption, a JSON field."),
    click.option("--key", metavar="NAME", help="Which array holds the features, where a video has several."),
    click.option("--tap", default="pooled", show_default=True, help="What the rows are: pooled, tokens@L."),
    click.option("--strict", is_flag=True, help="Refuse features and lists of which something would be left out."),
    click.option(
        "--allow-failures", default=0, show_default=True, help="Exit with 0 in spite of so many failed videos."
    ),
)
def import_(source: Path, store: str, lists: tuple[Path, ...], allow_failures: int, **given: Any) -> None:
    """Make a store of features that other programs extracted, or of a file that `vidfeat export` wrote.

    SOURCE: an HDF5 file, a folder of .npy files, or the output of clip-video-encode or video_features. The store
    trains once its backbone is named.

    \b
    vidfeat import features/ X.zarr --pack other.zarr --labels list.csv
    vidfeat import videos.h5 X.zarr --model ViT-B-32-quickgelu --pretrained openai
    """
    from vidfeat.cli.tables import print_imported
    from vidfeat.tools.features.backbone import backbone
    from vidfeat.tools.features.into_store import ImportOptions, import_features

    of_model = ("model", "pretrained", "model_config", "weights", "base_weights", "tokenizer")
    choice = {name: given.pop(name) for name in ("pack", *of_model)}
    with backbone(**choice) as pack:
        done = import_features(source, store, ImportOptions(pack=pack, labels=lists, **given))
    print_imported(done)
    if done.n_failed > allow_failures:
        click.echo(
            f"{done.n_failed} videos failed ({allow_failures} allowed); see: vidfeat failures {done.out}", err=True
        )
        sys.exit(FAILED_VIDEOS)


@click.command()
@click.argument("source", metavar="LIST", type=FOLDER_OR_FILE)
@click.argument("store")
@click.option("--classes", type=FILE, help="CSV `id,name`, lines or JSON: what integer labels mean.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the available videos: a CSV path,label,split.")
@click.option("--missing", type=click.Path(path_type=Path), help="Write the missing videos, in the same way.")
@forms
def manifest(
    source: Path, store: str, classes: Path | None, out: Path | None, missing: Path | None, form: str | None
) -> None:
    """Compare an official LIST with what STORE holds, per class; write the intersection.

    LIST: Kinetics' CSV, Something-Something's JSON, UCF-101's train and test lists, HMDB-51's folder of split files,
    and every list that extract takes.

    \b
    vidfeat manifest kinetics400_val.csv k400.zarr --out available.csv
    """
    from vidfeat.cli.tables import print_availability
    from vidfeat.tools.availability import compare

    found = compare(source, store, classes=classes)
    for path, state in ((out, "available"), (missing, "missing")):
        if path is not None:
            path.write_text(found.as_csv(state), encoding="utf-8", errors="surrogateescape")
    print_availability(found, form=form)
