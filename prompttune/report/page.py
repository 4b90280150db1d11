"""The HTML page: one file, nothing loaded from elsewhere, every section there or with the reason why it is not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from prompttune.report import class_map, plots
from prompttune.report.answers import Answers, ClassChange, class_changes, confusion_pairs, count_flips, flips
from prompttune.report.comparison import Comparison
from prompttune.report.entries import Entry
from prompttune.report.learned_features import LearnedModels, Unavailable, anchor_similarity, class_movement
from prompttune.report.logs import Curves, read_curves
from prompttune.report.over_stores import OverStores, over_stores
from prompttune.report.page_tables import (
    CALIBRATION_RULE,
    Cell,
    PageTable,
    over_stores_table,
    published_table,
    result_table,
    settings_table,
)
from prompttune.report.settings import told_settings
from prompttune.report.statistics import flips_p
from prompttune.report.tables import OVER_STORES_RULE, SETTINGS_RULE, heading, notes, published_for
from prompttune.report.thumbnails import VideoFolder

TEMPLATES = Path(__file__).parent / "templates"
N_PICTURES = 6  # videos shown as gained, and as lost, per method and test set


@dataclass(frozen=True)
class Figure:
    """A picture with its caption; `label` ties it to a method, with which the filter hides it."""

    svg: str
    caption: str
    label: str = ""


@dataclass(frozen=True)
class VideoStrip:
    """Videos gained or lost by one method on one test set, with their pictures."""

    label: str
    title: str
    videos: Sequence[tuple[str, str]]  # (data URL, what it shows)


@dataclass
class Section:
    """A part of the page. `absent` says why it, or some of it, is not there."""

    title: str
    about: str
    figures: list[Figure] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    strips: list[VideoStrip] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Article:
    """What is said of one comparison, or of several together."""

    title: str
    facts: str
    sections: Sequence[Section]


def render_page(comparisons: Sequence[Comparison], *, title: str, videos: Path | None = None) -> str:
    """The page as one string of HTML.

    Args:
        videos: folder that the stores' video ids are relative to; None to look beside the stores.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = (f"f{number}" for number in count())
    articles = [_over_stores(over, names) for over in over_stores(comparisons)]
    articles += [_article(comparison, names, videos) for comparison in comparisons]
    first = comparisons[0].group.entries[0].result
    return environment.get_template("page.html.j2").render(title=title, articles=articles, versions=first.versions)


def _article(comparison: Comparison, names: Iterator[str], videos: Path | None) -> Article:
    group = comparison.group
    n_classes = ", ".join(f"{len(classes)} {name} classes" for name, classes in group.classes.items())
    return Article(group.title, f"{group.model} · {n_classes}", _sections(comparison, names, videos))


def _over_stores(over: OverStores, names: Iterator[str]) -> Article:
    groups = [comparison.group for comparison in over.comparisons]
    section = Section("Means and gains", "", tables=[over_stores_table(over)], notes=[OVER_STORES_RULE])
    if any(line.gains for line in over.lines):
        caption = "Points gained over the line in brackets; dots: means over data sets, bars: 95 % intervals over them."
        section.figures.append(Figure(plots.gains_over_stores(over, name=next(names)), caption))
    facts = f"{groups[0].model} · {', '.join(group.store for group in groups)}"
    return Article(over.title, facts, [section])


def _sections(comparison: Comparison, names: Iterator[str], videos: Path | None) -> list[Section]:
    models = LearnedModels()
    return [
        _results(comparison),
        _settings(comparison),
        _overview(comparison, names),
        _learning(comparison, names),
        _classes(comparison, names),
        _confusions(comparison),
        _class_maps(comparison, models, names),
        _anchors(comparison, models, names),
        _pictures(comparison, videos),
    ]


def _results(comparison: Comparison) -> Section:
    section = Section("Results", "", tables=[result_table(comparison)], notes=[*notes(comparison), CALIBRATION_RULE])
    if not any(line.best for line in comparison.lines):
        section.about = "Nothing is bold: no paired test over seeds tells a best mean from all others."
    published = published_for(comparison)
    if published:
        section.tables.append(published_table(published))
        section.notes.append("Published numbers were reached under protocols of their own; nothing here re-ran them.")
    return section


def _settings(comparison: Comparison) -> Section:
    section = Section("Settings", SETTINGS_RULE)
    if found := told_settings(comparison):
        section.tables.append(settings_table(found))
    else:
        section.absent.append("all lines have their method's defaults, and the same ones.")
    return section


