"""Tables and report of a run or of an evaluation."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from segkit.core.labels import IGNORE_INDEX
from segkit.data.loading import WholeDataset
from segkit.evaluate.evaluation import KEPT, Evaluation, ImageScores
from segkit.inference.predictor import Predictor
from segkit.metrics.calibration import Calibration, list_bins
from segkit.report.overlay import (
    draw_comparison,
    make_class_layer,
    make_legend,
    make_object_layer,
)
from segkit.report.page import Example, Report, write_report
from segkit.report.table import build_fitting_table, build_table, format_heading, write_csv

SHOWN_FIRST = ("iou", "dice", "surface_dice", "seg", "ap50", "pq", "v_rand", "v_info", "ece")
"""Scores at the top of a report."""
SHOWN_SIDE = 1024
"""Height and width of what a report shows of a large image, at most."""


def print_scores(console: Console, title: str, evaluation: Evaluation) -> None:
    """Print the scores of the classes and those of all images."""
    # classes.csv has all columns
    left_out = ("specificity", "support", "recall", "precision") if evaluation.of_classes else ()
    console.print(build_fitting_table(evaluation.class_rows(), title, console, left_out))
    of_all = "all images together, with 95 % intervals"
    if len(evaluation.images) == 1:
        of_all = "one image, which tells no intervals"
    console.print(build_table(evaluation.rows(), of_all))


def count_images(number: int) -> str:
    """Write a number of images with its noun."""
    return f"{number:,} image{'s' * (number != 1)}"


def write_results(
    folder: Path,
    title: str,
    predictor: Predictor,
    dataset: WholeDataset,
    evaluation: Evaluation,
    *,
    history: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the CSV files and ``report.html`` with its pictures into a folder.

    Args:
        folder: The folder; its ``config.yaml`` and ``environment.json`` are shown too.
        title: Heading of the page.
        history: Rows of metrics.csv.
        facts: Further entries beside the scores at the top.
        notes: Warnings.
    """
    card, mean, legend = predictor.card, evaluation.means, make_legend(predictor.card)
    rows, summary = evaluation.class_rows(), evaluation.rows()
    write_csv(folder / "classes.csv", rows)
    write_csv(folder / "scores.csv", summary)
    names = [sample.name for sample in dataset.samples]
    write_csv(
        folder / "images.csv",
        [{"image": names[image.index], **image.scores} for image in evaluation.images],
    )
    if evaluation.thresholds is not None:
        write_csv(folder / "thresholds.csv", evaluation.thresholds.rows())
    counted = evaluation.sums.get(Calibration.name)
    calibration = [] if counted is None or not counted.any() else list_bins(counted)
    if calibration:
        write_csv(folder / "calibration.csv", calibration)
    matrix = evaluation.confusion
    environment = json.loads(_read_text(folder / "environment.json") or "{}")
    write_report(
        folder / "report.html",
        Report(
            title=title,
            subtitle=f"{card.encoder['name']} + {card.neck['name']} + {card.head['name']},"
            f" scored on {count_images(len(dataset))}",
            facts={format_heading(key): f"{mean[key]:.4f}" for key in SHOWN_FIRST if key in mean}
            | dict(facts or {}),
            notes=notes,
            history=history,
            table=rows,
            summary=summary,
            confusion=(card.class_names, matrix.tolist()) if matrix.ndim == 2 else ((), ()),
            calibration=calibration,
            examples=_draw_examples(predictor, dataset, evaluation),
            classes=list(zip(legend.names, legend.colors, strict=True)),
            objects=predictor.instances is not None,
            background=legend.unpainted,
            config=_read_text(folder / "config.yaml"),
            environment={key: str(value) for key, value in environment.items() if key != "notes"},
        ),
    )


def _draw_examples(
    predictor: Predictor, dataset: WholeDataset, evaluation: Evaluation
) -> list[Example]:
    """Draw the worst and the best predictions, each image once."""
    score = "iou" if predictor.instances is None else "seg"
    scored = [i for i in evaluation.images if not np.isnan(i.scores[score])] or evaluation.images
    best = scored[max(KEPT, len(scored) - KEPT) :][::-1]
    kinds: list[Literal["worst", "best"]] = ["worst"] * len(scored[:KEPT])
    kinds += ["best"] * len(best)

    def draw(image: ImageScores, kind: Literal["worst", "best"]) -> Example:
        sample, one = dataset.samples[image.index], dataset.take_part(image.index)
        large = dataset.source.measure_large(sample)
        if large is not None:  # only its middle
            height, width = (min(side, SHOWN_SIDE) for side in large.shape[:2])
            top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
            one = dataset.take_part(image.index, (top, left, height, width))
        shown, truth = dataset.source.read_image(one.samples[0]), one.truth(0)
        found = evaluation.kept.get(image.index)
        if found is None:
            with predicting:
                found = predictor(shown)
        objects = None
        if found.instances is not None and "ids" in truth:
            ids = make_object_layer(truth["ids"].numpy(), ignored=IGNORE_INDEX)
            objects = ids, make_object_layer(found.instances)
        picture = draw_comparison(
            shown,
            make_class_layer(truth["target"].numpy(), predictor.card),
            make_class_layer(found.labels, predictor.card),
            objects,
        )
        return Example(sample.name, image.scores[score], picture, kind)

    predicting = threading.Lock()
    with ThreadPoolExecutor() as pool:
        return list(pool.map(draw, scored[:KEPT] + best, kinds))


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
