"""The line of a training: steps done, loss, accuracy, time left; a widget in a notebook, nothing where nobody looks."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from prompttune.base.console import plain_console

if TYPE_CHECKING:
    from rich.progress import TaskID

    from prompttune.training.trainer import StepRecord, Trainer


class StepBar:
    """One line per group of runs, moved by `on_step`. A context manager.

    Args:
        show: whether it is drawn; None for where somebody looks on, a terminal or a notebook.
    """

    def __init__(self, show: bool | None = None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.show = (in_notebook() or sys.stderr.isatty()) if show is None else show
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(
                "epoch {task.fields[epoch]}  loss {task.fields[loss]:.3f}  acc {task.fields[accuracy]:.1%}",
                markup=False,
            ),
            TimeRemainingColumn(),
            console=plain_console(stderr=True),
            transient=sys.stderr.isatty(),
            disable=not self.show,
        )
        self._tasks: dict[int, TaskID] = {}

    def __enter__(self) -> StepBar:
        if self.show:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.show:  # rich before 15 ends a line that it never began
            self._progress.stop()

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        """Moves the trainer's line to the step just done; loss and accuracy are means over its runs."""
        if not self.show:
            return
        shown: dict[str, Any] = {
            "epoch": f"{record.epoch + 1}/{trainer.config.optim.epochs}",
            "loss": sum(float(value.mean()) for value in record.terms.values()),
            "accuracy": float(record.accuracy.mean()),
        }
        if id(trainer) not in self._tasks:
            runs = f"{len(trainer.inputs.runs)} run{'s' if len(trainer.inputs.runs) > 1 else ''}"
            description = f"{trainer.config.method} ({runs})"
            self._tasks[id(trainer)] = self._progress.add_task(description, total=trainer.n_steps, **shown)
        self._progress.update(self._tasks[id(trainer)], completed=record.step + 1, **shown)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
