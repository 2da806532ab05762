"""The evaluate command."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from segkit.checkpoint.card import ModelCard
from segkit.checkpoint.reading import find_run_folder
from segkit.config.schema import Data
from segkit.config.settings import EvaluateSettings, parse_settings
from segkit.core import plugins
from segkit.core.ensembles import list_checkpoints
from segkit.core.errors import SegkitError, join_names
from segkit.core.files import make_folder, write_whole
from segkit.core.memory import limit_pixels
from segkit.core.published import WEIGHTS
from segkit.core.sharing import Share, is_said
from segkit.data.checks.summary import check
from segkit.data.loading import WholeDataset
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.evaluate.evaluation import (
    Counts,
    Evaluation,
    count_samples,
    make_metrics,
    merge,
    require_pixel_sizes,
    summarize,
)
from segkit.evaluate.summary import count_images, print_scores, write_results
from segkit.evaluate.tuning import record, require_checkpoints, tune
from segkit.images.writing import write_mask
from segkit.inference.averaging import list_unseen
from segkit.inference.masks import choose_suffix, make_mask
from segkit.inference.predictor import Prediction, Predictor, load_from_settings
from segkit.report.table import write_csv

SPLITS_OF: dict[str, tuple[Split, ...]] = {"all": SPLITS, "folds": ("train", "val")}
"""Choices that are more than a split."""
IN_NAME = (
    *("instances", "min_size", "waist", "fill_holes", "threshold"),
    *("tta", "tile", "overlap", "context"),
)
"""Keys that are part of the folder's name if they differ from the default."""
WITHOUT_EFFECT = (
    *("device", "batch_size", "precision", "plugins", "output", "max_pixels", "masks", "tune"),
)
"""Keys that change the scores by rounding at most."""


def evaluate(config: DictConfig) -> Evaluation | None:
    """Score a checkpoint on a data set; write tables and a report.

    Of several processes each scores its share of the images, and the first one writes and returns.

    Raises:
        SegkitError: The config, the checkpoint or the data cannot be used.
    """
    settings = parse_settings(EvaluateSettings, config)
    limit_pixels(settings.max_pixels)
    share = Share.join(needs_others=True)
    console = Console(soft_wrap=True, markup=False, highlight=False, quiet=share.rank > 0)

    def print_note(text: str) -> None:
        if not is_said(text):  # it may be about an image that only this process has
            print(f"note: {text}")

    paths = list_checkpoints(settings.checkpoint) if settings.tune else []
    if settings.tune:
        require_checkpoints(paths, settings)
    settings.device = share.choose_device(settings.device)
    share.connect()
    predictor = load_from_settings(settings)
    card, target = predictor.card, predictor.target
    data = settings.data
    if data is None:
        data = Data.model_validate(card.config["data"])
        _require_data_of_training(data)
        data.val_names = list_unseen([network.card for network in predictor.networks])
        require_unseen(data, settings.split)
    names = card.config.get("metrics", []) if settings.metrics is None else settings.metrics
    masks = "binary" if target.from_ids else card.mode
    try:
        source = DataSource.build(data.name, mode=masks, **data.options)
        metrics = make_metrics(names, predictor)
    except SegkitError as error:
        raise plugins.name_missing(card.config.get("plugins"), str(error)) from error
    wanted = SPLITS_OF.get(settings.split) or (cast(Split, settings.split),)
    num_classes = None if target.from_ids else card.num_classes
    needed = () if settings.split in SPLITS_OF else wanted
    val_names = None if settings.split == "folds" else data.val_names
    summary = check(source, masks, num_classes, needed, val_names=val_names)
    if summary.in_channels != card.in_channels:
        raise SegkitError(
            f"the images have {summary.in_channels} channels, the model was trained on"
            f" {card.in_channels}: give data.channels={card.in_channels}, which converts between"
            " grey and RGB."
        )
    for note in summary.notes:
        print_note(note)
    if source.channel_files != card.channel_files:
        own, trained = (
            ", ".join(each) or "one file" for each in (source.channel_files, card.channel_files)
        )
        print_note(f"the channels of images are in {own}, those of the training were in {trained}")
    samples = [sample for split in wanted for sample in summary.splits.get(split, [])]
    members = [(predictor, list(range(len(samples))))]
    if settings.split == "folds":
        members = _list_members(predictor, samples)
    dataset = WholeDataset(
        source,
        samples,
        summary.coding,
        card.normalization,
        target,
        objects=any(metric.needs_ids for metric in metrics)
        or (settings.tune and predictor.instances is not None),
        with_empty=summary.with_empty,
    )
    require_pixel_sizes(metrics, dataset.samples)
    folder = settings.output or default_folder(settings)
    make_folder(folder)
    used = settings.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    if changed := _find_changes(folder, used):
        print_note(f"{folder} is overwritten; it held results of other settings ({changed})")
    keep = None
    if settings.masks:
        keep = partial(_write_mask, folder / "masks", card, name_masks(samples))
    counts: Counts | SegkitError
    try:
        parts = []
        for one, indices in members:
            shown = track(share.pick(indices), "evaluating", console=console, transient=True)
            one.watch.warn = print_note
            parts.append(count_samples(one, dataset, shown, metrics, keep))
        counts = merge(parts)
    except SegkitError as error:
        counts = error
    counted = list[Counts]()
    for each in share.gather(counts):
        if isinstance(each, SegkitError):
            raise each
        counted.append(each)
    if share.rank > 0:
        return None
    evaluation = summarize(predictor, metrics, counted)

    scored = sum(len(indices) for _, indices in members)
    result = {
        "checkpoint": [str(path) for path in settings.checkpoint],
        "split": settings.split,
        "images": scored,
        "settings": used,
        **{name: _to_json(value) for name, value in evaluation.means.items()},
        "intervals": {
            name: [_to_json(bounds.low), _to_json(bounds.high)]
            for name, bounds in evaluation.intervals.items()
        },
        "confusion": evaluation.confusion.tolist(),
    }
    write_whole(folder / "metrics.json", json.dumps(result, indent=2))
    write_results(folder, f"evaluation, {settings.split}", predictor, dataset, evaluation)
    title = f"{data.name}, {settings.split}: {count_images(scored)}"
    print_scores(console, title, evaluation)
    if evaluation.thresholds is not None:
        for name, best in evaluation.thresholds.best.items():
            console.print(f"best threshold for {name}: {best:g}, see thresholds.csv")
    if settings.tune:
        tuned = tune(members, dataset, evaluation.thresholds)
        write_csv(folder / "tuning.csv", tuned.rows)
        record(paths, tuned.chosen)
        for line in tuned.lines:
            console.print(line)
        console.print(
            f"kept in {join_names([str(path) for path in paths])}: what is above was measured"
            " before, and these gains on the images that chose them; see tuning.csv"
        )
    console.print(f"report: {folder / 'report.html'}")
    return evaluation


