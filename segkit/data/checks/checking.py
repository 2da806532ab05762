"""Check a data set before training: report every problem by file, and summarize a good set."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import Normalization
from segkit.core.errors import all_at_once
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.checks.classes import Classes, decide_classes, find_mixed_masks, find_wrong_values
from segkit.data.checks.scanning import Facts, scan
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split

SHOWN = 20
"""Number of problems of one kind that are listed."""
UPRIGHT_IMAGES = 8
"""Minimum number of images to decide whether they have an up and a down."""
UPRIGHT_DIFFERENCE = 0.25
"""Minimum difference between the halves of upright images, in standard deviations of an image."""


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

    Args:
        source: The data source.
        mode: The head's mode.
        num_classes: None takes it from the names of the classes or from the masks.
        needed: The splits that must not be empty.

    Raises:
        SegkitError: There are images without a mask, unreadable files, different sizes or channels,
            values outside the classes, or empty splits; all are listed by file.
    """
    splits = source.splits()
    unpaired = source.problems()
    facts = scan(source, splits)
    readable = [f for f in facts if not f.errors]
    classes, contradictions, notes = decide_classes(source, mode, num_classes, readable)
    kinds = [
        unpaired,
        [] if unpaired else _find_empty_splits(splits, needed),
        [error for f in facts for error in f.errors],
        *_find_differences(readable, classes),
        contradictions,
        [] if contradictions else find_wrong_values(readable, classes),
        find_mixed_masks(readable, classes),
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
        class_names=classes.display_names,
        coding=classes.coding,
        normalization=Normalization.fit([f.pixels for f in readable if f.pixels is not None]),
        one_size={split: len({f.shape for f in part}) <= 1 for split, part in of_split.items()},
        class_share=tuple((of_class / np.maximum(labelled, 1)).tolist()),
        measures=_measure(readable, classes),
        notes=notes + _describe_masks(readable, classes) + _find_shuffled_stacks(splits),
        background=None if classes.layered else classes.background,
        decoded={
            split: sum(
                math.prod(f.shape) * np.dtype(f.dtype).itemsize + 2 * math.prod(f.mask_shape)
                for f in part
            )
            for split, part in of_split.items()
        },
    )


# --- problems ------------------------------------------------------------------------------------


def _find_empty_splits(splits: dict[Split, list[Sample]], needed: tuple[Split, ...]) -> list[str]:
    if not any(splits.values()):
        return ["the data set has no samples"]
    return [
        f"the split '{split}' has no samples, of {sum(map(len, splits.values()))} in all: add"
        " images, or give it a fraction, a list or a folder"
        for split in needed
        if not splits.get(split)
    ]


def _find_differences(facts: list[Facts], classes: Classes) -> list[list[str]]:
    """By kind: masks of another size or depth, images with other channels or types than most."""
    channels = Counter(f.shape[2] for f in facts)
    dtypes = Counter(f.dtype for f in facts)
    sizes, depths, other_channels, other_dtypes = [], [], [], []
    for f in facts:
        name = f.sample.name
        if f.mask_shape[:2] != f.shape[:2]:
            image, mask = (f"{shape[0]} x {shape[1]}" for shape in (f.shape, f.mask_shape))
            sizes.append(
                f"{name}: the image has {image} pixels (height x width), its mask {mask}: both must"
                " have the same size"
            )
        if f.layered and classes.mode != "multilabel":
            depths.append(
                f"{name}: its mask has {f.mask_shape[2]} channels, like a colour image or a map for"
                " each class: save it with one channel of labels, or use head=multilabel"
            )
        elif f.layered != classes.layered:
            depths.append(
                f"{name}: its mask has the shape {f.mask_shape}, unlike most: all masks must have"
                " one layer of labels, or all a layer for each class"
            )
        elif f.layered and f.mask_shape[2] != classes.count:
            depths.append(
                f"{name}: its mask has {f.mask_shape[2]} layers, but there are {classes.count}"
                " classes"
            )
        usual = channels.most_common(1)[0][0]
        if f.shape[2] != usual:
            remedy = (
                "data.channels=1 or data.channels=3 converts all of them"
                if set(channels) <= {1, 2, 3, 4}
                else "give all images the same channels"
            )
            other_channels.append(
                f"{name}: the image has {f.shape[2]} channels, most have {usual}: {remedy}"
            )
        usual_dtype = dtypes.most_common(1)[0][0]
        if f.dtype != usual_dtype:
            other_dtypes.append(
                f"{name}: the image is {f.dtype}, most are {usual_dtype}: convert it, in the same"
                " units"
            )
    return [sizes, depths, other_channels, other_dtypes]


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
        name = classes.display_names[1]
        return [f"no training mask has a pixel of the class '{name}': there is nothing to learn"]
    return []


