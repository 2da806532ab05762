"""The options of a training: the only place of their defaults, ranges and meanings.

The options of encoders, losses and so on are those of their constructors.
"""

from __future__ import annotations

import inspect
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from segkit.core.errors import NO_PATH, did_you_mean
from segkit.core.labels import OBJECT_SCORES, Decoder
from segkit.core.published import spell_path
from segkit.core.registry import lacks_path

Side = Annotated[int, Field(ge=1)]
Wanted = Annotated[
    list[str | dict[str, Any]],
    BeforeValidator(lambda v: [v] if isinstance(v, str | dict) else v),
]
"""One metric or several: names, or mappings of a name and its options."""
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
MAX_PIXELS = (
    "height x width of the largest image that is decoded whole, as small files can unpack to"
    " gigapixels; null: what fits into free memory. Tiles of large images are read without limit"
)
OF_OBJECTS = tuple(f"val/{score}" for score in OBJECT_SCORES)
"""Metrics that need objects to be told apart."""
EPOCHS = 16
"""Length of a training that nothing else limits."""


class Section(BaseModel):
    """A part of the config: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _require_path(cls, value: Any, info: ValidationInfo) -> Any:
        if lacks_path(value, cls.model_fields[info.field_name or ""].annotation):
            raise ValueError(NO_PATH)
        return value


class Part(BaseModel):
    """A member of a family: its name, and its options as further keys."""

    model_config = ConfigDict(extra="allow")

    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The options of the member."""
        return dict(self.model_extra or {})

    def as_dict(self) -> dict[str, Any]:
        """Name and options."""
        return {"name": self.name, **self.options}


_CROP_SIZE: Any = 256


