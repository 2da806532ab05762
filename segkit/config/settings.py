"""The options of the commands besides train.

Each field states its default, its range and its meaning; the help pages and docs/options.md are
made from them. Importing this module imports neither torch nor Hydra.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator

from segkit.config.compose import resolve_values
from segkit.config.schema import MAX_PIXELS, PLUGINS, Data, Part, Section, Wanted, describe_error
from segkit.core import plugins
from segkit.core.ensembles import list_checkpoints
from segkit.core.errors import all_at_once
from segkit.core.labels import Decoder
from segkit.core.published import fetch

if TYPE_CHECKING:
    from omegaconf import DictConfig

TTA = Literal["none", "flips", "d4"]
Precision = Literal["auto", "float32"]
WAIST = 0.8
OVERLAP = 0.25


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


def _as_parts(value: Any) -> Any:
    return [{"name": each} if isinstance(each, str) else each for each in _as_list(value)]


def _as_square(value: Any) -> Any:
    return (value, value) if isinstance(value, int) else value


Count = Annotated[int, Field(ge=1)]
Files = Annotated[
    list[Path],
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
    Field(min_length=1),
]
"""One file or several."""


class PredictionOptions(Section):
    """How a trained model predicts: the keyword arguments of ``segkit.load``."""

    instances: Literal[Decoder, "training"] | None = Field(
        "training",
        description="how to tell objects apart; training: as the training did; null: not at all",
    )
    min_size: int | None = Field(
        None,
        ge=0,
        description="objects of fewer pixels are dropped; null: what tune=true has chosen, else the"
        " limit of the training",
    )
    waist: float = Field(
        WAIST,
        gt=0,
        le=1,
        description="for watershed and distance: two parts are separate objects if the waist"
        " between them is narrower than this share of the smaller part's width",
    )
    fill_holes: bool | None = Field(
        None,
        description="whether background enclosed by a single object joins that object; null: what"
        " tune=true has chosen, else false",
    )
    threshold: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="probability above which a pixel belongs to a class, for binary and multilabel"
        " models; null: what tune=true has chosen for each class, else that of the training",
    )
    tta: TTA = Field(
        "none",
        description="test-time augmentation: the mean over the mirrored images (flips), or over all"
        " eight rotations and reflections (d4)",
    )
    tile: int | None = Field(
        None,
        ge=1,
        description="side of the tiles that large images are cut into, in pixels, rounded down to"
        " what the network takes; null: chosen from the training's crops and the memory",
    )
    overlap: float = Field(
        OVERLAP,
        ge=0,
        lt=1,
        description="least share of a tile that it shares with the next one; tiles begin at"
        " multiples of the network's stride",
    )
    context: int | None = Field(
        None,
        ge=0,
        description="pixels around each tile that the network sees but does not decide; null: as"
        " many as the network needs",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="tiles per batch, which may come from several images; null: what memory allows",
    )
    precision: Precision = Field(
        "auto",
        description="what a checkpoint computes with: float32, or auto: half precision on GPUs",
    )


class ModelSettings(PredictionOptions):
    """What evaluate, predict and serve share."""

    checkpoint: Files = Field(
        description="best.ckpt or last.ckpt of a run, a file written by segkit.export, or"
        " hf://OWNER/NAME[@REVISION] on the Hugging Face hub; the probabilities of several, as"
        " [a.ckpt,b.ckpt], are averaged, also of those that an ensemble.yaml names"
    )
    device: str = Field(
        "auto",
        description="auto, cpu, cuda ...; under torchrun and srun each process uses its own GPU",
    )
    plugins: list[str] | str = Field([], description=PLUGINS)

    @field_validator("checkpoint")
    @classmethod
    def _read_ensembles(cls, value: list[Path]) -> list[Path]:
        return list_checkpoints(value)


class EvaluateSettings(ModelSettings):
    """The options of ``python -m segkit.evaluate``."""

    data: Data | None = Field(
        None, description="the data set; null: the one that the model was trained on"
    )
    split: Literal["train", "val", "test", "all", "folds"] = Field(
        "val",
        description="the split to score; folds: all images of a cross-validation, each with the"
        " network of the ensemble that has not seen it",
    )
    output: Path | None = Field(
        None,
        description="folder of the results; null: evaluation-SPLIT in the run folder of the"
        " checkpoint, with the data set and the changed options in its name",
    )
    masks: bool = Field(False, description="whether to write predicted masks too, to OUTPUT/masks")
    tune: bool = Field(
        False,
        description="choose threshold, min_size and fill_holes that are best on these images, and"
        " keep them in the checkpoints, whose predictions use them from then on; for split=val and"
        " split=folds",
    )
    metrics: Wanted | None = Field(
        None,
        description="additional scores: boundary (boundary F1, 95 % Hausdorff distance),"
        " surface_dice (boundaries right up to 2 pixels, other tolerances as {name: surface_dice,"
        " tolerance: 3, unit: px}, unit also um or mm), calibration (expected calibration error and"
        " its picture), membranes (V_rand, V_info and pixel error of ISBI 2012); null: those of the"
        " training",
    )
    max_pixels: Count | None = Field(None, description=MAX_PIXELS)


class OutputOptions(BaseModel):
    """What predict writes besides masks, and how masks are written."""

    values: Literal["training", "ids"] = Field(
        "training",
        description="values in the masks: those of the training's masks, or 0, 1, ... (ids)",
    )
    overlays: bool = Field(True, description="also draw each mask over its image, into overlays/")
    probabilities: bool = Field(
        False,
        description="also write probabilities/: 16-bit TIFFs, a page per channel, value / 65535;"
        " for volumes .nii.gz of float32",
    )
    polygons: Literal["geojson", "coco"] | None = Field(
        None,
        description="also write outlines along pixel edges, x to the right, y downwards: geojson, a"
        " file per image in polygons/ for QuPath; coco, one coco.json. They outline objects if"
        " these are told apart, else connected regions",
    )
    large_format: Literal["tif", "zarr"] = Field(
        "tif",
        description="format of masks of images above 16 million pixels that are read by windows"
        " (tiled TIFF, zarr); files with several such pages always become tif",
    )
    pyramid: bool = Field(
        False,
        description="whether those masks get smaller levels for viewers; not for several pages",
    )

    def needs_whole_maps(self, with_objects: bool) -> bool:
        """Whether large images cannot be processed window by window."""
        return with_objects or self.polygons is not None

    def folders(self, with_objects: bool) -> dict[str, tuple[str, ...]]:
        """The folders written besides the masks, with the suffixes of their files."""
        written = {
            "overlays": (self.overlays, (".png", ".tif")),
            "instances": (with_objects, (".png", ".tif", ".nii.gz")),
            "probabilities": (self.probabilities, (".tif", ".zarr", ".nii.gz")),
            "polygons": (self.polygons == "geojson", (".geojson",)),
        }
        return {folder: endings for folder, (is_on, endings) in written.items() if is_on}


class PredictSettings(ModelSettings, OutputOptions):
    """The options of ``python -m segkit.predict``."""

    input: str | Annotated[list[str], Field(min_length=1)] = Field(
        description="an image, a folder with its sub-folders, a quoted pattern such as"
        " 'images/**/*.tif', a .txt with a path per line, a .csv with a column \"image\", or a"
        " list; FILE::ARRAY is one of several arrays in a file"
    )
    output: Path = Field(
        Path("predictions"),
        description="folder of the masks, named after their images: .png, or .tif for several"
        " pages or overlapping classes, .nii.gz for volumes. Finished masks are kept, so the same"
        " command resumes",
    )
    overwrite: bool = Field(
        False,
        description="whether to redo finished images and to replace masks that this command did"
        " not write",
    )
    max_pixels: Count | None = Field(None, description=MAX_PIXELS)


class ServeSettings(ModelSettings):
    """The options of ``python -m segkit.serve``."""

    host: str = Field(
        "127.0.0.1",
        description="address to bind to; 127.0.0.1: this machine only, 0.0.0.0: the whole network",
    )
    port: int = Field(8000, ge=0, le=65535, description="0: any free port")
    max_upload_mb: float = Field(64, gt=0, description="largest accepted file, in MiB")
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="largest accepted height x width; small files can unpack to gigapixels",
    )
    keys: Path | None = Field(
        None,
        description="a file with a key a line, of which requests must send one; null: no key",
    )
    names: list[Annotated[str, Field(pattern=r"^[\w.-]+$")]] = Field(
        [],
        description="host names that a proxy passes on, as [lab.example]; requests for others are"
        " refused. Empty: on 127.0.0.1 its own names only, else any",
    )
    proxies: list[str] = Field(
        ["127.0.0.1", "::1"],
        description="addresses or networks of proxies whose X-Forwarded-For is believed",
    )
    max_requests: int = Field(
        64, ge=1, description="images that may be uploaded, wait or be predicted at a time"
    )
    max_requests_per_client: int | None = Field(
        None,
        ge=1,
        description="how many of these a key, or an address, may have; null: a quarter, but all of"
        " them for this machine itself",
    )
    rate: int | None = Field(
        None, ge=1, description="images a minute that a key, or an address, may send; null: any"
    )
    client_timeout: float = Field(
        20,
        gt=0,
        description="seconds that a client may keep the server waiting for the head of a request,"
        " or by sending an image at less than 16 KiB a second",
    )
    timeout: float = Field(
        600, gt=0, description="seconds in which an uploaded image must be predicted"
    )
    log: Literal["text", "json"] | None = Field(
        None, description="a line for each request, as text or as JSON; null: none"
    )


class ExportSettings(Section):
    """The options of ``python -m segkit.export``."""

    checkpoint: Files = Field(
        description="best.ckpt or last.ckpt of a run, or hf://OWNER/NAME[@REVISION] on the Hugging"
        " Face hub; of several, as [a.ckpt,b.ckpt] or an ensemble.yaml, the file averages the"
        " probabilities"
    )
    format: Literal["onnx", "openvino", "torch_export"] | None = Field(
        None,
        description="onnx, openvino (.xml and .bin) or torch_export (.pt2); null: by the suffix of"
        " output, or onnx",
    )
    output: Path | None = Field(
        None,
        description="the file; null: model.onnx, model.xml or model.pt2 in the run folder of the"
        " checkpoint, ensemble.onnx ... beside an ensemble.yaml",
    )
    normalize: bool = Field(
        True,
        description="whether the file takes intensities like those of the training images (float32)"
        " and normalizes them itself",
    )
    activate: bool = Field(True, description="whether the file returns probabilities, not logits")
    size: Annotated[tuple[Count, Count], BeforeValidator(_as_square)] | None = Field(
        None,
        description="fixed [height, width] of the input, or one number for squares, for runtimes"
        " that need it; null: any size, if the network allows it",
    )
    time_limit: float | None = Field(
        180.0,
        gt=0,
        description="seconds after which an export for any size is given up for one size, that of"
        " the training crops, times the number of networks; null: no limit",
    )
    quantize: Literal["none", "int8", "int8_always"] = Field(
        "none",
        description="int8: 8 bits if that is faster on this machine and loses little;"
        " int8_always: in any case",
    )
    max_iou_loss: float = Field(
        0.02, ge=0, le=1, description="IoU that int8 may lose before float32 is kept"
    )
    input: Annotated[list[str], BeforeValidator(_as_list)] | None = Field(
        None,
        description="images to check on and to calibrate int8 with: a file, a folder, a quoted"
        " pattern or a list; null: the validation images of the training",
    )
    max_pixels: Count | None = Field(None, description=MAX_PIXELS)
    plugins: list[str] | str = Field([], description=PLUGINS)


class HubSettings(Section):
    """The options of ``python -m segkit.hub``."""

    push: Path = Field(description="the checkpoint to upload: best.ckpt or last.ckpt of a run")
    repo: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")] | None = Field(
        None,
        description="the repository, OWNER/NAME, made if it does not exist; optional with folder",
    )
    folder: Path | None = Field(
        None, description="write the files into this folder, and upload nothing"
    )
    private: bool = Field(
        True,
        description="whether only the owner and whom they invite can see the repository; false:"
        " everybody. An existing one stays as it is, and a public one needs false",
    )
    license: str | None = Field(
        None,
        description="under which others may use the model, such as apache-2.0, mit or"
        " cc-by-nc-4.0; needed with private=false. null: README.md says unknown",
    )
    revision: str | None = Field(
        None, description="the branch that gets the commit, made if it does not exist; null: main"
    )
    message: str | None = Field(
        None, description="the message of the commit; null: the names of the model's parts"
    )
    pictures: bool = Field(
        True,
        description="whether README.md shows the best and the worst prediction of the run's report:"
        " they show images of the data set",
    )
    overwrite: bool = Field(
        False,
        description="whether to replace files that segkit did not write, and a README.md that was"
        " edited",
    )
    plugins: list[str] | str = Field([], description=PLUGINS)

    @field_validator("push")
    @classmethod
    def _fetch(cls, value: Path) -> Path:
        return fetch(value)


UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
"""Units of a budget, in seconds."""


class SearchSettings(Section):
    """The options of ``python -m segkit.search``."""

    budget: str | None = Field(
        None, description="time of the whole search, such as 4h, 90m, 1d or 1h30m, or DD:HH:MM:SS"
    )
    folds: int = Field(3, ge=2, description="folds of the cross-validation of the finalists")
    candidates: Path | None = Field(
        None,
        description="a YAML list of candidates, each a list of options of a training, such as"
        " [encoder=resnet34, neck=fpn]; null: all combinations of options with several values, as"
        " in encoder=resnet18,resnet34, or without any those that suit the data and the machine",
    )
    output: Path | None = Field(
        None, description="folder of the search; null: runs/NAME/search_TIME"
    )
    resume: Path | None = Field(
        None, description="folder of a search that was stopped, to go on with it"
    )
    training: list[str] = Field(
        [], description="options of the trainings; all other options of the command line go there"
    )

    @field_validator("budget", mode="before")
    @classmethod
    def _check_budget(cls, value: Any) -> str | None:
        if value is None:
            return None
        text = str(value)
        words = "".join(rf"(\d+{unit})?" for unit in UNITS)
        is_time = re.fullmatch(rf"{words}|\d+:\d+:\d+:\d+", text, re.ASCII)
        if not is_time or not re.search("[1-9]", text):
            raise ValueError("give a time, as 4h, 90m, 1d, 1h30m or DD:HH:MM:SS")
        return text

    @property
    def seconds(self) -> int:
        """The budget in seconds; 0 without one."""
        text = self.budget or "0s"
        numbers = text.split(":")
        if len(numbers) != len(UNITS):
            numbers = [re.findall(rf"(\d+){unit}|$", text)[0] for unit in UNITS]
        return sum(int(n or 0) * size for n, size in zip(numbers, UNITS.values(), strict=True))


_ENCODERS: Any = ["resnet18", "resnet34", "mobilenetv3_large_100"]
# the second fpn is about as wide as the unet, so that they differ only in how they join
_NECKS: Any = ["unet", "fpn", {"name": "fpn", "width": 64, "merge_width": 64}]


class BenchmarkSettings(Section):
    """The options of ``python -m segkit.benchmark``."""

    encoders: Annotated[list[Part], BeforeValidator(_as_parts), Field(min_length=1)] = Field(
        _ENCODERS,
        validate_default=True,
        description="names of encoders or timm models, or mappings such as {name: unet, width: 32}",
    )
    necks: Annotated[list[Part], BeforeValidator(_as_parts), Field(min_length=1)] = Field(
        _NECKS,
        validate_default=True,
        description="necks, given like encoders",
    )
    upsample: Annotated[
        list[Literal["nearest", "bilinear", "deconv"]],
        BeforeValidator(_as_list),
        Field(min_length=1),
    ] = Field(
        ["nearest"],
        description="each neck is measured with each of these, unless it sets its own",
    )
    sizes: Annotated[list[Count], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        [256], description="sides of the images in pixels"
    )
    batch: Count = Field(4, description="images per batch")
    channels: Count = Field(3, description="channels of the images")
    classes: Count = Field(
        1, description="1: foreground and background; more: mutually exclusive classes"
    )
    device: str = Field("auto", description="auto, cpu, cuda ...")
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 uses autocast"
    )
    rounds: Count = Field(6, description="measured runs of each network")
    warm_up: int = Field(2, ge=0, description="runs before these")
    threads: Count | None = Field(
        None, description="computing threads; null: OMP_NUM_THREADS, or all cores"
    )
    timeout: float = Field(600, gt=0, description="seconds that measuring a network may take")
    output: Path = Field(Path("benchmark"), description="folder of benchmark.md and benchmark.json")
    plugins: list[str] | str = Field([], description=PLUGINS)


class ReportSettings(Section):
    """The options of ``python -m segkit.report``."""

    runs: Annotated[list[Path], BeforeValidator(_as_list)] = Field(
        [],
        description="folders of runs or evaluations to compare, or of sweeps, which stand for all"
        " their jobs; also typed without the key: python -m segkit.report runs/A runs/B",
    )
    output: Path = Field(
        Path("runs_compared.html"),
        description="the page; a file of another kind is never overwritten",
    )
    plugins: list[str] | str = Field([], description=PLUGINS)


Roots = Annotated[list[Path], BeforeValidator(_as_list)]


class DataSettings(Section):
    """What the commands for data sets share. The groups ``data`` and ``head`` are a training's."""

    root: Roots | None = Field(
        None, description="the folder of the data set, or several as [A,B]: short for data.root"
    )
    data: Data = Field(description="the data set")
    head: Part | None = Field(
        None,
        description="the head that is to learn it; null: binary if the masks have at most two"
        " labels, else multiclass",
    )
    max_pixels: Count | None = Field(None, description=MAX_PIXELS)
    plugins: list[str] | str = Field([], description=PLUGINS)


