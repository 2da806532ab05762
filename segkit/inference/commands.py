"""What python -m segkit.evaluate and python -m segkit.predict do."""

from __future__ import annotations

import glob
import json
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from rich.console import Console
from rich.progress import track

from segkit import checkpoint, plugins
from segkit.data.checking import check
from segkit.data.dataset import WholeDataset
from segkit.data.reading import IMAGE_SUFFIXES, count_pages, read_image, write_image, write_mask
from segkit.data.source import SPLITS, DataSource, Split
from segkit.errors import SegkitError, all_at_once
from segkit.files import make_folder, write_whole
from segkit.inference.evaluation import Evaluation
from segkit.inference.evaluation import evaluate as evaluate_samples
from segkit.inference.instances import WAIST
from segkit.inference.predictor import TTA, Prediction, Predictor
from segkit.inference.summary import flat, legend, write_evaluation_report, write_tables
from segkit.inference.tiling import OVERLAP
from segkit.report.overlay import overlay, palette
from segkit.report.table import score_table
from segkit.schema import Data, Extras, say

Choice = Literal["training", "components", "watershed", "border_core", "distance"]
"""A :data:`segkit.targets.Decoder`, or that of the training."""


class Inference(BaseModel):
    """What both commands take."""

    model_config = ConfigDict(extra="forbid")

    checkpoint: Path
    device: str = "auto"
    instances: Choice | None = "training"
    min_size: Annotated[int, Field(ge=0)] | None = None
    waist: Annotated[float, Field(gt=0, le=1)] = WAIST
    fill_holes: bool = False
    tta: TTA = "none"
    tile: Annotated[int, Field(ge=1)] | None = None
    overlap: Annotated[float, Field(ge=0, lt=1)] = OVERLAP
    plugins: list[str] | str = []

    def predictor(self) -> Predictor:
        """The predictor of the checkpoint; what is not said about objects is as in its training."""
        model, card = checkpoint.read(self.checkpoint)
        own = ("device", "instances", "min_size", "waist", "fill_holes", "tta", "tile", "overlap")
        options = {key: getattr(self, key) for key in own}
        if self.instances == "training":
            options["instances"] = card.config.get("instances")
        if self.min_size is None:
            options["min_size"] = card.config.get("min_size", 0)
        return Predictor(model, card, **options)


class EvaluateConfig(Inference):
    """The config of ``python -m segkit.evaluate``; the keys are described in conf/evaluate.yaml."""

    data: Data | None = None
    split: Literal["train", "val", "test", "all"] = "val"
    output: Path | None = None
    metrics: Extras | None = None


class PredictConfig(Inference):
    """The config of ``python -m segkit.predict``; the keys are described in conf/predict.yaml."""

    input: str
    output: Path
    overlays: bool = True


