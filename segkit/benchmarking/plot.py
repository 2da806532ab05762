"""Bars side by side in one picture: a line for each combination, a panel for each measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segkit.benchmarking.results import cell
from segkit.report.picture import as_png

Color = tuple[int, int, int]

INK, FAINT, PAPER = (34, 38, 46), (140, 146, 156), (255, 255, 255)
MARK = (120, 20, 40)
SCALE = 2  # pixels for one of the units below, so that it is crisp on dense displays
LETTERS, SMALL, TITLE = 13, 11, 17
LINE, GAP, EDGE = 20, 12, 18
BAR, NUMBER = 110, 52
"""Widths of the longest bar of a panel and of the number behind it."""


@dataclass(frozen=True)
class Bar:
    """A line of the picture.

    Attributes:
        group: Lines of one group stand together under its name.
        label: What it is.
        color: Of its bars.
        values: Panel to value; a panel that is left out is empty.
        marks: Panel to a value that is shown as a stroke, such as a floor.
        failure: What is said in the place of bars that could not be had.
    """

    group: str
    label: str
    color: Color
    values: Mapping[str, float | None]
    marks: Mapping[str, float | None] = field(default_factory=dict)
    failure: str = ""


def draw_bars(
    bars: Sequence[Bar],
    panels: Sequence[str],
    legend: Mapping[str, Color],
    title: str,
    notes: Sequence[str] = (),
    mark: str = "",
) -> bytes:
    """A PNG file.

    Args:
        bars: The lines, those of a group in a row.
        panels: The measures, each on a scale of its own that begins at 0.
        legend: What the colours mean.
        title: The heading.
        notes: Lines below it all.
        mark: What the strokes mean; empty where there are none.
    """
    pen = _Pen()
    label_width = max((pen.width(bar.label) for bar in bars), default=0) + 2 * GAP
    panel_width = BAR + NUMBER + GAP
    said = max((pen.width(note) for note in [*notes, title]), default=0)
    width = round(2 * EDGE + max(label_width + panel_width * len(panels), said))
    groups = list(dict.fromkeys(bar.group for bar in bars))
    lines = len(bars) + len(groups) + len(notes)
    height = 2 * EDGE + 3 * LINE + GAP * (len(groups) + 2) + LINE * lines
    pen.begin(width, height)

    y = float(EDGE)
    pen.write(EDGE, y, title, size=TITLE)
    y += LINE + GAP / 2
    x = float(EDGE)
    for name, color in legend.items():
        pen.box(x, y + 3, x + 14, y + 14, color)
        pen.write(x + 20, y, name)
        x += 20 + pen.width(name) + 2 * GAP
    if mark:
        pen.box(x + 6, y + 1, x + 8, y + 16, MARK)
        pen.write(x + 20, y, mark)
    y += LINE + GAP
    left = EDGE + label_width
    for number, panel in enumerate(panels):
        pen.write(left + number * panel_width, y, panel, color=FAINT)
    y += LINE
    longest = {panel: _longest(bars, panel) for panel in panels}
    for group in groups:
        pen.write(EDGE, y, group, size=LETTERS + 1)
        y += LINE
        for bar in bars:
            if bar.group != group:
                continue
            pen.write(EDGE + GAP, y, bar.label)
            for number, panel in enumerate(panels):
                _draw(pen, bar, panel, left + number * panel_width, y, longest[panel])
            if bar.failure:
                empty = next((i for i, p in enumerate(panels) if bar.values.get(p) is None), 0)
                at = left + empty * panel_width
                pen.write(at, y, pen.shortened(bar.failure, width - EDGE - at), color=MARK)
            y += LINE
        y += GAP
    for note in notes:
        pen.write(EDGE, y, note)
        y += LINE
    return pen.png()


def _draw(pen: _Pen, bar: Bar, panel: str, x: float, y: float, longest: float) -> None:
    value, mark = bar.values.get(panel), bar.marks.get(panel)
    if value is None:
        return
    end = x + max(1.0, BAR * value / longest)
    pen.box(x, y + 3, end, y + LINE - 4, bar.color)
    pen.write(end + 5, y + 1, cell(value), size=SMALL)
    if mark is not None:
        at = x + BAR * min(mark / longest, 1)
        pen.box(at, y + 1, at + 2, y + LINE - 2, MARK)


def _longest(bars: Sequence[Bar], panel: str) -> float:
    found = [value for bar in bars if (value := bar.values.get(panel)) is not None]
    return max(found, default=0) or 1


class _Pen:
    """Draws in units of which one is several pixels."""

    def __init__(self) -> None:
        self._fonts = {
            size: ImageFont.load_default(size * SCALE)
            for size in (SMALL, LETTERS, LETTERS + 1, TITLE)
        }

    def begin(self, width: int, height: int) -> None:
        """An empty sheet."""
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def width(self, text: str, size: int = LETTERS) -> float:
        """Of a text."""
        return self._fonts[size].getlength(text) / SCALE

    def shortened(self, text: str, width: float) -> str:
        """As much of a text as there is room for."""
        if self.width(text) <= width:
            return text
        kept = next(n for n in range(len(text), -1, -1) if self.width(text[:n] + "...") <= width)
        return text[:kept] + "..."

    def write(self, x: float, y: float, text: str, size: int = LETTERS, color: Color = INK) -> None:
        """A text whose upper left corner is there."""
        self._draw.text((x * SCALE, y * SCALE), text, fill=color, font=self._fonts[size])

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """A filled rectangle."""
        places = [round(each * SCALE) for each in (left, top, right, bottom)]
        self._draw.rectangle((places[0], places[1], places[2], places[3]), fill=color)

    def png(self) -> bytes:
        """The sheet as a file."""
        return as_png(np.asarray(self._image))
