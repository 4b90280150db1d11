"""The table as papers print it: pandas frames of a comparison, as Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prompttune.evaluation.evaluate import Spread
from prompttune.report.comparison import BOLD_RULE, Comparison, Line
from prompttune.report.entries import Group
from prompttune.report.markdown import TEST_NAMES, markdown_table
from prompttune.report.over_stores import OverStores, over_stores
from prompttune.report.published import Published, matching
from prompttune.report.settings import Setting, told_settings
from prompttune.report.statistics import Difference, in_per_cent

if TYPE_CHECKING:
    import pandas

NUMBERS_RULE = (
    "Top-1 accuracy in per cent, mean ± sample standard deviation over seeds; HM is the mean of the seeds' harmonic "
    "means. Δ is the mean difference to {baseline}, paired by seed, with its 95 % t interval; `over videos` is "
    "the 95 % interval of the same difference from a bootstrap over the test videos."
)

OVER_STORES_RULE = (
    "Top-1 accuracy in per cent, mean ± sample standard deviation over data sets, each data set's the mean over its "
    "seeds. Δ is the mean difference to the line under `against`, taken on each data set and paired by seed, with its "
    "95 % t interval over data sets; p is that of the t test over data sets, after Holm's correction over the lines."
)

SETTINGS_RULE = "Settings in which lines differ, and those that are not their method's default; all others are."


def heading(metric: str) -> str:
    """A metric's column title."""
    return TEST_NAMES.get(metric, metric)


def mean_and_std(found: Spread | None, *, sign: str = "±") -> str:
    """ "61.2 ± 0.8", in per cent; without the deviation where one run has none."""
    if found is None:
        return "-"
    mean = in_per_cent(found.mean)
    return mean if found.std is None else f"{mean} {sign} {in_per_cent(found.std)}"


def with_interval(found: Difference | None) -> str:
    """ "+3.2 [+1.0, +5.4]", in per cent; without the interval where too few seeds give none."""
    if found is None:
        return "-"
    return f"{in_per_cent(found.mean, signed=True)} {interval(found)}".strip()


