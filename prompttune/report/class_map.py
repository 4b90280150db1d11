"""Figures of the joint space: where class features went (PCA, t-SNE), and what irrelevant videos resemble."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from prompttune.report.learned_features import AnchorSimilarity, ClassMovement
from prompttune.report.svg import BASELINE, FAINT, INK, PALETTE, Drawing, drawing

MIN_FOR_TSNE = 10  # classes below which neighbourhoods are no more than PCA shows
MAX_NAMES = 24


def projections(movement: ClassMovement) -> dict[str, NDArray[np.float64]]:
    """By method of projection: the plane's points [2 C 2], before and after.

    Both sets are centred on their own mean first: a shift common to all classes adds the same to every logit of a video
    and changes no prediction, but would fill the picture.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    centred = [rows - rows.mean(axis=0) for rows in (movement.before, movement.after)]
    joint = np.concatenate(centred).astype(np.float64)
    n = len(movement.names)
    found = {"PCA": PCA(n_components=2, random_state=0).fit_transform(joint).reshape(2, n, 2)}
    if n >= MIN_FOR_TSNE:
        tsne = TSNE(n_components=2, perplexity=min(30.0, (2 * n - 1) / 4), init="pca", random_state=0, metric="cosine")
        found["t-SNE"] = np.asarray(tsne.fit_transform(joint), dtype=np.float64).reshape(2, n, 2)
    return found


def class_map(movement: ClassMovement, *, kind: str, points: NDArray[np.float64], name: str) -> str:
    """Class features before (hollow) and after (filled), a line from one to the other; new classes as diamonds."""
    with drawing(height=3.9) as figure:
        axes = figure.axes[0]
        for place, class_name in enumerate(movement.names):
            is_new = bool(movement.is_new[place])
            colour, shape = (PALETTE[1], "D") if is_new else (PALETTE[0], "o")
            before, after = points[0, place], points[1, place]
            tip = f"{class_name} ({'new' if is_new else 'base'})"
            path = axes.plot(*zip(before, after, strict=True), color=colour, lw=0.7, alpha=0.5)
            hollow = axes.plot(*before, shape, ms=4, mfc="none", mec=colour, mew=0.9)
            filled = axes.plot(*after, shape, ms=5, mew=0, color=colour)
            for marks in (path, hollow, filled):
                figure.mark(marks, tip=tip)
            if len(movement.names) <= MAX_NAMES:
                axes.annotate(class_name, after, xytext=(4, 2), textcoords="offset points", fontsize=6, color=INK)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_title(kind, loc="left")
        _map_legend(figure, bool(movement.is_new.any()))
        return figure.svg(name=name, alt=f"{kind} of the class features of {movement.label}, before and after")


def _map_legend(figure: Drawing, has_new: bool) -> None:
    from matplotlib.lines import Line2D

    kinds = [("base class", PALETTE[0], "o"), *([("new class", PALETTE[1], "D")] if has_new else [])]
    handles = [Line2D([], [], marker=shape, ls="", color=colour, label=title) for title, colour, shape in kinds]
    handles.append(Line2D([], [], marker="o", ls="", mfc="none", color=INK, label="hand-written prompt"))
    figure.figure.legend(handles=handles, loc="outside lower center", ncols=3, markerscale=0.7, handletextpad=0.2)


def anchor_ranges(similarity: AnchorSimilarity, palette: Mapping[str, str], *, name: str) -> str:
    """The anchors' cosines to their nearest training class: hand-written prompts, then each method.

    Thin: 5 to 95 % of the anchors; thick: 25 to 75 %; the stroke: the median.
    """
    references = similarity.references()
    rows = [(label, values, BASELINE) for label, values in references.items()]
    rows += [(label, values, palette[label]) for label, values in similarity.after.items()]
    with drawing(height=0.8 + 0.36 * len(rows)) as figure:
        axes = figure.axes[0]
        for place, (label, values, colour) in enumerate(rows):
            outer, inner = np.quantile(values, [0.05, 0.95]), np.quantile(values, [0.25, 0.75])
            lines = [axes.plot(ends, [place] * 2, color=colour, lw=lw)[0] for ends, lw in ((outer, 1.4), (inner, 8))]
            median = axes.plot(np.median(values), place, "|", ms=9, mew=1.6, color=INK)[0]
            tip = f"{label}: median cosine {np.median(values):.3f}"
            figure.mark([*lines, median], label=label if place >= len(references) else "", tip=tip)
        axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color=FAINT)
        axes.set_xlabel("cosine of an anchor video\nto its nearest training class")
        return figure.svg(name=name, alt="cosines of the anchor videos to their nearest training class")
