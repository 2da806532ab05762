"""The report of a run: one HTML file that opens anywhere, offline."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from segkit.core.files import write_whole
from segkit.core.labels import OBJECT_SCORES
from segkit.report.charts import draw_chart, draw_reliability
from segkit.report.colors import Color, format_color
from segkit.report.overlay import list_error_colors
from segkit.report.table import (
    Row,
    format_cell,
    format_heading,
    is_mean,
    is_missing,
    is_numeric,
    list_columns,
)

History = Sequence[Mapping[str, Any]]

_MISSING = "–"
_OF_OBJECTS = tuple(f"val/{score}" for score in OBJECT_SCORES)
_WIDEST, _ENLARGED = 1600, 800  # pixels of a picture on the page


@dataclass(frozen=True)
class Example:
    """A predicted image: file name, score (NaN if undefined) and panel.

    `image` is the panel of `segkit.report.overlay.draw_comparison`: (H, W, 3) uint8.
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
        calibration: one row per bin of the confidence; see `draw_reliability`.
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
    history: History = ()
    table: Sequence[Row] = ()
    summary: Sequence[Row] = ()
    confusion: tuple[Sequence[str], Sequence[Sequence[int]]] = ((), ())
    calibration: Sequence[Mapping[str, float]] = ()
    examples: Sequence[Example] = ()
    classes: Sequence[tuple[str, Color]] = ()
    background: int | None = 0
    objects: bool = False
    config: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)


def write_report(path: Path, report: Report) -> None:
    """Write the page with all pictures in it, and the full-size examples to `report/` beside it.

    Raises:
        SegkitError: a file cannot be written.
    """
    with ThreadPoolExecutor() as pool:
        small = pool.map(embed_picture, [example.image for example in report.examples])
        large = pool.map(encode_png, [example.image for example in report.examples])
        drawn = list(zip(report.examples, small, large, strict=True))
    examples = {
        kind: [each for each in drawn if each[0].kind == kind] for kind in ("worst", "best")
    }
    folder = path.with_suffix("")
    templates = make_templates()
    templates.filters |= {
        "columns": list_columns,
        "heading": format_heading,
        "cell": lambda value: format_cell(value, _MISSING),
        "epoch_value": _format_epoch_value,
        "color": format_color,
    }
    templates.tests |= {"missing": is_missing, "numeric": is_numeric, "mean": is_mean}
    page = templates.get_template("page.html.jinja").render(
        report=report,
        examples=examples,
        charts=draw_charts(report.history),
        reliability=embed(draw_reliability(report.calibration).encode(), "image/svg+xml")
        if report.calibration
        else "",
        colors=dict(report.classes),
        painted=[pair for label, pair in enumerate(report.classes) if label != report.background],
        error_colors=list_error_colors(len(report.classes), report.background),
        folder=folder.name,
    )
    for kind, chosen in examples.items():
        for old in folder.glob(f"{kind}-[0-9][0-9]-*.png"):  # of an earlier evaluation
            old.unlink()
        for number, (example, _, file) in enumerate(chosen, start=1):
            name = f"{kind}-{number:02d}-{make_file_stem(example.name)}.png"
            write_whole(folder / name, file)
    write_whole(path, page)


def make_templates() -> Environment:
    """The templates of this room; what they insert is escaped."""
    return Environment(
        loader=PackageLoader("segkit.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def list_pictures(path: Path) -> dict[str, Path]:
    """The pictures beside a page, by kind, rank and :func:`make_file_stem` of the image."""
    return {file.stem: file for file in sorted(path.with_suffix("").glob("*-[0-9][0-9]-*.png"))}


def read_pictures(path: Path) -> dict[str, NDArray[np.uint8]]:
    """Read the pictures beside a page as the page shows them, (H, W, 3)."""
    found = {}
    for name, file in list_pictures(path).items():
        with Image.open(file) as picture:
            found[name] = fit_to_page(np.asarray(picture.convert("RGB")))
    return found


def draw_charts(history: History) -> list[tuple[str, str]]:
    """Draw losses, validation scores and learning rate, where recorded: title and image source."""
    keys = list_columns(history)
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
                (row["epoch"], row[key])
                for row in history
                if not is_missing(row.get(key))  # not every epoch is validated
            ]
            for key in chosen
        }
        if series:
            drawing = draw_chart(series, title=title, x_label="epoch")
            drawn.append((title, embed(drawing.encode(), "image/svg+xml")))
    return drawn


def fit_to_page(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize a picture (H, W, 3): to at most 1600 pixels wide; tiny ones by a whole factor."""
    height, width = picture.shape[:2]
    if width > _WIDEST:
        size = _WIDEST, max(1, round(height * _WIDEST / width))
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    times = max(1, _ENLARGED // max(width, height))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def embed_picture(picture: NDArray[np.uint8]) -> str:
    """Encode a picture (H, W, 3) as the source of an ``<img>``, in the size of the page."""
    return embed(encode_png(fit_to_page(picture)), "image/png")


def embed(content: bytes, media_type: str) -> str:
    """Encode a file as the source of an ``<img>``."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """Encode a picture (H, W, 3)."""
    file = io.BytesIO()
    # half the time of the default, for files of the same size
    Image.fromarray(picture).save(file, format="PNG", compress_level=3)
    return file.getvalue()


def _format_epoch_value(value: Any) -> str:
    if is_missing(value):
        return _MISSING
    # '#' keeps trailing zeros, so that the digits of a column align
    return f"{value:.0f}" if float(value).is_integer() else f"{value:#.4g}"


def make_file_stem(name: str) -> str:
    """Reduce a name to characters that every file system accepts, without folder and suffix."""
    stem = re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:80] or "image"
