"""What the package warns of, as lines of a command: `note:    ...`, each once."""

from __future__ import annotations

import warnings
from typing import Any

from prompttune.errors import PrompttuneNote
from vidfeat.terminal import say


def print_notes() -> None:
    """From here on a `PrompttuneNote` is a line on the standard error, and no other warning is touched."""
    before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **rest: Any) -> None:
        if issubclass(category, PrompttuneNote):
            say(f"note:    {message}", err=True)
        else:
            before(message, category, *where, **rest)

    warnings.showwarning = show  # type: ignore[assignment]
    warnings.simplefilter("once", PrompttuneNote)
