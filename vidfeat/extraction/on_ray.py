"""The same units on Ray actors: one model per actor, unit numbers out, receipts back; tensors never leave their actor.

Every actor writes its units straight into the store, which all nodes must reach by the same path (a shared file system,
or a URL). A unit that is run twice, or by two actors at once, is committed once: the first commit wins. So a lost node
costs the units it had in hand and nothing else; they are given to another actor.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vidfeat.errors import VidfeatError, explain
from vidfeat.extraction import progress
from vidfeat.extraction.extract import ExtractSummary, finish, sigterm_as_interrupt
from vidfeat.extraction.job import Job, open_job
from vidfeat.extraction.meter import Meter
from vidfeat.extraction.options import ExtractOptions, Machine
from vidfeat.extraction.recipe import Recipe
from vidfeat.extraction.unit_runner import UnitRunner, layers_of, pixel_stream
from vidfeat.store import StoreWriter, Unit, VideoRow

# Units handed out at once: enough to keep the pipeline full across their borders, few enough to lose with a node.
UNITS_PER_TASK = 8
ATTEMPTS = 3
WAIT_SECONDS = 1.0


@dataclass(frozen=True)
class RayOptions:
    """How the cluster is used.

    Attributes:
        address: of a running cluster ("auto" finds one); None starts one on this machine.
        n_actors: None: one per GPU of the cluster, or where there is none one per `cpus_per_actor` CPUs.
        cpus_per_actor, gpus_per_actor: what Ray reserves for each; the decoding workers of an actor are processes on
            its node and should fit into `cpus_per_actor`.
    """

    address: str | None = None
    n_actors: int | None = None
    cpus_per_actor: float = 1.0
    gpus_per_actor: float | None = None


@dataclass(frozen=True)
class ActorSetup:
    """What every actor is told once."""

    out: str
    recipe: Recipe
    machine: Machine
    precision: str
    layers: tuple[int, ...]


@dataclass(frozen=True)
class UnitTask:
    """Some units, the files of their videos, and what earlier commits say about those."""

    units: tuple[int, ...]
    paths: Mapping[str, str]
    known: Mapping[int, VideoRow]


@dataclass(frozen=True)
class Receipt:
    """What a finished task says: about a kilobyte."""

    units: tuple[int, ...]
    n_videos: int
    n_failures: int
    n_frames: int
    seconds_by_stage: Mapping[str, float]
    node: str


class UnitActor:
    """One process of the cluster: a model, a store to commit to, and decoding workers of its own."""

    def __init__(self, setup: ActorSetup) -> None:
        from vidfeat.backbone import BackbonePack
        from vidfeat.clip.encode import Encoder

        self._setup = setup
        self._writer = StoreWriter.attach(setup.out)
        pack = BackbonePack.load(f"{setup.out}/pack", expected_hash=self._writer.plan.spec.pack_hash)
        self._encoder = Encoder(
            pack,
            layers=setup.layers,
            device=setup.machine.device,
            precision=setup.precision,  # type: ignore[arg-type]
        )

    def run(self, task: UnitTask) -> Receipt:
        """The receipt of the units, once they are committed."""
        import platform

        machine, meter = self._setup.machine, Meter()
        by_index = self._writer.plan_units()
        units = [by_index[index] for index in task.units]
        batch_frames = machine.batch_size(self._encoder.device.type)
        runner = UnitRunner(
            self._writer,
            recipe=self._setup.recipe,
            encoder=self._encoder,
            batch_frames=batch_frames,
            paths=task.paths,
            known=task.known,
        )
        device, sizes = self._encoder.device, {"batch_frames": batch_frames, "n_videos": len(task.paths)}
        with pixel_stream(self._setup.recipe, machine, device=device, **sizes) as pixels:
            runner.run(units, pixels, meter)
        reading = meter.read()
        return Receipt(
            units=task.units,
            n_videos=reading.n_videos,
            n_failures=reading.n_failures,
            n_frames=reading.n_frames,
            seconds_by_stage=meter.seconds_by_stage(),
            node=platform.node(),
        )


def extract_on_ray(options: ExtractOptions, ray_options: RayOptions, *, quiet: bool = False) -> ExtractSummary:
    """What `extract_or_resume` does, by actors of a Ray cluster; this process plans, hands out, and seals the store.

    Raises:
        VidfeatError: as `extract_or_resume`; and units that failed on ATTEMPTS actors.
        KeyboardInterrupt: Ctrl-C or SIGTERM; what was committed stays.
    """
    started = time.monotonic()
    with sigterm_as_interrupt():
        job = open_job(options)
        progress.tell(job.notes, quiet=quiet)
        units = job.share(options.units)
        meter = Meter()
        if units:
            n_videos = sum(len(unit.video_indices) for unit in units)
            with progress.shown(meter, n_videos=n_videos, n_rows=job.expected_rows(units), quiet=quiet):
                _run(job, units, options.machine, ray_options, meter)
        return finish(job, n_units_done=len(units), meter=meter, started=started)


def _run(job: Job, units: Sequence[Unit], machine: Machine, ray_options: RayOptions, meter: Meter) -> None:
    import ray

    job.pack.save()  # actors read it
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=ray_options.address, include_dashboard=False, log_to_driver=False)
    try:
        setup = ActorSetup(job.out, job.recipe, machine, str(job.precision), layers_of(units))
        with sigterm_as_interrupt():  # ray.init has put its own handler in place of ours
            _Dispatcher(setup, ray_options, _tasks(job, units, ray_options), meter).run()
    finally:
        if started_here:
            ray.shutdown()


def _tasks(job: Job, units: Sequence[Unit], ray_options: RayOptions) -> list[UnitTask]:
    """The units in order, up to UNITS_PER_TASK in a task, fewer when there would be idle actors at the end."""
    size = max(1, min(UNITS_PER_TASK, len(units) // (4 * (ray_options.n_actors or 8))))
    known = job.known_facts(units)
    videos = job.writer.plan.videos
    tasks = []
    for start in range(0, len(units), size):
        chosen = units[start : start + size]
        indices = [index for unit in chosen for index in unit.video_indices]
        tasks.append(
            UnitTask(
                units=tuple(unit.index for unit in chosen),
                paths={videos[index].id: job.paths[videos[index].id] for index in indices},
                known={index: known[index] for index in indices if index in known},
            )
        )
    return tasks


class _Dispatcher:
    """Keeps every actor busy with one task, replaces lost actors, and gives their tasks to others."""

    def __init__(self, setup: ActorSetup, ray_options: RayOptions, tasks: Sequence[UnitTask], meter: Meter) -> None:
        self._setup = setup
        self._options = ray_options
        self._waiting = deque(tasks)
        self._meter = meter
        self._attempts: dict[tuple[int, ...], int] = {}
        self._running: dict[Any, tuple[Any, UnitTask]] = {}

    def run(self) -> None:
        """Returns when every task has a receipt."""
        import ray

        self._require_a_node()
        n_actors = min(self._n_actors(), len(self._waiting))
        for _ in range(n_actors):
            self._start(self._hire())
        while self._running:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_SECONDS)
            for reference in done:
                self._take(reference)

    def _take(self, reference: Any) -> None:
        """Books a finished or lost task and gives its actor, or a new one, the next.

        A method of its own, so that no variable outlives it: an actor without a task must lose its last handle here, or
        it keeps the CPU that an actor hired for a lost one is waiting for, and both wait for ever.
        """
        import ray

        actor, task = self._running.pop(reference)
        try:
            receipt: Receipt = ray.get(reference)
        except ray.exceptions.RayActorError as error:
            self._lost(task, error)
            actor = self._hire()
        except ray.exceptions.RayTaskError as error:
            # What the actor itself says (a full disk, a store of another plan), without Ray's traceback.
            raise error.cause if isinstance(error.cause, VidfeatError) else error from None
        else:
            self._meter.encoded(receipt.n_frames)
            self._meter.committed(0, videos=receipt.n_videos, failures=receipt.n_failures)
        self._start(actor)

    def _start(self, actor: Any) -> None:
        if self._waiting:
            task = self._waiting.popleft()
            self._running[actor.run.remote(task)] = (actor, task)

    def _lost(self, task: UnitTask, error: Exception) -> None:
        attempts = self._attempts[task.units] = self._attempts.get(task.units, 0) + 1
        if attempts >= ATTEMPTS:
            raise VidfeatError(
                explain(
                    "these units were lost with their actor again and again",
                    where=self._setup.out,
                    got=f"units {task.units}, {attempts} times; the last time: {str(error).splitlines()[0]}",
                    fix="look at the nodes' memory and at Ray's logs; the same command resumes",
                )
            ) from error
        self._waiting.appendleft(task)

    def _require_a_node(self) -> None:
        """Returns when some node can hold an actor; Ray itself would wait for one, in silence and for ever."""
        import ray

        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = self._options.cpus_per_actor, self._gpus()
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            got = "; ".join(f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise VidfeatError(
                explain(
                    "no node of the Ray cluster has room for an actor",
                    expected=f"a node with {cpus:g} CPUs and {gpus:g} GPUs",
                    got=got or "no node alive",
                    fix="lower --cpus-per-actor or --gpus-per-actor, or start larger nodes",
                )
            )

    def _gpus(self) -> float:
        import ray

        if self._options.gpus_per_actor is not None:
            return self._options.gpus_per_actor
        return 1.0 if ray.cluster_resources().get("GPU", 0) >= 1 else 0.0

    def _n_actors(self) -> int:
        import ray

        if self._options.n_actors is not None:
            return self._options.n_actors
        resources = ray.cluster_resources()
        by_gpu = resources.get("GPU", 0) / self._gpus() if self._gpus() else float("inf")
        by_cpu = resources.get("CPU", 0) / self._options.cpus_per_actor if self._options.cpus_per_actor else by_gpu
        return max(1, int(min(by_gpu, by_cpu)))

    def _hire(self) -> Any:
        import ray

        # Retries are this class's own: it must know which task was lost.
        actor = ray.remote(UnitActor).options(
            num_cpus=self._options.cpus_per_actor, num_gpus=self._gpus(), max_restarts=0, max_task_retries=0
        )
        return actor.remote(self._setup)