def _list_members(
    predictor: Predictor, samples: Sequence[Sample]
) -> list[tuple[Predictor, list[int]]]:
    """Each network of a cross-validation, and the numbers of the samples that it has not seen.

    Raises:
        SegkitError: A network is of no fold, or samples were validated by none or by several.
    """
    numbers, members, seen = {s.name: i for i, s in enumerate(samples)}, [], Counter[str]()
    for place, one in enumerate(predictor.take_apart(), 1):
        names = one.card.config.get("data", {}).get("val_names")
        if not names:  # none: a file exported from networks of several folds
            raise SegkitError(
                f"split=folds: network {place} of {len(predictor.networks)} was not trained with a"
                " fold: give the ensemble.yaml that trainings of all folds write."
            )
        seen.update(names)
        members.append((one, [numbers[name] for name in names if name in numbers]))
    twice = [name for name, times in seen.items() if times > 1]
    if twice or seen.keys() - numbers.keys():
        raise SegkitError(
            "split=folds: each image is scored by the one network that has not seen it, and"
            f" {join_names(twice or sorted(seen.keys() - numbers.keys()))}"
            f" {'was validated by several' if twice else 'is not among the data'}."
        )
    return members


def name_masks(samples: Sequence[Sample]) -> list[Path]:
    """Names of files for samples, without the endings of their images where these tell nothing."""
    plain = [s.name.removesuffix(s.image.suffix if s.image else "") for s in samples]
    names = plain if len(set(plain)) == len(plain) else [s.name for s in samples]
    # a source may call its samples anything
    return [Path(*(p for p in Path(name).parts if p not in ("..", "/"))) for name in names]


def _write_mask(
    folder: Path, card: ModelCard, names: Sequence[Path], index: int, prediction: Prediction
) -> None:
    """Write a prediction as a mask of the training's values."""
    mask, colored = make_mask(prediction.labels, card), card.has_colored_masks
    write_mask(folder / f"{names[index]}{choose_suffix(mask, colored)}", mask, colored)


def default_folder(settings: EvaluateSettings) -> Path:
    """Return the folder of an evaluation without ``output``: beside the first model.

    Settings that differ from the training are part of its name, so that the scores of an ensemble,
    of test-time augmentation or of another threshold do not overwrite the plain ones.
    """
    first, *others = settings.checkpoint
    parts = ["evaluation", *([] if settings.data is None else [settings.data.name]), settings.split]
    if first.name not in ("best.ckpt", WEIGHTS):
        parts.append(first.stem if first.suffix == ".ckpt" else first.name)
    if others:
        paths = "\n".join(str(path.resolve()) for path in others)
        which = hashlib.sha256(paths.encode()).hexdigest()[:6]
        parts.append(f"ensemble-{len(settings.checkpoint)}-{which}")
    for key in IN_NAME:
        value = getattr(settings, key)
        if value != EvaluateSettings.model_fields[key].default:
            parts.append(f"{key}-{'none' if value is None else value}")
    return find_run_folder(first) / "-".join(parts)


def require_unseen(data: Data, split: str) -> None:
    """Raise a SegkitError if no validation image is unseen by all networks of an ensemble."""
    if split == "val" and data.val_names == []:
        raise SegkitError(
            "split=val: each of these images was trained on by one of the networks. Use"
            " split=folds with the ensemble.yaml of a cross-validation, split=test or other data."
        )


def _require_data_of_training(data: Data) -> None:
    """Raise a SegkitError if the data of the training are not where it read them."""
    for key in ("root", "pairs"):
        given = data.options.get(key)
        if given is not None and not Path(given).exists():
            raise SegkitError(
                f"the model was trained on data.{key}={given}, and there is no"
                f" {Path(given).resolve()}. Run the command in the folder where the training ran,"
                f" or give the place of the data, data={data.name} data.{key}=PATH, and the"
                " training's other options of data, which are in the config.yaml of its run."
            )


def _find_changes(folder: Path, used: dict[str, Any]) -> str:
    """List the settings that differ from those of the results in a folder."""
    try:
        before = json.loads((folder / "metrics.json").read_text("utf-8"))["settings"]
        return ", ".join(key for key, value in used.items() if before.get(key) != value)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""  # no results, or of an older version


def _to_json(value: float) -> float | None:
    """Replace NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None
