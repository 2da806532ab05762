"""What is known of a good data set: its classes, intensities, sizes and notes for the user."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segkit.checkpoint.values import LabelCoding, Normalization
from segkit.core.errors import SegkitError, all_at_once, join_names
from segkit.core.labels import IGNORE_INDEX, Mode
from segkit.data.checks.classes import Classes, count_pixels_of_all, decide_classes, has_option
from segkit.data.checks.facts import Facts, scan, select_training
from segkit.data.checks.folds import Fold, describe_series, divide, regroup
from segkit.data.checks.leaks import describe_leaks
from segkit.data.checks.problems import (
    find_differences,
    find_empty_splits,
    find_missing_foreground,
    find_mixed_masks,
    find_repeated_names,
    find_unknown_colors,
    find_wrong_values,
    list_by_message,
    shorten,
)
from segkit.data.sources.base import SPLITS, DataSource, Large, Sample, Split

UPRIGHT_IMAGES = 8
"""Minimum number of images to decide whether they have an up and a down."""
UPRIGHT_DIFFERENCE = 0.25
"""Minimum difference between the halves of upright images, in standard deviations of an image."""
SAME_SIDE = 0.95
"""Share of the images in which a class lies on the same side of another one."""
Side = Literal["above", "left of"]


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
        sides: Pairs of classes of which one lies on the same side of the other in nearly all
            images, such as "liver left of spleen": above (vertical), and left of it (horizontal).
    """

    median: tuple[int, int]
    largest: tuple[int, int]
    object_diameter: float | None
    upright: bool | None
    sides: dict[Side, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataSummary:
    """Properties of a checked data set.

    Attributes:
        num_classes: Number of classes including background.
        normalization: The intensities of the training images.
        sizes: Height and width of each sample, by its name.
        class_share: Fraction of each class among the labelled pixels.
        train_share: The same in the training images, or in all if there are none.
        train_presence: (training images, classes), which classes each of them has.
        measures: Sizes of images and objects.
        notes: What the user should know.
        background: The label that is no object, None if every class is one.
        with_empty: Names of the samples that have pixels without data, which are ignored.
        decoded: Size in bytes of the decoded images and masks of a split, with two bytes per mask
            value, but for those of which only parts are read.
        large: Names of the samples of which only parts are read.
    """

    splits: dict[Split, list[Sample]]
    in_channels: int
    num_classes: int
    class_names: tuple[str, ...]
    coding: LabelCoding
    normalization: Normalization
    sizes: dict[str, tuple[int, int]]
    class_share: tuple[float, ...]
    train_share: tuple[float, ...]
    measures: Measures
    notes: list[str]
    background: int | None = 0
    with_empty: frozenset[str] = frozenset()
    decoded: dict[Split, int] = field(default_factory=dict)
    large: frozenset[str] = frozenset()
    train_presence: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), np.bool_))


def check(
    source: DataSource,
    mode: Mode,
    num_classes: int | None = None,
    needed: tuple[Split, ...] = ("train", "val"),
    fold: Fold | None = None,
    val_names: Sequence[str] | None = None,
) -> DataSummary:
    """Read every image and mask of a source and check them against each other and the classes.

    Without ``num_classes``, the names of the classes or the masks tell it. Only the ``needed``
    splits must not be empty. Training and validation are those of a ``fold`` or have the samples of
    ``val_names`` in the validation; else those of the source.

    Raises:
        SegkitError: There are images without a mask, unreadable files, different sizes or channels,
            values outside the classes, or empty splits; all are listed.
    """
    splits = list_splits(source)
    if val_names is not None:
        splits = regroup(splits, val_names)
    elif fold is not None:
        splits = regroup(splits, ())  # all could be learned from
    facts = scan(source, splits)
    if fold is not None and val_names is None:
        splits = _choose_fold(source, mode, facts, splits, num_classes, fold)
    summary = summarize(source, mode, facts, splits, num_classes, needed)
    if fold is None or fold.groups is not None:
        return summary
    return replace(summary, notes=[*summary.notes, *describe_series(splits)])


