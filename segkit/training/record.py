"""What a run leaves besides its weights: model card, environment, scores, report, result."""

from __future__ import annotations

import json
import math
import platform
import statistics
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.config.schema import TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.labels import find_background
from segkit.data.checks import DataSummary
from segkit.data.sources.base import DataSource
from segkit.evaluate.evaluation import Evaluation, evaluate, make_metrics
from segkit.evaluate.summary import write_evaluation_report, write_tables
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.models.cost import gflops, peak_bytes
from segkit.models.segmenter import Segmenter
from segkit.report.colors import choose_colors
from segkit.report.table import build_table, read_csv
from segkit.targets.base import Target
from segkit.training.callbacks import METRICS_FILE
from segkit.training.datamodule import SegmentationData
from segkit.training.resume import last_checkpoint


def make_card(
    settings: TrainConfig,
    summary: DataSummary,
    source: DataSource,
    target: Target,
    model: Segmenter,
) -> ModelCard:
    """Describe a network that is about to be trained on a checked data set."""
    normalization = summary.normalization
    stats = model.encoder.input_stats
    choice = settings.data.normalize
    if choice == "encoder" and stats is None:
        raise SegkitError(
            "data.normalize=encoder needs pretrained weights for images of"
            f" {summary.in_channels} channels: use data.normalize=auto."
        )
    if stats is not None and (
        choice == "encoder" or (choice == "auto" and normalization.dtype == "uint8")
    ):
        normalization = type(normalization)(
            normalization.dtype, normalization.low, normalization.high, *stats
        )
    mode = model.head.mode
    own = target.class_names is None  # the classes are those of the masks
    count = summary.num_classes if own else model.head.num_classes
    names = target.class_names or summary.class_names
    if not own:
        values = tuple(range(count))
    elif mode == "binary" and not summary.coding.to_label and not summary.coding.foreground:
        # 0 and 1 would look black: a mask of two classes is written as 0 and 255 unless the data
        # say how
        values = (0, 255)
    else:
        values = tuple(summary.coding.value_of(label) for label in range(count))
    return ModelCard(
        encoder=settings.encoder.as_dict(),
        neck=settings.neck.as_dict(),
        head={k: v for k, v in settings.head.as_dict().items() if k != "num_classes"},
        in_channels=summary.in_channels,
        num_classes=count,
        auxiliary=len(settings.auxiliary),
        img_size=settings.data.crop_size,
        class_names=names,
        class_colors=(source.class_colors if own else None) or tuple(choose_colors(count)),
        normalization=normalization,
        mask_values=values,
        background=0 if target.from_ids else find_background(source.class_names, mode),
        target=settings.target.as_dict(),
        mode=model.head.mode,
        threshold=getattr(model.head, "threshold", 0.5),
        pretrained_from=model.encoder.pretrained_from,
        config=settings.model_dump(mode="json"),
        versions=checkpoint.find_versions(),
        layout=model.encoder.layout(),
        bytes_per_pixel=peak_bytes(model, summary.in_channels),
    )


def list_overrides() -> list[str]:
    """Return the overrides of the command line, if there is one."""
    from hydra.core.hydra_config import HydraConfig

    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def write_environment(
    folder: Path,
    card: ModelCard,
    settings: TrainConfig,
    device: str,
    notes: list[str],
) -> None:
    """Write environment.json: versions, device, command, weights, warnings."""
    environment: dict[str, Any] = {
        **card.versions,
        "platform": platform.platform(),
        "device": device,
        "precision": settings.trainer.precision,
        "seed": settings.seed,
        "pretrained": card.pretrained_from or "from scratch",
        "command": " ".join(["segkit.train", *list_overrides()]),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "notes": notes,
    }
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
    path = folder / "environment.json"
    if settings.resume is not None and path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        again = {key: environment[key] for key in ("command", "started")}
        environment = {**before, "resumed": [*before.get("resumed", []), again]}
    write_whole(path, json.dumps(environment, indent=2))


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, best checkpoint, and scores on the validation images."""

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
    """Score the best checkpoint on whole validation images; write the report and the result."""
    best = folder / "checkpoints" / "best.ckpt"
    if not best.is_file():
        best = last_checkpoint(folder)
        notes = [*notes, "no epoch was validated: the scores are those of last.ckpt"]
    model, card = checkpoint.read(best)
    predictor = Predictor(
        TorchNetwork(model, card), instances=settings.instances, min_size=settings.min_size
    )
    metrics = make_metrics(settings.metrics, predictor)
    data.objects = any(metric.needs_ids for metric in metrics)
    whole = data.whole("val")
    evaluation = evaluate(predictor, whole, range(len(whole)), metrics)
    write_tables(folder, evaluation, [sample.name for sample in whole.samples])
    history = read_csv(folder / METRICS_FILE)
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
    reached["val/loss"] = _find_loss_of_best(history, settings)
    result = {
        "overrides": list_overrides(),
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
    console.print(build_table(rows, f"validation, {len(whole)} images, {best.name}"))
    console.print(build_table(evaluation.rows(), "all images together, with 95 % intervals"))
    console.print(f"run folder: {folder}")
    console.print(f"report:     {folder / 'report.html'}")
    return Run(folder, best, evaluation)


def _find_loss_of_best(history: list[dict[str, object]], settings: TrainConfig) -> float:
    """Return the validation loss of the best epoch; NaN if none was validated."""
    sign = 1 if settings.monitor_mode == "max" else -1
    scored = [(float(str(row.get(settings.monitor, "nan"))), row) for row in history]
    valid = [(sign * score, row) for score, row in scored if not math.isnan(score)]
    if not valid:
        return math.nan
    best = max(valid, key=lambda item: item[0])[1]
    return float(str(best.get("val/loss", "nan")))
