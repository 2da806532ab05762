"""Tables and report of a run or of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segkit.core.labels import IGNORE_INDEX
from segkit.data.loading import WholeDataset
from segkit.evaluate.evaluation import Evaluation, ImageScores
from segkit.inference.predictor import Predictor
from segkit.report.overlay import (
    draw_comparison,
    make_class_layer,
    make_legend,
    make_object_layer,
)
from segkit.report.page import Example, Report, write_report
from segkit.report.table import format_heading, write_csv

NOT_DRAWN = ("step", "seconds", "seconds_per_step")
"""Columns of metrics.csv without a curve in the report."""
SHOWN_FIRST = ("iou", "dice", "seg", "ap50", "pq", "v_rand", "v_info")
"""Scores at the top of a report."""
SHOWN = 4
"""Number of the worst and of the best predictions in a report."""


def write_tables(folder: Path, evaluation: Evaluation, names: Sequence[str]) -> None:
    """Write the CSV files of an evaluation; ``names`` are those of the samples."""
    write_csv(folder / "classes.csv", evaluation.scores.rows())
    write_csv(folder / "scores.csv", evaluation.rows())
    write_csv(
        folder / "images.csv",
        [{"image": names[image.index], **image.scores} for image in evaluation.images],
    )
    if evaluation.thresholds is not None:
        write_csv(folder / "thresholds.csv", evaluation.thresholds.rows())


def write_evaluation_report(
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
    """Write ``report.html`` with its pictures into a folder.

    Args:
        folder: The folder; its ``config.yaml`` and ``environment.json`` are shown too.
        title: Heading of the page.
        predictor: The evaluated model.
        dataset: The images.
        evaluation: The scores.
        history: Rows of metrics.csv.
        facts: Further entries beside the scores at the top.
        notes: Warnings.
    """
    card = predictor.card
    mean = evaluation.means
    legend = make_legend(card)
    write_report(
        folder / "report.html",
        Report(
            title=title,
            subtitle=f"{card.encoder['name']} + {card.neck['name']} + {card.head['name']},"
            f" scored on {len(dataset)} images",
            facts={
                **{format_heading(k): f"{mean[k]:.4f}" for k in SHOWN_FIRST if k in mean},
                **(facts or {}),
            },
            notes=notes,
            history=[{k: v for k, v in row.items() if k not in NOT_DRAWN} for row in history],
            table=evaluation.scores.rows(),
            summary=evaluation.rows(),
            confusion=(card.class_names, evaluation.confusion.tolist())
            if evaluation.confusion.ndim == 2
            else ((), ()),
            examples=_draw_examples(predictor, dataset, evaluation),
            classes=list(zip(legend.names, legend.colors, strict=True)),
            objects=predictor.instances is not None,
            background=legend.unpainted,
            config=_text(folder / "config.yaml"),
            environment={
                key: str(value)
                for key, value in json.loads(_text(folder / "environment.json") or "{}").items()
                if key != "notes"
            },
        ),
    )


def _draw_examples(
    predictor: Predictor, dataset: WholeDataset, evaluation: Evaluation
) -> list[Example]:
    """Draw the worst and the best predictions, each image once."""
    score = "iou" if predictor.instances is None else "seg"
    scored = [i for i in evaluation.images if not np.isnan(i.scores[score])] or evaluation.images
    worst = scored[:SHOWN]
    best = scored[max(len(worst), len(scored) - SHOWN) :][::-1]
    examples = []
    kinds: list[tuple[Literal["worst", "best"], list[ImageScores]]]
    kinds = [("worst", worst), ("best", best)]
    for kind, chosen in kinds:
        for image in chosen:
            sample = dataset.samples[image.index]
            shown, truth = dataset.source.read_image(sample), dataset.truth(image.index)
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
            examples.append(Example(sample.name, image.scores[score], picture, kind))
    return examples


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
