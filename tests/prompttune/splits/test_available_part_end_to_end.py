"""An official list of which a part is gone: what is there, a split of it, and a result that says what it stands on."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from tiny_store import CLASSES

from prompttune.cli.commands import cli
from vidfeat.cli import main
from vidfeat.store import open_store


def test_a_result_says_on_how_many_of_the_official_clips_it_stands(tmp_path: Path, target: str) -> None:
    tested = [row for row in open_store(target).videos() if row.split == "test"]
    gone = [(f"{name}/gone-{i}.mp4", name) for i in range(3) for name in CLASSES[:2]]
    listed = [(row.id, row.label) for row in tested] + gone
    (tmp_path / "official_test.csv").write_text("path,label\n" + "".join(f"{path},{name}\n" for path, name in listed))
    (tmp_path / "official_test.txt").write_text("".join(f"{path} {name}\n" for path, name in listed))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    paths = [str(tmp_path / name) for name in ("official_test.csv", "there.csv", "split.json", "classes.txt")]
    official, there, split, classes = paths

    said = CliRunner().invoke(main, ["manifest", official, target, "--out", there])
    assert said.exit_code == 0, said.output
    assert f"{len(tested)} of {len(listed)} listed videos are available" in said.output
    assert len(Path(there).read_text().splitlines()) == 1 + len(tested)

    texts = [str(tmp_path / "official_test.txt"), classes]
    arguments = ["splits", "import", split, "--test", "official", *texts, "--store", target, "--allow-missing"]
    made = CliRunner().invoke(cli, arguments)
    assert made.exit_code == 0, made.output
    done = CliRunner().invoke(cli, ["eval", "--store", target, "--split", split, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    sentence = f"test stands on {len(tested)} of the {len(listed)} videos that its split file lists"
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["runs"][0]["notes"] == [sentence]
    assert result["runs"][0]["tests"]["test"]["n_listed"] == len(listed)
    assert sentence in " ".join(done.output.split())
