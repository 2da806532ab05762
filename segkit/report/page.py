"""The report of a run: one HTML file that opens anywhere, offline."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segkit.core.files import write_whole
from segkit.report import sections
from segkit.report.colors import Color
from segkit.report.picture import as_png, data_uri, sized
from segkit.report.table import Row
from segkit.report.template import render


@dataclass(frozen=True)
class Example:
    """A predicted image: its file name, its score (NaN where there is none) and how it looks.

    `image` is the panel of `segkit.report.overlay.comparison`: (H, W, 3) uint8.
    """

    name: str
    score: float
    image: NDArray[np.uint8]
    kind: Literal["worst", "best"]


@dataclass(frozen=True)
class Report:
    """What the page shows; what is left empty is left out.

    Attributes:
        title: the heading.
        subtitle: one line below it, for example the model and the data set.
        facts: small cards at the top: name to value.
        notes: warnings that a reader must see.
        history: one row an epoch, for example `{"epoch": 0, "lr": 1e-3, "val/loss": 0.4}`. Drawn
            are `lr`, every key that ends in `/loss`, and the other keys that begin with `val/`,
            except those of single classes (`val/iou/road`).
        table: one row a class, with the key `class`; a last row of the class `mean` is set apart.
        summary: scores of all images together, one row a score, with the key `score`.
        confusion: class names and the counts `matrix[truth][prediction]`.
        examples: predictions to look at, in the order in which they are shown.
        classes: name and colour of each class, in the order of the labels.
        background: the class that overlays leave unpainted; None where every class is painted.
        objects: whether the examples show objects, scored by SEG, and not classes, scored by IoU.
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


def write_report(path: Path | str, report: Report, pictures: Path | str | None = None) -> None:
    """Write the page with all pictures in it, and the examples in full size as PNG files too.

    Args:
        path: the HTML file; written whole or not at all.
        report: what it shows.
        pictures: the folder of the PNG files; where not given, `report/` beside `report.html`.

    Raises:
        SegkitError: a file cannot be written, or the confusion matrix does not fit its names.
    """
    path = Path(path)
    folder = path.with_suffix("") if pictures is None else Path(pictures)
    page = render(
        "page.html.jinja",
        report=report,
        charts=sections.charts(report.history),
        epochs=sections.epochs(report.history),
        scores=sections.scores(report.table, report.classes),
        summary=sections.scores(report.summary, ()),
        confusion=sections.confusion(*report.confusion) if report.confusion else [],
        key=sections.color_key(report.classes, report.background),
        galleries=_galleries(report.examples),
        folder=folder.name,
        score="SEG" if report.objects else "IoU",
    )
    if folder.is_dir():  # those of an evaluation before
        for kind in ("worst", "best"):
            for old in folder.glob(f"{kind}-[0-9][0-9]-*.png"):
                old.unlink()
    for kind, chosen in _by_kind(report.examples).items():
        for number, example in enumerate(chosen, start=1):
            name = f"{kind}-{number:02d}-{_file_stem(example.name)}.png"
            write_whole(folder / name, as_png(example.image))
    write_whole(path, page)


def _galleries(examples: Sequence[Example]) -> list[tuple[str, str, list[dict[str, object]]]]:
    """For each kind that there is: its id, its heading, and its figures."""
    return [
        (
            kind,
            f"{kind.capitalize()} predictions",
            [
                {
                    "name": example.name,
                    "score": sections.score_text(example.score),
                    "source": data_uri(sized(example.image)),
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
    """A file name without folder and suffix, of characters that every file system takes."""
    stem = re.split(r"[/\\]", name)[-1].rsplit(".", 1)[0]
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:80] or "image"
