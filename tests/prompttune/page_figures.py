"""The page's figures read back: where a reader sees a mark, in the numbers on the axes; tables as rows of text."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass
from xml.etree import ElementTree as ET

import numpy as np

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Mark:
    """One mark of a figure: its method, its tooltip, and its points [n 2] in the axes' numbers."""

    label: str
    tip: str
    points: np.ndarray


def tables(page: str, section: str) -> list[list[list[str]]]:
    """The tables of a section, as rows of cells."""
    text = page[page.index(f"<h3>{section}</h3>") :]
    text = text[: text.index("</section>")]
    bodies = re.findall(r"<tbody>(.*?)</tbody>", text, re.DOTALL)
    return [
        [
            [html.unescape(re.sub("<[^>]*>", "", cell)).strip() for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]
            for row in re.findall(r"<tr.*?</tr>", body, re.DOTALL)
        ]
        for body in bodies
    ]


def marks(page: str, alt: str, *, panel: int = 0) -> list[Mark]:
    """The marks of the figure with that text for the blind, in one of its panels; linear axes."""
    svg = next(one for one in re.findall(r"<svg.*?</svg>", page, re.DOTALL) if f'aria-label="{alt}"' in one)
    root = ET.fromstring(svg.replace("<svg ", f'<svg xmlns="{SVG[1:-1]}" ', 1))
    panels = [group for group in root.iter(f"{SVG}g") if re.search(r"-axes_\d+$", group.get("id", ""))]
    # Panels above one another share the axis of the lowest.
    across, up = _axis(panels[-1], "x"), _axis(panels[panel], "y")
    found = []
    for group in panels[panel].iter(f"{SVG}g"):
        title = group.find(f"{SVG}title")
        if group.get("id") is None and (title is not None or group.get("data-label") is not None):
            points = np.array([(across(x), up(y)) for x, y in _points(group)])
            found.append(Mark(group.get("data-label", ""), (title.text or "") if title is not None else "", points))
    return found


def _axis(panel: ET.Element, name: str) -> Callable[[float], float]:
    """From a place on the paper to the axis's number, by the numbers that stand at its ticks."""
    ticks = [group for group in panel.iter(f"{SVG}g") if re.search(rf"-{name}tick_\d+$", group.get("id", ""))]
    places, values = [], []
    for tick in ticks:
        text, use = next(tick.iter(f"{SVG}text"), None), next(tick.iter(f"{SVG}use"), None)
        number = "" if text is None else (text.text or "").replace("\N{MINUS SIGN}", "-")
        if use is not None and re.fullmatch(r"-?[\d.]+", number):
            places.append(float(use.get(name, "nan")))
            values.append(float(number))
    if len(places) < 2:  # names, not numbers
        return float
    slope, start = np.polyfit(places, values, 1)
    return lambda place: float(slope * place + start)


def _points(group: ET.Element) -> list[tuple[float, float]]:
    shapes = {id(path) for defs in group.iter(f"{SVG}defs") for path in defs.iter()}
    dots = [(float(use.get("x", "nan")), float(use.get("y", "nan"))) for use in group.iter(f"{SVG}use")]
    if dots:
        return dots
    drawn = [path.get("d", "") for path in group.iter(f"{SVG}path") if id(path) not in shapes]
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", " ".join(drawn))]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
