"""The trainings of a suite one after the other, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmarks.failures import Failure, FailureLog
from benchmarks.jobs import Job, apart, run_job
from benchmarks.progress import SuiteProgress

if TYPE_CHECKING:
    from prompttune.training.fit import OnStep


def run_local(jobs: Sequence[Job], *, log: FailureLog, progress: SuiteProgress, overwrite: bool) -> None:
    """Runs every job; what fails is logged and the next one starts.

    Raises:
        KeyboardInterrupt: the training that was interrupted has written its checkpoint.
    """
    for job in jobs:
        on_step = progress.started(job)
        problem = unmet(job, log)
        if problem is not None:
            failures = {cell.name: problem for cell in job.cells}
        else:
            failures = failures_of(job, overwrite=overwrite, on_step=on_step)
        for name, failure in failures.items():
            log.record(name, failure)
        progress.finished(job, failed=bool(failures))


def unmet(job: Job, log: FailureLog) -> Failure | None:
    """Why the job cannot start: the prompts that it takes were not made."""
    failed = [name for name in job.needs if name in log.new]
    if not failed:
        return None
    return Failure("blocked", f"not started: it takes the prompts of {', '.join(failed)}, which failed")


def failures_of(job: Job, *, overwrite: bool, on_step: OnStep | None = None) -> dict[str, Failure]:
    """Runs the job: by cell, what went wrong. Cells that fail together are tried apart."""
    try:
        run_job(job, overwrite=overwrite, on_step=on_step)
    except Exception as error:
        if len(job.cells) == 1:
            return {job.cells[0].name: Failure.of(error)}
        found: dict[str, Failure] = {}
        for part in apart(job, overwrite=overwrite):
            found |= failures_of(part, overwrite=overwrite, on_step=on_step)
        return found
    return {}
