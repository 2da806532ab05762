"""Line charts as SVG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

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

    finite = {name: _finite(points) for name, points in series.items()}
    shown = {name: ys for name, ys in finite.items() if not all(map(math.isnan, ys))}
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(5.2, 3.1 + 0.17 * max(0, len(shown) - 4)), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        for index, (name, ys) in enumerate(shown.items()):
            xs = [x for x, _ in series[name]]
            look: Any = {
                "color": _COLORS[index % len(_COLORS)],
                "linestyle": _STYLES[index // len(_COLORS) % len(_STYLES)],
            }
            lonely = [i for i in range(len(ys)) if _is_lonely(ys, i)]
            axes.plot(xs, ys, label=name, marker="o", markersize=4, markevery=lonely, **look)
        if all(float(x).is_integer() for points in series.values() for x, _ in points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if shown:
            figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        else:
            axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Title": title})
    return file.getvalue()


def _finite(points: Points) -> list[float]:
    return [y if y is not None and math.isfinite(y) else math.nan for _, y in points]


def _is_lonely(ys: Sequence[float], index: int) -> bool:
    """Return whether no line shows a point: its neighbours are gaps. The last one is marked too."""
    around = [ys[i] for i in (index - 1, index + 1) if 0 <= i < len(ys)]
    return index == len(ys) - 1 or all(map(math.isnan, around))
