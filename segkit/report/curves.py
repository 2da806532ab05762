"""Line charts as inline SVG: no script, no library, readable in light and dark mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from segkit.report.template import render

Points = Sequence[tuple[float, float | None]]
"""(x, y) in the order of x; a y of None, NaN or infinity is a gap."""

Point = tuple[float, float]

# Each has a contrast of at least 3 to 1 against both white and near-black paper.
_COLORS = ("#2f7ed8", "#e0701a", "#12946c", "#b35cc4", "#d64550", "#96852a", "#6f7f95")
_DASHES = ("none", "6 3", "2 3")  # the next one for each round of the colours
_WIDTH, _PLOT_HEIGHT = 370.0, 180.0
_LETTER, _BOLD_LETTER = 6.3, 7.4  # mean width of a letter in labels of 12 px
_ROW = 17.0  # height of a line of text
_MOST_TOOLTIPS = 200  # points of one series; more would only make the page heavy


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` lie on the paper from `start` to `end`."""

    low: float
    high: float
    ticks: list[float]
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 2)

    def labels(self) -> list[tuple[float, str]]:
        """Position and text of each tick."""
        return [(self.place(tick), text) for tick, text in _tick_texts(self.ticks)]


@dataclass(frozen=True)
class _Line:
    """One series, placed on the paper."""

    name: str
    color: str
    dash: str
    paths: list[str]  # one for each run of points without a gap
    dots: list[Point]  # the last point, and points that no path shows
    tooltips: list[tuple[float, float, str]]


def chart(
    series: Mapping[str, Points], *, title: str, x_label: str, y_label: str | None = None
) -> str:
    """A line chart as an `<svg>` element for an HTML page.

    Args:
        series: name to points. Series without a finite value are left out.
        title: the heading, also the accessible name.
        x_label: what x is, below the axis.
        y_label: what y is, beside the axis.

    Returns:
        SVG text that fills the width it is given and takes its ink from the page (`currentColor`).
    """
    runs = {name: _runs(points) for name, points in series.items()}
    runs = {name: parts for name, parts in runs.items() if parts}
    xs = [x for parts in runs.values() for part in parts for x, _ in part]
    ys = [y for parts in runs.values() for part in parts for _, y in part]
    last = {name: parts[-1][-1] for name, parts in runs.items()}
    ends = {name: _short(y) for name, (_, y) in last.items()}

    legend, legend_rows = _legend(runs)
    top = 36 + legend_rows * _ROW
    bottom = top + _PLOT_HEIGHT
    y_ticks = _ticks(*_spread(ys))
    tick_width = max(len(text) for _, text in _tick_texts(y_ticks)) * _LETTER
    y_axis = _Axis(y_ticks[0], y_ticks[-1], y_ticks, bottom, top)
    left = 12 + tick_width + (_ROW if y_label else 0)
    right = _WIDTH - 12 - max((len(text) for text in ends.values()), default=0) * _BOLD_LETTER
    x_low, x_high = _spread(xs)
    x_ticks = _ticks(x_low, x_high, whole=all(float(x).is_integer() for x in xs))
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high]
    x_axis = _Axis(x_low, x_high, x_ticks, left, right)

    lines = [
        _line(index, name, parts, x_axis, y_axis, x_label)
        for index, (name, parts) in enumerate(runs.items())
    ]
    heights = _apart([y_axis.place(y) for _, y in last.values()], top, bottom)
    return render(
        "chart.svg.jinja",
        title=title,
        x_label=x_label,
        y_label=y_label,
        width=_WIDTH,
        height=bottom + 42,
        x_axis=x_axis,
        y_axis=y_axis,
        lines=lines,
        legend=legend,
        ends=list(zip(heights, ends.values(), strict=True)),
    )


def _line(
    index: int, name: str, parts: list[list[Point]], x_axis: _Axis, y_axis: _Axis, x_label: str
) -> _Line:
    placed = [[(x_axis.place(x), y_axis.place(y)) for x, y in part] for part in parts]
    tooltips = [
        (x_axis.place(x), y_axis.place(y), f"{name}: {_short(y)} ({x_label} {_short(x)})")
        for part in parts
        for x, y in part
    ]
    alone = [part[0] for part in placed if len(part) == 1]
    return _Line(
        name=name,
        color=_COLORS[index % len(_COLORS)],
        dash=_DASHES[index // len(_COLORS) % len(_DASHES)],
        paths=[" ".join(f"{x:g},{y:g}" for x, y in part) for part in placed if len(part) > 1],
        dots=list(dict.fromkeys([*alone, placed[-1][-1]])),
        tooltips=tooltips if len(tooltips) <= _MOST_TOOLTIPS else [],
    )


def _runs(points: Points) -> list[list[Point]]:
    """The stretches of points between gaps."""
    runs: list[list[Point]] = [[]]
    for x, y in points:
        if y is not None and math.isfinite(y) and math.isfinite(x):
            runs[-1].append((float(x), float(y)))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _legend(names: Iterable[str]) -> tuple[list[Point], int]:
    """Where each name of the legend stands, and how many rows they take."""
    places: list[Point] = []
    x, row = 0.0, 0
    for name in names:
        width = 24 + min(len(name), 40) * _LETTER + 14
        if x > 0 and x + width > _WIDTH:
            x, row = 0.0, row + 1
        places.append((round(x, 2), 36 + row * _ROW))
        x += width
    return places, row + 1 if places else 0


def _apart(wanted: list[float], top: float, bottom: float) -> Sequence[float | None]:
    """Heights of the labels at the line ends, so that none overlap; None where there is no room."""
    step = 13.0
    if (len(wanted) - 1) * step > bottom - top:
        return [None] * len(wanted)
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    heights = list(wanted)
    for before, here in pairwise(order):
        heights[here] = max(heights[here], heights[before] + step)
    limit = bottom
    for here in reversed(order):  # push back up what has slid below the plot
        heights[here] = min(heights[here], limit)
        limit = heights[here] - step
    return heights


def _spread(values: list[float]) -> tuple[float, float]:
    """Smallest and largest value, moved apart where they are equal; 0 and 1 where there is none."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten that enclose `low` and `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(step, 1.0)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    return [index * step for index in range(first, last + 1)]


def _tick_texts(ticks: list[float]) -> list[tuple[float, str]]:
    """Each tick with its text: all with the decimals that the step between them needs."""
    largest = max((abs(tick) for tick in ticks), default=0.0)
    if len(ticks) < 2 or not 1e-3 <= largest < 1e5:
        return [(tick, _short(tick)) for tick in ticks]
    decimals = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-6))
    return [(tick, f"{tick:.{decimals}f}") for tick in ticks]


def _short(value: float) -> str:
    """Four significant digits: 0.9131, 12.5, 3e-5."""
    return f"{value:.4g}".replace("e-0", "e-").replace("e+0", "e")