class Data(Part):
    """The data set, and how batches are made of it."""

    crop_size: tuple[Side, Side] = Field(
        _CROP_SIZE,
        validate_default=True,
        description="side of the square crops to train on, or [height, width]",
    )
    batch_size: int = Field(8, ge=1, description="crops per batch")
    val_batch_size: int = Field(
        8, ge=1, description="whole images of one size per validation batch, at most"
    )
    num_workers: int | None = Field(
        None,
        ge=0,
        description="processes that read and augment; null: as many as keep up by the time that a"
        " crop takes, at most 16 or one per spare core, none if only two cores compute",
    )
    cache: bool | Literal["auto", "features"] = Field(
        "auto",
        description="whether to keep decoded images and masks in memory-mapped files during the"
        " run; auto: if they take at most a quarter of the memory and of the free temporary space;"
        " features: what a frozen encoder gives for them too, so that each is encoded once",
    )
    samples_per_epoch: int | None = Field(
        None, ge=1, description="crops per epoch; null: one per image"
    )
    sampling: Literal["even", "classes", "hard"] = Field(
        "even",
        description="which images crops are cut from; even: each equally often; classes: each class"
        " equally often, from the images that have it, on which foreground_share places the crops;"
        " hard: half of the crops evenly, the others in proportion to the loss of each image in the"
        " epoch before",
    )
    unlabeled: Path | None = Field(
        None,
        description="a folder of images without masks, from which a training learns what the"
        " average of its weights is sure of (mean teacher); it needs trainer.ema",
    )
    unlabeled_share: float = Field(
        0.5, gt=0, lt=1, description="share of the crops of a batch that come from there"
    )
    foreground_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the crops that are placed on foreground, choosing each class or"
        " object of an image with equal probability",
    )
    normalize: Literal["auto", "dataset", "encoder"] = Field(
        "auto",
        description="mean and deviation of the input: of the training images (dataset), as the"
        " pretrained encoder expects (encoder), or auto: the encoder's for pretrained weights and"
        " 8-bit images, else the data set's",
    )

    groups: str | None = Field(
        None,
        description="what no fold may divide, such as patients: a .csv file of names and groups, or"
        " a regular expression whose first group in the name of an image is its group; null: pages"
        " and blocks of one file",
    )
    val_names: list[str] | None = Field(
        None,
        description="the names of the images to validate on; all others of training and validation"
        " are trained on. fold writes them into the config of its run",
    )

    @field_validator("crop_size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int) else value


class Augment(Section):
    """Augmentation of the training crops."""

    transforms: list[dict[str, Any]] = Field(
        [], description="transforms of albumentations, each a mapping of its name and options"
    )
    mixes: Wanted = Field(
        [],
        description="what is put together from several crops: cutmix (a rectangle of another one),"
        " mosaic (four quarters) and copy_paste (objects of another one); {name: cutmix, p: 0.3}"
        " mixes 30 % of the crops, a name alone half of them",
    )
    mixup: float | None = Field(
        None,
        gt=0,
        description="MixUp: each crop of a batch is blended with another one, with a share that is"
        " Beta(mixup, mixup) distributed, and so is the loss; null: not at all",
    )


class Trainer(Section):
    """How long and on what to train; the names are Lightning's."""

    max_epochs: int | None = Field(
        None,
        ge=-1,
        description="epochs; null: 16, or with max_time or max_steps as many as fit; -1: no limit",
    )
    max_steps: Literal[-1] | Annotated[int, Field(ge=1)] = Field(
        -1, description="optimizer steps; -1: no limit"
    )
    max_time: str | None = Field(
        None,
        description="DD:HH:MM:SS for training and validation; the learning rate schedule ends with"
        " it",
    )
    accelerator: str = Field("auto", description="auto, cpu, gpu, mps ...")
    devices: int | str | list[int] = Field(
        1,
        description="how many devices, or which ones; under torchrun and srun a process each",
    )
    strategy: str = Field(
        "auto",
        description="how several devices train together, in Lightning's words; auto: ddp, a process"
        " for each, with all weights; fsdp: each keeps a share of the weights, of their gradients"
        " and of the optimizer's state",
    )
    num_nodes: int = Field(
        1, ge=1, description="machines; start the same command on each, with torchrun or srun"
    )
    sync_batchnorm: bool = Field(
        False, description="whether batch norms share their statistics between devices"
    )
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed", "bf16-true"] = Field(
        "auto",
        description="32-true, bf16-mixed, 16-mixed or bf16-true; auto: bf16-mixed on GPUs that"
        " compute with bfloat16, 16-mixed on older ones from NVIDIA, else 32-true",
    )
    accumulate_grad_batches: int = Field(1, ge=1, description="batches per optimizer step")
    gradient_clip_val: float | None = Field(
        1.0, gt=0, description="norm to which gradients are clipped; null: no clipping"
    )
    check_val_every_n_epoch: int = Field(1, ge=1, description="epochs between validations")
    ema: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, such as 0.999; null:"
        " no average",
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="validations without a better metric after which the training ends; null: never"
        " end early",
    )
    deterministic: bool | Literal["auto"] = Field(
        "auto",
        description="the same numbers in every run on one machine; auto: on the CPU, where it costs"
        " little",
    )
    compile: bool | Literal["auto"] = Field(
        "auto",
        description="compile the training step with torch.compile, which takes one or two minutes,"
        " on a GPU as CUDA graphs; auto: on GPUs, without CUDA graphs, if more than a quarter of an"
        " hour of training is left",
    )
    recompute: bool = Field(
        False,
        description="run encoder and neck again in the backward pass instead of keeping their maps:"
        " less memory and the same results, but a third to a half more time",
    )
    channels_last: bool = Field(
        True,
        description="channels-last memory format, which is faster on CPUs and with tensor cores",
    )
    save_frozen: bool = Field(
        True,
        description="whether best.ckpt has the weights of a frozen encoder; false leaves them out,"
        " and they are taken from the cache of timm's pretrained weights when it is read",
    )
    progress_bar: bool = Field(True, description="show a progress bar")

    @field_validator("ema")
    @classmethod
    def _ema(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("strategy") == "fsdp":
            raise ValueError("weights in shards have no average; leave it out, or use strategy=ddp")
        return value

    @field_validator("recompute", mode="before")
    @classmethod
    def _recompute(cls, value: Any) -> Any:
        return False if value == "auto" else value  # in configs of version 0.1.0

    @field_validator("max_time", mode="before")
    @classmethod
    def _time(cls, value: Any) -> str | None:
        parts = str(value).split(":") if value is not None else ["0"] * 4
        if len(parts) != 4 or not all(re.fullmatch("[0-9]{1,6}", part) for part in parts):
            raise ValueError("give DD:HH:MM:SS, as 00:00:30:00 for half an hour")
        if value is not None and not any(map(int, parts)):
            raise ValueError("give some time, as 00:00:30:00 for half an hour")
        return value

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: Any) -> Any:
        text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
        is_list = isinstance(value, list) or "," in text
        listed = r" *[0-9]{1,4} *(, *[0-9]{1,4} *)*,?"
        if not re.fullmatch(listed if is_list else "auto|-1|[1-9][0-9]{0,3}", text):
            raise ValueError("give a number of devices, their numbers as [0,1], or auto for all")
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
    """Where a training is logged besides the files of its run folder."""

    use: dict[Literal["tensorboard", "wandb", "mlflow", "trackio"], bool] = Field(
        {},
        description="programs that show the training, as {tensorboard: true}, each with the extra"
        " of its name; logger=tensorboard and logger=[tensorboard,mlflow] set it",
    )
    project: str = Field("segkit", description="project of W&B and trackio, experiment of MLflow")
    offline: bool = Field(
        True,
        description="whether wandb, mlflow and trackio keep everything on this machine; false:"
        " logged in to W&B, to MLFLOW_TRACKING_URI, to TRACKIO_SPACE_ID or TRACKIO_SERVER_URL",
    )
    images: int = Field(
        4, ge=0, description="validation images whose predictions are shown, always the same"
    )
    images_every: int = Field(5, ge=1, description="epochs between two showings of them")

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, values: Any) -> Any:
        """The config of version 0.1.0 named one logger, or csv for none."""
        if not isinstance(values, dict) or "name" not in values:
            return values
        rest = {key: value for key, value in values.items() if key != "name"}
        if values["name"] == "csv":
            return rest
        return {**rest, "use": {values["name"]: True, **rest.get("use", {})}}

    @property
    def names(self) -> list[str]:
        """The programs in use."""
        return [name for name, is_used in self.use.items() if is_used]


