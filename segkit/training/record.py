"""What a run leaves besides its weights: model card, environment, scores, report, result."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from rich.console import Console

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.frozen import hash_frozen
from segkit.config.schema import TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.labels import Mode, find_background
from segkit.data.checks.summary import DataSummary
from segkit.data.sources.base import DataSource
from segkit.evaluate.evaluation import Evaluation, evaluate, make_metrics
from segkit.evaluate.summary import count_images, print_scores, write_results
from segkit.inference.predictor import Predictor
from segkit.inference.runtimes.torch_network import TorchNetwork
from segkit.models.cost import gflops, peak_bytes
from segkit.models.segmenter import Segmenter
from segkit.report.colors import choose_colors
from segkit.report.page import read_pictures
from segkit.report.table import read_csv
from segkit.targets.base import Target
from segkit.training.datamodule import SegmentationData
from segkit.training.loggers.together import Loggers
from segkit.training.resume import ENVIRONMENT, METRICS, last_checkpoint, read_environment

JOB = "slurm_job"
"""Key of environment.json."""


def choose_mask_values(summary: DataSummary, mode: Mode) -> tuple[int, ...]:
    """The value of each class in predicted masks: the one in the masks of the training.

    Only 0 and 1, which would look black, become 0 and 255, unless 255 means something else there.
    """
    coding = summary.coding
    if mode == "binary" and not coding.foreground and max(coding.to_label, default=-1) < 0:
        return (0, 255)
    values = [coding.value_of(label) for label in range(summary.num_classes)]
    free = (v for v in range(summary.num_classes, 256) if v not in (*values, *coding.to_label))
    for label, value in enumerate(values):
        if coding.label_of(value) != label:  # no mask has the class, and its number is another's
            values[label] = next(free)
    return tuple(values)


def make_card(
    settings: TrainConfig,
    summary: DataSummary,
    source: DataSource,
    target: Target,
    model: Segmenter,
) -> ModelCard:
    """Describe a network that is about to be trained on a checked data set."""
    normalization, choice = summary.normalization, settings.data.normalize
    stats = model.encoder.input_stats
    if stats is None and choice == "encoder":
        raise SegkitError(
            "data.normalize=encoder needs pretrained weights for images of"
            f" {summary.in_channels} channels: use data.normalize=auto."
        )
    if stats is not None and (
        choice == "encoder" or (choice == "auto" and normalization.dtype == "uint8")
    ):
        normalization = replace(normalization, mean=stats[0], std=stats[1])
    head = model.head
    names, colors = target.class_names, None
    values = tuple(range(head.num_classes))
    if names is None:  # the classes are those of the masks
        names, colors = summary.class_names, source.class_colors
        values = choose_mask_values(summary, head.mode)
    return ModelCard(
        encoder=settings.encoder.as_dict(),
        neck=settings.neck.as_dict(),
        head={k: v for k, v in settings.head.as_dict().items() if k != "num_classes"},
        in_channels=summary.in_channels,
        num_classes=len(values),
        auxiliary=len(settings.auxiliary),
        img_size=settings.data.crop_size,
        class_names=names,
        class_colors=colors or tuple(choose_colors(len(values))),
        normalization=normalization,
        mask_values=values,
        background=0 if target.from_ids else find_background(source.class_names, head.mode),
        target=settings.target.as_dict(),
        mode=head.mode,
        threshold=getattr(head, "threshold", 0.5),
        pretrained_from=model.encoder.pretrained_from,
        config=settings.model_dump(mode="json"),
        versions=checkpoint.find_versions(),
        layout=model.encoder.layout(),
        bytes_per_pixel=peak_bytes(model, summary.in_channels),
        frozen_sha256=None
        if settings.trainer.save_frozen
        else hash_frozen(model.encoder, settings.encoder.as_dict()),
    )


def list_overrides() -> list[str]:
    """Return the overrides of the command line, if there is one."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def describe_command() -> str:
    """The command line of this training, as environment.json keeps it."""
    return " ".join(["segkit.train", *list_overrides()])


