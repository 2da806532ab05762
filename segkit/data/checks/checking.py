"""The check of a data set before training: every problem by file, and what the set is like."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from segkit.checkpoint.coding import LabelCoding
from segkit.checkpoint.normalization import FULL_SCALE, Normalization
from segkit.core.errors import all_at_once
from segkit.data.checks.classes import Classes, decide_classes, mixed_masks, wrong_values
from segkit.data.checks.measuring import Measures, measure
from segkit.data.checks.scanning import Facts, scan
from segkit.data.sources.base import SPLITS, DataSource, Sample, Split

SHOWN = 20
"""Problems of one kind that are listed one by one."""


@dataclass(frozen=True)
class DataSummary:
    """What a checked data set is like.

    Attributes:
        splits: The samples of each split.
        in_channels: Channels of every image.
        num_classes: Number of classes, background included.
        class_names: Their names.
        coding: What the values of the masks mean.
        normalization: The intensities of the training images.
        one_size: Whether all images of a split have one size.
        class_share: Share of each class among the labelled pixels.
        measures: How large images and objects are.
        notes: What the user should know.
        decoded: Bytes that the images and masks of a split take when they are decoded; two for each
            value of a mask.
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
    decoded: dict[Split, int] = field(default_factory=dict)


def check(
    source: DataSource,
    mode: str,
    num_classes: int | None = None,
    needed: tuple[Split, ...] = ("train", "val"),
) -> DataSummary:
    """Read every image and mask of a source and check them against each other and the classes.

    Args:
        source: The data set.
        mode: The head's mode.
        num_classes: The number of classes that was asked for; None to take it from the names of
            the classes or from the masks.
        needed: The splits that must not be empty.

    Raises:
        SegkitError: There are images without a mask, unreadable files, sizes or channels that
            differ, values outside the classes, splits without samples; all of it is listed by file.
    """
    splits = source.splits()
    unpaired = source.problems()
    facts = scan(source, splits)
    readable = [f for f in facts if not f.errors]
    classes, contradictions, notes = decide_classes(source, mode, num_classes, readable)
    kinds = [
        unpaired,
        [] if unpaired else _empty_splits(splits, needed),
        [error for f in facts for error in f.errors],
        *_differences(readable, classes),
        contradictions,
        [] if contradictions else wrong_values(readable, classes),
        mixed_masks(readable, classes),
    ]
    if not any(kinds):
        kinds.append(_nothing_to_learn(readable, classes, needed))
    if any(kinds):
        count = sum(map(len, kinds))
        raise all_at_once(
            f"the data set has {count} problem{'s' if count > 1 else ''}:",
            [line for kind in kinds for line in _shortened(kind)],
        )

    counts = [classes.pixels(f) for f in readable]
    of_class, labelled = (np.sum(part, axis=0) for part in zip(*counts, strict=True))
    return DataSummary(
        splits=splits,
        in_channels=readable[0].shape[2],
        num_classes=classes.count,
        class_names=classes.shown_names,
        coding=classes.coding,
        normalization=_normalization([f for f in readable if f.pixels is not None]),
        one_size={
            split: len({f.shape for f in readable if f.split == split}) <= 1 for split in splits
        },
        class_share=tuple((of_class / np.maximum(labelled, 1)).tolist()),
        measures=measure(readable, classes),
        notes=notes + _remarks(readable, classes) + _neighbours(splits),
        decoded={
            split: sum(
                math.prod(f.shape) * np.dtype(f.dtype).itemsize + 2 * math.prod(f.mask_shape)
                for f in readable
                if f.split == split
            )
            for split in splits
        },
    )


def _empty_splits(splits: dict[Split, list[Sample]], needed: tuple[Split, ...]) -> list[str]:
    if not any(splits.values()):
        return ["the set has no samples"]
    return [
        f"the split '{split}' has no samples, of {sum(map(len, splits.values()))} in all: add"
        " images, or give it a share, a list or a folder"
        for split in needed
        if not splits.get(split)
    ]


def _differences(facts: list[Facts], classes: Classes) -> list[list[str]]:
    """By kind: masks of another size or depth, images of other channels or types than most."""
    channels = Counter(f.shape[2] for f in facts)
    dtypes = Counter(f.dtype for f in facts)
    sizes, depths, other_channels, other_dtypes = [], [], [], []
    for f in facts:
        name = f.sample.name
        if f.mask_shape[:2] != f.shape[:2]:
            sizes.append(
                f"{name}: the image has {_size(f.shape)} pixels (height x width), its mask"
                f" {_size(f.mask_shape)}: they must be alike"
            )
        if f.layered and classes.mode != "multilabel":
            depths.append(
                f"{name}: its mask has {f.mask_shape[2]} channels, like a picture in colours or a"
                " map for each class: save it with one channel of labels, or use head=multilabel"
            )
        elif f.layered != classes.layered:
            depths.append(
                f"{name}: its mask has the shape {f.mask_shape}, unlike most: all masks have one"
                " layer of labels, or all have a layer for each class"
            )
        elif f.layered and f.mask_shape[2] != classes.count:
            depths.append(
                f"{name}: its mask has {f.mask_shape[2]} layers, but there are {classes.count}"
                " classes"
            )
        if f.shape[2] != channels.most_common(1)[0][0]:
            usual = channels.most_common(1)[0][0]
            remedy = (
                "data.channels=1 or data.channels=3 makes them alike"
                if set(channels) <= {1, 2, 3, 4}
                else "give all images the same channels"
            )
            other_channels.append(
                f"{name}: the image has {f.shape[2]} channels, most have {usual}: {remedy}"
            )
        if f.dtype != dtypes.most_common(1)[0][0]:
            other_dtypes.append(
                f"{name}: the image is {f.dtype}, most are {dtypes.most_common(1)[0][0]}: convert"
                " it, in the same units"
            )
    return [sizes, depths, other_channels, other_dtypes]


