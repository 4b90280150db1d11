"""Split files drawn from labelled sources: CSVs with groups, sound whatever the source."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import CLASSES

import prompttune.cli.commands as command_line
from prompttune.data.labelled import read_labelled
from prompttune.errors import SplitError
from prompttune.splits.file import (
    read_split_file,
    structure_problems,
    video_ids,
)
from prompttune.splits.making import MakeOptions, make_split_file, with_groups
from prompttune.splits.split import VideoTable

BASE = CLASSES[:4]


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command_line.cli, [str(argument) for argument in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_make_on_the_command_line_from_a_csv_with_groups_in_its_ids(tmp_path: Path) -> None:
    rows = [
        (f"v_{name}_g{group:02d}_c{clip:02d}.avi", name) for name in BASE for group in range(8) for clip in range(3)
    ]
    source = tmp_path / "all.csv"
    source.write_text("path,label\n" + "".join(f'"{path}",{name}\n' for path, name in rows))
    arguments = (
        "splits",
        "make",
        source,
        tmp_path / "s.json",
        "--group-pattern",
        r"_g(\d+)_",
        "--test-fraction",
        "0.25",
    )
    code, output = run(*arguments, "--shots", "2", "--seeds", "3,4")
    assert code == 0, output
    split = read_split_file(tmp_path / "s.json")
    assert split.train is not None
    assert set(split.train.draws) == {"3", "4"}
    tested = {key.split("_")[-2] for key in video_ids(split.tests["test"].videos)}
    assert len(tested) == 2  # a quarter of eight groups, whole groups of every class
    for draw in split.train.draws.values():
        assert Counter({name: len(ids) for name, ids in draw.items()}) == dict.fromkeys(BASE, 2)
        assert not tested & {key.split("_")[-2] for key in video_ids(draw)}
    assert split.made_by["group_pattern"] == r"_g(\d+)_"
    again = tmp_path / "again.json"
    assert run(*arguments[:3], again, *arguments[4:], "--shots", "2", "--seeds", "3,4")[0] == 0
    assert read_split_file(again).sha256 == split.sha256
    with pytest.raises(SplitError, match="do not match the group pattern"):
        run("splits", "make", source, again, "--group-pattern", "subject")


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(2, 5), st.sampled_from([0.2, 0.5]), st.integers(0, 4))
def test_made_splits_are_sound_whatever_the_source(n_groups: int, n_clips: int, fraction: float, seed: int) -> None:
    ids = [(f"{name}_{g}_{c}", name) for name in ("a", "b", "c") for g in range(n_groups) for c in range(n_clips)]
    table = VideoTable(
        ids=tuple(key for key, _ in ids),
        labels=tuple(name for _, name in ids),
        splits=("",) * len(ids),
        groups=("",) * len(ids),
        classes=("a", "b", "c"),
        usable=np.ones(len(ids), dtype=bool),
    )
    options = MakeOptions(test_fraction=fraction, seed=seed, group_pattern=r"_(\d+)_")
    try:
        split = make_split_file(table, options, source="x")
    except SplitError:
        assert n_groups * fraction < 1.5  # too few groups for a share so small
        return
    assert structure_problems(split) == []
    grouped = with_groups(table, r"_(\d+)_")
    side = {key: part for part, _, videos in split.parts() for key in video_ids(videos)}
    assert len(side) == len(ids)
    sides = {group: {side[key] for key, own in zip(table.ids, grouped.groups, strict=True) if own == group}
             for group in set(grouped.groups)}  # fmt: skip
    assert all(len(parts) == 1 for parts in sides.values())


def test_a_csv_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    source = tmp_path / "all.csv"
    for text, words in (
        ("video,class\na,b\n", "path,label"),
        ("path,label,split\na.mp4,run,trian\nb.mp4,run\n", "split 'trian' is not"),
        ("path,label\n", "none at all"),
    ):
        source.write_text(text)
        with pytest.raises(SplitError, match=words):
            read_labelled(source)
