"""`python -m benchmarks.world`: make datasets, look at them, pre-train the small CLIP, calibrate."""

from pathlib import Path

import click

from benchmarks.world.plans import DATASET_NAMES


@click.group()
def main() -> None:
    """A small video world and a small CLIP that knows it."""


@main.command()
@click.argument("name", type=click.Choice((*DATASET_NAMES, "all")))
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Folder that receives a folder per dataset."
)
@click.option("--seed", default=0, show_default=True, help="Which world: classes, split and styles are drawn from it.")
@click.option("--workers", default=None, type=click.IntRange(min=1), help="Processes; one per core unless given.")
def make(name: str, out: Path, seed: int, workers: int | None) -> None:
    """Draw a dataset of short mp4 files, with videos.csv and classes.csv."""
    from benchmarks.world.datasets import WorldError, make_dataset

    for dataset in DATASET_NAMES if name == "all" else (name,):
        try:
            files = make_dataset(dataset, out, seed=seed, workers=workers)
        except WorldError as error:
            raise click.ClickException(str(error)) from None
        n_classes = len(files.base_classes) + len(files.new_classes)
        click.echo(f"{files.root}: {files.n_videos} videos, {n_classes} classes")


@main.command()
@click.argument("what", type=click.Choice(("stream", *DATASET_NAMES)))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The PNG file to write.")
@click.option("--seed", default=0, show_default=True)
def show(what: str, out: Path, seed: int) -> None:
    """Write a contact sheet of frames with captions or labels."""
    from benchmarks.world.contact_sheet import dataset_sheet, stream_sheet

    if what == "stream":
        stream_sheet(out, seed=seed)
    else:
        dataset_sheet(out, what, seed=seed)
    click.echo(str(out))


@main.command()
@click.option(
    "--work-dir", type=click.Path(path_type=Path), required=True, help="Checkpoints and log; resumes from it."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Weights file; the committed one unless given."
)
@click.option("--seed", default=None, type=int, help="Seed of the stream and of the initial weights.")
@click.option("--steps", default=None, type=click.IntRange(min=1), help="Updates in all.")
def pretrain(work_dir: Path, out: Path | None, seed: int | None, steps: int | None) -> None:
    """Pre-train the small CLIP on the stream of frames and captions."""
    from benchmarks.world.clip_weights import WEIGHTS_PATH
    from benchmarks.world.pretrain import PretrainOptions
    from benchmarks.world.pretrain import pretrain as run

    given = {key: value for key, value in {"seed": seed, "steps": steps}.items() if value is not None}
    run(work_dir, PretrainOptions(**given), weights_path=out or WEIGHTS_PATH)


@main.command()
@click.option(
    "--seed", "seeds", multiple=True, default=(0, 1, 2), show_default=True, help="Worlds to measure; repeat it."
)
@click.option("--weights", type=click.Path(path_type=Path, exists=True), default=None, help="Another compact CLIP.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="JSON file; the committed one unless given.")
def calibrate(seeds: tuple[int, ...], weights: Path | None, out: Path | None) -> None:
    """Measure zero-shot and CoOp on the target and say which conditions of the world hold."""
    from benchmarks.world.calibrate import RESULT_PATH, write_record
    from benchmarks.world.calibrate import calibrate as measure
    from benchmarks.world.clip_weights import WEIGHTS_PATH
    from benchmarks.world.coop import CoopOptions

    options = CoopOptions()
    results = []
    for seed in seeds:
        result = measure(seed, options=options, weights_path=weights or WEIGHTS_PATH)
        results.append(result)
        zero_shot, coop = result.zero_shot, result.coop_mean
        click.echo(
            f"world {seed}: zero-shot {zero_shot.base:.1f} / {zero_shot.new:.1f}, CoOp {coop.base:.1f} / {coop.new:.1f}"
        )
        for condition, holds in result.conditions().items():
            click.echo(f"  {'holds' if holds else 'FAILS'}: {condition}")
    write_record(out or RESULT_PATH, results, options)


if __name__ == "__main__":
    main()