def interval(found: Difference | None) -> str:
    """ "[+1.0, +5.4]", in per cent; empty where there is none."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"[{in_per_cent(found.low, signed=True)}, {in_per_cent(found.high, signed=True)}]"


def table_frame(comparison: Comparison, *, bold: str = "{}", sign: str = "±") -> pandas.DataFrame:
    """The comparison in words, one row per line.

    Args:
        bold: how a best that a test supports is marked: "**{}**", "\\textbf{{{}}}".
        sign: between mean and standard deviation.
    """
    import pandas

    rows = []
    main = heading(comparison.group.main_metric)
    for line in comparison.lines:
        row: dict[str, object] = {"method": line.label}
        for metric in comparison.group.metrics:
            words = mean_and_std(line.metrics.get(metric), sign=sign)
            row[heading(metric)] = bold.format(words) if metric in line.best else words
        if comparison.baseline is not None:
            row[f"Δ {main}"] = with_interval(line.over_seeds)
            row["over videos"] = interval(line.over_videos) or "-"
        row |= {"seeds": len(line.entry.runs), "parameters": f"{line.entry.n_parameters:,}"}
        rows.append(row | {"s / seed": f"{line.entry.seconds:.1f}"})
    return pandas.DataFrame(rows)


def over_stores_frame(over: OverStores, *, sign: str = "±") -> pandas.DataFrame:
    """Means and gains over data sets in words, one row per line."""
    import pandas

    rows = []
    for line in over.lines:
        row: dict[str, object] = {"method": line.label, "against": line.against or "-"}
        for metric in over.metrics:
            row[heading(metric)] = mean_and_std(line.means.get(metric), sign=sign)
            row[f"Δ {heading(metric)}"] = with_interval(line.gains.get(metric))
        rows.append(row | {"p": "-" if line.p is None else f"{line.p:.2g}", "data sets": line.data_sets})
    return pandas.DataFrame(rows)


def number_frame(comparisons: Sequence[Comparison]) -> pandas.DataFrame:
    """Every line of every comparison in plain numbers, shares in [0, 1], one row per line."""
    import pandas

    return pandas.DataFrame([_numbers(comparison, line) for comparison in comparisons for line in comparison.lines])


def _numbers(comparison: Comparison, line: Line) -> dict[str, Any]:
    group = comparison.group
    row: dict[str, Any] = {
        "store": group.store,
        "model": group.model,
        "protocol": group.protocol,
        "shots": group.shots,
        "test_videos": group.tested_on,
        "label": line.label,
        "method": line.entry.result.method,
        "n_seeds": len(line.entry.runs),
    }
    for metric in group.metrics:
        found = line.metrics.get(metric)
        row |= {
            f"{metric}_mean": found.mean if found else None,
            f"{metric}_std": found.std if found else None,
            f"{metric}_is_tested_best": metric in line.best,
        }
    if line.harmonic_mean_of_means is not None:
        row["harmonic_mean_of_means"] = line.harmonic_mean_of_means
    row |= {"baseline": comparison.baseline.label if comparison.baseline else None, "difference_of": group.main_metric}
    for name, found_difference in (("seeds", line.over_seeds), ("videos", line.over_videos)):
        for key in ("mean", "low", "high"):
            row[f"difference_{name}_{key}"] = getattr(found_difference, key) if found_difference else None
    row["difference_seeds_p"] = line.over_seeds.p if line.over_seeds else None
    row |= {"n_parameters": line.entry.n_parameters, "seconds_per_seed": line.entry.seconds}
    return row | {"folder": line.entry.folder.as_posix()}


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know of the numbers: how they were taken, what bold means, what differs or is missing."""
    baseline = comparison.baseline.label if comparison.baseline else None
    rule = NUMBERS_RULE.format(baseline=baseline) if baseline else NUMBERS_RULE.partition(" Δ is")[0]
    found = [rule, BOLD_RULE]
    for line in comparison.lines:
        mean = line.metrics.get("harmonic_mean")
        of_means = line.harmonic_mean_of_means
        if mean is not None and of_means is not None and in_per_cent(mean.mean) != in_per_cent(of_means):
            found.append(f"{line.label}: the harmonic mean of the mean accuracies is {in_per_cent(of_means)}.")
        if line.entry.result.store.failed_videos:
            n_failed = len(line.entry.result.store.failed_videos)
            found.append(f"{line.label}: {n_failed} videos of the store could not be read and are in no split.")
    found += _rounding_notes(comparison)
    silent = [label for label, answers in comparison.answers.items() if answers is None]
    if silent:
        found.append(f"No predictions on disk, so no interval over videos: {', '.join(silent)}.")
    return found


def _rounding_notes(comparison: Comparison) -> list[str]:
    """Where the predictions of earlier releases, in half precision, give another accuracy than the result's own."""
    found = []
    for line in comparison.lines:
        answers = comparison.answers[line.label] or {}
        for name, one in answers.items():
            recorded, recomputed = line.metrics[name].mean, float(one.right.mean())
            if abs(recorded - recomputed) > 5e-4:
                found.append(f"{line.label}, {heading(name)}: {in_per_cent(recomputed)}")
    if not found:
        return []
    return [
        "Predictions of an earlier release are in half precision, which makes ties; a tie counts as wrong in "
        f"everything that looks at single videos, where accuracies are therefore: {'; '.join(found)}."
    ]


def published_frame(lines: Sequence[Published]) -> pandas.DataFrame:
    """Published numbers with how they were reached, one row per line."""
    import pandas

    metrics = [metric for metric in ("base", "new", "harmonic_mean", "top1") if any(getattr(x, metric) for x in lines)]
    rows = []
    for line in lines:
        row: dict[str, object] = {"published": line.method}
        for metric in metrics:
            value = getattr(line, metric)
            words = "-" if value is None else f"{value:g}"
            row[heading(metric)] = f"{words} ± {line.spread:g}" if line.spread and metric == "top1" else words
        source = f"{line.source} (second hand)" if line.second_hand else line.source
        rows.append(row | {"reached with": line.circumstances, "source": source})
    return pandas.DataFrame(rows)


