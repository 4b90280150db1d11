"""`vidfeat failures`: what kind of failure each is, and its whole cause: as a table, as JSON, as CSV."""

from __future__ import annotations

import re
import sys
from collections import Counter
from typing import TYPE_CHECKING

from vidfeat.cli.tables import print_parts, table_of
from vidfeat.forms import print_rows

if TYPE_CHECKING:
    from vidfeat.store import StoreReader, VideoRow

# The lines of an error's message, as `vidfeat.errors.explain` writes them; those that say what was found.
_PART = re.compile(r"^  (where|expected|got|fix): +", re.MULTILINE)
_COLUMNS = ("id", "label", "split", "reason", "kind", "cause", "fix", "detail")


def print_failures(store: StoreReader, *, reason: str | None = None, form: str | None = None) -> None:
    """Every failed video with its kind and cause, in full; on a terminal folded to its width."""
    failed = [row for row in store.videos() if not row.ok and reason in (None, row.reason)]
    failed.sort(key=lambda row: (row.reason, row.id))
    again = "to try them again: the same extract command with --retry REASON (or all)"
    if "imported" in store.fingerprint.fields:
        again = "to try them again: mend the features, and vidfeat import them into a new store"
    if form:
        print_rows([facts_of(row) for row in failed], form, columns=_COLUMNS)
    elif not failed:
        print_parts(f"no failures in {store.path}" + (f" with the reason {reason}" if reason else ""))
    elif not sys.stdout.isatty():
        print(f"{len(failed)} failed videos in {store.path}")
        for row in failed:  # one line each, whole: for grep, and for a reader with a wide window
            facts = facts_of(row)
            print(f"{row.id}\t{row.label}\t{row.reason}\t{facts['kind']}\t{facts['cause']}")
        print(again)
    else:
        kinds = Counter(f"{facts_of(row)['kind']}" for row in failed)
        shown = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
        table = table_of(f"{len(failed)} failed videos in {store.path}: {shown}", "video", "label", "reason", "cause")
        for row in failed:
            table.add_row(row.id, row.label, row.reason, facts_of(row)["cause"])
        print_parts(table, again)


def facts_of(row: VideoRow) -> dict[str, str]:
    """One failure: `cause` is what was found, on one line; `detail` the whole message as it was recorded."""
    parts = _parts(row.detail)
    cause = parts.get("got") or parts["what"]
    return {
        "id": row.id,
        "label": row.label,
        "split": row.split,
        "reason": row.reason,
        "kind": kind_of(row),
        "cause": " | ".join(line.strip() for line in cause.splitlines() if line.strip()),
        "fix": parts.get("fix", ""),
        "detail": row.detail,
    }


def kind_of(row: VideoRow) -> str:
    """What happened, more finely than the reason that `--retry` takes."""
    detail = row.detail
    for kind, words in (
        ("Git LFS pointer", ("LFS pointer",)),
        ("web page", ("HTML page", "web page", "HTML")),
        ("JSON document", ("JSON",)),
        ("XML document", ("an XML document",)),
        ("archive", ("an archive, not the videos",)),
        ("decoding process died", ("process died", "exit code", "killed by")),
        ("unexpected exception", ("Traceback (most recent call last)", "unexpected ")),
        ("another file than before", ("not the file that was extracted before",)),
    ):
        if any(word in detail for word in words):
            return kind
    return row.reason.replace("_", " ")


def _parts(detail: str) -> dict[str, str]:
    """A message taken apart: "what", and its lines by name."""
    pieces = _PART.split(detail)
    named = zip(pieces[1::2], pieces[2::2], strict=True)
    return {"what": pieces[0].strip(), **{name: text.strip() for name, text in named}}