def _overview(comparison: Comparison, names: Iterator[str]) -> Section:
    section = Section("Accuracy and its price", "")
    if {"base", "new"} <= set(comparison.group.metrics):
        caption = "New over base accuracy: small dots are seeds, large ones means; along a line HM is the same."
        section.figures.append(Figure(plots.base_against_new(comparison, name=next(names)), caption))
    if any(entry.is_trained for entry in comparison.group.entries):
        for cost, words in plots.COSTS.items():
            metric = heading(comparison.group.main_metric)
            caption = f"{metric} over {words}; bars: one standard deviation; dashed: at no cost."
            picture = plots.cost_against_accuracy(comparison, cost=cost, name=next(names))
            section.figures.append(Figure(picture, caption))
    return section


def _learning(comparison: Comparison, names: Iterator[str]) -> Section:
    section = Section("Learning curves", "")
    found: dict[str, Curves] = {}
    for entry in comparison.group.entries:
        curves = read_curves(entry)
        if curves is not None:
            found[entry.label] = curves
        elif entry.is_trained:
            section.absent.append(f"{entry.label} left no training log.")
    if not found:
        section.absent = ["No training left a log here."]
        return section
    palette = plots.label_colours(comparison)
    caption = "Loss (all terms with their weights) and accuracy on the training batch; thin lines are seeds."
    section.figures.append(Figure(plots.learning_curves(found, palette, name=next(names)), caption))
    for label, curves in found.items():
        if curves.gradient_norms:
            caption = f"{label}: the gradient norm of each loss term. A term far below the others moves nothing."
            section.figures.append(Figure(plots.gradient_norms(label, curves, name=next(names)), caption, label))
    return section


def _trained(comparison: Comparison) -> Iterable[Entry]:
    return (entry for entry in comparison.group.entries if entry.is_trained)


def _without_predictions(comparison: Comparison) -> list[str]:
    if comparison.baseline is None:
        return ["There is no zero-shot line to count gains and losses against; --baseline LABEL names another."]
    return [
        f"{entry.label}: no predictions on disk for the same videos as {comparison.baseline.label}."
        for entry in comparison.group.entries
        if entry is not comparison.baseline and not comparison.comparable(entry)
    ]


def _classes(comparison: Comparison, names: Iterator[str]) -> Section:
    section = Section("Who gains, who is forgotten", "", absent=_without_predictions(comparison))
    if comparison.baseline is None:
        return section
    section.about = (
        f"Each class against {comparison.baseline.label}. Solid bars: every seed moved that way. "
        "Point at a bar for its numbers."
    )
    found = [
        (entry, test, ours, baseline, class_changes(ours, baseline))
        for entry in comparison.group.entries
        for test, (ours, baseline) in comparison.against_baseline(entry).items()
    ]
    reach = plots.reach_of(change for *_, changes in found for change in changes)
    for entry, test, _, _, changes in found:
        shown = f", the {plots.MAX_CLASSES} that moved most of" if len(changes) > plots.MAX_CLASSES else ":"
        n_worse = sum(change.change < 0 for change in changes)
        caption = f"{entry.label}, {heading(test)} classes{shown} {len(changes)} classes, {n_worse} of them worse."
        picture = plots.class_bars(entry.label, changes, test=heading(test), reach=reach, name=next(names))
        section.figures.append(Figure(picture, caption, entry.label))
    rows = [_change_row(*one) for one in found]
    if rows:
        columns = ["method", "test set", "classes better", "worse", "worse in every seed"]
        section.tables.append(PageTable("", [*columns, "videos gained", "videos lost", "p"], rows))
        section.notes.append(
            "Videos gained and lost: by the majority of the seeds, a tie among them is neither; p of the exact "
            "McNemar test that both are as likely."
        )
    return section


def _change_row(
    entry: Entry, test: str, ours: Answers, baseline: Answers, changes: Sequence[ClassChange]
) -> list[Cell]:
    gained, lost = count_flips(ours, baseline)
    return [
        Cell(entry.label),
        Cell(heading(test)),
        Cell.number(sum(change.change > 0 for change in changes)),
        Cell.number(sum(change.change < 0 for change in changes)),
        Cell.number(sum(change.change < 0 and change.is_unanimous for change in changes)),
        Cell.number(gained),
        Cell.number(lost),
        Cell.number(flips_p(gained, lost), "{:.2g}"),
    ]


