"""Line charts as SVG, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Points = Sequence[tuple[float, float | None]]
"""(x, y) in the order of x; a y of None, NaN or infinity is a gap."""

_COLORS = ("#2f7ed8", "#e0701a", "#12946c", "#b35cc4", "#d64550", "#96852a", "#6f7f95")
_STYLES = ("-", "--", ":")  # the next one for each round of the colours
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, sharp and selectable
    "svg.hashsalt": "segkit",  # the same file in every run
    "text.parse_math": False,  # a class may be called $x$
    "font.family": "sans-serif",
    "font.size": 9,
}


def draw_chart(series: Mapping[str, Points], *, title: str, x_label: str, y_label: str = "") -> str:
    """Draw a line chart as the text of an SVG file; series without a finite value are left out."""
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
        for index, (name, (xs, ys)) in enumerate((name, line.T) for name, line in shown.items()):
            look: Any = {
                "color": _COLORS[index % len(_COLORS)],
                "linestyle": _STYLES[index // len(_COLORS) % len(_STYLES)],
            }
            # Dots mark the last point, and those between gaps, through which no line goes.
            ys[~np.isfinite(ys)] = np.nan
            gaps = np.pad(np.isnan(ys), 1, constant_values=True)
            dots = gaps[:-2] & gaps[2:]
            dots[-1] = True
            look["markevery"] = np.flatnonzero(dots).tolist()
            axes.plot(xs, ys, label=name, marker="o", markersize=4, **look)
        if all((line[:, 0] % 1 == 0).all() for line in lines.values()):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shown:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        else:
            axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return file.getvalue()
