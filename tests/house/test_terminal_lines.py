"""What is printed for a person keeps within a terminal's width, and is whole in a pipe."""

from __future__ import annotations

import os
import pty
import struct
import sys
import termios
from fcntl import ioctl

import pytest

from vidfeat.errors import explain
from vidfeat.terminal import say, wrapped

LONG = explain(
    "settings that change nothing here, told at a length that no terminal of eighty columns has room for",
    expected="store, device, precision, protocol.split_file, protocol.test_fraction, protocol.split_seed, and others",
    got=f"/{'a' * 100}",
    fix="vidfeat extract videos --out target.zarr --model ViT-B-16-quickgelu --pretrained openai --frames 8",
)


def test_lines_break_between_words_and_stand_under_their_label() -> None:
    lines = wrapped(f"error: {LONG}", width=80).split("\n")
    whole = [line for line in LONG.split("\n") if "/aaa" in line or "vidfeat" in line]
    assert all(len(line) <= 80 for line in lines if line not in whole)
    assert " ".join(" ".join(lines).split()) == " ".join(f"error: {LONG}".split())
    assert lines[1].startswith(" " * 7 + "eighty")  # under the text behind "error: "
    assert [line[:12] for line in lines if "protocol" in line] == ["  expected: ", " " * 12]
    assert whole[1] in lines  # a command is copied in one piece
    spoken_of = "note: no classes: --labels LIST gives them, and later `vidfeat relabel` with or without a class file"
    assert max(map(len, wrapped(spoken_of, width=80).split("\n"))) <= 80
    plan = wrapped(f"  memory   {'218 MiB for 2 runs together, ' * 5}", width=80).split("\n")
    assert (max(map(len, plan)) <= 80, plan[1][:12]) == (True, " " * 11 + "2")
    assert wrapped("short\n\n  as it is", width=80) == "short\n\n  as it is"


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_breaks_lines_and_a_pipe_does_not(
    width: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    say(LONG)
    assert capfd.readouterr().out == LONG + "\n"
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    with os.fdopen(theirs, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        say(LONG)
        terminal.flush()
        printed = os.read(ours, 65536).decode().replace("\r\n", "\n")
    os.close(ours)
    assert printed == wrapped(LONG, width=width) + "\n"
