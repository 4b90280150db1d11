"""The log of a training: one JSON object per logged step, a file per run, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor

from prompttune.config.runs import Run
from prompttune.config.train_config import TrainConfig
from prompttune.errors import ConfigError, explain
from prompttune.training.trainer import StepRecord

LOG = "log.jsonl"
# Called with a run's name and what its log was just given: for W&B, MLflow and their like.
OnLog = Callable[[str, Mapping[str, Any]], None]


def require_library(config: TrainConfig) -> None:
    """Refuses `log.tensorboard` where its package is not installed. Raises: ConfigError."""
    if config.log.tensorboard and find_spec("tensorboard") is None:
        fix = 'pip install "prompttune[report]", or log.tensorboard=false'
        raise ConfigError(explain("log.tensorboard needs the package tensorboard, which is not installed", fix=fix))


class RunLog:
    """Writes `log.jsonl` of every run, and TensorBoard curves where the configuration asks for them.

    A line has: step, epoch, lr, loss, terms (weighted value of each), gradient_norm (of what the optimiser used),
    term_gradient_norms (on the steps that took them), accuracy (of the batch, before the step); eager, where a GPU's
    step was no CUDA graph: why.

    Args:
        folder: the run folder; each run has a folder of its name in it.
        from_step: lines and curves of this step and later are from a training that was killed after its checkpoint;
            they go.
        on_log: told of every line that is written; after a kill it hears again of steps behind the checkpoint.
    """

    def __init__(self, folder: Path, runs: Sequence[Run], *, from_step: int, on_log: OnLog | None = None) -> None:
        self.folder, self.runs, self._on_log = folder, runs, on_log
        self._norms: list[Mapping[str, Tensor]] = []
        kept = [self._kept_lines(folder / run.name / LOG, from_step) for run in runs]
        for of_runs in zip(*kept, strict=False):
            records = [json.loads(line) for line in of_runs]
            if records[0]["term_gradient_norms"]:
                names = records[0]["term_gradient_norms"]
                self._norms.append(
                    {name: torch.tensor([r["term_gradient_norms"][name] for r in records]) for name in names}
                )
        self._files: list[IO[str]] = []
        for run, lines in zip(runs, kept, strict=True):
            path = folder / run.name / LOG
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            self._files.append(path.open("a", encoding="utf-8"))
        self._boards = self._open_boards(from_step) if runs[0].config.log.tensorboard else []

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in [*self._files, *self._boards]:
            file.close()

    def write(self, record: StepRecord) -> None:
        """One line for each run."""
        if record.term_gradient_norms:
            self._norms.append(record.term_gradient_norms)
        for place, file in enumerate(self._files):
            line = _line(record, place)
            file.write(json.dumps(line) + "\n")
            if self._boards:
                _write_board(self._boards[place], line)
            if self._on_log is not None:
                self._on_log(self.runs[place].name, line)

    def flush(self) -> None:
        """What was written so far is in the files afterwards."""
        for file in [*self._files, *self._boards]:
            file.flush()

    def term_gradient_norms(self) -> dict[str, Tensor]:
        """Each term's gradient norms over the whole training, [n_logged R]."""
        names = self._norms[0] if self._norms else ()
        return {name: torch.stack([norms[name] for norms in self._norms]) for name in names}

    @staticmethod
    def _kept_lines(path: Path, from_step: int) -> list[str]:
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        # A kill may have cut the last line.
        whole = [line for line in lines if line.endswith("}\n")]
        return [line for line in whole if json.loads(line)["step"] < from_step]

    def _open_boards(self, from_step: int) -> list[Any]:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard drops what an earlier process wrote of this step and later.
        return [SummaryWriter(str(self.folder / run.name), purge_step=from_step) for run in self.runs]


def _line(record: StepRecord, place: int) -> dict[str, Any]:
    terms = {name: float(value[place]) for name, value in record.terms.items()}
    return {
        "step": record.step,
        "epoch": record.epoch,
        "lr": float(record.lr[place]),
        "loss": sum(terms.values()),
        "terms": terms,
        "gradient_norm": float(record.gradient_norm[place]),
        "term_gradient_norms": {name: float(value[place]) for name, value in record.term_gradient_norms.items()},
        "accuracy": float(record.accuracy[place]),
        **({"eager": record.eager} if record.eager else {}),
    }


def _write_board(board: Any, line: Mapping[str, Any]) -> None:
    for name in ("loss", "lr", "accuracy", "gradient_norm"):
        board.add_scalar(name, line[name], line["step"])
    for group in ("terms", "term_gradient_norms"):
        for name, value in line[group].items():
            board.add_scalar(f"{group}/{name}", value, line["step"])
