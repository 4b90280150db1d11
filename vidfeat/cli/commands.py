"""The command line `vidfeat`: the only module that knows click. Heavy imports are inside the commands."""

from __future__ import annotations

import sys
from dataclasses import asdict
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vidfeat.cli.anchors import anchors
from vidfeat.cli.flags import FILE, FOLDER_OR_FILE, MODEL_OPTIONS, together
from vidfeat.cli.importing import import_, manifest
from vidfeat.errors import FAILURE_REASONS, VidfeatError, explain
from vidfeat.forms import forms, print_rows
from vidfeat.startup import quick_exit, quick_imports
from vidfeat.terminal import say

if TYPE_CHECKING:
    from vidfeat.extraction.options import ExtractOptions

FAILED_VIDEOS = 1
USER_ERROR = 2
INTERRUPTED = 130
# Packages below fsspec whose errors say that a bucket cannot be reached; they are no OSError.
OBJECT_STORE_CLIENTS = ("botocore", "aiobotocore", "aiohttp")


class ErrorsAsMessages(click.Group):
    """A group whose commands report what the user can act on as `error: ...` with exit code 2, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except VidfeatError as error:
            say(f"error: {error}", err=True)
            ctx.exit(USER_ERROR)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.split(".")[0] == "vidfeat":
                raise
            say(f"error: {error.name} is not installed\n  fix:      {_how_to_install(error.name)}", err=True)
            ctx.exit(USER_ERROR)
        except BrokenPipeError:
            raise
        except OSError as error:  # no file of ours, but the machine's: rights, a full disk, a mount that went away
            fix = "check that the path exists, that this user may use it, and that its disk has room"
            message = explain("a file cannot be used", where=error.filename, got=error.strerror or error, fix=fix)
            say(f"error: {message}", err=True)
            ctx.exit(USER_ERROR)
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in OBJECT_STORE_CLIENTS:
                raise
            fix = "check the endpoint, the bucket and the credentials in this shell's environment"
            say(f"error: {explain('the object store cannot be used', got=error, fix=fix)}", err=True)
            ctx.exit(USER_ERROR)


def _how_to_install(module: str) -> str:
    extra = {"ray": "ray", "fsspec": "s3", "s3fs": "s3"}.get(module.split(".")[0], "extract")
    return f"pip install 'prompttune[{extra}]'"


@click.group(cls=ErrorsAsMessages, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="prompttune", prog_name="vidfeat")
def main() -> None:
    """Video files -> frozen CLIP -> a feature store that trains prompts in seconds."""
    quick_exit()
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors == "strict":
        # A file name may hold bytes that are no text here: they are printed as they are.
        sys.stdout.reconfigure(errors="surrogateescape" if sys.stdout.encoding == "utf-8" else "backslashreplace")


SOURCE_OPTIONS = together(
    click.argument("source", type=FOLDER_OR_FILE),
    click.option("--root", type=FOLDER_OR_FILE, help="Folder that the paths of a list start from."),
    click.option(
        "--classes", type=FILE, help="CSV `id,name`, lines or JSON: class names, their order, what integers mean."
    ),
    click.option("--strict", is_flag=True, help="Refuse a source of which something would be left out."),
    click.option("--limit", type=click.IntRange(min=1), help="Only the first N videos."),
)
SAMPLING_OPTIONS = together(
    click.option("--frames", type=click.IntRange(min=1), help="Frames per video (per clip for `dense`).  [default: 8]"),
    click.option(
        "--sampling",
        default="uniform",
        show_default=True,
        help="uniform, segments-middle, segments-first, segments-random, fps, every-nth or dense.",
    ),
    click.option("--rate", type=float, help="Frames per second, for --sampling fps."),
    click.option("--stride", type=int, help="Distance between frames, for every-nth and dense."),
    click.option("--clips", type=int, help="Clips per video, for dense."),
    click.option("--max-frames", type=int, help="Upper bound on a video's frames, for fps and every-nth."),
    click.option("--views", default=1, show_default=True, help="1 centre crop, and V-1 random crops and flips."),
    click.option("--seed", default=0, show_default=True, help="Of the random views and of segments-random."),
    click.option("--decoder", default="auto", show_default=True, help="auto, pyav, decord, torchcodec."),
)
TAP_OPTIONS = together(
    click.option("--taps", default="pooled", show_default=True, help="Comma-separated: pooled, tokens@L for block L."),
    click.option("--dtype", default="float16", show_default=True, help="float16, float32, or int8 (tokens)."),
    click.option(
        "--shard-mb", default=128.0, show_default=True, help="Size of a shard, the unit of work and of commits."
    ),
)
MACHINE_OPTIONS = together(
    click.option("--workers", type=click.IntRange(min=0), help="Decoding processes; 0: none.  [default: cores - 1]"),
    click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps."),
    click.option("--precision", default="auto", show_default=True, help="auto, fp32, bf16, fp16."),
    click.option("--batch-frames", type=click.IntRange(min=1), help="Frames per batch.  [default: 32 cpu, 256 gpu]"),
    click.option("--timeout", default=300.0, show_default=True, help="Seconds without a frame until a video fails."),
    click.option(
        "--resize",
        type=click.Choice(["workers", "device"]),
        default="workers",
        show_default=True,
        help="Who resizes frames, to the same bytes: the decoding processes, or the encoder's device.",
    ),
)
EXTRACT_OPTIONS = together(
    SOURCE_OPTIONS,
    click.option("--out", required=True, help="The store to write, e.g. X.zarr or s3://bucket/X.zarr."),
    MODEL_OPTIONS,
    SAMPLING_OPTIONS,
    TAP_OPTIONS,
    MACHINE_OPTIONS,
)


def _options(values: dict[str, Any]) -> ExtractOptions:
    with quick_imports():
        from vidfeat.extraction.options import ExtractOptions

    return ExtractOptions.from_flags(**values)


@main.command()
@EXTRACT_OPTIONS
@click.option(
    "--allow-failures",
    default=0,
    show_default=True,
    help="Exit with 0 in spite of so many failed videos; files that a list names and that are missing are among them.",
)
@click.option("--check", type=click.Choice(["fast", "full"]), default="fast", help="Verify an existing store first.")
@click.option("--retry", metavar="REASON", help="Try failed videos again: one reason of `vidfeat failures`, or all.")
@click.option("--refresh", is_flag=True, help="Extract files anew that changed since they were extracted.")
@click.option("--prune", is_flag=True, help="Drop videos from the store whose files are gone, or moved.")
@click.option("--keep-labels", is_flag=True, help="Videos that the store has keep its labels and splits.")
@click.option("--units", metavar="I/N", help="Only share I of N of the units, for job arrays; I counts from 1.")
@click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True)
@click.option("--address", help="The Ray cluster, for --engine ray.  [default: start one here]")
@click.option("--actors", type=click.IntRange(min=1), help="Ray actors, one model each.  [default: one per GPU]")
@click.option("--cpus-per-actor", default=1.0, show_default=True, help="CPUs that Ray reserves for an actor.")
@click.option("--gpus-per-actor", type=float, help="GPUs that Ray reserves for an actor.  [default: 1 if there is one]")
@click.option("--quiet", is_flag=True, help="No progress, no summary.")
def extract(**flags: Any) -> None:
    """Extract the features of the videos of SOURCE: a folder of class folders, a CSV `path,label`, or a list.

    The same command resumes what was interrupted, adds what is missing, and does nothing when nothing is.
    """
    quiet = flags.pop("quiet")
    engine = flags.pop("engine")
    cluster = [flags.pop(name) for name in ("address", "actors", "cpus_per_actor", "gpus_per_actor")]
    try:
        options = _options(flags)
        with quick_imports():
            import vidfeat.clip.openclip  # noqa: F401 - torch, and all else that a run needs of us
            from vidfeat.cli.tables import print_summary
            from vidfeat.extraction.extract import extract_or_resume

        if engine == "ray":
            from vidfeat.extraction.on_ray import RayOptions, extract_on_ray

            summary = extract_on_ray(options, RayOptions(*cluster), quiet=quiet)
        else:
            summary = extract_or_resume(options, quiet=quiet)
    except KeyboardInterrupt:
        click.echo(f"\ninterrupted; every committed unit is safe. To resume:\n  {_this_command()}", err=True)
        sys.exit(INTERRUPTED)
    if not quiet:
        print_summary(summary)
    if summary.n_failed > options.allow_failures:
        say(
            f"{summary.n_failed} videos failed ({options.allow_failures} allowed); see: vidfeat failures {options.out}",
            err=True,
        )
        sys.exit(FAILED_VIDEOS)
    if summary.n_changed:
        say(f"{summary.n_changed} files changed since they were extracted (see above)", err=True)
        sys.exit(FAILED_VIDEOS)


def _this_command() -> str:
    import shlex

    return shlex.join(["vidfeat", *sys.argv[1:]])


@main.command()
@EXTRACT_OPTIONS
@click.option(
    "--allow-failures", default=0, help="As `vidfeat extract` takes it: plan although listed files are missing."
)
@click.option("--probe", "n_probed", default=200, show_default=True, help="Videos to probe.")
@click.option("--calibrate-seconds", default=20.0, show_default=True, help="How long to measure decoding and encoding.")
@forms
def plan(n_probed: int, calibrate_seconds: float, form: str | None, **flags: Any) -> None:
    """Predict bytes, files, hours and the bottleneck of an extraction; refuse what will not fit."""
    options = _options(flags)
    with quick_imports():
        import vidfeat.clip.openclip  # noqa: F401 - torch
        from vidfeat.cli.tables import print_prediction
        from vidfeat.extraction.plan import predict

    prediction = predict(options, n_probed=n_probed, calibrate_seconds=calibrate_seconds)
    if form:
        print_rows([{**asdict(prediction), "seconds": prediction.seconds}], form)
    else:
        print_prediction(prediction)


@main.command()
@click.argument("store")
@forms
def info(store: str, form: str | None) -> None:
    """Show what a store holds: videos, classes, taps, bytes, fingerprint, failures."""
    from vidfeat.cli.tables import facts_of_store, print_info
    from vidfeat.store import open_store

    opened = open_store(store)
    if form:
        print_rows([facts_of_store(opened)], form)
    else:
        print_info(opened)


@main.command()
@click.argument("store")
@click.option("--reason", type=click.Choice(FAILURE_REASONS), metavar="REASON", help="Only this reason.")
@forms
def failures(store: str, reason: str | None, form: str | None) -> None:
    """List the videos of a store that could not be used, and why: in full, one line each where it is piped."""
    from vidfeat.cli.failures import print_failures
    from vidfeat.store import open_store

    print_failures(open_store(store), reason=reason, form=form)


@main.command()
@click.argument("store")
@click.option("--labels", type=FILE, help="CSV `path[,label][,split][,group]`, or a list; paths are the store's ids.")
@click.option("--classes", type=FILE, help="All classes in their order; also what integer labels mean.")
@click.option("--split", "splits", multiple=True, metavar="OLD=NEW", help="Rename a whole split. Repeatable.")
def relabel(store: str, labels: Path | None, classes: Path | None, splits: tuple[str, ...]) -> None:
    """Change labels, splits or groups of the videos of STORE, without extracting again; the store keeps a log of it.

    \b
    vidfeat relabel X.zarr --labels labels.csv
    vidfeat relabel X.zarr --split val=test
    """
    from vidfeat.extraction.progress import tell
    from vidfeat.extraction.relabel import relabel as relabel_store

    pairs = [pair.partition("=") for pair in splits]
    if not all(equals for _, equals, _ in pairs) or not (labels or classes or splits):
        raise click.UsageError("give --labels LIST, --classes FILE, or --split OLD=NEW")
    done = relabel_store(store, labels, classes=classes, splits={old: new for old, _, new in pairs})
    tell(done.notes, quiet=False)
    say(f"{store}: {done.n_changed} of {done.n_videos} videos changed; {len(done.classes)} classes")
    if done.n_changed:
        say("to extract more into it from the same source: vidfeat extract ... --keep-labels")


@main.command()
@click.argument("store")
@click.option("--level", type=click.Choice(["fast", "full", "deep"]), default="fast", show_default=True)
@click.option("-k", "n_videos", default=4, show_default=True, help="Videos to extract again, for --level deep.")
@click.option("--source", type=FOLDER_OR_FILE, help="The videos, as given to extract; --level deep needs them.")
@click.option("--root", type=FOLDER_OR_FILE, help="Folder that the paths of a list start from.")
@click.option("--classes", type=FILE, help="As for extract.")
@click.option("--seed", default=0, show_default=True, help="Which videos --level deep draws.")
@click.option("--device", default="auto", show_default=True, help="For --level deep.")
@forms
def verify(store: str, level: str, form: str | None, **deep: Any) -> None:
    """Check a store. fast: plan, sizes, indexes; full: every byte and value; deep: extract K videos again."""
    from vidfeat.cli.tables import print_deep_report, print_verify_report
    from vidfeat.store import verify as verify_store

    if level == "deep" and deep["source"] is None:
        from vidfeat.extraction.options import OptionsError

        fix = f"vidfeat verify {store} --level deep --source FOLDER_OR_LIST, with --root and --classes as to extract"
        raise OptionsError(explain("deep verification extracts videos again and needs them", where=store, fix=fix))
    report = verify_store(store, level="fast" if level == "fast" else "full")
    found = [{"path": one.path, "unit": one.unit, "what": one.what} for one in report.problems]
    if not form:
        print_verify_report(report)
    bad = bool(report.problems)
    if level == "deep" and not bad:
        from vidfeat.extraction.deep_verify import DeepOptions, verify_deep

        deep_report = verify_deep(store, DeepOptions(**deep))
        found += [{"path": store, "unit": None, "what": problem} for problem in deep_report.problems]
        if not form:
            print_deep_report(deep_report)
        bad = bool(deep_report.problems)
    if form:
        print_rows(found, form, columns=("path", "unit", "what"))
    sys.exit(1 if bad else 0)


@main.command()
@forms
def doctor(form: str | None) -> None:
    """Say which decoders work on this machine, by decoding with each."""
    from vidfeat.cli.tables import print_doctor
    from vidfeat.video.decode import doctor as examine

    statuses = examine()
    if form:
        print_rows([asdict(status) for status in statuses], form)
    else:
        print_doctor(statuses)
    # Any video can be decoded here if PyAV works.
    sys.exit(0 if any(status.works and status.name == "pyav" for status in statuses) else 1)


@main.command()
@SOURCE_OPTIONS
@click.option("--n", "n_videos", default=20, show_default=True, help="Videos to compare, drawn at random.")
@click.option("--seed", default=0, show_default=True)
@forms
def crosscheck(form: str | None, **flags: Any) -> None:
    """Decode some videos with two decoders and compare the frames."""
    from vidfeat.cli.tables import print_comparisons
    from vidfeat.video.decode import crosscheck_source

    compared = crosscheck_source(**flags)
    if form:
        print_rows([{**asdict(one), "agrees": one.agrees} for one in compared], form)
    else:
        print_comparisons(compared)
    sys.exit(0 if all(one.agrees for one in compared) else 1)


@main.command()
@click.argument("store")
@click.argument("hdf5", type=FOLDER_OR_FILE)
def export(store: str, hdf5: Path) -> None:
    """Write a store into one HDF5 file."""
    from vidfeat.tools.hdf5 import export_hdf5

    click.echo(f"wrote {export_hdf5(store, hdf5)}")


@main.command()
@click.argument("name", required=False)
@forms
def models(name: str | None, form: str | None) -> None:
    """Say what each known model can do here: tokens, visual and text prompts; of one, why not more."""
    from vidfeat.cli.model_tables import print_model, print_models
    from vidfeat.clip.verdicts import judge, judge_all

    if name is None and sys.stderr.isatty():
        click.echo("building every model without memory, to look at it ...", err=True)
    verdicts = [judge(name)] if name is not None else list(judge_all())
    if form:
        print_rows([verdict.to_json() for verdict in verdicts], form)
    elif name is not None:
        print_model(verdicts[0])
    else:
        print_models(verdicts)


for command in (anchors, import_, manifest):
    main.add_command(command)
