"""Every error vidfeat raises on purpose, and the one format of their messages.

VidfeatError
├── ManifestError (ValueError)            a source list that cannot be used as it is
├── DecodeError                           one video that cannot be decoded; `.reason` is one of FAILURE_REASONS
├── UnsupportedModelError (ValueError)    a model this project cannot rerun exactly
├── PackError (ValueError)                a backbone pack that is missing, damaged or of another kind
├── PlanError                             a plan that will not fit
└── StoreError
    ├── StoreNotFoundError (FileNotFoundError)
    ├── StoreIncompleteError              an extraction that has not finished
    ├── StoreCorruptError                 bytes that are not those that were committed
    ├── FingerprintMismatchError (ValueError)
    └── MissingTapError (KeyError)
"""

from __future__ import annotations

# `machine` is no verdict on the file: the machine failed, again and again, and the next run tries once more.
# `out_of_memory` is that in stores written before there was `machine`.
FAILURE_REASONS = (
    "unreadable",
    "empty",
    "no_video_stream",
    "no_frames",
    "codec_unsupported",
    "truncated",
    "invalid_data",
    "timeout",
    "out_of_memory",
    "non_finite",
    "machine",
)


def explain(
    what: str,
    *,
    where: object | None = None,
    expected: object | None = None,
    got: object | None = None,
    fix: str | None = None,
) -> str:
    """The message of one error: what happened, where, what was expected, what was found, what to do next."""
    parts = (("where", where), ("expected", expected), ("got", got), ("fix", fix))
    return "\n".join([what, *(f"  {f'{name}:':<10}{value}" for name, value in parts if value is not None)])


class VidfeatError(Exception):
    """Root of the tree; the command line prints its message and nothing else."""


class ManifestError(VidfeatError, ValueError):
    """A source list that cannot be used as it is; the message names every problem found."""


class DecodeError(VidfeatError):
    """One video that cannot be decoded.

    Attributes:
        reason: one of FAILURE_REASONS, what `vidfeat failures` groups by.
    """

    def __init__(self, message: str, *, reason: str) -> None:
        if reason not in FAILURE_REASONS:
            raise ValueError(f"unknown failure reason {reason!r}; known: {', '.join(FAILURE_REASONS)}")
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:
        # Raised in worker processes: the keyword-only reason must survive the trip back.
        return (_rebuild_decode_error, (str(self), self.reason))


def _rebuild_decode_error(message: str, reason: str) -> DecodeError:
    return DecodeError(message, reason=reason)


class UnsupportedModelError(VidfeatError, ValueError):
    """A model whose towers this project cannot rerun exactly; named, never approximated."""


class PackError(VidfeatError, ValueError):
    """A backbone pack that is missing, damaged, or of another kind than asked for."""


class PlanError(VidfeatError):
    """A plan that will not fit the machine or the disk."""


class StoreError(VidfeatError):
    """Anything wrong with a feature store."""


class StoreNotFoundError(StoreError, FileNotFoundError):
    """There is no store at that path."""


class StoreIncompleteError(StoreError):
    """The extraction that writes this store has not finished."""


class StoreCorruptError(StoreError):
    """Bytes in the store are not those that were committed."""


class FingerprintMismatchError(StoreError, ValueError):
    """Two things that must come from the same model, preprocessing and sampling do not."""


class MissingTapError(StoreError, KeyError):
    """The store does not hold the tap that was asked for."""

    def __str__(self) -> str:
        # KeyError would show the message's repr.
        return str(self.args[0]) if self.args else ""
