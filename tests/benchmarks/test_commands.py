"""`python -m benchmarks`: help at every depth, before anything heavy is imported."""

from __future__ import annotations

from importlib.util import find_spec

from click.testing import CliRunner

from benchmarks.__main__ import SPEED_SUBJECTS, main


def test_what_can_be_measured_is_listed() -> None:
    found = CliRunner().invoke(main, ["speed", "--help"])
    assert found.exit_code == 0
    listed = {line.split()[0] for line in found.output.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == set(SPEED_SUBJECTS)
    assert all(find_spec(f"benchmarks.speed.{name}") for name in SPEED_SUBJECTS)


def test_words_behind_a_subject_are_the_subjects_own() -> None:
    found = CliRunner().invoke(main, ["speed", "write", "--help"])
    assert found.exit_code == 0
    assert "--against" in found.output