def evaluate(config: DictConfig) -> Evaluation:
    """Score a checkpoint on a data set and write table, confusion and report.

    Raises:
        SegkitError: The config, the checkpoint or the data cannot be used.
    """
    settings = _checked(EvaluateConfig, config)
    console = Console(soft_wrap=True, markup=False, highlight=False)
    predictor = settings.predictor()
    data = settings.data or Data.model_validate(predictor.card.config["data"])
    head = predictor.model.head
    target = predictor.target
    masks = "binary" if target.from_ids else head.mode
    source = DataSource.build(data.name, mode=masks, **data.options)
    wanted: tuple[Split, ...] = SPLITS if settings.split == "all" else (settings.split,)
    summary = check(
        source,
        masks,
        None if target.from_ids else head.num_classes,
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
    beside = settings.checkpoint.parent
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
                "checkpoint": str(settings.checkpoint),
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


def predict(config: DictConfig) -> None:
    """Write the masks of images, with an overlay of each.

    A file that cannot be predicted does not keep the others from being written.

    Raises:
        SegkitError: The config or the checkpoint cannot be used, or files failed; all are named.
    """
    settings = _checked(PredictConfig, config)
    files = find_images(settings.input)
    _require_apart(files, settings.output)
    make_folder(settings.output)
    predictor = settings.predictor()
    problems = []
    for path, stem in track(files, "predicting", transient=True, disable=not sys.stdout.isatty()):
        try:
            _predict_file(predictor, path, stem, settings)
        except SegkitError as error:
            text = str(error)
            problems.append(text if str(path) in text else f"{path}: {text}")
    written = len(files) - len(problems)
    Console(soft_wrap=True, markup=False, highlight=False).print(
        f"{written} of {len(files)} masks written to {settings.output}"
    )
    if problems:
        raise all_at_once(f"{len(problems)} files could not be predicted:", problems)


def find_images(text: str) -> list[tuple[Path, Path]]:
    """The images that a file, a folder or a pattern means, each with its mask's path less ending.

    Images of a folder keep their folders below it.

    Raises:
        SegkitError: There are none, or two would have one mask.
    """
    path = Path(text)
    if path.is_dir():
        inside = [p.relative_to(path) for p in sorted(path.rglob("*")) if _is_image(p)]
        named = [
            (path / p, p.with_suffix(""))
            for p in inside
            if not any(part.startswith(".") for part in p.parts)  # ._a.png, .ipynb_checkpoints
        ]
    elif path.is_file():
        named = [(path, Path(path.stem))]
    elif glob.has_magic(text):
        # Path.glob takes no absolute patterns
        matches = glob.glob(text, recursive=True)  # noqa: PTH207
        named = [(p, Path(p.stem)) for p in sorted(map(Path, matches)) if _is_image(p)]
    else:
        raise SegkitError(f"input: there is no file or folder {path.resolve()}.")
    if not named:
        endings = ", ".join(sorted(IMAGE_SUFFIXES))
        raise SegkitError(f"input: {text} has no images. Their endings may be {endings}.")
    seen: dict[Path, Path] = {}
    problems = []
    for image, stem in named:
        if stem in seen:
            problems.append(f"{seen[stem]} and {image} would both be written to {stem}.png")
        seen[stem] = image
    if problems:
        raise all_at_once("input: images would overwrite each other's masks:", problems)
    return named


def _require_apart(files: list[tuple[Path, Path]], output: Path) -> None:
    """Masks have the names of their images: never write them over the images."""
    inputs = {path.resolve() for path, _ in files}
    for _, stem in files:
        for ending in (".png", ".tif"):
            target = output / stem.with_name(stem.name + ending)
            if target.resolve() in inputs:
                raise SegkitError(
                    f"output={output}: the mask would overwrite the image {target}. Name another"
                    " folder."
                )


def _is_image(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES


def _predict_file(predictor: Predictor, path: Path, stem: Path, settings: PredictConfig) -> None:
    pages = count_pages(path)
    if pages == 1:
        result = predictor(path)
        _write(predictor, read_image(path), result, stem, settings)
        return
    stacked = []
    for page in range(pages):
        image = read_image(path, page)
        result = predictor(image)
        stacked.append(_mask(predictor, result))
        _write_pictures(predictor, image, result, stem / f"{page:04d}", settings)
    write_mask(settings.output / stem.with_name(stem.name + ".tif"), np.stack(stacked))


def _write(
    predictor: Predictor, image: np.ndarray, result: Prediction, stem: Path, settings: PredictConfig
) -> None:
    mask = _mask(predictor, result)
    ending = ".png" if mask.ndim == 2 else ".tif"
    write_mask(settings.output / stem.with_name(stem.name + ending), mask)
    _write_pictures(predictor, image, result, stem, settings)


def _mask(predictor: Predictor, result: Prediction) -> np.ndarray:
    """Labels in the values of the training's masks, so that the one can stand for the other."""
    if predictor.model.head.mode == "multilabel":
        return result.labels * np.uint8(255)
    values = np.array(predictor.card.mask_values)
    return values[result.labels].astype(np.uint8 if values.max() < 256 else np.uint16)


def _write_pictures(
    predictor: Predictor, image: np.ndarray, result: Prediction, stem: Path, settings: PredictConfig
) -> None:
    name = stem.with_name(stem.name + ".png")
    if settings.overlays:
        mode = predictor.model.head.mode
        shown, colors = flat(result.labels, mode), legend(predictor.card, mode)[1]
        background = predictor.card.background
        if result.instances is not None:
            shown = result.instances
            colors, background = tuple(palette(int(shown.max()) + 1)), 0
        picture = overlay(image, shown, colors, background=background, ignore_index=-1)
        write_image(settings.output / "overlays" / name, picture)
    if result.instances is not None:
        write_mask(settings.output / "instances" / name, result.instances)


def _checked(schema: type[Any], config: DictConfig) -> Any:
    plugins.load_named(plugins.listed(config.get("plugins")))
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise all_at_once(
            "values that must be given are missing:",
            [f"{key} is missing: give {key}=VALUE" for key in missing],
        )
    try:
        return schema.model_validate(OmegaConf.to_container(config, resolve=True))
    except ValidationError as error:
        problems = [say(detail, schema) for detail in error.errors()]
        raise all_at_once("the config cannot be used:", problems) from error