def _nothing_to_learn(facts: list[Facts], classes: Classes, needed: tuple[Split, ...]) -> list[str]:
    """A training without any foreground, or without any label."""
    counts = [classes.pixels(f) for f in facts if f.split == "train"]
    if "train" not in needed or not counts:
        return []
    of_class, labelled = (np.sum(part, axis=0) for part in zip(*counts, strict=True))
    if not labelled.any():
        return ["no pixel of the training masks is labelled"]
    if classes.mode == "binary" and not of_class[1]:
        name = classes.shown_names[1]
        return [f"no training mask has a pixel of the class '{name}': there is nothing to learn"]
    return []


def _remarks(facts: list[Facts], classes: Classes) -> list[str]:
    """Masks without a label or without an object, classes that are never seen in the training."""
    notes = []
    pixels = [classes.pixels(f) for f in facts]
    blank = [f for f, (_, labelled) in zip(facts, pixels, strict=True) if not labelled.any()]
    first = 0 if classes.layered else 1
    empty = [
        f
        for f, (of_class, labelled) in zip(facts, pixels, strict=True)
        if labelled.any() and not of_class[first:].any()
    ]
    if blank:
        notes.append(f"{_counted(blank, facts)} have no labelled pixel: {_names(blank)}")
    if empty and classes.has_background:
        notes.append(f"{_counted(empty, facts)} are empty (background only): {_names(empty)}")
    learned = [f for f in facts if f.split == "train"] or facts
    seen = np.sum([classes.pixels(f)[0] for f in learned], axis=0)
    absent = [name for name, n in zip(classes.shown_names, seen, strict=True) if not n]
    if absent:
        where = "training mask" if learned[0].split == "train" else "mask"
        shown = ", ".join(absent[:8]) + (" ..." if len(absent) > 8 else "")
        notes.append(f"no {where} has a pixel of: {shown}")
    return notes


def _neighbours(splits: dict[Split, list[Sample]]) -> list[str]:
    """Stacks whose pages are shuffled into different splits: neighbouring pages are alike."""
    stacks: dict[Path, dict[int, Split]] = {}
    for split, samples in splits.items():
        for sample in samples:
            if sample.image is not None and sample.page is not None:
                stacks.setdefault(sample.image, {})[sample.page] = split
    shuffled = []
    for path, pages in stacks.items():
        order = [pages[page] for page in sorted(pages)]
        changes = sum(a != b for a, b in pairwise(order))
        if changes >= len(SPLITS):
            shuffled.append(path)
    if not shuffled:
        return []
    return [
        f"neighbouring pages of {shuffled[0].name} are in different splits, and alike: the scores"
        " will be too good. data.split=blocks keeps them apart"
    ]


def _normalization(facts: list[Facts]) -> Normalization:
    """Range, mean and deviation of the images that have pixels here."""
    pixels = np.concatenate([f.pixels for f in facts if f.pixels is not None]).astype(np.float64)
    dtype = facts[0].dtype
    low, high = 0.0, FULL_SCALE.get(dtype, 1.0)
    if dtype != "uint8":  # the detector's 12 bits in 16, or a float in any unit
        low, high = (float(q) for q in np.percentile(pixels, (0.1, 99.9)))
        if high <= low:
            high = low + 1
    unit = np.clip((pixels - low) / (high - low), 0, 1)
    return Normalization(
        dtype,
        low,
        high,
        mean=tuple(float(m) for m in unit.mean(axis=0)),
        std=tuple(max(float(s), 1e-3) for s in unit.std(axis=0)),
    )


def _shortened(lines: list[str]) -> list[str]:
    """The first of many lines, and the last, which may be the remedy of all."""
    if len(lines) <= SHOWN + 1:
        return lines
    return [*lines[:SHOWN], f"... and {len(lines) - SHOWN - 1} more like these", lines[-1]]


def _counted(some: list[Facts], all_of_them: list[Facts]) -> str:
    return f"{len(some)} of {len(all_of_them)} masks"


def _names(facts: list[Facts]) -> str:
    return ", ".join(f.sample.name for f in facts[:3]) + (" ..." if len(facts) > 3 else "")


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]}"
