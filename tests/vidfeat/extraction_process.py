"""A process that runs `vidfeat` commands in forked children and signals them: what the kill tests talk to.

Importing torch and open_clip takes seconds; here they are imported once, and no torch arithmetic happens before a fork,
so that the children inherit no threads. One JSON request per line on standard input, one JSON answer per line.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


class VidfeatProcess:
    """The test's end: `run(arguments)` runs one command to its end, or until it is signalled."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, *arguments: object, **how: Any) -> dict[str, Any]:
        """What became of one command.

        Args:
            kill_after: seconds until SIGKILL reaches the whole process group; None: it runs to its end.
            signal_at: a path; once it exists, `signal_number` is sent to the main process alone.
            commit_delay: seconds that every commit takes longer.
        """
        request = {"arguments": [str(argument) for argument in arguments], **how}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _child(request: dict[str, Any]) -> None:
    os.setsid()
    # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if request.get("commit_delay"):
        from vidfeat.store import StoreWriter

        commit = StoreWriter.commit

        def slow_commit(*arguments: Any) -> Any:
            time.sleep(request["commit_delay"])
            return commit(*arguments)

        StoreWriter.commit = slow_commit  # type: ignore[method-assign]
    from vidfeat.cli import main

    sys.argv = ["vidfeat", *request["arguments"]]
    try:
        main()
    except SystemExit as error:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(error.code if isinstance(error.code, int) else 0 if error.code is None else 1)
    except BaseException as error:
        os.write(2, f"\nleft with {type(error).__name__}: {error}".encode())
        os._exit(99)


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(request)
    kill_after, signal_at = request.get("kill_after"), request.get("signal_at")
    status = None
    while status is None:
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = code
        elif kill_after is not None and time.monotonic() - started > kill_after:
            _kill_group(pid)
            kill_after = None
        elif signal_at is not None and os.path.exists(signal_at):
            os.kill(pid, request["signal_number"])
            signal_at = None
        else:
            time.sleep(0.001)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - started,
        "output": Path(request["log"]).read_text(),
        "session": pid,
    }


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        os.kill(pid, signal.SIGKILL)  # so early that it has no group of its own yet


def main() -> None:
    import torch

    torch.set_num_threads(1)
    import open_clip  # noqa: F401

    # Filling a tower's default values on torch's meta device imports a large part of torch, and computes nothing.
    with torch.device("meta"):
        torch.nn.Embedding(2, 2)
    for line in sys.stdin:
        print(json.dumps(_serve(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
