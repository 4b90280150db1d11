"""The progress bar of a training from Python: a widget in a notebook, a line in a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prompttune.training.trainer import StepRecord, Trainer


class StepBar:
    """One bar per group of runs, moved by `on_step`. A context manager.

    Args:
        show: whether it is drawn; None for where somebody looks on, a terminal or a notebook.
    """

    def __init__(self, show: bool | None = None) -> None:
        self.show = (in_notebook() or sys.stderr.isatty()) if show is None else show
        self._bars: dict[int, Any] = {}

    def __enter__(self) -> StepBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def on_step(self, trainer: Trainer, record: StepRecord) -> None:
        """Moves the trainer's bar to the step just done; loss and accuracy are means over its runs."""
        if not self.show:
            return
        bar = self._bars.get(id(trainer))
        if bar is None:
            from tqdm.auto import tqdm

            bar = self._bars[id(trainer)] = tqdm(total=trainer.n_steps, desc=trainer.config.method, unit="step")
        loss = sum(float(value.mean()) for value in record.terms.values())
        bar.set_postfix(loss=f"{loss:.3f}", accuracy=f"{float(record.accuracy.mean()):.1%}", refresh=False)
        bar.update(record.step + 1 - bar.n)


def in_notebook() -> bool:
    """Whether this runs in the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