class DataCheckSettings(DataSettings):
    """The options of ``python -m segkit.data check``."""

    format: Literal["text", "json"] = Field(
        "text", description="text to read, or json: one object on standard output, nothing else"
    )
    sheet: bool = Field(
        True, description="whether to draw a sheet of up to 16 images with their masks"
    )
    output: Path | None = Field(
        Path("check.png"), description="the file of the sheet, a PNG; null: no sheet"
    )


class DataConvertSettings(DataSettings):
    """The options of ``python -m segkit.data convert``."""

    output: Path = Field(
        description="folder of the converted set. Finished files are kept, so the same command"
        " resumes"
    )
    layout: Literal["folders", "csv"] = Field(
        "folders",
        description="folders: images/ and masks/ in train/, val/ and test/; csv: one images/, one"
        " masks/, and the splits in pairs.csv",
    )
    overwrite: bool = Field(
        False,
        description="whether to convert everything again, and to write into a folder that holds"
        " something else",
    )


Settings = TypeVar("Settings", bound=BaseModel)


def parse_settings(schema: type[Settings], config: DictConfig) -> Settings:
    """Check the composed config of a command and load the plugins that it names.

    Raises:
        SegkitError: Values are missing or wrong; all of them are listed.
    """
    plugins.load_named(plugins.as_list(config.get("plugins")))
    return check_settings(schema, resolve_values(config))


def check_settings(schema: type[Settings], values: dict[str, Any]) -> Settings:
    """Check plain values against a model.

    Raises:
        SegkitError: Values are wrong; all of them are listed.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [describe_error(detail, schema) for detail in error.errors()]
        raise all_at_once("the config cannot be used:", problems) from error
