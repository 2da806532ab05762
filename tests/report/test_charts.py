import math
import xml.etree.ElementTree as ET

import pytest

from segkit.report.charts import Estimate, draw_chart, draw_estimates, draw_reliability

SVG = "{http://www.w3.org/2000/svg}"


def parse(series: dict, **labels: str) -> ET.Element:
    return ET.fromstring(draw_chart(series, **{"title": "Loss", "x_label": "epoch", **labels}))


def texts(svg: ET.Element) -> list[str]:
    return [element.text for element in svg.iter(f"{SVG}text")]


def test_title_axis_series_and_whole_epochs_are_named() -> None:
    shown = texts(parse({"train/loss": [(0, 1.0), (1, 0.5), (2, 0.25)]}, y_label="nats"))
    assert {"Loss", "epoch", "nats", "train/loss", "0", "1", "2"} <= set(shown)
    assert "0.5" not in shown[: shown.index("epoch")]  # there is no half an epoch


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_a_gap_parts_the_line_and_a_lonely_point_becomes_a_dot(gap: float | None) -> None:
    svg = parse({"a": [(0, 1), (1, 2), (2, gap), (3, 3), (4, gap), (5, 1), (6, 2)]})
    (line,) = (g for g in svg.iter(f"{SVG}g") if len(g.findall(f"{SVG}g/{SVG}use")) == 2)
    assert line.find(f"{SVG}path").get("d").count("M") == 3
    # two lines and a point; dots are on that point and on the last one


@pytest.mark.parametrize(
    ("series", "empty"),
    [
        ({"a": [(0, 0.5), (1, 0.5)], "b": [(0, None), (1, 2.0)]}, False),
        ({"a": [(0, -1e30), (1, 1e30)]}, False),
        ({}, True),
        ({"a": [(0, None), (1, math.nan)]}, True),
    ],
)
def test_few_and_extreme_values_are_drawn_in_the_same_way_each_time(series, empty) -> None:
    drawn = draw_chart(series, title="Loss", x_label="epoch")
    assert drawn == draw_chart(series, title="Loss", x_label="epoch")
    assert " nan" not in drawn.lower()
    assert ("no values" in drawn) == empty


def test_text_is_escaped_and_no_formula() -> None:
    hostile = "<script>alert('x')</script>&$_\\frac$"
    svg = parse({hostile: [(0, 1)]}, title=hostile, x_label=hostile, y_label=hostile)
    assert texts(svg).count(hostile) == 4
    assert list(svg.iter(f"{SVG}script")) == []


def test_twenty_series_look_different() -> None:
    svg = parse({f"class {i}": [(0, i), (1, i + 1)] for i in range(20)})
    styles = [path.get("style") for path in svg.iter(f"{SVG}path") if path.get("clip-path")]
    assert len({style for style in styles if style.startswith("fill: none")}) >= 20


def test_reliability_shows_the_bars_of_bins_with_pixels() -> None:
    empty = {"pixels": 0, "accuracy": math.nan, "confidence": math.nan}
    bins = [{"low": b / 15, "high": (b + 1) / 15, **empty} for b in range(15)]
    bins[14] |= {"pixels": 3000, "accuracy": 0.7, "confidence": 0.97}
    bins[8] |= {"pixels": 1000, "accuracy": 0.9, "confidence": 0.57}
    bins[9] |= {"pixels": 2, "accuracy": 0.5, "confidence": 0.61}
    drawn = draw_reliability(bins)
    assert drawn == draw_reliability(bins)
    assert "nan" not in drawn.lower()
    shown = texts(ET.fromstring(drawn))
    assert {"Reliability", "ideal", "are right", "overconfident by"} <= set(shown)
    assert {"50%", "70%", "90%"} <= set(shown)  # from the lowest bin with pixels on
    styles = [path.get("style") or "" for path in ET.fromstring(drawn).iter(f"{SVG}path")]
    bars = [style for style in styles if "fill: #2f7ed8" in style]
    assert len(bars) == 3 + 3 + 1  # above, below and in the legend
    assert sum("opacity: 0.25" in style for style in bars) == 2  # of two pixels


def test_values_are_drawn_over_their_costs_and_the_named_ones_named() -> None:
    groups = [("a & b", "1 fold", 1, 0.5), ("", "1 fold", 2, 0.6), ("c", "3 folds", 3, math.nan)]
    estimates = [Estimate(*each, spread=0.1) for each in groups]
    labels = {"title": "Score and cost", "x_label": "GFLOPs", "y_label": "iou"}
    svg = ET.fromstring(draw_estimates(estimates, **labels))
    assert {"Score and cost", "GFLOPs", "iou", "a & b", "1 fold"} <= set(texts(svg))
    assert not {"c", "3 folds"} & set(texts(svg))  # it has no value
    assert "no values" in draw_estimates(estimates[2:], **labels)
