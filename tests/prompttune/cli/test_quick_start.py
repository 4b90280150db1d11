"""What commands import, in a fresh process: a mistake is told before torch comes, a training needs little more."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

from vidfeat.startup import quick_imports

LARGE = (
    "torch",
    "pydantic",
    "zarr",
    "sklearn",
    "scipy",
    "pandas",
    "matplotlib",
    "open_clip",
    "torchvision",
    "timm",
    "av",
    "tensorboard",
    "ftfy",
)
# Runs commands one after the other in this process and says after each which large modules are there.
PROGRAM = """
import json, sys
from prompttune.cli import main
for words in json.loads(sys.argv[1]):
    try:
        main(words)
    except SystemExit as end:
        code = end.code or 0
    print(f"AFTER {json.dumps([code, [name for name in json.loads(sys.argv[2]) if name in sys.modules]])}")
"""


def loaded_after(commands: list[list[str]], *, cwd: Path) -> list[tuple[int, set[str]]]:
    """The exit code of each command, and the large modules of a process that has run it and those before it."""
    given = [json.dumps(commands), json.dumps(LARGE)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *given], capture_output=True, text=True, check=True, cwd=cwd)
    told = [json.loads(line.removeprefix("AFTER ")) for line in done.stdout.splitlines() if line.startswith("AFTER ")]
    assert len(told) == len(commands), done.stdout + done.stderr
    return [(code, set(names)) for code, names in told]


def test_a_mistake_is_told_before_torch_and_work_needs_little_more_than_torch(tmp_path: Path, target: str) -> None:
    train = ["train", "--store", target, "--seeds", "1", "--shots", "4", "--set", "epochs=1"]
    mistyped_method = [*train, "--method", "coopp"]
    mistyped_option = [*train, "--method", "coop", "--set", "epoch=1"]
    no_effect = [*train, "--method", "zero-shot", "--set", "optim.lr=1"]
    evaluate = ["eval", "--store", target]
    trains = [[*train, "--out", str(tmp_path / method), "--method", method] for method in ("coop", "ga2-text")]
    trains[1] += ["--set", "coupling=none"]
    commands = [mistyped_method, mistyped_option, no_effect, evaluate, *trains]
    *mistakes, of_eval, of_coop, of_ga2 = loaded_after(commands, cwd=tmp_path)
    assert mistakes == [(2, {"pydantic"})] * 3
    assert of_eval == of_coop == of_ga2 == (0, {"pydantic", "torch"})


def test_the_collector_is_as_it_was_after_imports() -> None:
    with quick_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    gc.disable()
    try:
        with quick_imports():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
