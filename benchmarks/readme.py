"""Writes the tables of README and docs from committed result files, so that nobody types a number into them.

A block of such a page stands between `<!-- begin: NAME -->` and `<!-- end: NAME -->`; NAME is a file of
benchmarks/results without its ending. Its key `readme` holds `columns`, `rows` (a list of lists, in words and rounded
numbers as the table shows them), `note`, and the `command` that measures it again.

`python -m benchmarks readme` rewrites all blocks; `--check` only says which are out of date (a test does the same).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from prompttune.report.markdown import markdown_table
from vidfeat.errors import explain

RESULTS = Path(__file__).parent / "results"
PAGES = ("README.md", "docs/findings.md", "docs/limits.md")
BLOCK = re.compile(r"(<!-- begin: (?P<name>[\w-]+) -->\n).*?(<!-- end: (?P=name) -->)", re.DOTALL)


def render_block(name: str, results: Path = RESULTS) -> str:
    """The Markdown of one block, out of benchmarks/results/NAME.json.

    Raises:
        FileNotFoundError: no such result; the message names the file.
    """
    path = results / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            explain(
                f"the README shows {name!r}, which was never measured",
                where=path,
                fix="run the command that writes this file, or take the block out of the README",
            )
        )
    table = json.loads(path.read_text())["readme"]
    return f"{markdown_table(table['columns'], table['rows'])}\n\n{table['note']} Reproduce: `{table['command']}`\n"


def render(text: str, results: Path = RESULTS) -> str:
    """The README's text with every block written anew."""
    return BLOCK.sub(lambda match: match[1] + render_block(match["name"], results) + match[3], text)


def stale_blocks(text: str, results: Path = RESULTS) -> list[str]:
    """Names of the blocks that differ from what the result files say."""
    return [m["name"] for m in BLOCK.finditer(text) if m[0] != m[1] + render_block(m["name"], results) + m[3]]
