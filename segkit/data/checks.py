"""Check a data set before training: report every problem by file, and summarize a good set.

Every image and mask is read once, and numbers are kept instead of pixels.
"""

from __future__ import annotations

import inspect
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from segkit.checkpoint.values import LabelCoding, Normalization, join_values
from segkit.core.errors import SegkitError, all_at_once
from segkit.core.labels import IGNORE_INDEX, Mode, find_background
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split
from segkit.targets.objects import number_objects

SHOWN, NAMED = 20, 3
"""Number of problems of one kind that are listed, and of samples that a message names."""
PIXELS_PER_IMAGE, PIXELS_PER_SET = 20_000, 2_000_000
"""Maximum number of pixels for the intensity statistics."""
MASKS_WITH_REGIONS, PIXELS_PER_MASK, VALUES_PER_MASK = 100, 2_000_000, 32
"""Maximum number of masks, and of their pixels and values, whose regions are measured."""
PIXELS_OF_HALVES = 250_000
"""Maximum number of pixels for comparing the upper and lower half of an image."""
UPRIGHT_IMAGES = 8
"""Minimum number of images to decide whether they have an up and a down."""
UPRIGHT_DIFFERENCE = 0.25
"""Minimum difference between the halves of upright images, in standard deviations of an image."""
FEW_IDS = 3
"""If a whole data set has at most this many ids, they are probably classes."""


@dataclass(frozen=True)
class Measures:
    """Sizes in a data set; of the training images, or of all images if there are none.

    Attributes:
        median: Median height and width in pixels.
        largest: Largest height and width of all images of the data set.
        object_diameter: Diameter in pixels of a disc with the area of a typical object: half of the
            foreground lies in objects of at least this size. Objects are those of the ids, or the
            connected regions of a class. None if there is no foreground.
        upright: Whether the upper halves of the images differ in brightness from the lower ones, as
            with a sky; None if there are too few images.
    """

    median: tuple[int, int]
    largest: tuple[int, int]
    object_diameter: float | None
    upright: bool | None


@dataclass(frozen=True)
class DataSummary:
    """Properties of a checked data set.

    Attributes:
        num_classes: Number of classes including background.
        normalization: The intensities of the training images.
        one_size: Whether all images of a split have the same size.
        class_share: Fraction of each class among the labelled pixels.
        measures: Sizes of images and objects.
        notes: What the user should know.
        background: The label that is no object, None if every class is one.
        decoded: Size in bytes of the decoded images and masks of a split, with two bytes per mask
            value.
    """

    splits: dict[Split, list[Sample]]
    in_channels: int
    num_classes: int
    class_names: tuple[str, ...]
    coding: LabelCoding
    normalization: Normalization
    one_size: dict[Split, bool]
    class_share: tuple[float, ...]
    measures: Measures
    notes: list[str]
    background: int | None = 0
    decoded: dict[Split, int] = field(default_factory=dict)


