"""What became of cells that did not finish: `failures.json`, and a traceback each in `failures/`."""

from __future__ import annotations

import json
import shutil
import traceback
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from prompttune.base.tensor_files import write_bytes

FAILURES = "failures.json"
TRACEBACKS = "failures"


@dataclass(frozen=True)
class Failure:
    """Why a cell has no result.

    Attributes:
        kind: the error's class; "blocked" for a cell that was not started.
        message: the error in words.
        traceback: where it happened; empty for a cell that was not started.
    """

    kind: str
    message: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is."""
        message = str(error).strip() or repr(error)
        return cls(type(error).__name__, message, "".join(traceback.format_exception(error)))


class FailureLog:
    """The failures of a results folder, on disk as soon as they happen.

    Args:
        out: the results folder.
        retried: names of cells that are tried again, or are finished: what failed earlier is forgotten.
    """

    def __init__(self, out: Path, *, retried: Iterable[str]) -> None:
        self._out = out
        found = _read(out / FAILURES)
        self._entries = {name: entry for name, entry in found.items() if name not in set(retried)}
        for name in set(found) - set(self._entries):
            (out / TRACEBACKS / f"{name}.txt").unlink(missing_ok=True)
        self.new: dict[str, Failure] = {}
        if found:
            self._write()

    def record(self, name: str, failure: Failure) -> None:
        """Adds the failure of a cell."""
        self.new[name] = failure
        entry = {key: value for key, value in asdict(failure).items() if value}
        if failure.traceback:
            path = self._out / TRACEBACKS / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(failure.traceback, encoding="utf-8")
            entry["traceback"] = path.relative_to(self._out).as_posix()
        self._entries[name] = entry
        self._write()

    def _write(self) -> None:
        path = self._out / FAILURES
        if self._entries:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, (json.dumps(self._entries, indent=1, ensure_ascii=False) + "\n").encode())
            return
        path.unlink(missing_ok=True)
        shutil.rmtree(self._out / TRACEBACKS, ignore_errors=True)


def _read(path: Path) -> dict[str, dict[str, str]]:
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {name: entry if isinstance(entry, dict) else {"message": str(entry)} for name, entry in document.items()}
