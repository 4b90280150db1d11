"""Tables in Markdown: reports, suites and the README have them from here."""

from __future__ import annotations

# What a column of accuracies is called; other test sets keep their own names.
TEST_NAMES = {"base": "base", "new": "new", "test": "test", "harmonic_mean": "HM"}


def markdown_table(columns: list[str], rows: list[list[object]]) -> str:
    """A GitHub table: first column to the left, the others to the right."""
    lines: list[list[object]] = [[*columns], [":--", *["--:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
