"""Every command that prints a table prints the same for programs: `--json` and `--csv`."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

import click
import pytest
import torch
import video_files as vf
from click.testing import CliRunner
from small_extraction import write_tiny_clip
from small_store import SmallStore
from tiny_store import write_tiny_store

from benchmarks.__main__ import SPEED_SUBJECTS
from benchmarks.__main__ import main as benchmarks
from prompttune.cli.commands import cli as prompttune
from prompttune.data.features import open_source
from prompttune.prompts.file import PromptFile, write_prompt_file
from vidfeat.cli.commands import main as vidfeat

# What these print is no table of rows: what was written, in a line or two, or (anchors) a report that is JSON itself.
NO_TABLE = {
    *(f"vidfeat {name}" for name in ("extract", "relabel", "export", "import", "anchors select", "anchors check")),
    *(f"prompttune prompts {name}" for name in ("import", "export")),
    *(f"prompttune splits {name}" for name in ("make", "import", "export")),
    "prompttune report",  # has formats of its own
    "benchmarks report",
    # These write what they measured or made: pages, and benchmarks/results/NAME.json.
    *(
        f"benchmarks {name}"
        for name in ("quickstart", "evidence", "worlds", "readme", "damage", "install-size", "world")
    ),
    *(f"benchmarks speed {name}" for name in SPEED_SUBJECTS),
}


def commands(group: click.Command, words: str) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(group, "commands", {})
    if not inner:
        yield words, group
    for name, command in inner.items():
        yield from commands(command, f"{words} {name}")


def test_every_command_that_prints_a_table_has_forms() -> None:
    groups = {"vidfeat": vidfeat, "prompttune": prompttune, "benchmarks": benchmarks}
    known = dict(found for name, group in groups.items() for found in commands(group, name))
    options = {name: {option for p in command.params for option in p.opts} for name, command in known.items()}
    lacking = {name for name, given in options.items() if not {"--json", "--csv"} <= given}
    assert lacking - NO_TABLE == set()
    assert NO_TABLE & known.keys() - lacking == set()


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the commands below are given: a store without a backbone, one with, a video, a model, a prompt, a split."""
    folder = tmp_path_factory.mktemp("forms")
    SmallStore().extract(folder / "X.zarr")
    vf.class_folders(folder / "videos", vf.write_video(folder / "a.mp4", n_frames=8), ["run"], per_class=1)
    model = write_tiny_clip(folder / "clip")
    trained = write_tiny_store(folder / "trained.zarr")
    pack = open_source(trained).pack
    context = torch.randn(2, pack.config.text.width)
    held = PromptFile(
        "coop",
        1,
        {},
        ("run", "jump"),
        "",
        "",
        pack.hash,
        2,
        context.shape[1],
        context,
        {"context.ctx": context.clone()},
    )
    write_prompt_file(folder / "prompt.safetensors", held)
    made = CliRunner().invoke(prompttune, ["splits", "make", str(trained), str(folder / "split.json"), "--shots", "2"])
    assert made.exit_code == 0, made.output
    names = {"STORE": "X.zarr", "TRAINED": "trained.zarr", "VIDEOS": "videos", "NEW": "new.zarr", "SPLIT": "split.json"}
    return {
        **{name: str(folder / file) for name, file in names.items()},
        "PROMPT": str(folder / "prompt.safetensors"),
        "FOLDER": str(folder),
        "CONFIG": str(model.model_config),
        "WEIGHTS": str(model.weights),
    }


@pytest.mark.parametrize(
    "words",
    [
        "vidfeat info STORE",
        "vidfeat failures STORE",
        "vidfeat failures STORE --reason timeout",
        "vidfeat verify STORE",
        "vidfeat doctor",
        "vidfeat crosscheck VIDEOS --n 1",
        "vidfeat plan VIDEOS --out NEW --model-config CONFIG --weights WEIGHTS --workers 0 --calibrate-seconds 0.1",
        "vidfeat models ViT-B-32",
        "prompttune methods",
        "prompttune prompts list FOLDER",
        "prompttune prompts show PROMPT",
        "prompttune prompts words PROMPT --store TRAINED",
        "prompttune prompts overlap PROMPT --store TRAINED",
        "prompttune splits check SPLIT --store TRAINED",
    ],
)
def test_both_forms_hold_the_same_rows(places: dict[str, str], words: str) -> None:
    program, *given = [places.get(word, word) for word in words.split()]
    command = {"vidfeat": vidfeat, "prompttune": prompttune}[program]
    as_json, as_csv = (CliRunner().invoke(command, [*given, form]) for form in ("--json", "--csv"))
    rows = json.loads(as_json.stdout)
    lines = list(csv.DictReader(io.StringIO(as_csv.stdout)))
    assert as_json.exit_code == as_csv.exit_code == 0
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines, strict=True):
        assert list(row) == list(line)
    assert as_csv.stdout.splitlines()  # a head line even where there is no row