class TrainConfig(Section):
    """The options of ``python -m segkit.train``."""

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
    target: Part = Part(name="labels")
    name: str = Field(description="name of the run, which goes to runs/NAME/TIME")
    seed: int = Field(
        1, ge=0, lt=2**32, description="seed of initial weights, crops and augmentation"
    )
    folds: int = Field(5, ge=2, description="number of folds, if there is a fold")
    fold: int | None = Field(
        None,
        ge=0,
        description="the fold to validate on, from 0; the others and the rest of training and"
        " validation are trained on. fold=0,1,2,3,4 with -m trains all; null: the data's own split",
    )
    auxiliary: list[Annotated[float, Field(gt=0)]] = Field(
        [],
        description="weights of the losses of auxiliary heads on other levels of the neck (deep"
        " supervision), such as [0.5, 0.25]",
    )
    instances: Decoder | None = Field(
        None,
        description="how to tell objects apart in validation and at the end: components,"
        " watershed, border_core, distance or queries; null: not at all",
    )
    min_size: int = Field(0, ge=0, description="objects of fewer pixels are dropped")
    metrics: Wanted = Field(
        [],
        description="additional scores at the end: boundary (boundary F1, 95 % Hausdorff"
        " distance), surface_dice (boundaries right up to 2 pixels, other tolerances as"
        " {name: surface_dice, tolerance: 3, unit: px}, unit also um or mm), calibration (expected"
        " calibration error and its picture), membranes (V_rand, V_info and pixel error of ISBI"
        " 2012)",
    )
    monitor: Monitor = Field(
        "val/iou",
        description="the validation metric that selects the best checkpoint: val/iou, val/dice,"
        " val/precision, val/recall, val/specificity, val/fw_iou, val/accuracy, val/loss; for"
        " objects val/seg, val/det, val/ap, val/ap50, val/pq, val/aji",
    )
    resume: Path | None = Field(None, description="a run folder, to resume its training")
    init: Path | None = Field(
        None,
        description="a checkpoint, or hf://OWNER/NAME on the Hugging Face hub, whose weights a new"
        " training starts with, as far as they fit: of the same encoder, any neck, head, classes"
        " and channels",
    )
    teacher: Path | None = Field(
        None,
        description="a checkpoint of the same classes, mostly of a larger network, whose"
        " probabilities are learned besides the labels (distillation)",
    )
    teacher_weight: float = Field(1.0, gt=0, description="factor of that in the loss")
    teacher_temperature: float = Field(
        2.0,
        gt=0,
        description="temperature of the probabilities that are compared; above 1 improbable classes"
        " count more",
    )
    teacher_features: float = Field(
        0.0,
        ge=0,
        description="factor in the loss of how differently both encoders distribute their activity"
        " over the image, such as 10; 0: not compared",
    )
    pseudo: bool = Field(
        False,
        description="for masks that are labelled in part: pixels without a label (255) get the one"
        " that the average of the weights is sure of; it needs trainer.ema",
    )
    pseudo_threshold: float = Field(
        0.95, gt=0, le=1, description="how sure, as a probability, with data.unlabeled too"
    )
    pseudo_weight: float = Field(
        1.0,
        gt=0,
        description="factor of the loss of such labels; it rises to it in the first fifth of the"
        " training",
    )
    max_pixels: int | None = Field(None, ge=1, description=MAX_PIXELS)
    plugins: list[str] | str = Field([], description=PLUGINS)

    _open_keys: tuple[str, ...] = PrivateAttr(())

    @property
    def open_keys(self) -> tuple[str, ...]:
        """The keys left to the planner, whose values only stand in."""
        return self._open_keys

    def to_plain(self) -> dict[str, Any]:
        """Every option with its value, as YAML can hold it."""
        found: dict[str, Any] = _to_plain(self.model_dump())
        return found

    @property
    def monitor_mode(self) -> Literal["min", "max"]:
        """Whether less or more of the monitored metric is better."""
        return "min" if self.monitor == "val/loss" else "max"


def _to_plain(value: Any) -> Any:
    """The value of an option as YAML can hold it."""
    if isinstance(value, dict):
        return {key: _to_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(each) for each in value]
    return spell_path(value) if isinstance(value, Path) else value


def describe_error(detail: Any, schema: type[BaseModel]) -> str:
    """A problem that pydantic found, with the key, the value and what is allowed."""
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
