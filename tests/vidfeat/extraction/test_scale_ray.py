"""Units on a Ray cluster of several raylets, one of which is lost on the way."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray_cluster import patiently
from small_extraction import digests, small_options, write_videos

from vidfeat.errors import StoreError, VidfeatError
from vidfeat.extraction import on_ray as scale
from vidfeat.extraction.extract import extract_or_resume
from vidfeat.extraction.job import open_job
from vidfeat.extraction.meter import Meter
from vidfeat.extraction.on_ray import RayOptions, extract_on_ray
from vidfeat.store import StoreWriter

pytestmark = pytest.mark.long
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> Path:
    return write_videos(tmp_path_factory.mktemp("videos"), 24)


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster: a head without CPUs and two nodes of one CPU each, every one a raylet of its own; those nodes."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        # Actors must find this project's packages, wherever pytest was started.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]))
        head = {"num_cpus": 0, "include_dashboard": False}
        cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        nodes = [patiently(lambda: cluster.add_node(num_cpus=1)) for _ in range(2)]
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, nodes
        ray.shutdown()
        cluster.shutdown()


def test_a_lost_node_costs_nothing_and_the_bytes_are_the_local_ones(tmp_path, videos, model, nodes):
    local, remote = tmp_path / "local.zarr", tmp_path / "ray.zarr"
    extract_or_resume(small_options(videos, local, model), quiet=True)
    cluster, workers = nodes
    lost: list[int] = []

    def lose_a_node_after_the_first_commits() -> None:
        while len(list(remote.glob("commits/unit-*.json"))) < 3:
            time.sleep(0.005)
        # Both nodes have an actor. The one hired for the lost one waits for the CPU of the other, which must let it go.
        cluster.remove_node(workers[0], allow_graceful=False)
        lost.append(len(list(remote.glob("commits/unit-*.json"))))

    saboteur = threading.Thread(target=lose_a_node_after_the_first_commits, daemon=True)
    saboteur.start()
    summary = extract_on_ray(small_options(videos, remote, model), RayOptions(n_actors=2, gpus_per_actor=0), quiet=True)
    saboteur.join(timeout=120)
    n_units = len(StoreWriter.attach(remote).plan_units())
    assert lost
    assert lost[0] < n_units, "the node was lost too late to matter"
    assert (summary.n_videos, summary.n_failed, summary.n_units_left) == (24, 0, 0)
    # An actor whose raylet died may write on for a moment: what it has not renamed is no part of the store.
    written = {name: digest for name, digest in digests(remote).items() if not name.endswith(".partial")}
    assert written == digests(local)


def test_units_that_are_done_already_are_not_handed_out(tmp_path, videos, model, nodes):
    out = tmp_path / "X.zarr"
    extract_or_resume(small_options(videos, out, model, units=(1, 2)), quiet=True)
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("commits/unit-*.json")}
    shutil.rmtree(out / "pack")  # actors read it: it is written again before they are hired
    summary = extract_on_ray(small_options(videos, out, model), RayOptions(gpus_per_actor=0), quiet=True)
    assert summary.n_units_done == len(StoreWriter.attach(out).plan_units()) - len(done)
    assert {name: (out / "commits" / name).stat().st_mtime_ns for name in done} == done
    assert extract_or_resume(small_options(videos, out, model), quiet=True).nothing_to_do


def test_an_actor_that_fits_no_node_is_refused_and_not_waited_for(tmp_path, videos, model, nodes):
    with pytest.raises(VidfeatError, match=r"no node[\s\S]*64 CPUs[\s\S]*--cpus-per-actor"):
        extract_on_ray(
            small_options(videos, tmp_path / "X.zarr", model),
            RayOptions(cpus_per_actor=64, gpus_per_actor=0),
            quiet=True,
        )


def test_what_an_actor_says_arrives_as_it_said_it(tmp_path, videos, model, nodes):
    out = tmp_path / "X.zarr"
    job = open_job(small_options(videos, out, model))
    (out / "tokens" / "01").rename(out / "elsewhere")
    (out / "tokens" / "01").write_bytes(b"in the way")
    with pytest.raises(StoreError, match=r"^the file system refused to write") as caught:
        scale._run(
            job, job.share(None), small_options(videos, out, model).machine, RayOptions(gpus_per_actor=0), Meter()
        )
    assert "Traceback" not in str(caught.value)
