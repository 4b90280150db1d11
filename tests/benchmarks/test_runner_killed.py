"""A suite's process killed, interrupted and told to go: the same command finishes it, nothing lost, nothing doubled."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_suite import SHORT, learned, method, suite, tables, to_toml, write_stores

from benchmarks.runner import run_suite

LONG = SHORT["optim"] | {"epochs": 40}
LOG = {"every": 1, "checkpoint_seconds": 0.1}
# Zero-shot finishes at once; these two go together and take a second or two.
METHODS = tuple(method(f"Slow {lr}", "coop", optim=LONG | {"lr": lr}, log=LOG) for lr in (0.005, 0.02))

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals"),
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stores(tmp_path_factory.mktemp("stores"))


@pytest.fixture(scope="module")
def whole(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of the suite, run without a disturbance."""
    from rich.console import Console

    out = tmp_path_factory.mktemp("whole")
    outcome = run_suite(suite(*METHODS), out=out, data=stores, console=Console(quiet=True))
    assert outcome.failures == {}
    return out


def run_command(arguments: list[str], output: str) -> None:
    """`python -m benchmarks ARGUMENTS` of a process that has its imports behind it; what it prints goes into a file."""
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from benchmarks.__main__ import main

    main(arguments)


@dataclass
class Running:
    """The command at work in a process of its own."""

    process: Any
    output: Path

    def wait(self) -> int:
        """Its exit code; negative for the signal that ended it."""
        self.process.join(timeout=240)
        assert self.process.exitcode is not None, self.output.read_text()
        return int(self.process.exitcode)

    def wait_for(self, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 240
        while not there():
            assert self.process.is_alive(), self.output.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.002)


@pytest.fixture(scope="module")
def context() -> Any:
    """Processes forked off one that has imported everything: a start takes milliseconds instead of seconds."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["benchmarks.runner", "benchmarks.engine_local", "prompttune.training.fit", "tiny_suite"]
    )
    return made


def start(folder: Path, stores: Path, context: Any) -> Running:
    path = folder / "suite.toml"
    path.write_text(to_toml(tables(*METHODS)))
    arguments = ["run", str(path), "--data", str(stores), "--out", str(folder / "out")]
    process = context.Process(target=run_command, args=(arguments, str(folder / "output.txt")))
    process.start()
    return Running(process, folder / "output.txt")


def require_same(found: Path, expected: Path) -> None:
    """The same runs learned the same numbers by the same logged steps, whatever was cut off in between."""
    ours, theirs = learned(found / "cells"), learned(expected / "cells")
    assert ours.keys() == theirs.keys()
    for name, (numbers, log, metrics) in theirs.items():
        assert torch.equal(ours[name][0], numbers), name
        assert ours[name][1] == log, name
        assert ours[name][2] == metrics, name
    assert not list((found / "together").iterdir())


def test_a_killed_suite_is_finished_by_the_same_command(
    tmp_path: Path, stores: Path, whole: Path, context: Any
) -> None:
    out = tmp_path / "out"
    running = start(tmp_path, stores, context)
    running.wait_for(lambda: bool(list(out.glob("together/*/checkpoints/*.safetensors"))))
    running.process.kill()
    assert running.wait() == -signal.SIGKILL
    done = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}
    assert 0 < len(done) < len(list((whole / "cells").iterdir()))
    # Killed a second time, now while what was trained together is being given to its cells.
    running = start(tmp_path, stores, context)
    running.wait_for(lambda: bool(list(out.glob("cells/slow-*/seed*"))))
    running.process.kill()
    running.wait()
    running = start(tmp_path, stores, context)
    assert running.wait() == 0, running.output.read_text()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    require_same(out, whole)


def test_an_interrupted_suite_says_so_and_is_finished_by_the_same_command(
    tmp_path: Path, stores: Path, whole: Path, context: Any
) -> None:
    out = tmp_path / "out"
    running = start(tmp_path, stores, context)
    running.wait_for(lambda: bool(list(out.glob("together/*/checkpoints/*.safetensors"))))
    os.kill(running.process.pid, signal.SIGINT)
    assert running.wait() == 130, running.output.read_text()
    told = running.output.read_text()
    assert "interrupted" in told
    assert "the same command goes on" in told
    assert "Traceback" not in told
    assert list(out.glob("together/*/checkpoints/*.safetensors"))
    running = start(tmp_path, stores, context)
    assert running.wait() == 0, running.output.read_text()
    require_same(out, whole)
