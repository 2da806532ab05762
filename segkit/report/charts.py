"""Charts as SVG, drawn by matplotlib: lines, the reliability of probabilities, values and costs."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[tuple[float, float | None]]
"""(x, y) in the order of x; a y of None, NaN or infinity is a gap."""

FEW_PIXELS = 1e-3
"""Share of the pixels below which a bin tells little."""

_COLORS = ("#2f7ed8", "#e0701a", "#12946c", "#b35cc4", "#d64550", "#96852a", "#6f7f95")
_OVER, _UNDER = "#e0701a", "#7fe0bd"
_STYLES = ("-", "--", ":")  # the next one for each round of the colours
MOST_LINES = len(_COLORS) * len(_STYLES)
"""Lines that can be told apart."""
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp and selectable
    "svg.hashsalt": "segkit",  # the same file in every run
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "sans-serif",
    "font.size": 9,
}


def choose_line(number: int) -> tuple[str, str]:
    """Colour and style of a line by its place in a chart, counted from 0: "#2f7ed8" and "-"."""
    return _COLORS[number % len(_COLORS)], _STYLES[number // len(_COLORS) % len(_STYLES)]


def draw_chart(series: Mapping[str, Points], *, title: str, x_label: str, y_label: str = "") -> str:
    """Draw a line chart as the text of an SVG file; series without a finite value are left out.

    The others keep the colours of their places, see :func:`choose_line`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    lines = {name: np.array(points, float).reshape(-1, 2) for name, points in series.items()}
    shown = {name: line for name, line in lines.items() if np.isfinite(line[:, 1]).any()}
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.2, 3.1 + 0.17 * max(0, len(shown) - 4)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        for index, (name, line) in enumerate(lines.items()):
            if name not in shown:
                continue
            xs, ys = line.T
            color, style = choose_line(index)
            look: Any = {"color": color, "linestyle": style}
            # Dots mark the last point, and those between gaps, through which no line goes.
            ys[~np.isfinite(ys)] = np.nan
            gaps = np.pad(np.isnan(ys), 1, constant_values=True)
            dots = gaps[:-2] & gaps[2:]
            dots[-1] = True
            look["markevery"] = np.flatnonzero(dots).tolist()
            axes.plot(xs, ys, label=name, marker="o", markersize=4, **look)
        if all((line[:, 0] % 1 == 0).all() for line in lines.values()):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return _finish(figure, axes, title, columns=2)


def _finish(figure: Figure, axes: Axes, title: str, columns: int) -> str:
    """The text of an SVG file of a chart, with a legend if there are values."""
    if axes.has_data():
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=columns)
    else:
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return file.getvalue()


def draw_reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Draw how often decisions of each confidence are right, as the text of an SVG file.

    Above: bars of the share that is right, beside the line where it equals the confidence, and
    hatched what lies between the two. Below: how many pixels have that confidence. Bars of bins
    with less than :data:`FEW_PIXELS` are pale.

    Args:
        bins: Rows of low, high, pixels, accuracy and confidence, NaN in empty bins; see
            :func:`segkit.metrics.calibration.list_bins`.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import PercentFormatter

    shown = [b for b in bins if b["pixels"] > 0]
    total = sum(b["pixels"] for b in shown)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.2, 4.6), layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        above.set_title("Reliability", loc="left", fontweight="bold")
        above.plot([0, 1], [0, 1], color=_COLORS[-1], linestyle="--", label="ideal", zorder=3)
        for row in shown:
            accuracy, confidence, share = row["accuracy"], row["confidence"], row["pixels"] / total
            place: Any = {"x": row["low"], "width": row["high"] - row["low"], "align": "edge"}
            place["alpha"] = 1 if share >= FEW_PIXELS else 0.25
            above.bar(height=accuracy, color=_COLORS[0], edgecolor="white", **place)
            # the gap between what the model claims and what is right
            gap = confidence - accuracy
            color = _OVER if gap > 0 else _UNDER
            look: Any = {"facecolor": "none", "edgecolor": color, "hatch": "/////"}
            above.bar(height=gap, bottom=accuracy, **look, **place)
            below.bar(height=share, color=_COLORS[0], edgecolor="white", **place)
        for axes in (above, below):
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", alpha=0.3)
            axes.set_axisbelow(True)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        above.set(ylabel="share that is right", ylim=(0, 1))
        below.set(ylabel="share of pixels", xlabel="confidence: probability of the decided class")
        below.set_xlim(min([math.floor(10 * b["low"]) / 10 for b in shown], default=0), 1)
        below.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        keys = [
            *above.get_lines(),
            Patch(color=_COLORS[0], label="are right"),
            Patch(facecolor="none", edgecolor=_OVER, hatch="/////", label="overconfident by"),
            Patch(facecolor="none", edgecolor=_UNDER, hatch="/////", label="underconfident by"),
        ]
        figure.legend(handles=keys, loc="outside lower left", ncols=4, columnspacing=1.2)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": "Reliability"})
    return file.getvalue()


@dataclass(frozen=True)
class Estimate:
    """A value with a cost.

    Attributes:
        name: What it is of; empty: not named.
        group: Estimates of one group have one colour.
        x: The cost.
        y: The value.
        spread: Its standard deviation, or NaN.
    """

    name: str
    group: str
    x: float
    y: float
    spread: float = math.nan


def draw_estimates(estimates: Sequence[Estimate], *, title: str, x_label: str, y_label: str) -> str:
    """Draw values against their costs as the text of an SVG file; those not finite are left out."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [each for each in estimates if math.isfinite(each.x) and math.isfinite(each.y)]
    groups, x = list(dict.fromkeys(each.group for each in shown)), [each.x for each in shown]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        axes.margins(0.1)
        for index, group in enumerate(groups):
            held = [each for each in shown if each.group == group]
            bars = [0.0 if math.isnan(each.spread) else each.spread for each in held]
            xs, ys = [each.x for each in held], [each.y for each in held]
            look: Any = {"color": _COLORS[index % len(_COLORS)], "capsize": 3}
            axes.errorbar(xs, ys, bars, fmt="o", markersize=5, label=group, **look)
        middle = (min(x, default=0) + max(x, default=0)) / 2
        named = sorted((each for each in shown if each.name), key=lambda each: each.y)
        for index, each in enumerate(named):
            side = 1 if each.x <= middle else -1  # towards the middle, so that it fits
            place: Any = {"xytext": (7 * side, 6 if index % 2 else -13), "fontsize": 8}
            place |= {"textcoords": "offset points", "ha": "left" if side == 1 else "right"}
            axes.annotate(each.name, (each.x, each.y), **place)
        return _finish(figure, axes, title, columns=3)
