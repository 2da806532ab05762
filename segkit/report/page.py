"""The report of a run: one HTML file that opens anywhere, offline."""

from __future__ import annotations

import base64
import io
import math
import numbers
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.labels import OBJECT_SCORES
from segkit.report.charts import draw_chart
from segkit.report.colors import Color
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

History = Sequence[Mapping[str, float | None]]

_DASH = "–"
_ONE_DECIMAL, _NO_DECIMAL = 12, 24  # a larger confusion matrix shows colours only

_OF_OBJECTS = tuple(f"val/{score}" for score in OBJECT_SCORES)
_WIDEST, _ENLARGED = 1600, 800  # pixels of a picture on the page


@dataclass(frozen=True)
class Example:
    """A predicted image: file name, score (NaN if undefined) and panel.

    `image` is the panel of `segkit.report.overlay.comparison`: (H, W, 3) uint8.
    """

    name: str
    score: float
    image: NDArray[np.uint8]
    kind: Literal["worst", "best"]


@dataclass(frozen=True)
class Report:
    """The contents of the page; empty parts are left out.

    Attributes:
        title: the heading.
        subtitle: one line below it.
        facts: cards at the top: name to value.
        notes: warnings.
        history: one row an epoch, for example `{"epoch": 0, "lr": 1e-3, "val/loss": 0.4}`. Drawn
            are `lr`, every key that ends in `/loss`, and the other keys that begin with `val/`,
            except those of single classes (`val/iou/road`).
        table: one row per class, with the key `class`; a last row `mean` is set apart.
        summary: one row per score over all images, with the key `score`.
        confusion: class names and the counts `matrix[truth][prediction]`.
        examples: predictions in the order of display.
        classes: name and colour of each class by label.
        background: the class that overlays leave unpainted, if any.
        objects: whether examples show objects and SEG instead of classes and IoU.
        config: the resolved configuration as YAML.
        environment: versions, device and the like: name to value.
    """

    title: str
    subtitle: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    history: Sequence[Mapping[str, float | None]] = ()
    table: Sequence[Row] = ()
    summary: Sequence[Row] = ()
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]] | None = None
    examples: Sequence[Example] = ()
    classes: Sequence[tuple[str, Color]] = ()
    background: int | None = 0
    objects: bool = False
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path | str, report: Report) -> None:
    """Write the page with all pictures in it, and the full-size examples to `report/` beside it.

    Raises:
        SegkitError: a file cannot be written, or the confusion matrix does not fit its names.
    """
    path = Path(path)
    folder = path.with_suffix("")
    page = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            report=report,
            charts=draw_charts(report.history),
            epochs=list_epochs(report.history),
            scores=build_table(report.table, report.classes),
            summary=build_table(report.summary, ()),
            confusion=build_confusion(*report.confusion) if report.confusion else [],
            key=build_color_key(report.classes, report.background),
            galleries=_galleries(report.examples),
            folder=folder.name,
            score="SEG" if report.objects else "IoU",
        )
    )
    if folder.is_dir():  # examples of an earlier evaluation
        for kind in ("worst", "best"):
            for old in folder.glob(f"{kind}-[0-9][0-9]-*.png"):
                old.unlink()
    for kind, chosen in _by_kind(report.examples).items():
        for number, example in enumerate(chosen, start=1):
            name = f"{kind}-{number:02d}-{_file_stem(example.name)}.png"
            write_whole(folder / name, encode_png(example.image))
    write_whole(path, page)


def _galleries(examples: Sequence[Example]) -> list[tuple[str, str, list[dict[str, object]]]]:
    """List id, heading and figures of each kind that occurs."""
    return [
        (
            kind,
            f"{kind.capitalize()} predictions",
            [
                {
                    "name": example.name,
                    "score": cell_text(example.score, missing=_DASH),
                    "source": data_uri(encode_png(fit_to_page(example.image)), "image/png"),
                    "wide": example.image.shape[1] > 2 * example.image.shape[0],
                }
                for example in chosen
            ],
        )
        for kind, chosen in _by_kind(examples).items()
        if chosen
    ]


def _by_kind(examples: Sequence[Example]) -> dict[str, list[Example]]:
    return {kind: [each for each in examples if each.kind == kind] for kind in ("worst", "best")}


def _file_stem(name: str) -> str:
    """Reduce a name to characters that every file system accepts, without folder and suffix."""
    stem = re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:80] or "image"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: the text.
        numeric: whether it is aligned to the right.
        fill: 0 ... 1, the length of the bar or the opacity of the colour behind the text.
        color: CSS colour of the swatch before the text.
        tooltip: the text shown on hover.
    """

    text: str
    numeric: bool = False
    fill: float | None = None
    color: str = ""
    tooltip: str = ""


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores; the mean is set apart."""

    head: list[Cell]
    rows: list[list[Cell]]
    mean: list[Cell]


def draw_charts(history: History) -> list[tuple[str, str]]:
    """Draw losses, validation scores and learning rate, where recorded: title and SVG source."""
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
            drawing = draw_chart(series, title=title, x_label="epoch")
            drawn.append((title, data_uri(drawing.encode(), "image/svg+xml")))
    return drawn


def list_epochs(history: History) -> list[list[str]]:
    """Format the history: the names of the columns, then one row per epoch."""
    columns = column_names(history)
    rows = [[row.get(column) for column in columns] for row in history]
    texts = [[_epoch_text(value) for value in row] for row in rows]
    return [columns, *texts] if rows else []


def build_table(rows: Sequence[Row], classes: Sequence[tuple[str, Color]]) -> ScoreTable:
    """Build a table: a bar behind the IoU, a swatch before the class."""
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


def build_confusion(
    names: Sequence[str], matrix: Sequence[Sequence[int]]
) -> list[tuple[str, list[Cell]]]:
    """List each true class with its row, in per cent of its pixels."""
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


def build_color_key(
    classes: Sequence[tuple[str, Color]], background: int | None
) -> list[list[tuple[str, str]]]:
    """List name and CSS colour of the painted classes and of the errors."""
    painted = [pair for index, pair in enumerate(classes) if index != background]
    errors = error_legend(len(classes), background)
    return [[(name, css(color)) for name, color in group] for group in (painted, errors)]


def css(color: Color) -> str:
    """Format a colour for CSS, such as #e69f00."""
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
    # the root makes mistakes of a few per cent visible
    return Cell(text, fill=math.sqrt(share), tooltip=tooltip)


def _epoch(row: Mapping[str, float | None], index: int) -> float:
    epoch = row.get("epoch")
    return float(index) if epoch is None else epoch


def _epoch_text(value: float | None) -> str:
    if value is None or math.isnan(value):
        return _DASH
    # '#' keeps trailing zeros, so that the digits of a column align
    return f"{value:.0f}" if float(value).is_integer() else f"{value:#.4g}"


def _bar(value: object) -> float | None:
    if is_missing(value) or not isinstance(value, numbers.Real):
        return None
    return min(max(float(value), 0.0), 1.0)


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture (H, W, 3) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG")
    return file.getvalue()


def fit_to_page(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a picture (H, W, 3): to at most 1600 pixels wide; tiny ones by a whole factor."""
    height, width = picture.shape[:2]
    if width > _WIDEST:
        size = _WIDEST, max(1, round(height * _WIDEST / width))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    times = max(1, _ENLARGED // max(width, height))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def data_uri(content: bytes, media_type: str) -> str:
    """Encode a file as the source of an ``<img>``."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


@cache
def _environment() -> Environment:
    """The templates beside this file; they escape all text."""
    return Environment(
        loader=PackageLoader("segkit.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