def check(
    source: DataSource,
    mode: Mode,
    num_classes: int | None = None,
    needed: tuple[Split, ...] = ("train", "val"),
) -> DataSummary:
    """Read every image and mask of a source and check them against each other and the classes.

    Without ``num_classes``, the names of the classes or the masks tell it. Only the ``needed``
    splits must not be empty.

    Raises:
        SegkitError: There are images without a mask, unreadable files, different sizes or channels,
            values outside the classes, or empty splits; all are listed.
    """
    splits = source.splits()
    if not isinstance(splits, Mapping) or not splits.keys() <= set(SPLITS):
        found = list(splits) if isinstance(splits, Mapping) else type(splits).__name__
        raise SegkitError(
            f"{type(source).__name__}.splits() returns {found}, not lists of samples by split:"
            f" {', '.join(SPLITS)}."
        )
    unpaired = source.problems()
    facts = scan(source, splits)
    readable = [f for f in facts if not f.errors]
    classes, contradictions, notes = _decide_classes(source, mode, num_classes, readable)
    kinds = [
        unpaired or _find_empty_splits(splits, needed),
        _find_repeated_names(splits),
        _list_by_message(error for f in facts for error in f.errors),
        *_find_differences(readable, classes, source),
        contradictions or _find_wrong_values(readable, classes, source),
        _find_mixed_masks(readable, classes, source),
    ]
    if not any(kinds):
        kinds.append(_find_missing_foreground(readable, classes, needed))
    if any(kinds):
        count = sum(map(len, kinds))
        raise all_at_once(
            f"the data set has {count} problem{'s' if count > 1 else ''}:",
            [line for kind in kinds for line in _shorten(kind)],
        )

    of_class, labelled = _count_all(readable, classes)
    of_split = {split: [f for f in readable if f.split == split] for split in splits}
    return DataSummary(
        splits=splits,
        in_channels=readable[0].shape[2],
        num_classes=classes.count,
        class_names=classes.names,
        coding=classes.coding,
        normalization=Normalization.fit([f.pixels for f in readable if f.pixels is not None]),
        one_size={split: len({f.shape for f in part}) <= 1 for split, part in of_split.items()},
        class_share=tuple((of_class / np.maximum(labelled, 1)).tolist()),
        measures=_measure(readable, classes),
        notes=notes + _describe_masks(readable, classes) + _find_shuffled_stacks(source, splits),
        background=None if classes.layered else classes.background,
        decoded={
            split: sum(
                math.prod(f.shape) * np.dtype(f.dtype).itemsize + 2 * math.prod(f.mask_shape)
                for f in part
            )
            for split, part in of_split.items()
        },
    )


# --- the facts -----------------------------------------------------------------------------------


