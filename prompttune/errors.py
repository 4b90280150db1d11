"""Every error prompttune raises on purpose; messages are built by `vidfeat.errors.explain`.

PrompttuneError
├── ConfigError (ValueError)          a configuration that cannot be run; every problem of it in one message
├── SplitError (ValueError)           labels, shots or class lists that do not make the split asked for
├── ClassPromptError (ValueError)     class names that do not make a prompt (too long, empty, twice)
├── FeatureError (ValueError)         features that cannot be trained on (not finite, another pack, frames that differ)
├── PromptFileError (ValueError)      a prompt file that is missing, damaged or of another width or pack
├── CheckpointError (ValueError)      a checkpoint that does not belong to this run
├── RunFolderError (ValueError)       a run folder that is in use or already finished
└── TrainingError
    ├── NonFiniteLossError            a loss that is NaN or infinite: the step, the run and the term
    └── InertTermError                a loss term whose gradient was zero in the whole training
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from vidfeat.errors import explain

__all__ = [
    "CheckpointError",
    "ClassPromptError",
    "ConfigError",
    "FeatureError",
    "InertTermError",
    "NonFiniteLossError",
    "PromptFileError",
    "PrompttuneError",
    "PrompttuneNote",
    "RunFolderError",
    "SplitError",
    "TrainingError",
    "explain",
    "note",
    "some",
]


class PrompttuneNote(UserWarning):
    """What a person should know of an input that is used all the same; the command line prints it as `note: ...`."""


def note(text: str) -> None:
    """Warns with a `PrompttuneNote`, once for each text."""
    warnings.warn(text, PrompttuneNote, stacklevel=3)


class PrompttuneError(Exception):
    """Root of the tree; the command line prints its message and nothing else."""


class ConfigError(PrompttuneError, ValueError):
    """A configuration that cannot be run; the message names every problem found."""


class SplitError(PrompttuneError, ValueError):
    """Labels, shots or class lists that do not make the split asked for."""


class ClassPromptError(PrompttuneError, ValueError):
    """Class names that do not make a prompt; the message names every one."""


class FeatureError(PrompttuneError, ValueError):
    """Features that cannot be trained on."""


class PromptFileError(PrompttuneError, ValueError):
    """A prompt file that is missing, damaged, or of another width or pack."""


class CheckpointError(PrompttuneError, ValueError):
    """A checkpoint that does not belong to this run."""


class RunFolderError(PrompttuneError, ValueError):
    """A run folder that already holds something else."""


class TrainingError(PrompttuneError):
    """Training that had to stop."""


class NonFiniteLossError(TrainingError):
    """A loss that is NaN or infinite.

    Attributes:
        step: the step, counted from 0 over the whole training.
        run: the run's name.
        term: the loss term that was not finite first.
    """

    def __init__(self, message: str, *, step: int, run: str, term: str) -> None:
        super().__init__(message)
        self.step = step
        self.run = run
        self.term = term


class InertTermError(TrainingError):
    """A loss term whose gradient was zero in the whole training: it cost time and did nothing."""


def some(names: Iterable[object], limit: int = 8) -> str:
    """The first few of many names, for a message."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:limit]) + (f", ... ({len(listed)} in all)" if len(listed) > limit else "")
