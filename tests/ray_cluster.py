"""What tests with real Ray clusters share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def patiently(start: Callable[[], Any]) -> Any:
    """What `start` makes: Ray gives a raylet 30 s to come up, which a busy machine may exceed once."""
    for attempt in range(4):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error) or attempt == 3:
                raise
    raise AssertionError("unreachable")
