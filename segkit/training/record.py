"""What a run leaves of itself besides weights: the model card and environment.json."""

from __future__ import annotations

import json
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from segkit.checkpoint import reading as checkpoint
from segkit.checkpoint.card import ModelCard
from segkit.config.schema import TrainConfig
from segkit.core.errors import SegkitError
from segkit.core.files import write_whole
from segkit.core.labels import find_background
from segkit.data.checks.checking import DataSummary
from segkit.data.sources.base import DataSource
from segkit.models.segmenter import Segmenter
from segkit.report.colors import palette
from segkit.targets.base import Target


def make_card(
    settings: TrainConfig,
    summary: DataSummary,
    source: DataSource,
    target: Target,
    model: Segmenter,
) -> ModelCard:
    """The card of a network that is to be trained on a checked data set.

    Raises:
        SegkitError: The encoder's intensities were asked for, and it has none.
    """
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
        class_colors=(source.class_colors if own else None) or tuple(palette(count)),
        normalization=normalization,
        mask_values=values,
        background=0 if target.from_ids else find_background(source.class_names, mode),
        target=settings.target.as_dict(),
        mode=model.head.mode,
        threshold=getattr(model.head, "threshold", 0.5),
        pretrained_from=model.encoder.pretrained_from,
        config=settings.model_dump(mode="json"),
        versions=checkpoint.versions(),
    )


def overrides() -> list[str]:
    """What the command line said, if it was one."""
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
        "command": " ".join(["segkit.train", *overrides()]),
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
