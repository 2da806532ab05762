"""What python -m segkit.evaluate does."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Literal

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from segkit.data.checking import check
from segkit.data.dataset import WholeDataset
from segkit.data.source import SPLITS, DataSource, Split
from segkit.errors import SegkitError
from segkit.files import make_folder, write_whole
from segkit.inference.evaluation import Evaluation
from segkit.inference.evaluation import evaluate as evaluate_samples
from segkit.inference.settings import Inference, checked
from segkit.inference.summary import write_evaluation_report, write_tables
from segkit.report.table import score_table
from segkit.schema import Data, Extras


class EvaluateConfig(Inference):
    """The config of ``python -m segkit.evaluate``; the keys are described in conf/evaluate.yaml."""

    data: Data | None = None
    split: Literal["train", "val", "test", "all"] = "val"
    output: Path | None = None
    metrics: Extras | None = None


def evaluate(config: DictConfig) -> Evaluation:
    """Score a checkpoint on a data set and write table, confusion and report.

    Raises:
        SegkitError: The config, the checkpoint or the data cannot be used.
    """
    settings = checked(EvaluateConfig, config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    predictor = settings.predictor()
    data = settings.data or Data.model_validate(predictor.card.config["data"])
    card, target = predictor.card, predictor.target
    masks = "binary" if target.from_ids else card.mode
    source = DataSource.build(data.name, mode=masks, **data.options)
    wanted: tuple[Split, ...] = SPLITS if settings.split == "all" else (settings.split,)
    summary = check(
        source,
        masks,
        None if target.from_ids else card.num_classes,
        needed=() if settings.split == "all" else wanted,
    )
    if summary.in_channels != predictor.card.in_channels:
        raise SegkitError(
            f"the images have {summary.in_channels} channels, the model was trained on"
            f" {predictor.card.in_channels}: give data.channels={predictor.card.in_channels}, which"
            " makes grey of RGB and RGB of grey."
        )
    samples = [sample for split in wanted for sample in summary.splits.get(split, [])]
    for note in summary.notes:
        console.print(f"  note: {note}")
    metrics = settings.metrics
    if metrics is None:
        metrics = predictor.card.config.get("metrics", [])
    objects = predictor.instances is not None or "membranes" in metrics
    dataset = WholeDataset(
        source, samples, summary.coding, predictor.card.normalization, target, objects
    )
    beside = settings.checkpoint[0].parent
    if beside.name == "checkpoints":
        beside = beside.parent
    other = "" if settings.data is None else f"{data.name}-"
    folder = settings.output or beside / f"evaluation-{other}{settings.split}"
    make_folder(folder)
    evaluation = evaluate_samples(
        predictor,
        dataset,
        track(range(len(dataset)), "evaluating", transient=True),
        metrics,
    )

    rows = evaluation.scores.rows()
    write_tables(folder, evaluation, [sample.name for sample in samples])
    write_whole(
        folder / "metrics.json",
        json.dumps(
            {
                "checkpoint": [str(path) for path in settings.checkpoint],
                "split": settings.split,
                "images": len(samples),
                **{name: _json(value) for name, value in evaluation.means.items()},
                "intervals": {
                    name: [_json(bounds.low), _json(bounds.high)]
                    for name, bounds in evaluation.intervals.items()
                },
                "confusion": evaluation.confusion.tolist(),
            },
            indent=2,
        ),
    )
    write_evaluation_report(folder, f"evaluation, {settings.split}", predictor, dataset, evaluation)
    console.print(score_table(rows, f"{data.name}, {settings.split}: {len(samples)} images"))
    console.print(score_table(evaluation.rows(), "all images together, with 95 % intervals"))
    if evaluation.thresholds is not None:
        for name, best in evaluation.thresholds.best.items():
            console.print(f"best threshold for {name}: {best:g}, see thresholds.csv")
    console.print(f"report: {folder / 'report.html'}")
    return evaluation


def _json(value: float) -> float | None:
    """JSON knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
