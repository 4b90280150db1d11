"""What `vidfeat anchors select` and `check` print when they are done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vidfeat.cli.tables import print_parts, table_of
from vidfeat.text_files import EIGHT_BIT, READ_AS_EIGHT_BIT

if TYPE_CHECKING:
    from vidfeat.tools.anchors.checking import AnchorCheck
    from vidfeat.tools.anchors.selection import AnchorSelection
    from vidfeat.tools.anchors.vetting import Hit

_SHOWN = 20


def print_selection(selection: AnchorSelection, written: Sequence[object]) -> None:
    """The last lines of `vidfeat anchors select`."""
    report = selection.report
    table = table_of(f"{len(selection.ids)} anchors from {report['pool']['path']}", "", "videos")
    for what, count in selection.counts.items():
        table.add_row(what, f"{count:,}")
    table.add_row("chosen", f"{len(selection.ids):,}")
    print_parts(table)
    _print_hits(selection.hits, "vetted out")
    near = report["near_duplicate_scores"]["max"]
    print_parts(
        f"class similarity: pool median {_number(report['class_similarity']['of the pool']['median'])}, "
        f"cut {report['rule']['max_similarity']:.3f}, chosen at most "
        f"{_number(report['class_similarity']['of the chosen']['max'])}",
        f"near-duplicate scores of the candidates: 95 % {_number(report['near_duplicate_scores']['95 %'])}, "
        f"max {_number(near)}, threshold {report['rule']['near_duplicate']}",
        f"largest cosine between two chosen: {_number(report['largest_cosine_between_chosen'])}",
        *_notes(report["against"]),
        "wrote " + ", ".join(str(one) for one in written),
    )


def print_check(check: AnchorCheck) -> None:
    """The last lines of `vidfeat anchors check`."""
    report = check.report
    _print_hits(check.hits, f"of {report['anchors']['n_videos']} anchors are, or may be, videos of the task")
    if not check.hits:
        print_parts(f"{report['anchors']['path']}: none of {report['anchors']['n_videos']} anchors is in the task")
    scores = report["near_duplicate_scores"]
    print_parts(
        f"near-duplicate scores: median {_number(scores['median'])}, max {_number(scores['max'])}, "
        f"threshold {report['near_duplicate']}"
    )
    similarity = report["class_similarity"]
    if similarity is not None:
        shown = ", ".join(f"{name} {_number(value)}" for name, value in similarity.items())
        print_parts(f"cosine with the nearest of {report['n_classes']} classes: {shown}")
    print_parts(*_notes(report["against"]))


def _notes(against: Iterable[Mapping[str, Any]]) -> list[str]:
    notes = []
    for one in against:
        if one["kind"] == "list":
            how = "names and content" if one["n_hashed"] else "names only: no features, no content"
            notes.append(f"note: {one['path']}: {one['n_videos']} videos compared by {how}")
            if one["encoding"] == EIGHT_BIT:
                notes.append(f"note: {one['path']} {READ_AS_EIGHT_BIT}")
        elif one["n_without_features"]:
            notes.append(
                f"note: {one['path']}: {one['n_without_features']} failed videos have no features and were compared by "
                f"content alone, {one['n_without_either']} of them not at all"
            )
    return notes


def _print_hits(hits: Sequence[Hit], what: str) -> None:
    if not hits:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(hit.reason for hit in hits).most_common())
    table = table_of(f"{len(hits)} {what} ({reasons})", "video", "why", "score", "the other video", "of")
    for hit in hits[:_SHOWN]:
        shown = (hit.video, hit.reason, _number(hit.score), hit.other, hit.where)
        table.add_row(*shown)
    print_parts(table)
    if len(hits) > _SHOWN:
        print_parts(f"... and {len(hits) - _SHOWN} more, all in the report")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
