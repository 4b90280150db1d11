"""What is recorded of a frame, and how it is spelled: once for stores, command lines and towers.

Tap()    the pooled feature [E]                              `pooled` everywhere
Tap(6)   the tokens [S D] that enter block 6 of the tower    `tokens/06` in a store, `tokens@6` on a command line
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKENS = re.compile(r"tokens[@/](\d+)")


@dataclass(frozen=True)
class Tap:
    """A pooled feature, or tokens after `layer` blocks."""

    layer: int | None = None

    @classmethod
    def of(cls, name: str) -> Tap | None:
        """The tap of that name, in either spelling; None for a name of somebody else's."""
        match = _TOKENS.fullmatch(name)
        return cls(int(match[1])) if match else cls() if name == "pooled" else None

    @property
    def name(self) -> str:
        """As stores spell it."""
        return "pooled" if self.layer is None else f"tokens/{self.layer:02d}"

    @property
    def flag(self) -> str:
        """As command lines spell it."""
        return "pooled" if self.layer is None else f"tokens@{self.layer}"


POOLED = Tap().name


def token_layers(names: Iterable[str]) -> tuple[int, ...]:
    """The layers of those taps that are tokens, in order, each once."""
    taps = map(Tap.of, names)
    return tuple(dict.fromkeys(tap.layer for tap in taps if tap is not None and tap.layer is not None))


def tap_flags(names: Iterable[str]) -> str:
    """The value of `--taps` that asks for these taps of a store."""
    return ",".join(tap.flag if (tap := Tap.of(name)) else name for name in names)