def _count_all(facts: list[Facts], classes: Classes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Total number of pixels of each class, and of labelled pixels."""
    of_class, labelled = zip(*map(classes.count_pixels, facts), strict=True)
    return np.sum(of_class, axis=0), np.sum(labelled, axis=0)


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
            blank.append(f)
        elif not of_class[first:].any():
            empty.append(f)
    notes = []
    if blank:
        notes.append(
            f"{len(blank)} of {len(facts)} masks have no labelled pixel: {_name_samples(blank)}"
        )
    one_class = classes.mode == "multilabel" and not classes.layered
    if empty and classes.background is not None and not one_class:
        notes.append(
            f"{len(empty)} of {len(facts)} masks are empty (background only):"
            f" {_name_samples(empty)}"
        )
    learned = [f for f in facts if f.split == "train"] or facts
    seen, _ = _count_all(learned, classes)
    absent = [name for name, n in zip(classes.display_names, seen, strict=True) if not n]
    if absent:
        where = "training mask" if learned[0].split == "train" else "mask"
        shown = ", ".join(absent[:8]) + (" ..." if len(absent) > 8 else "")
        notes.append(f"no {where} has a pixel of: {shown}")
    return notes


def _find_shuffled_stacks(splits: dict[Split, list[Sample]]) -> list[str]:
    """Note stacks whose pages are shuffled into different splits: neighbouring pages are alike."""
    stacks: dict[Path, dict[int, Split]] = {}
    for split, samples in splits.items():
        for sample in samples:
            if sample.image is not None and sample.page is not None:
                stacks.setdefault(sample.image, {})[sample.page] = split
    for path, pages in stacks.items():
        order = [pages[page] for page in sorted(pages)]
        if sum(a != b for a, b in pairwise(order)) >= len(SPLITS):
            return [
                f"neighbouring pages of {path.name} are alike but in different splits, so the"
                " scores will be too good: data.split=blocks keeps them apart"
            ]
    return []


def _measure(facts: list[Facts], classes: Classes) -> Measures:
    learned = [f for f in facts if f.split == "train"] or facts
    height, width = (int(np.median([f.shape[axis] for f in learned])) for axis in (0, 1))
    tall, wide = (max(f.shape[axis] for f in facts) for axis in (0, 1))
    return Measures(
        (height, width),
        (tall, wide),
        _find_typical_diameter(np.concatenate([_list_areas(f, classes) for f in learned])),
        _find_up(np.array([f.brighter_above for f in learned])),
    )


def _list_areas(facts: Facts, classes: Classes) -> NDArray[np.int64]:
    """Areas of the objects in pixels; empty if the regions of a sample were not measured."""
    found = facts.areas
    if classes.coding.foreground:
        found = {value: np.array([n], np.int64) for value, n in facts.layers[0].items()}
    no_object = {IGNORE_INDEX, classes.background}
    objects = [a for value, a in found.items() if classes.coding.label_of(value) not in no_object]
    return np.concatenate([np.zeros(0, np.int64), *objects])


def _find_typical_diameter(areas: NDArray[np.int64]) -> float | None:
    # Not the median of the diameters: the specks of a frayed mask outnumber its objects.
    if not len(areas):
        return None
    areas = np.sort(areas)
    half = np.searchsorted(np.cumsum(areas), areas.sum() / 2)
    return float(np.sqrt(4 * areas[half] / np.pi))


def _find_up(brighter_above: NDArray[np.float64]) -> bool | None:
    count = len(brighter_above)
    if count < UPRIGHT_IMAGES:
        return None
    mean, error = brighter_above.mean(), brighter_above.std(ddof=1) / np.sqrt(count)
    return bool(abs(mean) > max(UPRIGHT_DIFFERENCE, 3 * error))


def _name_samples(facts: list[Facts]) -> str:
    return ", ".join(f.sample.name for f in facts[:3]) + (" ..." if len(facts) > 3 else "")
