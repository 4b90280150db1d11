"""The trainings of a suite spread over a Ray cluster: job descriptions out, failures back; results stay on disk.

All nodes must reach the project, the stores and the results folder by the same paths (a shared file system). Every
training is a task with declared resources; one that is lost with its node goes to another and resumes there from its
last checkpoint, for its folder is all its state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine_local import failures_of, unmet
from benchmarks.failures import Failure, FailureLog
from benchmarks.jobs import Job
from benchmarks.progress import SuiteProgress
from benchmarks.trial import Estimate

ATTEMPTS = 4  # of a training whose nodes are lost, the first included
WAIT_SECONDS = 1.0
CANCEL_SECONDS = 20.0


@dataclass(frozen=True)
class Reservation:
    """What Ray reserves for one training."""

    cpus: float
    gpus: float
    memory_bytes: int

    @classmethod
    def of(cls, job: Job, estimate: Estimate | None) -> Reservation:
        """As the suite declares it; memory as the plan counts it and a GPU where the device is one, if it does not."""
        declared = job.resources
        uses_gpu = job.cells[0].config.device.startswith("cuda")  # "auto" takes what Ray lends
        gpus = declared.gpus if declared.gpus is not None else float(uses_gpu)
        counted = estimate.memory_bytes if estimate is not None else 0
        memory = int(declared.memory_gib * 2**30) if declared.memory_gib is not None else counted
        return cls(declared.cpus, gpus, memory)

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a node of these resources could ever hold it."""
        needed = {"CPU": self.cpus, "GPU": self.gpus, "memory": float(self.memory_bytes)}
        return all(resources.get(name, 0.0) >= amount for name, amount in needed.items())


def run_on_ray(
    jobs: Sequence[Job],
    *,
    address: str | None,
    estimates: Mapping[Path, Estimate],
    log: FailureLog,
    progress: SuiteProgress,
    overwrite: bool,
) -> None:
    """Runs every job on the cluster at `address` ("auto" finds one; None starts one on this machine).

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM; trainings were told to write their checkpoints.
    """
    import ray

    from vidfeat.extraction.extract import sigterm_as_interrupt

    started_here = not ray.is_initialized()
    if started_here:
        root = str(Path(__file__).parents[1])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        ray.init(
            address=address,
            include_dashboard=None if address else False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    try:
        with sigterm_as_interrupt():  # ray.init has put its own handler in place of ours
            _Dispatcher(jobs, estimates, log, progress, overwrite=overwrite).run()
    finally:
        if started_here:
            ray.shutdown()


def train_there(job: Job, *, overwrite: bool, directory: str, n_threads: int) -> dict[str, Failure]:
    """What a worker does: the job, as this process would do it in its working directory."""
    import torch

    os.chdir(directory)
    torch.set_num_threads(n_threads)
    return failures_of(job, overwrite=overwrite)


class _Dispatcher:
    """Hands out jobs as soon as the prompts they take are there."""

    def __init__(
        self,
        jobs: Sequence[Job],
        estimates: Mapping[Path, Estimate],
        log: FailureLog,
        progress: SuiteProgress,
        *,
        overwrite: bool,
    ) -> None:
        self._waiting = list(jobs)
        self._estimates, self._log, self._progress, self._overwrite = estimates, log, progress, overwrite
        self._running: dict[Any, Job] = {}

    def run(self) -> None:
        """Returns when every job is done or failed."""
        import ray

        try:
            self._hand_out()
            while self._running:
                done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_SECONDS)
                for reference in done:
                    self._over(self._running.pop(reference), reference)
                self._hand_out()
        except KeyboardInterrupt:
            self._cancel()
            raise

    def _hand_out(self) -> None:
        unfinished = {cell.name for job in (*self._waiting, *self._running.values()) for cell in job.cells}
        ready = [job for job in self._waiting if not unfinished.intersection(job.needs)]
        self._waiting = [job for job in self._waiting if job not in ready]
        for job in ready:
            problem = unmet(job, self._log) or self._too_large(job)
            if problem is None:
                self._progress.started(job)
                self._running[self._submit(job)] = job
            else:
                self._end(job, {cell.name: problem for cell in job.cells})
        if ready and not self._running:
            self._hand_out()  # what waited for jobs that failed

    def _reservation(self, job: Job) -> Reservation:
        return Reservation.of(job, self._estimates.get(job.folder))

    def _too_large(self, job: Job) -> Failure | None:
        import ray

        wanted = self._reservation(job)
        if any(node["Alive"] and wanted.fits(node["Resources"]) for node in ray.nodes()):
            return None
        return Failure("blocked", f"not started: no node of the cluster has {wanted}")

    def _submit(self, job: Job) -> Any:
        import ray

        wanted = self._reservation(job)
        train: Any = ray.remote(train_there)  # type: ignore[arg-type]
        task = train.options(
            num_cpus=wanted.cpus,
            num_gpus=wanted.gpus,
            memory=wanted.memory_bytes or None,
            max_retries=ATTEMPTS - 1,
            name=job.name,
        )
        threads = max(1, int(wanted.cpus))
        return task.remote(job, overwrite=self._overwrite, directory=os.getcwd(), n_threads=threads)

    def _over(self, job: Job, reference: Any) -> None:
        import ray

        try:
            failures: Mapping[str, Failure] = ray.get(reference)
        except ray.exceptions.RayError as error:
            failures = {cell.name: Failure.of(error) for cell in job.cells}
        self._end(job, failures)

    def _end(self, job: Job, failures: Mapping[str, Failure]) -> None:
        for name, failure in failures.items():
            self._log.record(name, failure)
        self._progress.finished(job, failed=bool(failures))

    def _cancel(self) -> None:
        """Interrupts every training, which makes it write its checkpoint, and waits for that."""
        import ray

        for reference in self._running:
            ray.cancel(reference, force=False)
        deadline = time.monotonic() + CANCEL_SECONDS
        while self._running and time.monotonic() < deadline:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=WAIT_SECONDS)
            for reference in done:
                self._running.pop(reference)
