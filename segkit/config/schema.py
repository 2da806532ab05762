"""The config of a training as typed data, and how its wrong values are said."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from segkit.core.errors import did_you_mean
from segkit.core.labels import OBJECT_SCORES, Decoder

Side = Annotated[int, Field(ge=1)]
Extra = Literal["boundary", "membranes"]
Extras = Annotated[list[Extra], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Monitor = Literal[
    "val/iou",
    "val/dice",
    "val/precision",
    "val/recall",
    "val/specificity",
    "val/fw_iou",
    "val/accuracy",
    "val/loss",
    "val/seg",
    "val/det",
    "val/ap",
    "val/ap50",
    "val/pq",
    "val/aji",
]
PLUGINS = "modules or .py files with encoders, losses ... of your own, to import"
OF_OBJECTS = tuple(f"val/{score}" for score in OBJECT_SCORES)
"""What can only be monitored where objects are told apart."""
EPOCHS = 16
"""Of a training that nothing else ends."""


class Section(BaseModel):
    """A part of the config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Part(BaseModel):
    """A member of a family by its name; the other keys are its options."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides the name and the declared ones."""
        return dict(self.model_extra or {})

    def as_dict(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": self.name, **self.options}


class Data(Part):
    """The data set, and how batches are made of it."""

    crop_size: tuple[Side, Side] = (256, 256)
    batch_size: Annotated[int, Field(ge=1)] = 8
    val_batch_size: Annotated[int, Field(ge=1)] = 8
    num_workers: Annotated[int, Field(ge=0)] | None = None
    cache: bool | Literal["auto"] = "auto"
    samples_per_epoch: Annotated[int, Field(ge=1)] | None = None
    foreground_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    normalize: Literal["auto", "dataset", "encoder"] = "auto"

    @field_validator("crop_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


class Augment(Section):
    """Transforms of albumentations, each a mapping of name and options."""

    transforms: list[dict[str, Any]] = []


class Trainer(Section):
    """How long and on what to train; the names are those of Lightning."""

    max_epochs: Annotated[int, Field(ge=-1)] | None = None
    max_steps: Literal[-1] | Annotated[int, Field(ge=1)] = -1
    max_time: str | None = None
    accelerator: str = "auto"
    devices: int | str | list[int] = 1
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true"] = "32-true"
    accumulate_grad_batches: Annotated[int, Field(ge=1)] = 1
    gradient_clip_val: Annotated[float, Field(gt=0)] | None = 1.0
    check_val_every_n_epoch: Annotated[int, Field(ge=1)] = 1
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    deterministic: bool | Literal["auto"] = "auto"
    compile: bool = False
    recompute: bool | Literal["auto"] = "auto"
    channels_last: bool = True
    progress_bar: bool = True

    @field_validator("max_time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> str | None:
        parts = str(value).split(":") if value is not None else ["0"] * 4
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            raise ValueError("give DD:HH:MM:SS, as 00:00:30:00 for half an hour")
        if value is not None and not any(map(int, parts)):
            raise ValueError("give some time, as 00:00:30:00 for half an hour")
        return value

    @property
    def epochs(self) -> int:
        """The number of epochs, -1 for no limit."""
        if self.max_epochs is not None:
            return self.max_epochs
        return EPOCHS if self.max_steps == -1 and self.max_time is None else -1

    @property
    def seconds(self) -> float | None:
        """The time limit."""
        if self.max_time is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()


class Logger(Section):
    """Where the numbers go besides metrics.csv."""

    name: Literal["csv", "tensorboard", "wandb"] = "csv"
    project: str = "segkit"
    offline: bool = False


class TrainConfig(Section):
    """The config of ``python -m segkit.train``; the keys are described in conf/train.yaml."""

    encoder: Part
    neck: Part
    head: Part
    loss: Part
    data: Data
    augment: Augment
    optimizer: Part
    scheduler: Part
    trainer: Trainer
    logger: Logger
    name: str
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    auxiliary: list[Annotated[float, Field(gt=0)]]
    target: Part = Part(name="labels")
    instances: Decoder | None = None
    min_size: Annotated[int, Field(ge=0)] = 0
    metrics: Extras = []
    monitor: Monitor
    resume: Path | None = None
    plugins: list[str] | str = Field([], description=PLUGINS)

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Whether less or more of the monitored metric is better."""
        return "min" if self.monitor == "val/loss" else "max"


def describe_error(detail: Any, schema: type[BaseModel]) -> str:
    """One problem that pydantic found, with the key, the value and what is allowed."""
    keys = [str(part) for part in detail["loc"]]
    key = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        known = _fields(schema, keys[:-1])
        return (
            f"{key}: there is no such key.{did_you_mean(keys[-1], known)} Known: {', '.join(known)}"
        )
    if detail["type"] == "missing":
        return f"{key} is missing"
    value = detail["input"]
    hint = ""
    if detail["type"] == "literal_error" and isinstance(value, str):
        hint = did_you_mean(value, detail["ctx"]["expected"].replace("'", "").split(", "))
    return f"{key}={value!r}: {detail['msg'].removeprefix('Value error, ')}.{hint}"


def _fields(section: type[BaseModel], path: list[str]) -> list[str]:
    for key in path:
        annotation = section.model_fields[key].annotation
        if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
