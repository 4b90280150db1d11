"""A suite on a Ray cluster of several raylets, one of them killed on the way: the local results to the last bit."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ray_cluster import patiently
from rich.console import Console
from tiny_suite import GA2, SHORT, learned, learning_rate, method, suite, write_stores

from benchmarks.engine_ray import Reservation
from benchmarks.jobs import Job
from benchmarks.runner import RunOptions, run_suite
from benchmarks.suite import Resources, Suite, cells
from benchmarks.trial import Estimate

ray = pytest.importorskip("ray")
QUIET = Console(quiet=True)
LONG = {"optim": SHORT["optim"] | {"epochs": 60}, "log": {"every": 10, "checkpoint_seconds": 0.05}}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stores(tmp_path_factory.mktemp("stores"))


def job_of(of: Suite, tmp_path: Path, device: str = "cpu") -> Job:
    cell = cells(of, out=tmp_path, data=tmp_path)[0]
    return Job((replace(cell, config=cell.config.model_copy(update={"device": device})),), cell.folder)


def test_resources_are_as_declared_else_as_planned(tmp_path: Path) -> None:
    estimate = Estimate(n_steps=10, seconds=1.0, memory_bytes=3 * 2**30, how="counted")
    plain = suite(learning_rate(0.1))
    assert Reservation.of(job_of(plain, tmp_path), estimate) == Reservation(1.0, 0.0, 3 * 2**30)
    assert Reservation.of(job_of(plain, tmp_path, "cuda"), estimate).gpus == 1.0
    declared = suite(learning_rate(0.1), resources=Resources(cpus=2, gpus=0.5, memory_gib=1.5))
    found = Reservation.of(job_of(declared, tmp_path, "cuda"), estimate)
    assert found == Reservation(2.0, 0.5, int(1.5 * 2**30))
    assert found.fits({"CPU": 2.0, "GPU": 1.0, "memory": 2.0 * 2**30})
    assert not found.fits({"CPU": 2.0, "memory": 2.0 * 2**30})
    assert not found.fits({"CPU": 1.0, "GPU": 1.0, "memory": 2.0 * 2**30})


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster: a head without CPUs and two nodes of one CPU each, every one a raylet of its own; those nodes."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_worker_niceness", "0")  # 15 otherwise: on a busy machine a worker would wait for minutes
        # Workers must find this project's packages, wherever pytest was started.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]))
        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        nodes = [patiently(lambda: cluster.add_node(num_cpus=1)) for _ in range(2)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


def parent_of(pid: str) -> int:
    """The process's parent, -1 where it has just ended."""
    try:
        return int(Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return -1


def node_that_writes_to(folder: Path, nodes: list[Any]) -> Any | None:
    """The node one of whose workers has a file below the folder open; None where there is none yet."""
    processes = [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]
    for node in nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        for pid in (pid for pid in processes if parent_of(pid) == raylet):
            opened = []
            for descriptor in Path("/proc", pid, "fd").glob("*"):
                with suppress(OSError):
                    opened.append(os.readlink(descriptor))
            if any(path.startswith(str(folder)) for path in opened):
                return node
    return None


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="finds the worker in /proc")
def test_a_lost_node_costs_no_result_and_the_results_are_the_local_ones(
    tmp_path: Path, stores: Path, nodes: tuple[Any, list[Any]]
) -> None:
    greedy = method("Greedy", "kgcoop") | {"resources": {"cpus": 64}}
    of = suite(method("Long", "coop", **LONG), GA2, greedy)
    local, remote = tmp_path / "local", tmp_path / "ray"
    run_suite(of, out=local, data=stores, console=QUIET, options=RunOptions(only=("Zero-shot", "Long", "GA2")))
    cluster, workers = nodes
    lost: list[bool] = []

    def lose_the_node_that_trains() -> None:
        folder = remote / "cells" / "long-target-base-to-new-4"
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline and not lost:
            if list(folder.glob("checkpoints/*")) and (node := node_that_writes_to(folder, workers)) is not None:
                cluster.remove_node(node, allow_graceful=False)
                lost.append((folder / "result.json").exists())
            time.sleep(0.005)

    saboteur = threading.Thread(target=lose_the_node_that_trains, daemon=True)
    saboteur.start()
    outcome = run_suite(of, out=remote, data=stores, console=QUIET, options=RunOptions(engine="ray"))
    saboteur.join(timeout=220)
    assert lost == [False], "no node was lost in the middle of the long training"
    # What no node can hold is said and does not stop the others.
    assert list(outcome.failures) == ["greedy-target-base-to-new-4"]
    assert "no node of the cluster has" in outcome.failures["greedy-target-base-to-new-4"].message
    ours, theirs = learned(remote / "cells"), learned(local / "cells")
    assert ours.keys() == theirs.keys()
    assert len(theirs) == 6
    for name, (numbers, log, metrics) in theirs.items():
        assert torch.equal(ours[name][0], numbers), name
        assert ours[name][1] == log, name
        assert ours[name][2] == metrics, name
