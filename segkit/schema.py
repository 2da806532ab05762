"""The config of a training as typed data, and its check: every problem at once."""

from __future__ import annotations

import inspect
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from segkit.errors import SegkitError, all_at_once, did_you_mean

Side = Annotated[int, Field(ge=1)]


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
    samples_per_epoch: Annotated[int, Field(ge=1)] | None = None
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

    max_epochs: Annotated[int, Field(ge=-1)] = 16
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
    channels_last: bool = False
    progress_bar: bool = True

    @field_validator("max_time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> str | None:
        parts = str(value).split(":") if value is not None else ["0"] * 4
        if len(parts) != 4 or not all(part.isdigit() for part in parts):
            raise ValueError("give DD:HH:MM:SS, as 00:00:30:00 for half an hour")
        return value

    @property
    def time(self) -> timedelta | None:
        """The time limit."""
        if self.max_time is None:
            return None
        days, hours, minutes, seconds = map(int, self.max_time.split(":"))
        return timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)


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
    monitor: Literal[
        "val/iou", "val/dice", "val/precision", "val/recall", "val/accuracy", "val/loss"
    ]
    resume: Path | None = None
    plugins: list[str] | str = []

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Whether less or more of the monitored metric is better."""
        return "min" if self.monitor == "val/loss" else "max"


def validate(config: Any) -> TrainConfig:
    """Check a composed config: keys, types, names, options, and whether the parts fit each other.

    Args:
        config: What Hydra composed, or a mapping.

    Raises:
        SegkitError: Every problem, with its key, its value and what is allowed.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if OmegaConf.is_config(config):
        missing = sorted(OmegaConf.missing_keys(config))
        if missing:
            raise all_at_once(
                "the config lacks values that must be given:",
                [f"{key} is missing: give {key}=VALUE" for key in missing],
            )
        try:
            config = OmegaConf.to_container(config, resolve=True)
        except OmegaConfBaseException as error:
            raise SegkitError(f"the config cannot be resolved: {error}") from error
    problems: list[str] = []
    checked: TrainConfig | None = None
    try:
        checked = TrainConfig.model_validate(config)
    except ValidationError as error:
        problems += [say(detail, TrainConfig) for detail in error.errors()]
    problems += _check_parts(config)
    problems += _check_loss(config)
    if checked is not None:
        problems += _check_fit(checked)
    if problems or checked is None:
        raise all_at_once("the config cannot be used:", problems)
    return checked


def families() -> dict[str, type[Any]]:
    """The families of parts by their key in the config."""
    from segkit.data.source import DataSource
    from segkit.losses.base import Loss
    from segkit.models.encoders import Encoder
    from segkit.models.heads import Head
    from segkit.models.necks import Neck
    from segkit.training.optimizers import Optimizer
    from segkit.training.schedules import Schedule

    return {
        "encoder": Encoder,
        "neck": Neck,
        "head": Head,
        "loss": Loss,
        "data": DataSource,
        "optimizer": Optimizer,
        "scheduler": Schedule,
    }


FILLED_IN = {
    "encoder": {"in_channels"},
    "neck": {"channels", "strides", "padding"},
    "head": {"in_channels", "num_classes"},
    "loss": {"mode", "ignore_index"},
    "data": {"mode"},
}
"""Options that are wired, not written: no channel count stands in a config."""


def _check_parts(config: dict[str, Any]) -> list[str]:
    """Names and options of the parts that the registries know."""
    from segkit.data.transforms import check_augment
    from segkit.registry import check_options

    problems = []
    for key, family in families().items():
        part = config.get(key) if key != "loss" else None  # built for the head, see _check_loss
        if not isinstance(part, dict) or not isinstance(part.get("name"), str):
            continue  # said by the schema
        own = set(Data.model_fields) if key == "data" else {"name"}
        options = {k: v for k, v in part.items() if k not in own}
        try:
            member, options = family.resolve(part["name"], options)
        except SegkitError as error:
            problems.append(f"{key}.name: {error}")
            continue
        filled = FILLED_IN.get(key, set())
        options = {k: v for k, v in options.items() if k not in filled or v is not None}
        problems += [
            f"{key}.{k} cannot be chosen: it follows from the data and the other parts"
            for k in sorted(filled & options.keys())
            if (key, k) != ("head", "num_classes")
        ]
        problems += [f"{key}: {problem}" for problem in check_options(member, options, filled)[1]]
    encoder = config.get("encoder")
    weights = encoder.get("pretrained") if isinstance(encoder, dict) else None
    if isinstance(weights, str) and weights != "auto" and not Path(weights).is_file():
        problems.append(
            f"encoder.pretrained={weights!r}: there is no such file. Give true, false, auto or the"
            " path of a file"
        )
    augment = config.get("augment")
    if isinstance(augment, dict) and isinstance(augment.get("transforms"), list):
        problems += check_augment([t for t in augment["transforms"] if isinstance(t, dict)])
    return problems


def _check_loss(config: dict[str, Any]) -> list[str]:
    """Whether the loss can be built for what the head's logits mean."""
    from segkit.losses.base import Loss
    from segkit.models.heads import Head

    loss, head = config.get("loss"), config.get("head")
    if not isinstance(loss, dict) or not isinstance(head, dict) or "name" not in loss:
        return []  # said by the schema
    try:
        mode = Head.resolve(str(head.get("name")), {})[0].mode
    except SegkitError:
        return []  # said with the head
    options = {key: value for key, value in loss.items() if key != "name"}
    wired = sorted(FILLED_IN["loss"] & set(options))
    if wired:
        return [
            f"loss: {' and '.join(wired)} cannot be chosen: it is the same for loss, metrics, data"
        ]
    try:
        Loss.build(str(loss["name"]), mode=mode, **options)
    except SegkitError as error:
        return [f"loss: {error}"]
    return []


def _check_fit(config: TrainConfig) -> list[str]:
    """Parts that are right by themselves and wrong together."""
    from segkit.models.necks import Neck

    problems = []
    if config.encoder.options.get("padding") == "valid" and config.neck.name != "unet":
        problems.append(
            f"encoder.padding=valid with neck={config.neck.name}: use neck=unet, which can"
            " follow an unpadded encoder"
        )
    neck = Neck.resolve(config.neck.name, {})[0]
    if config.auxiliary and neck.levels is Neck.levels:
        problems.append(
            f"auxiliary={config.auxiliary} with neck={config.neck.name}, which has no coarser"
            " levels for auxiliary heads: use neck=unet or neck=fpn"
        )
    endless = config.trainer.max_epochs == -1 and config.trainer.max_steps == -1
    if endless and config.trainer.max_time is None and config.trainer.early_stopping is None:
        problems.append(
            "trainer has no end: give max_epochs, max_steps, max_time or early_stopping"
        )
    if endless and config.scheduler.name != "constant":
        problems.append(
            f"scheduler={config.scheduler.name} needs to know the end: give trainer.max_epochs or"
            " trainer.max_steps, or use scheduler=constant"
        )
    return problems


def say(detail: Any, schema: type[BaseModel]) -> str:
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
    return f"{key}={value!r}: {detail['msg']}.{hint}"


def _fields(section: type[BaseModel], path: list[str]) -> list[str]:
    for key in path:
        annotation = section.model_fields[key].annotation
        if not (inspect.isclass(annotation) and issubclass(annotation, BaseModel)):
            return []
        section = annotation
    return list(section.model_fields)
