import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from segkit.report.curves import chart


def parse(series: dict, **labels: str) -> ET.Element:
    return ET.fromstring(chart(series, **{"title": "Loss", "x_label": "epoch", **labels}))


def texts(svg: ET.Element) -> list[str]:
    return [element.text for element in svg.iter("text")]


def polylines(svg: ET.Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]
        for line in svg.iter("polyline")
    ]


def test_a_falling_series_falls() -> None:
    svg = parse({"train/loss": [(0, 1.0), (1, 0.5), (2, 0.25)]})
    (points,) = polylines(svg)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)  # y grows downward in SVG
    assert {"Loss", "epoch", "train/loss", "0.25"} <= set(texts(svg))


def test_ticks_are_round_and_epochs_are_whole() -> None:
    svg = parse({"a": [(1, 0.13), (2, 0.87), (3, 0.5)]})
    assert texts(svg)[2:8] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert texts(svg)[8:11] == ["1", "2", "3"]


def test_small_rates_are_written_short() -> None:
    svg = parse({"lr": [(0, 3e-5), (1, 1e-5)]})
    assert {"1e-5", "2e-5", "3e-5"} <= set(texts(svg))


@pytest.mark.parametrize("gap", [None, math.nan, math.inf])
def test_a_gap_parts_the_line_and_a_lonely_point_becomes_a_dot(gap: float | None) -> None:
    svg = parse({"a": [(0, 1), (1, 2), (2, gap), (3, 3), (4, gap), (5, 1), (6, 2)]})
    assert [len(line) for line in polylines(svg)] == [2, 2]
    assert len([c for c in svg.iter("circle") if c.get("r") == "3"]) == 2


@pytest.mark.parametrize(
    "series",
    [
        {"a": [(0, 0.5)]},
        {"a": [(3, 0.0)]},
        {"a": [(0, 0.5), (1, 0.5)]},
        {"a": [(0, 1.0), (1, 1.0 + 1e-15)]},
        {"a": [(0, 0.0), (0, 1.0)]},
        {"a": [(0, -1e30), (1, 1e30)]},
        {"a": [(0, 1e-12), (1, 2e-12)]},
    ],
)
def test_one_point_and_constant_series_are_drawn(series: dict) -> None:
    svg = parse(series)
    assert "nan" not in ET.tostring(svg, encoding="unicode").lower()
    numbers = [float(c.get(key)) for c in svg.iter("circle") for key in ("cx", "cy")]
    assert numbers
    assert all(0 <= number <= 400 for number in numbers)
    assert 2 <= len(list(svg.find("g[@class='grid']"))) <= 12


@pytest.mark.parametrize("series", [{}, {"a": []}, {"a": [(0, None), (1, math.nan)]}])
def test_without_values_the_chart_says_so(series: dict) -> None:
    assert "no values" in texts(parse(series))


def test_text_is_escaped() -> None:
    hostile = "<script>alert('x')</script>&\""
    svg = parse({hostile: [(0, 1)]}, title=hostile, x_label=hostile, y_label=hostile)
    assert svg.get("aria-label") == hostile
    assert texts(svg)[0] == hostile
    assert list(svg.iter("script")) == []


def test_twenty_series_keep_apart() -> None:
    svg = parse({f"class {i}": [(0, i), (1, i + 1)] for i in range(20)})
    looks = {
        (g.get("stroke"), g.find("polyline").get("stroke-dasharray"))
        for g in svg.iter("g")
        if g.get("class") == "series"
    }
    assert len(looks) == 20
    _, _, width, height = map(float, svg.get("viewBox").split())
    for element in svg.find("g[@class='legend']").iter("text"):
        assert float(element.get("x")) < width
        assert float(element.get("y")) < height


@pytest.mark.parametrize("end", [0.001, 0.5, 1.0])
def test_labels_at_the_line_ends_do_not_overlap(end: float) -> None:
    svg = parse({f"s{i}": [(0, i % 2), (1, end - i / 10000)] for i in range(6)})
    heights = sorted(
        float(g.find("text").get("y")) for g in svg.iter("g") if g.get("class") == "series"
    )
    assert all(lower - upper >= 12.9 for upper, lower in pairwise(heights))
    grid = [float(line.get("y1")) for line in svg.find("g[@class='grid']")]
    assert min(grid) <= heights[0] - 4  # 4 from the middle of a digit to its foot
    assert heights[-1] - 4 <= max(grid)


def test_the_ink_comes_from_the_page() -> None:
    svg = chart({"a": [(0, 1), (1, 2)]}, title="t", x_label="x")
    assert 'fill="currentColor"' in svg
    assert not re.search(r"(black|white|#000|#fff)\b", svg)
