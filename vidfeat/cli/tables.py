"""What the commands print: stores, summaries, failures, predictions, decoders, as rich tables on standard output."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

from vidfeat.extraction.progress import as_bytes, as_time, plain_console, tell
from vidfeat.forms import print_rows

if TYPE_CHECKING:
    from rich.table import Table

    from vidfeat.extraction.deep_verify import DeepReport
    from vidfeat.extraction.extract import ExtractSummary
    from vidfeat.extraction.plan import Prediction
    from vidfeat.store import StoreReader, VerifyReport
    from vidfeat.tools.availability import Availability
    from vidfeat.tools.features.into_store import Imported
    from vidfeat.video.decode import Comparison, DecoderStatus

DETAIL_WIDTH = 100
_CLASSES_SHOWN = 20


def print_parts(*parts: Any) -> None:
    """Lines and tables on standard output, as wide as the terminal; in a pipe lines are whole, and tables as wide as
    COLUMNS says."""
    console = plain_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 160  # a pipe has no width: do not wrap paths at 80 columns
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str) and not console.is_terminal)


def table_of(title: str, *columns: str) -> Table:
    """An empty table that folds what is too wide."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def print_summary(summary: ExtractSummary) -> None:
    """The last lines of `vidfeat extract`."""
    if summary.nothing_to_do:
        print_parts(f"nothing to do: {summary.out} has all {summary.n_videos} videos ({summary.n_failed} failed)")
        return
    rate = summary.n_frames / summary.seconds if summary.seconds else 0.0
    stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in summary.seconds_by_stage.items())
    print_parts(
        f"{summary.out}: {summary.n_videos} videos, {summary.n_failed} failed",
        f"this run: {summary.n_frames} frames in {as_time(summary.seconds)} ({rate:,.0f} frames/s; {stages})",
    )
    if summary.n_units_left:
        print_parts(
            f"{summary.n_units_left} units are still to be extracted by other shares (--units), then it is finished"
        )
    for reason, count in summary.failures.items():
        print_parts(f"  {count} x {reason}")


def print_imported(done: Imported) -> None:
    """The last lines of `vidfeat import`."""
    tell(done.notes, quiet=False)
    lines = [f"{done.out}: {done.n_videos} videos of {done.n_classes} classes, {done.n_failed} failed ({done.layout})"]
    print_parts(*lines, *(f"  {count} x {reason}" for reason, count in done.failures.items()))


def print_availability(found: Availability, *, form: str | None) -> None:
    """`vidfeat manifest`: every class for programs; for people the classes that lack most."""
    rows = found.per_class()
    if form:
        print_rows(rows, form)
        return
    tell(found.notes, quiet=False)
    lacking = [row for row in rows if row["available"] != row["listed"]]
    if lacking:
        table = table_of("", *lacking[0])
        for row in lacking[:_CLASSES_SHOWN]:
            table.add_row(*map(str, row.values()))
        more = len(lacking) - _CLASSES_SHOWN
        print_parts(table, *([f"... and {more} more classes that lack videos (--csv: all)"] if more > 0 else []))
    print_parts(
        f"{found.count('available'):,} of {len(found.videos):,} listed videos are available, {found.count('failed'):,} "
        f"failed, {found.count('missing'):,} missing; {len(rows) - len(lacking)} of {len(rows)} classes are whole; "
        f"{found.n_unlisted:,} videos of the store are not in the list"
    )


def print_info(store: StoreReader) -> None:
    """`vidfeat info`."""
    rows = store.videos()
    table = table_of(str(store.path), "", "")
    per_class = Counter(row.label for row in rows)
    failures = Counter(row.reason for row in rows if not row.ok)
    table.add_row("videos", f"{len(rows)}, {sum(row.ok for row in rows)} ok")
    table.add_row(
        "frames per video", str(store.n_frames or f"{_span([row.n_frames for row in rows if row.ok])} (varies)")
    )
    table.add_row("views", str(store.n_views))
    each = f"{_span(list(per_class.values()))} videos each"
    table.add_row("classes", f"{len(store.classes)} ({each})" if store.classes else "none listed")
    splits = Counter(row.split for row in rows if row.split)
    if splits:
        table.add_row("splits", ", ".join(f"{name} {count}" for name, count in splits.items()))
    n_rows = sum(row.n_frames for row in rows) * store.n_views
    for tap in store.taps.values():
        shape = " ".join(str(size) for size in tap.row_shape)
        table.add_row(f"tap {tap.name}", f"[{n_rows} {shape}] {tap.dtype}, {as_bytes(n_rows * tap.row_bytes)}")
    for name, value in _flat(dict(store.fingerprint.fields)):
        table.add_row(name, value)
    table.add_row("fingerprint", store.fingerprint.sha256)
    table.add_row("pack", store.pack_hash)
    table.add_row("failures", ", ".join(f"{count} x {reason}" for reason, count in failures.most_common()) or "none")
    print_parts(table)