@dataclass(eq=False)
class Facts:
    """Properties of one sample.

    Attributes:
        most_pixels: How many of its pixels to keep.
        with_regions: Whether to measure the regions of its mask.
        errors: The sample and why it cannot be used; then the other attributes are incomplete.
        shape: (H, W, C) of the image.
        mask_shape: (H, W) or (H, W, N) of the mask.
        layers: Number of pixels of each value: of the mask, or of each of its N layers.
        pixels: A random selection of the image's pixels, (n, C).
        brighter_above: How much brighter the upper half of the image is than the lower one, in
            standard deviations of the image.
        areas: Areas in pixels of the objects of each id, or of the connected regions of each value.
    """

    sample: Sample
    split: Split
    most_pixels: int = 0
    with_regions: bool = False
    errors: list[tuple[str, str]] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    dtype: str = ""
    mask_shape: tuple[int, ...] = ()
    layers: list[dict[int, int]] = field(default_factory=list)
    pixels: NDArray[Any] | None = None
    brighter_above: float = 0.0
    areas: dict[int, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def values(self) -> set[int]:
        """The values that occur in the mask."""
        return {value for layer in self.layers for value in layer}

    @property
    def layered(self) -> bool:
        """Whether the mask is (H, W, N)."""
        return len(self.mask_shape) == 3


def scan(source: DataSource, splits: dict[Split, list[Sample]]) -> list[Facts]:
    """Read every sample of a source, in several threads.

    Pixels are kept from the training images, or from all images if there are none.
    """
    work = [Facts(sample, split) for split, samples in splits.items() for sample in samples]
    learned = _select_training(work)
    for facts in learned:
        facts.most_pixels = min(PIXELS_PER_IMAGE, PIXELS_PER_SET // len(learned) + 1)
    for facts in learned[:: -(-len(learned) // MASKS_WITH_REGIONS) or 1]:
        facts.with_regions = True

    def read(facts: Facts) -> Facts:
        for scan_part in (_scan_image, _scan_mask):
            try:
                scan_part(source, facts)
            except SegkitError as error:
                facts.errors.append(_name_sample(facts.sample, str(error)))
            except Exception as error:  # a source of a plugin may do anything
                why = f"{type(source).__name__} cannot read it: {error!r}"
                facts.errors.append((facts.sample.name, why))
        return facts

    console = Console()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(
            track(
                pool.map(read, work),
                "checking the data set",
                total=len(work),
                console=console,
                transient=True,
                disable=not console.is_terminal,
            )
        )


def _scan_image(source: DataSource, facts: Facts) -> None:
    image = source.read_image(facts.sample)
    fits = image.ndim == 3 and image.dtype in (np.uint8, np.uint16, np.float32)
    _require(fits, source, "read_image", image, "(H, W, C) of uint8, uint16 or float32")
    facts.shape, facts.dtype = image.shape, str(image.dtype)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        raise SegkitError("the image has values that are not finite (NaN or infinite)")
    step = _choose_stride(image, PIXELS_OF_HALVES)
    thinned = image[::step, ::step].astype(np.float64)
    half, spread = len(thinned) // 2, thinned.std()
    if half and spread > 0:
        difference = thinned[:half].mean() - thinned[-half:].mean()
        facts.brighter_above = float(difference / spread)
    if facts.most_pixels:
        flat = image.reshape(-1, image.shape[2])
        if len(flat) > facts.most_pixels:  # at random: every n-th pixel may be a column
            flat = flat[np.random.default_rng(0).integers(len(flat), size=facts.most_pixels)]
        facts.pixels = flat.copy()


def _scan_mask(source: DataSource, facts: Facts) -> None:
    mask = source.read_mask(facts.sample)
    fits = mask.ndim in (2, 3) and mask.dtype.kind in "biu"
    _require(fits, source, "read_mask", mask, "(H, W) or (H, W, N) of integers")
    if source.instances and mask.ndim == 2:
        number_objects(mask, source.label_map)  # raises if they cannot be ids
    facts.mask_shape = mask.shape
    for layer in [mask] if mask.ndim == 2 else np.moveaxis(mask, 2, 0):
        values, counts = np.unique(layer, return_counts=True)
        pixels = dict(zip(map(int, values), counts.tolist(), strict=True))
        facts.layers.append(pixels)
        if source.instances:
            facts.areas = {value: np.array([n], np.int64) for value, n in pixels.items()}
        elif facts.with_regions:
            _measure_regions(layer, facts)


def _require(fits: bool, source: DataSource, method: str, array: Any, wanted: str) -> None:
    if not fits:
        raise SegkitError(
            f"{type(source).__name__}.{method} returned an array of the shape {array.shape} and the"
            f" type {array.dtype}: it must return {wanted}"
        )


def _measure_regions(layer: NDArray[Any], facts: Facts) -> None:
    """Add the areas of the connected regions of each value of a mask (H, W)."""
    step = _choose_stride(layer, PIXELS_PER_MASK)
    layer = layer[::step, ::step]
    for value in np.unique(layer)[:VALUES_PER_MASK].tolist():
        same = (layer == value).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(same, connectivity=4)
        areas = stats[1:, cv2.CC_STAT_AREA].astype(np.int64) * step**2
        facts.areas[value] = np.concatenate([facts.areas.get(value, areas[:0]), areas])


def _choose_stride(array: NDArray[Any], pixels: int) -> int:
    """Subsampling stride that leaves at most this many pixels of (H, W, ...)."""
    return math.ceil(math.sqrt(max(1.0, array.shape[0] * array.shape[1] / pixels)))


def _select_training(facts: list[Facts]) -> list[Facts]:
    """Those of the training samples, or all if there are none."""
    return [f for f in facts if f.split == "train"] or facts


# --- the classes ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Classes:
    """The classes of a data set.

    Attributes:
        names: Names of the classes, generated ones if they have none.
        background: The label that does not belong to any object.
        layered: Whether masks have a layer for each class.
    """

    mode: Mode
    count: int
    names: tuple[str, ...]
    background: int | None
    coding: LabelCoding
    layered: bool

    def count_pixels(self, facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Count the pixels of each class in a mask, and the labelled pixels; (count,) each."""
        of_class = np.zeros(self.count, np.int64)
        labelled = np.zeros(self.count, np.int64)
        for number, layer in enumerate(facts.layers):
            for value, pixels in layer.items():
                label = self.coding.label_of(value)
                if label == IGNORE_INDEX:
                    continue
                if self.layered:
                    of_class[number] += pixels * label
                    labelled[number] += pixels
                else:
                    of_class[label] += pixels
                    labelled += pixels
        return of_class, labelled


def _decide_classes(
    source: DataSource, mode: Mode, num_classes: int | None, facts: list[Facts]
) -> tuple[Classes, list[str], list[str]]:
    """The classes, contradictions in the config, and notes for the user."""
    names = source.class_names
    declared = num_classes if num_classes is not None else len(names) if names else None
    depths = Counter(f.mask_shape[2] for f in facts if f.layered)
    layered = mode == "multilabel" and 2 * depths.total() > len(facts)
    values = {value for f in facts if f.layered == layered for value in f.values}

    labels = {LabelCoding(source.label_map or {}).label_of(value) for value in values}
    top = max((label for label in labels if 0 <= label < IGNORE_INDEX), default=0)
    two = mode == "binary" or layered or declared == 2 or (declared is None and top <= 1)
    coding, notes = decide_coding(values, two, source)
    if mode == "binary" or source.instances:
        count = 2
    elif declared is not None:
        count = declared
    else:
        count = depths.most_common(1)[0][0] if layered else max(2, top + 1)
    problems = _find_contradictions(source, mode, num_classes, count)
    if not problems and declared is None and not source.instances and not layered:
        problems += _find_gaps(labels, count, source)
    if mode == "multilabel" and facts and not layered and not source.instances:
        notes.append("masks hold one class per pixel: class 0 is learned like the others")
    generated = tuple(f"class {i}" for i in range(count))
    shown = names or (("background", "foreground") if mode == "binary" else generated)
    background = 0 if layered else find_background(names, mode)
    return Classes(mode, count, shown, background, coding, layered), problems, notes


def decide_coding(
    values: set[int], two_classes: bool, source: DataSource
) -> tuple[LabelCoding, list[str]]:
    """Decide what the mask values of a data set mean; also return notes for the user.

    Only the value 255 is ambiguous. With two classes, 0 and 1, and no other value for class 1, 255
    is class 1 (black-and-white masks). Otherwise it means "not labelled".
    """
    coding = LabelCoding(dict(source.label_map or {}), foreground=source.instances)
    if source.instances:
        notes = ["masks hold object ids: every id is foreground"]
        ids = sorted(value for value in values if value and value not in coding.to_label)
        if 0 < len(ids) <= FEW_IDS and _has_option(source, "instances"):
            notes.append(
                f"all masks together have only the ids {join_values(ids)}: if these are classes,"
                " remove data.instances=true"
            )
        return coding, notes
    if IGNORE_INDEX not in values or IGNORE_INDEX in coding.to_label:
        return coding, []
    if two_classes and not any(coding.label_of(value) == 1 for value in values):
        coding.to_label[IGNORE_INDEX] = 1
        return coding, ["masks hold 0 and 255: 255 is used as class 1"]
    return coding, ["the mask value 255 means 'not labelled': these pixels are ignored"]


def _has_option(source: DataSource, name: str) -> bool:
    """Whether a remedy may name the option."""
    return name in inspect.signature(type(source)).parameters


# --- problems ------------------------------------------------------------------------------------


def _find_repeated_names(splits: dict[Split, list[Sample]]) -> list[str]:
    counts = Counter(sample.name for samples in splits.values() for sample in samples)
    return [
        f"{count} samples are named '{name}': give each its own name"
        for name, count in counts.items()
        if count > 1
    ]


def _find_empty_splits(splits: dict[Split, list[Sample]], needed: tuple[Split, ...]) -> list[str]:
    if not any(splits.values()):
        return ["the data set has no samples in train, val or test"]
    return [
        f"the split '{split}' has no samples, of {sum(map(len, splits.values()))} in all: add"
        " images, or give it a fraction, a list or a folder"
        for split in needed
        if not splits.get(split)
    ]


def _find_differences(facts: list[Facts], classes: Classes, source: DataSource) -> list[list[str]]:
    """By kind: masks of another size or depth, images with other channels or types than most."""
    if not facts:
        return []
    sizes = [
        (
            f.sample.name,
            f"the image has {f.shape[0]} x {f.shape[1]} pixels (height x width), its mask"
            f" {f.mask_shape[0]} x {f.mask_shape[1]}: both must have the same size",
        )
        for f in facts
        if f.mask_shape[:2] != f.shape[:2]
    ]
    depths = []
    for f in facts:
        if f.layered and classes.mode != "multilabel":
            text = (
                f"the mask is (H, W, {f.mask_shape[2]}), like a colour image or a map for each"
                " class: make it (H, W), one label for each pixel, or use head=multilabel"
            )
        elif f.layered != classes.layered:
            text = (
                f"the mask has the shape {f.mask_shape}, unlike most: all masks must have one"
                " layer of labels, or all a layer for each class"
            )
        elif f.layered and f.mask_shape[2] != classes.count:
            text = f"the mask has {f.mask_shape[2]} layers, but there are {classes.count} classes"
        else:
            continue
        depths.append((f.sample.name, text))

    counts = Counter(f.shape[2] for f in facts)
    usual, remedy = counts.most_common(1)[0][0], "give all images the same channels"
    if set(counts) <= {1, 2, 3, 4} and _has_option(source, "channels"):
        remedy = "data.channels=1 or data.channels=3 converts all of them"
    channels = [
        (f.sample.name, f"the image has {f.shape[2]} channels, most have {usual}: {remedy}")
        for f in facts
        if f.shape[2] != usual
    ]
    dtype = Counter(f.dtype for f in facts).most_common(1)[0][0]
    dtypes = [
        (f.sample.name, f"the image is {f.dtype}, most are {dtype}: convert it, in the same units")
        for f in facts
        if f.dtype != dtype
    ]
    return [*map(_list_by_message, (sizes, depths, channels, dtypes))]


def _find_wrong_values(facts: list[Facts], classes: Classes, source: DataSource) -> list[str]:
    """Report the masks with values outside the classes, with remedies in the last line."""
    count = 2 if classes.layered else classes.count
    facts = [f for f in facts if f.layered == classes.layered]
    labels = {v: classes.coding.label_of(v) for f in facts for v in f.values}
    wrong = {v for v, label in labels.items() if not (0 <= label < count or label == IGNORE_INDEX)}
    problems = _list_by_message(
        (
            f.sample.name,
            f"the mask has the values {join_values(sorted(wrong & f.values))}, which are outside"
            f" the {count} classes 0 to {count - 1}",
        )
        for f in facts
        if wrong & f.values
    )
    if not problems:
        return []
    remedies = []
    if _has_option(source, "instances"):
        remedies.append("use data.instances=true if these are object ids")
    if _has_option(source, "label_map"):
        remedies.append(f"data.label_map={{{min(wrong)}: LABEL}} gives a value a label")
    if classes.mode == "binary":
        remedies.append("use head=multiclass for several classes")
    else:
        remedies.append("use head.num_classes for more classes")
    remedies.append(f"the label {IGNORE_INDEX} means 'not labelled'")
    if len(wrong) > 3:
        remedies.append(
            "values in between come from JPEG or from resizing: save masks as PNG, and resize them"
            " with nearest neighbour"
        )
    problems[-1] += f". To fix this: {'; '.join(remedies)}"
    return problems


def _find_mixed_masks(facts: list[Facts], classes: Classes, source: DataSource) -> list[str]:
    """Report black-and-white masks among masks of 0 and 1, where 255 could mean two things."""
    coding = classes.coding
    two = classes.layered or classes.count == 2
    if not two or coding.foreground or IGNORE_INDEX in coding.to_label:
        return []
    white = [f for f in facts if IGNORE_INDEX in f.values]
    ones = [f for f in facts if any(coding.label_of(v) == 1 for v in f.values)]
    if not white or not ones or any(IGNORE_INDEX in f.values for f in ones):
        return []
    remedy = "write all masks with 0 and 1, or all with 0 and 255"
    if _has_option(source, "label_map"):
        remedy = "data.label_map={255: 1} makes it class 1, data.label_map={255: 255} not labelled"
    return [
        f"{len(white)} masks have the value 255 and no 1 ({white[0].sample.name}), {len(ones)}"
        f" have 1 and no 255 ({ones[0].sample.name}), so 255 is ambiguous: {remedy}"
    ]


def _find_contradictions(
    source: DataSource, mode: Mode, num_classes: int | None, count: int
) -> list[str]:
    """Report numbers of classes in the config that contradict each other."""
    names, colors = source.class_names, source.class_colors
    named, remedy = "data.class_names", "remove one or make them agree"
    if not _has_option(source, "class_names"):
        named, remedy = f"the data source '{source.name}'", "remove head.num_classes"
    given = {"head.num_classes": num_classes, named: len(names) if names else None}
    known = {where: number for where, number in given.items() if number is not None}
    problems = []
    if len(set(known.values())) > 1:
        problems.append(
            f"head.num_classes is {num_classes}, but {named} has {known[named]} names: {remedy}"
        )
    for where, number in known.items():
        if mode == "binary" and number != 2:
            problems.append(
                f"{where} means {number} classes, but head=binary has 2, background and foreground:"
                " use head=multiclass, or name both"
            )
        elif source.instances and number != 2:
            problems.append(
                f"{where} means {number} classes, but data.instances=true has 2, background and"
                " object: use data.instances=false for more"
            )
    if colors is not None and not problems and len(colors) != count:
        problems.append(
            f"data.class_colors has {len(colors)} colours, but there are {count} classes"
        )
    return problems


def _find_gaps(labels: set[int], count: int, source: DataSource) -> list[str]:
    """Report grey levels such as 0, 85 and 170, which are three classes and not 171."""
    present = sorted(label for label in labels if 0 <= label < count)
    if count <= 2 * max(2, len(present)):
        return []
    remedy = ""
    if _has_option(source, "label_map"):
        mapping = ", ".join(f"{v}: {i}" for i, v in enumerate(present[:6]) if v != i)
        remedy = f"data.label_map={{{mapping}{', ...' if len(present) > 6 else ''}}}, or "
    return [
        f"the masks have the values {join_values(present)}, which would make {count} classes, but"
        f" {count - len(present)} of them never occur: set {remedy}head.num_classes={count} if"
        " this is intended"
    ]


def _find_missing_foreground(
    facts: list[Facts], classes: Classes, needed: tuple[Split, ...]
) -> list[str]:
    """Report training masks without any foreground, or without any label."""
    train = [f for f in facts if f.split == "train"]
    if "train" not in needed or not train:
        return []
    of_class, labelled = _count_all(train, classes)
    if not labelled.any():
        return ["no pixel of the training masks is labelled"]
    if classes.mode == "binary" and not of_class[1]:
        name = classes.names[1]
        return [f"no training mask has a pixel of the class '{name}': there is nothing to learn"]
    return []


def _count_all(facts: list[Facts], classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Total number of pixels of each class, and of labelled pixels."""
    of_class, labelled = zip(*map(classes.count_pixels, facts), strict=True)
    return np.sum(of_class, axis=0), np.sum(labelled, axis=0)


def _name_sample(sample: Sample, message: str) -> tuple[str, str]:
    """The name of the sample, or its path where the message contains that, and the message."""
    message = message.rstrip(".")
    for path in (sample.image, sample.mask):
        if path and message.startswith(f"{path}: "):
            return str(path), message.removeprefix(f"{path}: ")
    return sample.name, message


def _list_by_message(problems: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each message, after the sample or the first samples that it is about."""
    by_message: dict[str, list[str]] = {}
    for name, message in problems:
        by_message.setdefault(message, []).append(name)
    return [
        f"{names[0] if len(names) == 1 else f'{len(names)} samples ({_join_names(names)})'}:"
        f" {message}"
        for message, names in by_message.items()
    ]


def _join_names(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")


def _shorten(lines: list[str]) -> list[str]:
    """The first of many lines, and the last, which may hold the remedy for all."""
    if len(lines) <= SHOWN + 1:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN - 1} more like these", lines[-1]]


# --- notes and measures --------------------------------------------------------------------------


def _describe_masks(facts: list[Facts], classes: Classes) -> list[str]:
    """Note masks without a label or an object, and classes that do not occur in training."""
    blank, empty = [], []
    first = 0 if classes.layered else 1
    for f in facts:
        of_class, labelled = classes.count_pixels(f)
        if not labelled.any():
            blank.append(f.sample.name)
        elif not of_class[first:].any():
            empty.append(f.sample.name)
    notes = []
    if blank:
        notes.append(
            f"{len(blank)} of {len(facts)} masks have no labelled pixel: {_join_names(blank)}"
        )
    one_class = classes.mode == "multilabel" and not classes.layered
    if empty and classes.background is not None and not one_class:
        notes.append(
            f"{len(empty)} of {len(facts)} masks are empty (background only): {_join_names(empty)}"
        )
    learned = _select_training(facts)
    seen, _ = _count_all(learned, classes)
    absent = [name for name, n in zip(classes.names, seen, strict=True) if not n]
    if absent:
        where = "training mask" if learned[0].split == "train" else "mask"
        shown = ", ".join(absent[:8]) + (" ..." if len(absent) > 8 else "")
        notes.append(f"no {where} has a pixel of: {shown}")
    return notes


def _find_shuffled_stacks(source: DataSource, splits: dict[Split, list[Sample]]) -> list[str]:
    """Note stacks whose pages are shuffled into different splits: neighbouring pages are alike."""
    stacks: dict[Path, dict[int, Split]] = {}
    for split, samples in splits.items():
        for sample in samples:
            if sample.image is not None and sample.page is not None:
                stacks.setdefault(sample.image, {})[sample.page] = split
    remedy = ": data.split=blocks keeps them apart" if _has_option(source, "split") else ""
    for path, pages in stacks.items():
        order = [pages[page] for page in sorted(pages)]
        if sum(a != b for a, b in pairwise(order)) >= len(SPLITS):
            return [
                f"neighbouring pages of {path.name} are alike but in different splits, so the"
                f" scores will be too good{remedy}"
            ]
    return []


def _measure(facts: list[Facts], classes: Classes) -> Measures:
    learned = _select_training(facts)
    height, width = (int(np.median([f.shape[axis] for f in learned])) for axis in (0, 1))
    tall, wide = (max(f.shape[axis] for f in facts) for axis in (0, 1))

    no_object = {IGNORE_INDEX, classes.background}
    objects = [
        areas
        for f in learned
        for value, areas in f.areas.items()
        if classes.coding.label_of(value) not in no_object
    ]
    areas, diameter = np.sort(np.concatenate([np.zeros(0, np.int64), *objects])), None
    if len(areas):
        # not the median of the diameters: the specks of a frayed mask outnumber its objects
        half = np.searchsorted(np.cumsum(areas), areas.sum() / 2)
        diameter = float(np.sqrt(4 * areas[half] / np.pi))

    brighter_above, upright = np.array([f.brighter_above for f in learned]), None
    if len(learned) >= UPRIGHT_IMAGES:
        error = brighter_above.std(ddof=1) / np.sqrt(len(learned))
        upright = bool(abs(brighter_above.mean()) > max(UPRIGHT_DIFFERENCE, 3 * error))
    return Measures((height, width), (tall, wide), diameter, upright)