def _confusions(comparison: Comparison) -> Section:
    section = Section("What is taken for what", "Videos of one class taken for another, mean over seeds.")
    rows = []
    for entry in sorted(comparison.group.entries, key=lambda entry: entry is comparison.baseline):
        baseline = comparison.against_baseline(entry)
        for test, ours in (comparison.answers[entry.label] or {}).items():
            before = baseline[test][1] if test in baseline else None
            for pair in confusion_pairs(ours, before):
                rows.append(
                    [
                        Cell(entry.label),
                        Cell(heading(test)),
                        Cell(pair.label),
                        Cell(pair.predicted),
                        Cell.number(pair.n, "{:.1f}"),
                        Cell.number(pair.n_before, "{:.1f}") if before is not None else Cell("-"),
                        Cell.number(pair.n_videos),
                    ]
                )
    if rows:
        name = comparison.baseline.label if comparison.baseline else "baseline"
        columns = ["method", "test set", "class", "taken for", "videos", f"by {name}", "videos of the class"]
        section.tables.append(PageTable("", columns, rows, is_long=True))
    else:
        section.absent.append("No predictions on disk.")
    return section


def _class_maps(comparison: Comparison, models: LearnedModels, names: Iterator[str]) -> Section:
    section = Section(
        "Where the classes went",
        "Class features of the first seed in the joint space: from the hand-written prompt (hollow) to the learned one "
        "(filled). Each set is centred, for a shift common to all classes changes no prediction.",
    )
    for entry in _trained(comparison):
        try:
            movement = class_movement(entry, models)
        except Unavailable as reason:
            section.absent.append(f"{reason}.")
            continue
        before, after = movement.spacing()
        for kind, points in class_map.projections(movement).items():
            caption = (
                f"{entry.label}, seed {movement.seed}, {kind}. Mean cosine of two classes: {before:.3f} → {after:.3f}."
            )
            picture = class_map.class_map(movement, kind=kind, points=points, name=next(names))
            section.figures.append(Figure(picture, caption, entry.label))
    return section


def _anchors(comparison: Comparison, models: LearnedModels, names: Iterator[str]) -> Section:
    section = Section(
        "What irrelevant videos resemble",
        "Anchor videos show none of the classes. The nearer a method stays to the hand-written prompts here, the more "
        "of what CLIP knew of such videos it has kept.",
    )
    try:
        similarity = anchor_similarity(tuple(_trained(comparison)), models)
    except Unavailable as reason:
        section.absent.append(f"{reason}.")
        return section
    n_shown = len(next(iter(similarity.after.values())))
    which = (
        "each anchor video" if n_shown == similarity.n_videos else f"{n_shown} of {similarity.n_videos} anchor videos"
    )
    caption = (
        f"Cosine of {which} to its nearest training class, first seed; thin: 5 to 95 % of the anchors, "
        "thick: 25 to 75 %, stroke: the median."
    )
    picture = class_map.anchor_ranges(similarity, plots.label_colours(comparison), name=next(names))
    section.figures.append(Figure(picture, caption))
    return section


def _pictures(comparison: Comparison, given: Path | None) -> Section:
    section = Section("Videos gained and lost", "", absent=_without_predictions(comparison))
    if comparison.baseline is None:
        return section
    name = comparison.baseline.label
    section.about = f"Three frames of videos that {name} has wrong and most seeds have right; then the reverse."
    folder = VideoFolder(comparison.baseline.result.store.path, given)
    for entry in comparison.group.entries:
        for test, (ours, baseline) in comparison.against_baseline(entry).items():
            if test not in ("base", "new", "test"):
                continue  # videos of another store
            kinds = (("gained", "not"), ("lost", "now taken for"))
            for (kind, words), found in zip(kinds, flips(ours, baseline, limit=N_PICTURES), strict=True):
                shown = [
                    (picture, f"{flip.label}, {words} {flip.taken_for}")
                    for flip in found
                    if (picture := folder.picture(flip.id)) is not None
                ]
                if shown:
                    section.strips.append(VideoStrip(entry.label, f"{entry.label}, {heading(test)}: {kind}", shown))
    if not section.strips:
        looked = ", ".join(str(path) for path in folder.candidates)
        section.absent.append(
            f"No video to show was found or decoded (looked in {looked}); --videos FOLDER names theirs."
        )
    return section