def facts_of_store(store: StoreReader) -> dict[str, Any]:
    """What `vidfeat info` says, for programs."""
    rows = store.videos()
    n_rows = sum(row.n_frames for row in rows) * store.n_views
    return {
        "store": str(store.path),
        "videos": len(rows),
        "ok": sum(row.ok for row in rows),
        "failures": dict(Counter(row.reason for row in rows if not row.ok).most_common()),
        "frames_per_video": store.n_frames,
        "views": store.n_views,
        "classes": dict(Counter(row.label for row in rows)),
        "splits": dict(Counter(row.split for row in rows if row.split)),
        "taps": {
            tap.name: {
                "rows": n_rows,
                "shape": list(tap.row_shape),
                "dtype": tap.dtype,
                "bytes": n_rows * tap.row_bytes,
            }
            for tap in store.taps.values()
        },
        "fingerprint": store.fingerprint.sha256,
        "fields": dict(store.fingerprint.fields),
        "pack": store.pack_hash,
    }


def _span(counts: list[int]) -> str:
    if not counts:
        return "0"
    return str(counts[0]) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _flat(fields: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in fields.items():
        if isinstance(value, dict):
            short = ", ".join(f"{key} {item}" for key, item in value.items() if not isinstance(item, dict))
            lines.append((prefix + name, short))
            lines += _flat({key: item for key, item in value.items() if isinstance(item, dict)}, f"{prefix}{name}.")
        else:
            lines.append((prefix + name, str(value)))
    return lines


def _one_line(detail: str) -> str:
    text = " | ".join(line.strip() for line in detail.splitlines() if line.strip())
    return text if len(text) <= DETAIL_WIDTH else text[: DETAIL_WIDTH - 1] + "…"


def print_doctor(statuses: list[DecoderStatus]) -> None:
    """`vidfeat doctor`."""
    import platform

    where = f"{platform.platform()}, Python {platform.python_version()}"
    table = table_of(f"decoders on {where}", "decoder", "works", "version", "detail")
    for status in statuses:
        table.add_row(status.name, "yes" if status.works else "no", status.version, status.detail)
    print_parts(table)


def print_comparisons(comparisons: list[Comparison]) -> None:
    """`vidfeat crosscheck`."""
    names = comparisons[0].decoders if comparisons else ("", "")
    table = table_of(
        f"{names[0]} against {names[1] or 'nothing'}", "video", "frames", "max diff", "PTS diff", "agrees", "used"
    )
    for one in comparisons:
        verdict = "yes" if one.agrees else f"NO {_one_line(one.error)}"
        pts = f"{1000 * one.max_pts_difference_seconds:.2f} ms"
        table.add_row(one.path, str(one.n_frames), f"{one.max_abs_difference:.0f}", pts, verdict, one.chosen)
    print_parts(table)


def print_verify_report(report: VerifyReport) -> None:
    """`vidfeat verify`, levels fast and full."""
    looked = f"{report.n_files} files, {as_bytes(report.n_bytes)}, {report.seconds:.1f} s"
    if not report.problems:
        print_parts(f"{report.path} is sound at level {report.level} ({looked})")
    else:
        n = len(report.problems)
        print_parts(f"{n} {'problem' if n == 1 else 'problems'} in {report.path} ({report.level}: {looked})")
        table = table_of("", "file", "unit", "what")
        for problem in report.problems:
            unit = "" if problem.unit is None else str(problem.unit)
            table.add_row(problem.path, unit, problem.what)
        check = "" if report.level == "fast" else " with --check full"
        print_parts(table, f"to repair: run the same extract command again{check}; it redoes just what is bad")
        if any(problem.what.startswith("missing") for problem in report.problems):
            print_parts("or, of a store that was copied: copy it again; `rsync -a` keeps what is here already")
    for note in report.notes:
        print_parts(f"note: {note}")


def print_deep_report(report: DeepReport) -> None:
    """`vidfeat verify --level deep`, after level full."""
    table = table_of(
        f"{len(report.videos)} videos extracted again ({report.seconds:.1f} s)", "tap", "difference", "tolerance"
    )
    for tap, worst in report.worst.items():
        table.add_row(tap, f"{worst:.2g}", f"{report.tolerances[tap]:g}")
    print_parts(table, *(f"PROBLEM {problem}" for problem in report.problems))


def print_prediction(prediction: Prediction) -> None:
    """`vidfeat plan`."""
    table = table_of(f"plan for {prediction.out}", "", "")
    table.add_row("videos to extract", f"{prediction.n_videos} in {prediction.n_units} units (shards)")
    table.add_row("frames x views", f"{prediction.n_rows:,}")
    table.add_row("to write", f"{as_bytes(prediction.n_bytes)} in {prediction.n_files} files")
    if prediction.free_bytes is not None:
        table.add_row("free on that disk", as_bytes(prediction.free_bytes))
    table.add_row("memory at the peak", f"{as_bytes(prediction.memory_bytes)}, without the decoders' own")
    probed = prediction.probed
    found = ", ".join(f"{count} x {reason}" for reason, count in probed.failures.items()) or "none that fails"
    kinds = "; ".join(probed.sizes)
    table.add_row(
        f"{probed.n_probed} videos probed", f"{kinds}; {probed.median_source_frames} frames (median); {found}"
    )
    if prediction.trial is not None:
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in prediction.trial.shares.items())
        table.add_row(
            "rate", f"{prediction.trial.frames_per_second:,.1f} frames/s, measured on {prediction.trial.n_frames}"
        )
        table.add_row("time", f"{as_time(prediction.seconds)} on this machine")
        table.add_row("bottleneck", f"{prediction.trial.bottleneck} (the encoder's time: {shares})")
    elif prediction.n_videos == 0:
        table.add_row("time", "nothing to do")
    print_parts(table, *(f"note: {note}" for note in prediction.notes))
