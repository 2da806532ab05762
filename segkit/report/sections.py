"""The parts of the report's page: from plain values to what the template prints."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from segkit.core.errors import SegkitError
from segkit.core.labels import OBJECT_SCORES
from segkit.report.colors import Color
from segkit.report.curves import chart
from segkit.report.overlay import error_legend
from segkit.report.table import (
    Row,
    cell_text,
    column_names,
    heading,
    is_mean,
    is_missing,
    is_numeric,
)

_DASH = "–"
_ONE_DECIMAL, _NO_DECIMAL = 12, 24  # a larger confusion matrix shows colours only

_OF_OBJECTS = tuple(f"val/{score}" for score in OBJECT_SCORES)

History = Sequence[Mapping[str, float | None]]


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what it says.
        numeric: whether it is aligned to the right.
        fill: 0 ... 1, the length of the bar or the depth of the colour behind the text.
        color: CSS colour of the chip before the text.
        tooltip: what it says when it is pointed at.
    """

    text: str
    numeric: bool = False
    fill: float | None = None
    color: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """The scores of the classes, the mean apart."""

    head: list[Cell]
    rows: list[list[Cell]]
    mean: list[Cell]


def charts(history: History) -> list[Markup]:
    """The curves of the losses, the validation scores and the learning rate, where recorded."""
    keys = column_names(history)
    scores = [key for key in keys if key.startswith("val/") and key.count("/") == 1]
    groups = {
        "Loss": [key for key in keys if key.endswith("/loss")],
        "Validation scores": [key for key in scores if key not in ("val/loss", *_OF_OBJECTS)],
        "Objects": [key for key in scores if key in _OF_OBJECTS],
        "Learning rate": [key for key in keys if key == "lr" or key.startswith("lr-")],
    }
    drawn = []
    for title, chosen in groups.items():
        series = {
            key: [
                (_epoch(row, index), row[key])
                for index, row in enumerate(history)
                if not is_missing(row.get(key))  # not every epoch is validated
            ]
            for key in chosen
        }
        if series:
            # The chart has escaped the names, so its SVG goes in as it is.
            drawn.append(Markup(chart(series, title=title, x_label="epoch")))
    return drawn


def epochs(history: History) -> list[list[str]]:
    """The history as text: first the names of the columns, then one row an epoch."""
    columns = column_names(history)
    rows = [[row.get(column) for column in columns] for row in history]
    texts = [[_epoch_text(value) for value in row] for row in rows]
    return [columns, *texts] if rows else []


def scores(rows: Sequence[Row], classes: Sequence[tuple[str, Color]]) -> ScoreTable:
    """The per-class scores: numbers to the right, a bar behind the IoU, a chip before the class."""
    columns = column_names(rows)
    numeric = {column: is_numeric(rows, column) for column in columns}
    chips = {name: css(color) for name, color in classes}
    head = [Cell(heading(column), numeric[column]) for column in columns]
    table = ScoreTable(head, rows=[], mean=[])
    for row in rows:
        cells = [
            Cell(
                text=cell_text(row.get(column), missing=_DASH),
                numeric=numeric[column],
                fill=_bar(row.get(column)) if column == "iou" else None,
                color=chips.get(str(row.get(column)), "") if column == "class" else "",
            )
            for column in columns
        ]
        if is_mean(row, rows):
            table.mean.extend(cells)
        else:
            table.rows.append(cells)
    return table


def confusion(
    names: Sequence[str], matrix: Sequence[Sequence[int]]
) -> list[tuple[str, list[Cell]]]:
    """Each true class with its row, in per cent of the pixels that truly are of that class.

    Raises:
        SegkitError: the matrix is not square, or has another size than `names`.
    """
    counts = np.asarray(matrix, dtype=np.int64)
    if counts.shape != (len(names), len(names)):
        raise SegkitError(
            f"a confusion matrix of shape {counts.shape} does not fit {len(names)} class names: "
            "give one row and one column for each class."
        )
    return [
        (
            truth,
            [
                _confusion_cell(truth, predicted, int(count), int(row.sum()), len(names))
                for predicted, count in zip(names, row, strict=True)
            ],
        )
        for truth, row in zip(names, counts, strict=True)
    ]


def color_key(
    classes: Sequence[tuple[str, Color]], background: int | None
) -> list[list[tuple[str, str]]]:
    """Name and CSS colour of the painted classes, and of the errors."""
    painted = [pair for index, pair in enumerate(classes) if index != background]
    errors = error_legend(len(classes), background)
    return [[(name, css(color)) for name, color in group] for group in (painted, errors)]


def score_text(score: float) -> str:
    """A score with four decimals, or a dash."""
    return cell_text(score, missing=_DASH)


def css(color: Color) -> str:
    """A colour as CSS writes it.

    Example:
        >>> css((230, 159, 0))
        '#e69f00'
    """
    return "#{:02x}{:02x}{:02x}".format(*color)


def _confusion_cell(truth: str, predicted: str, count: int, total: int, classes: int) -> Cell:
    share = count / total if total else math.nan
    decimals = 1 if classes <= _ONE_DECIMAL else 0
    text = f"{100 * share:.{decimals}f}" if total else _DASH
    if classes > _NO_DECIMAL:
        text = ""
    if count == 0:  # no tooltip: a hundred classes have ten thousand cells
        return Cell(text)
    tooltip = f"{truth} predicted as {predicted}: {count:,} pixels, {share:.2%}"
    # The root lets mistakes of a few per cent show.
    return Cell(text, fill=math.sqrt(share), tooltip=tooltip)


def _epoch(row: Mapping[str, float | None], index: int) -> float:
    epoch = row.get("epoch")
    return float(index) if epoch is None else epoch


def _epoch_text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return _DASH
    # Trailing zeros are kept (#), so that the digits of a column stand below each other.
    return f"{value:.0f}" if float(value).is_integer() else f"{value:#.4g}"


def _bar(value: object) -> float | None:
    if is_missing(value) or not isinstance(value, numbers.Real):
        return None
    return min(max(float(value), 0.0), 1.0)
