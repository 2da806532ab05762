"""The end of a training: the best checkpoint scored on whole images, the report, the result."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from segkit.checkpoint import reading as checkpoint
from segkit.config.schema import TrainConfig
from segkit.core.files import write_whole
from segkit.evaluate.evaluation import Evaluation, evaluate
from segkit.evaluate.summary import write_evaluation_report, write_tables
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.models.cost import gflops
from segkit.report.table import read_csv, score_table
from segkit.training import callbacks
from segkit.training.datamodule import SegmentationData
from segkit.training.record import overrides


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: The run folder.
        checkpoint: The best checkpoint.
        evaluation: Its scores on the validation images.
    """

    folder: Path
    checkpoint: Path
    evaluation: Evaluation


def conclude(
    settings: TrainConfig,
    folder: Path,
    data: SegmentationData,
    parameters: int,
    notes: list[str],
    console: Console,
) -> Run:
    """Score the best checkpoint on the whole validation images; write the report and the result."""
    best = _best(folder)
    if best.name == "last.ckpt":
        notes = [*notes, "no epoch was validated: the scores are those of last.ckpt"]
    model, card = checkpoint.read(best)
    predictor = Predictor(
        TorchNetwork(model, card), instances=settings.instances, min_size=settings.min_size
    )
    data.objects = settings.instances is not None or "membranes" in settings.metrics
    whole = data.whole("val")
    evaluation = evaluate(predictor, whole, range(len(whole)), settings.metrics)
    write_tables(folder, evaluation, [sample.name for sample in whole.samples])
    history = read_csv(folder / callbacks.METRICS_FILE)
    seconds = float(str(history[-1]["seconds"])) if history else 0.0
    write_evaluation_report(
        folder,
        settings.name,
        predictor,
        whole,
        evaluation,
        history=history,
        facts={
            "Parameters": f"{parameters / 1e6:.1f} M",
            "Epochs": str(len(history)),
            "Training": f"{seconds / 60:.1f} min",
        },
        notes=notes,
    )
    crop = settings.data.crop_size
    reached = {f"val/{name}": value for name, value in evaluation.means.items()}
    reached["val/loss"] = _loss_of_best(history, settings)
    result = {
        "overrides": overrides(),
        "monitor": settings.monitor,
        # JSON knows no NaN
        **{key: value if math.isfinite(value) else None for key, value in reached.items()},
        "parameters": parameters,
        "gflops": round(gflops(model, card.in_channels, crop), 2),
        "seconds_per_step": statistics.median(float(str(r["seconds_per_step"])) for r in history)
        if history
        else None,
        "epochs": len(history),
        "seconds": round(seconds, 1),
    }
    write_whole(folder / "result.json", json.dumps(result, indent=2))
    rows = evaluation.scores.rows()
    console.print(score_table(rows, f"validation, {len(whole)} images, {best.name}"))
    console.print(score_table(evaluation.rows(), "all images together, with 95 % intervals"))
    console.print(f"run folder: {folder}")
    console.print(f"report:     {folder / 'report.html'}")
    return Run(folder, best, evaluation)


def _loss_of_best(history: list[dict[str, object]], settings: TrainConfig) -> float:
    """The validation loss of the epoch of the best checkpoint; NaN if none was validated."""
    sign = 1 if settings.monitor_mode == "max" else -1
    scored = [(float(str(row.get(settings.monitor, "nan"))), row) for row in history]
    valid = [(sign * score, row) for score, row in scored if not math.isnan(score)]
    if not valid:
        return math.nan
    best = max(valid, key=lambda item: item[0])[1]
    return float(str(best.get("val/loss", "nan")))


def _best(folder: Path) -> Path:
    """The best checkpoint; the last one if there is none."""
    best = folder / "checkpoints" / "best.ckpt"
    return best if best.is_file() else folder / "checkpoints" / "last.ckpt"
