"""`prompttune report RUNS`: results in, a table or a page out."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from prompttune.base.tensor_files import require_writable, write_bytes
from prompttune.errors import ConfigError, explain
from prompttune.report.comparison import Comparison, compare
from prompttune.report.entries import read_groups, suite_title

PAGE = "report.html"


@dataclass(frozen=True)
class ReportOptions:
    """What is reported and how.

    Attributes:
        results: a suite's results folder, or any folder that run folders are in.
        form: "html", "md", "latex" or "csv".
        baseline: label of the line that gains and losses are counted against; None for the zero-shot classifier.
        videos: folder that the stores' video ids are relative to, for the thumbnails; None to look beside the stores.
    """

    results: Path
    form: str = "html"
    baseline: str | None = None
    videos: Path | None = None


def render_report(options: ReportOptions) -> str:
    """The report's text.

    Raises:
        RunFolderError: no finished runs at or below the folder.
        ConfigError: no line carries the baseline's label.
    """
    comparisons: list[Comparison] = [
        compare(group, baseline=options.baseline) for group in read_groups(options.results)
    ]
    title = suite_title(options.results)
    if options.form == "html":
        _require_libraries()
        from prompttune.report.page import render_page

        return render_page(comparisons, title=title, videos=options.videos)
    from prompttune.report import tables

    if options.form == "md":
        return tables.to_markdown(comparisons, title=title)
    return tables.to_latex(comparisons) if options.form == "latex" else tables.to_csv(comparisons)


def _require_libraries() -> None:
    """Says what to install before anything is read; a table needs none of it."""
    if lacking := [name for name in ("jinja2", "matplotlib", "scipy", "sklearn") if find_spec(name) is None]:
        raise ConfigError(
            explain(
                "the page is drawn by libraries that are not installed",
                got=f"no {', '.join(lacking)}",
                fix='pip install "prompttune[report]"; or a table without them: --format md',
            )
        )


def write_report(options: ReportOptions, out: Path | None = None) -> Path | None:
    """Writes the report and gives its path; prints it and gives None where a text form has no `out`."""
    if out is None and options.form != "html":
        print(render_report(options), end="")
        return None
    path = out or options.results / PAGE
    require_writable(path)
    write_bytes(path, render_report(options).encode())
    return path