def _choose_fold(
    source: DataSource,
    mode: Mode,
    facts: list[Facts],
    splits: dict[Split, list[Sample]],
    num_classes: int | None,
    fold: Fold,
) -> dict[Split, list[Sample]]:
    """The splits of a fold; facts that are of its validation change their split."""
    known = [each for each in facts if each.split == "train" and not each.errors]
    classes = decide_classes(source, mode, num_classes, known)[0]
    for each, number in zip(known, divide(known, classes, fold), strict=True):
        if number == fold.number:
            each.split, each.pixels = "val", None  # nothing is learned of its intensities
    return regroup(splits, [each.sample.name for each in known if each.split == "val"])


def list_splits(source: DataSource) -> dict[Split, list[Sample]]:
    """The samples of a source by split.

    Raises:
        SegkitError: It returns something else.
    """
    splits = source.splits()
    if not isinstance(splits, Mapping) or not splits.keys() <= set(SPLITS):
        found = list(splits) if isinstance(splits, Mapping) else type(splits).__name__
        raise SegkitError(
            f"{type(source).__name__}.splits() returns {found}, not lists of samples by split:"
            f" {', '.join(SPLITS)}."
        )
    return splits


def summarize(
    source: DataSource,
    mode: Mode,
    facts: list[Facts],
    splits: dict[Split, list[Sample]],
    num_classes: int | None = None,
    needed: tuple[Split, ...] = ("train", "val"),
) -> DataSummary:
    """Check what was read of the samples of a source; see :func:`check`."""
    unpaired = source.problems()
    readable = [f for f in facts if not f.errors]
    classes, contradictions, notes = decide_classes(source, mode, num_classes, readable)
    kinds = [
        unpaired or find_empty_splits(splits, needed, source),
        find_repeated_names(splits),
        list_by_message(error for f in facts for error in f.errors),
        *find_differences(readable, classes, source),
        find_unknown_colors(readable, classes, source),
        contradictions or find_wrong_values(readable, classes, source),
        find_mixed_masks(readable, classes, source),
    ]
    if not any(kinds):
        kinds.append(find_missing_foreground(readable, classes, needed, source))
    if not any(kinds) and not sum(len(f.pixels) for f in readable if f.pixels is not None):
        kinds.append(["no pixel of the training images has data in every channel"])
    if any(kinds):
        count = sum(map(len, kinds))
        error = all_at_once(
            f"the data set has {count} problem{'s' if count > 1 else ''}:",
            [line for kind in kinds for line in shorten(kind)],
        )
        for note in (*source.notes(), *notes):  # they often explain a problem
            error.add_note(f"note: {note}")
        raise error

    large = {f.sample.name: source.measure_large(f.sample) for f in readable}
    of_split = {split: [f for f in readable if f.split == split] for split in splits}
    return DataSummary(
        splits=splits,
        in_channels=readable[0].shape[2],
        num_classes=classes.count,
        class_names=classes.names,
        coding=classes.coding,
        normalization=Normalization.fit([f.pixels for f in readable if f.pixels is not None]),
        sizes={f.sample.name: (f.shape[0], f.shape[1]) for f in readable},
        class_share=_measure_shares(readable, classes),
        train_share=_measure_shares(select_training(readable), classes),
        measures=_measure(readable, classes),
        notes=[
            *describe_leaks(readable),
            *source.notes(),
            *notes,
            *_describe_empty_pixels(readable),
            *_describe_shares(readable),
            *_describe_masks(readable, classes),
            *_find_shuffled_stacks(source, splits),
        ],
        background=None if classes.layered else classes.background,
        with_empty=frozenset(
            f.sample.name for f in readable if f.empty or _may_be_empty(f, large[f.sample.name])
        ),
        decoded={
            split: sum(_count_decoded(f, large[f.sample.name]) for f in part)
            for split, part in of_split.items()
        },
        large=frozenset(name for name, found in large.items() if found is not None),
        train_presence=np.array(
            [classes.count_pixels(f)[0] > 0 for f in of_split.get("train", [])], np.bool_
        ),
    )


def _measure_shares(facts: list[Facts], classes: Classes) -> tuple[float, ...]:
    of_class, labelled = count_pixels_of_all(facts, classes)
    return tuple((of_class / np.maximum(labelled, 1)).tolist())


def _count_decoded(facts: Facts, large: Large | None) -> int:
    """Bytes of a sample that the cache takes, with two bytes per mask value."""
    image, mask = math.prod(facts.shape) * np.dtype(facts.dtype).itemsize, 0
    if large is None or large.mask_shape is None:
        mask = 2 * math.prod(facts.mask_shape)
    return mask if large is not None else image + mask


