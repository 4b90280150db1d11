"""Matplotlib figures as inline SVG: in the page's font and colours, every mark tied to the method it belongs to."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that stand for the page's own, which change with the reader's light or dark scheme.
INK, FAINT, PAPER = "#010203", "#040506", "#070809"
_PAGE_COLOURS = {INK: "currentColor", FAINT: "var(--faint)", PAPER: "var(--paper)"}
GAIN, LOSS, BASELINE = "#2a9d8f", "#e76f51", "#8d99ae"
MARKERS = ("o", "s", "^", "D")
# Okabe and Ito's colours, told apart by most colour-blind readers; the yellow, unreadable on white, left out.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#a05a2c")
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.6,
}


@dataclass
class Drawing:
    """A figure under way: its axes, and which marks belong to which method and say what when pointed at."""

    figure: Figure
    axes: Sequence[Axes]
    _marks: dict[str, tuple[str, str]] = field(default_factory=dict)

    def mark(self, artists: Artist | Sequence[Artist], *, label: str = "", tip: str = "") -> None:
        """Ties artists to a method's label (the page's filter hides them with it) and gives them a tooltip."""
        for artist in artists if isinstance(artists, Sequence) else [artists]:
            name = f"mark-{len(self._marks)}-end"
            artist.set_gid(name)
            self._marks[name] = (label, tip)

    def svg(self, *, name: str, alt: str) -> str:
        """The figure as one `<svg>` element, its ids made unique on the page by `name`."""
        buffer = io.StringIO()
        self.figure.savefig(
            buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Type": None}
        )
        text = buffer.getvalue()
        text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
        opening = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(alt)}">'
        text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, text, count=1)
        for colour, meant in _PAGE_COLOURS.items():
            text = text.replace(colour, meant)
        for mark, (label, tip) in self._marks.items():
            shown = f"<title>{html.escape(tip)}</title>" if tip else ""
            owner = f' data-label="{html.escape(label)}"' if label else ""
            text = re.sub(rf'<g id="{mark}"\s*>', lambda _, o=owner, s=shown: f"<g{o}>{s}", text)  # type: ignore[misc]
        text = re.sub(r' id="([^"]+)"', rf' id="{name}-\1"', text)
        text = re.sub(r'(href="|url\()#', rf"\1#{name}-", text)
        return text.replace("xlink:href", "href").strip()


@contextmanager
def drawing(*, width: float = 4.4, height: float = 3.3, columns: int = 1, rows: int = 1) -> Iterator[Drawing]:
    """A drawing in the page's style; sizes in inches. Small on purpose: its letters stay readable on a phone."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(cast(Any, _STYLE)):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
        yield Drawing(figure, axes)


def markers(labels: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A shape per label: labels that share a colour differ in it. The baseline's is a circle."""
    others = [label for label in labels if label != baseline]
    found = {label: MARKERS[place // len(PALETTE) % len(MARKERS)] for place, label in enumerate(others)}
    return found | ({baseline: MARKERS[0]} if baseline is not None else {})


def colours(labels: Sequence[str], baseline: str | None) -> dict[str, str]:
    """A colour per label, the same in every figure of the page; the baseline's is grey."""
    others = [label for label in labels if label != baseline]
    found = {label: PALETTE[place % len(PALETTE)] for place, label in enumerate(others)}
    return found | ({baseline: BASELINE} if baseline is not None else {})