def write_environment(
    folder: Path,
    card: ModelCard,
    settings: TrainConfig,
    device: str,
    precision: str,
    notes: list[str],
) -> None:
    """Write environment.json: versions, device, command, weights, warnings."""
    command = {
        "command": describe_command(),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "folder": str(Path.cwd()),
    }
    environment: dict[str, Any] = {
        **card.versions,
        "platform": platform.platform(),
        "device": device,
        "precision": precision,
        "seed": settings.seed,
        "pretrained": card.pretrained_from or "from scratch",
        **command,
        "notes": notes,
    }
    if job := os.environ.get("SLURM_JOB_ID"):
        environment[JOB] = job
    if torch.cuda.is_available():
        environment["gpu"] = torch.cuda.get_device_name()
    if settings.resume is not None:
        held = read_environment(folder) or environment
        environment = held | {"resumed": [*held.get("resumed", []), command]}
    write_whole(folder / ENVIRONMENT, json.dumps(environment, indent=2))


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
    loggers: Loggers,
) -> Run:
    """Score the best checkpoint on whole validation images; write the report and the result.

    The loggers are told the scores and shown the pictures of the report.
    """
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
    history = read_csv(folder / METRICS)
    seconds = _number(history[-1], "seconds") if history else 0.0
    write_results(
        folder,
        settings.name,
        predictor,
        whole,
        evaluation,
        history=history,
        facts={
            "Parameters": f"{parameters:,}",
            "Epochs": str(len(history)),
            "Training": str(timedelta(seconds=round(seconds))),
        },
        notes=notes,
    )
    reached = {f"val/{name}": value for name, value in evaluation.means.items()}
    reached["val/loss"] = _find_loss_of_best(history, settings)
    steps = [_number(row, "seconds_per_step") for row in history]
    result = {
        "overrides": list_overrides(),
        "monitor": settings.monitor,
        # JSON knows no NaN
        **{key: value if math.isfinite(value) else None for key, value in reached.items()},
        "parameters": parameters,
        "gflops": round(gflops(model, card.in_channels, settings.data.crop_size), 2),
        "seconds_per_step": statistics.median(steps) if steps else None,
        "epochs": len(history),
        "seconds": round(seconds, 1),
    }
    write_whole(folder / "result.json", json.dumps(result, indent=2))
    step = int(_number(history[-1], "step")) if history else 0
    _tell_loggers(loggers, folder, evaluation, reached, step)
    print_scores(console, f"validation, {count_images(len(whole))}, {best.name}", evaluation)
    console.print(f"run folder: {folder}")
    console.print(f"report:     {folder / 'report.html'}")
    return Run(folder, best, evaluation)


def _tell_loggers(
    loggers: Loggers, folder: Path, evaluation: Evaluation, reached: dict[str, float], step: int
) -> None:
    if not loggers:
        return
    loggers.open()  # a training that was done but not scored has not
    loggers.show(read_pictures(folder / "report.html"), step)
    tables = {"final scores": evaluation.rows(), "final scores of classes": evaluation.class_rows()}
    scores = {f"final/{name.removeprefix('val/')}": value for name, value in reached.items()}
    loggers.conclude(scores, tables)
    loggers.close("finished")


def _find_loss_of_best(history: list[dict[str, object]], settings: TrainConfig) -> float:
    """Return the validation loss of the best epoch; NaN if none was validated."""
    valid = [row for row in history if not math.isnan(_number(row, settings.monitor))]
    if not valid:
        return math.nan
    choose = min if settings.monitor_mode == "min" else max
    return _number(choose(valid, key=lambda row: _number(row, settings.monitor)), "val/loss")


def _number(row: dict[str, object], column: str) -> float:
    return float(str(row.get(column, "nan")))