def _describe_empty_pixels(facts: list[Facts]) -> list[str]:
    """Note images with pixels without data: transparent, GDAL's nodata or NaN."""
    names = [f.sample.name for f in facts if f.empty]
    if not names:
        return []
    share = sum(f.empty for f in facts) / sum(math.prod(f.shape[:2]) for f in facts)
    return [
        f"{len(names)} of {len(facts)} images have pixels without data ({share:.2%} of all), which"
        f" are ignored: {join_names(names)}"
    ]


def _may_be_empty(facts: Facts, large: Large | None) -> bool:
    """Whether pixels that were not read may have no data."""
    return large is not None and large.may_lack_data and facts.share < 1


def _describe_shares(facts: list[Facts]) -> list[str]:
    """Note images of which only a sample was read."""
    parts = [f for f in facts if f.share < 1]
    if not parts:
        return []
    pixels = sum(math.prod(f.shape[:2]) for f in parts)
    read = sum(math.prod(f.shape[:2]) * f.share for f in parts)
    return [
        f"{len(parts)} images are so large that only a sample of them is checked, {read / 1e6:,.0f}"
        f" of {pixels / 1e6:,.0f} million pixels: {join_names([f.sample.name for f in parts])}."
        " Values that do not occur in it are not known,"
        " nor whether an image is in several splits"
    ]


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
            f"{len(blank)} of {len(facts)} masks have no labelled pixel: {join_names(blank)}"
        )
    one_class = classes.mode == "multilabel" and not classes.layered
    if empty and classes.background is not None and not one_class:
        notes.append(
            f"{len(empty)} of {len(facts)} masks are empty (background only): {join_names(empty)}"
        )
    learned = select_training(facts)
    seen, _ = count_pixels_of_all(learned, classes)
    absent = [name for name, n in zip(classes.names, seen, strict=True) if not n]
    if absent:
        where = "training mask" if learned[0].split == "train" else "mask"
        shown = join_names(absent, 8)
        notes.append(f"no {where} has a pixel of: {shown}")
    return notes


def _find_shuffled_stacks(source: DataSource, splits: dict[Split, list[Sample]]) -> list[str]:
    """Note stacks whose pages are shuffled into different splits: neighbouring pages are alike."""
    stacks: dict[Path, dict[int, Split]] = {}
    for split, samples in splits.items():
        for sample in samples:
            # Pages that are divided into blocks are divided alike.
            if sample.image is not None and sample.page is not None and sample.window is None:
                stacks.setdefault(sample.image, {})[sample.page] = split
    remedy = ": data.split=blocks keeps them apart" if has_option(source, "split") else ""
    for path, pages in stacks.items():
        order = [pages[page] for page in sorted(pages)]
        if sum(a != b for a, b in pairwise(order)) >= len(SPLITS):
            return [
                f"neighbouring pages of {path.name} are alike but in different splits, so the"
                f" scores will be too good{remedy}"
            ]
    return []


def _measure(facts: list[Facts], classes: Classes) -> Measures:
    learned = select_training(facts)
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
    sides = _find_sides(learned, classes)
    return Measures((height, width), (tall, wide), diameter, upright, sides)


def _find_sides(facts: list[Facts], classes: Classes) -> dict[Side, str]:
    """The first pair of classes that has sides, vertically and horizontally."""
    no_object = (IGNORE_INDEX, None if classes.layered else classes.background)
    offsets: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for f in facts:
        centers = {
            (number if classes.layered else classes.coding.label_of(value)): center
            for (number, value), center in f.centers.items()
            if not classes.layered or value == 1
        }
        known = sorted(label for label in centers if label not in no_object)
        for one, two in combinations(known, 2):
            (top, left), (below, right) = centers[one], centers[two]
            offsets.setdefault((one, two), []).append((below - top, right - left))
    found: dict[Side, str] = {}
    for (one, two), pairs in sorted(offsets.items()):
        if len(pairs) < max(UPRIGHT_IMAGES, len(facts) / 10):
            continue
        sides: tuple[Side, Side] = "above", "left of"
        for side, share in zip(sides, np.mean(np.array(pairs) > 0, axis=0), strict=True):
            if max(share, 1 - share) >= SAME_SIDE:
                names = [classes.names[label] for label in (one, two)]
                first, second = names if share > 0.5 else reversed(names)
                found.setdefault(side, f"'{first}' is {side} '{second}'")
    return found