def published_for(comparison: Comparison) -> list[Published]:
    """The published lines on the same data set under the same protocol; none when the store's name says none."""
    group = comparison.group
    return matching(group.store, group.protocol, group.shots)


def to_markdown(comparisons: Sequence[Comparison], *, title: str) -> str:
    """A Markdown page: a table over data sets where there are several, one per comparison, its notes, and the published
    numbers on the same data set."""
    parts = [f"# {title}"]
    for over in over_stores(comparisons):
        parts += [f"## {over.title}", _markdown(over_stores_frame(over)), f"- {OVER_STORES_RULE}"]
    for comparison in comparisons:
        parts += [f"## {comparison.group.title}", f"Backbone: {comparison.group.model}"]
        parts.append(_markdown(table_frame(comparison, bold="**{}**")))
        parts.append("\n".join(f"- {note}" for note in notes(comparison)))
        if settings := told_settings(comparison):
            parts += ["### Settings", SETTINGS_RULE, _settings_markdown(settings)]
        published = published_for(comparison)
        if published:
            parts += ["Published by others, under protocols of their own:", _markdown(published_frame(published))]
    return "\n\n".join(parts) + "\n"


def _settings_markdown(settings: Sequence[Setting]) -> str:
    labels = list(settings[0].values)
    rows: list[list[object]] = []
    for one in settings:
        usual = {label: f" (default {word})" for label, word in one.defaults.items()}
        words = [f"{one.values[label]}{usual.get(label, '')}".replace("|", "\\|") for label in labels]
        rows.append([one.key, *words])
    return markdown_table(["setting", *labels], rows)


def _markdown(frame: pandas.DataFrame) -> str:
    rows: list[list[object]] = [[str(cell).replace("|", "\\|") for cell in row] for row in frame.to_numpy().tolist()]
    return markdown_table([str(name) for name in frame.columns], rows)


def to_latex(comparisons: Sequence[Comparison]) -> str:
    """A `table` environment per comparison, before them one over data sets where there are several; needs the package
    booktabs."""
    tables = []
    for over in over_stores(comparisons):
        group, sign = over.comparisons[0].group, r"$\pm$"
        caption = f"{over.title}; {group.model}. {OVER_STORES_RULE}"
        label = f"over-{len(over.comparisons)}-{group.protocol}-{group.shots}"
        tables.append(_latex(over_stores_frame(over, sign=sign), caption=caption, label=label))
    for comparison in comparisons:
        frame = table_frame(comparison, bold=r"\textbf{{{}}}", sign=r"$\pm$")
        group = comparison.group
        caption = " ".join([f"{group.title}; {group.model}.", *notes(comparison)])
        tables.append(_latex(frame, caption=caption, label=_label(group)))
    return "\n".join(tables)


def _label(group: Group) -> str:
    words = (group.store, group.protocol, str(group.shots), group.tested_on)
    return "-".join(word for word in words if word)


def _latex(frame: pandas.DataFrame, *, caption: str, label: str) -> str:
    for column in frame.columns:
        cells = [str(cell) for cell in frame[column]]
        escape = escape_latex if column in ("method", "against") else _latex_signs
        frame[column] = [escape(cell) for cell in cells]
    frame.columns = [str(name).replace("Δ", r"$\Delta$") if "Δ" in name else escape_latex(name) for name in frame]
    return frame.to_latex(
        index=False,
        escape=False,
        column_format="l" + "r" * (len(frame.columns) - 1),
        caption=_latex_signs(escape_latex(caption)),
        label=f"tab:{label}",
    )


def escape_latex(text: str) -> str:
    """The text with TeX's special characters as themselves."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _latex_signs(text: str) -> str:
    return text.replace("±", r"$\pm$").replace("Δ", r"$\Delta$")


def to_csv(comparisons: Sequence[Comparison]) -> str:
    """Plain numbers, one line per method and comparison, nothing rounded."""
    return str(number_frame(comparisons).to_csv(index=False))
