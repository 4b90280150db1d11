"""Pairs against another revision: what they run, in which order, what they print; no speed is asserted."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from benchmarks.speed import against, start, whole, write

HEAD_IS_HERE = not subprocess.run(["git", "rev-parse", "HEAD"], cwd=against.HERE, capture_output=True).returncode
ROW = re.compile(r"^(.{34}) +(\d+\.\d\d)  \((\d+\.\d\d) to (\d+\.\d\d)\) +(\d+\.\d\d) +(\d+\.\d\d)$", re.MULTILINE)

needs_git = pytest.mark.skipif(not HEAD_IS_HERE, reason="this is no git checkout")


@needs_git
def test_commits_are_timed_in_both_trees(capsys: pytest.CaptureFixture[str]) -> None:
    assert write.main(["--against", "HEAD", "--rounds", "1", "--small", "--only", "float16", "--threads", "1"]) == 0
    rows = ROW.findall(capsys.readouterr().out)
    assert [row[0].strip() for row in rows] == ["commit 4 x 8 frames, float16"]
    assert all(float(value) > 0 for value in rows[0][4:])


@needs_git
def test_an_unknown_revision_is_one_message() -> None:
    with pytest.raises(click.ClickException, match="no-such-revision"):
        write.main(["--against", "no-such-revision", "--small"])


@needs_git
def test_a_name_of_no_case_is_refused_with_those_there_are() -> None:
    with pytest.raises(click.BadParameter, match=r"no case has 'fp32' in its name: commit .* float16"):
        write.main(["--against", "HEAD", "--small", "--only", "fp32"])


@needs_git
@pytest.mark.parametrize(
    ("subject", "names"),
    [
        (start, ["train, one small epoch", "eval", "a mistyped method", "a mistyped option", "extract, nothing to do"]),
        (whole, ["HMDB-51 base to new, float32", "HMDB-51 base to new, bf16", "extract 36 clips, ViT-B/32"]),
    ],
)
def test_cases_are_run_in_turns_and_printed_with_their_range(
    subject, names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inputs are made as for a small run; the commands themselves are not started but looked at."""
    ran: list[tuple[str, bool]] = []
    old = {True: iter((9.0, 2.0, 4.0)), False: iter((9.0, 1.0, 3.0))}
    monkeypatch.setattr(subject, "prepare", lambda tree, arguments: None)

    def run_once(case: against.Case, tree: Path, work: Path, n_threads: int) -> float:
        for words in (str(part) for part in case.arguments):
            if words.startswith(str(work / "inputs")) and "done-" not in words and "trained" not in words:
                assert Path(words).exists(), words
        is_new = tree == against.HERE
        ran.append((case.name, is_new))
        if case.name != names[0]:
            return 1.0
        return next(old[is_new])

    monkeypatch.setattr(against, "run_once", run_once)
    assert subject.main(["--against", "HEAD", "--rounds", "2", "--small"]) == 0
    rows = ROW.findall(capsys.readouterr().out)
    assert [row[0].strip() for row in rows][: len(names)] == names
    # New / old of the two counted rounds: 2 / 1 and 4 / 3; the first round warms up.
    assert rows[0][1:] == ("1.67", "1.33", "2.00", "3.00", "2.00")
    assert ran[:6] == [(names[0], is_new) for is_new in (False, True, True, False, False, True)]
