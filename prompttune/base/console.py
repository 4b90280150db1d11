"""What is printed for a person: text, and never markup."""

from __future__ import annotations

from rich.console import Console


def plain_console(*, stderr: bool = False) -> Console:
    """The one console of this package: a name such as `[red]` or `:cat:` is printed as it is, in tables too."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False)
