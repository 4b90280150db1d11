"""Tables that keep within 80 columns: as many of them as it takes, and what is too long for a cell told below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.table import Table

WIDTH = 80
LONGEST = 20  # characters of a cell that names a row

Column = tuple[str, list[str]]


def numbered(head: str, values: Sequence[str], *, longest: int = LONGEST) -> tuple[Column, list[str]]:
    """A column that names rows: its values, or numbers where one is too long, and the lines that tell the numbers."""
    if max(map(len, values), default=0) <= longest:
        return (head, list(values)), []
    numbers = {value: f"[{place}]" for place, value in enumerate(dict.fromkeys(values), 1)}
    return (head, [numbers[value] for value in values]), [
        f"{head} {number} {value}" for value, number in numbers.items()
    ]


def narrow_tables(names: Sequence[Column], others: Sequence[Column], *, title: str = "") -> Iterator[Table]:
    """As many tables as keep within 80 columns, each with the columns `names` (left) and some of the others (right)."""
    left = list(others)
    while left:
        table, width = Table(title=title or None, box=box.SIMPLE_HEAD), 1 + sum(_width(*column) for column in names)
        taken: list[Column] = []
        while left and (not taken or width + _width(*left[0]) <= WIDTH):
            taken.append(left.pop(0))
            width += _width(*taken[-1])
        for place, (head, _) in enumerate((*names, *taken)):
            table.add_column(head, justify="left" if place < len(names) else "right", no_wrap=True)
        for row in zip(*(values for _, values in (*names, *taken)), strict=True):
            table.add_row(*row)
        yield table
        title = ""


def _width(head: str, values: Sequence[str]) -> int:
    return max(map(len, (head, *values))) + 3  # with the blanks around it
